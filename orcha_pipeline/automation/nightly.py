"""What a job of the night is like, whatever it does."""

from typing import Any

import dagster as dg


def nightly_job(name: str, key: dg.AssetKey, *, description: str) -> Any:  # Dagster does not export the type
    """The job that makes one asset. Cycles go before it, and run beside it."""
    return dg.define_asset_job(
        name,
        selection=dg.AssetSelection.assets(key),
        description=description,
        executor_def=dg.in_process_executor,
        tags={"dagster/max_runtime": "3600", "dagster/priority": "-5"},
    )
