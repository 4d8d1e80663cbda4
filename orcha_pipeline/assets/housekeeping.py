"""What keeps the disk flat, once a night."""

from typing import Any

import dagster as dg

from orcha_pipeline.assets.ingest import OWNERS
from orcha_pipeline.disk import MIB
from orcha_pipeline.errors import OrchaError
from orcha_pipeline.housekeeping import keep_house
from orcha_pipeline.resources import NodesResource

HOUSEKEEPING = dg.AssetKey(["housekeeping"])


def build_housekeeping() -> dg.AssetsDefinition:
    """The housekeeping asset."""

    # Not in the pool "duckdb": it may take minutes, and has the file open for moments of them.
    @dg.asset(key=HOUSEKEEPING, group_name="upkeep", kinds={"python", "duckdb", "sqlite"}, owners=OWNERS)
    def housekeeping(context: dg.AssetExecutionContext, nodes: NodesResource) -> dg.MaterializeResult[Any]:
        """Old readings in fewer rows, what is too old deleted, Dagster's old runs too, freed room given back."""
        installation = nodes.installation()
        try:
            tidied = keep_house(installation, context.instance)
        except OrchaError as error:
            raise dg.Failure(str(error), allow_retries=False) from error
        metadata: dict[str, Any] = {
            "rows rolled up": sum(tidied.rows_rolled_up.values()),
            "rows deleted": sum(tidied.rows_deleted.values()),
            "rows rolled up by table": dict(tidied.rows_rolled_up),
            "rows deleted by table": dict(tidied.rows_deleted),
            "runs deleted": tidied.runs_deleted,
            "warehouse": "unknown" if tidied.warehouse is None else tidied.warehouse.outcome,
            "MiB before": tidied.bytes_before / MIB,
            "MiB after": tidied.bytes_after / MIB,
            "simulated": installation.simulated,
        }
        if tidied.problems:
            # What could be done is done; the run is shown as failed so that nobody overlooks the rest.
            raise dg.Failure(" ".join(tidied.problems), metadata=metadata, allow_retries=False)
        return dg.MaterializeResult(metadata=metadata)

    return housekeeping
