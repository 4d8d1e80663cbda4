"""The one partitioning of the project: raw facts by the hour, UTC."""

import dagster as dg

# The current hour is a partition too (end_offset): the cycle writes into it four times.
hourly = dg.HourlyPartitionsDefinition(start_date="2025-01-01-00:00", timezone="UTC", end_offset=1)
