"""The one partitioning of the project: raw facts by the hour, UTC."""

import dagster as dg

# The current hour is a partition too (end_offset): the cycle writes into it four times.
hourly = dg.HourlyPartitionsDefinition(start_date="2025-01-01-00:00", timezone="UTC", end_offset=1)


def latest_of(key: dg.AssetKey) -> dg.AssetDep:
    """What lies downstream of raw facts follows their current hour.

    By default it would depend on every hour since the first, which Dagster lists in each run and for each dependency:
    a quarter of a cycle's time, and more each day.
    """
    return dg.AssetDep(key, partition_mapping=dg.LastPartitionMapping())
