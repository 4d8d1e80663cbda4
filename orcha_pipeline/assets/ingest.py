"""Raw facts: one lane of assets a protocol, made from the registry, and the token prices."""

from collections.abc import Iterator, Sequence
from typing import Any

import dagster as dg

from orcha_pipeline.assets.partitions import hourly
from orcha_pipeline.clock import SystemClock
from orcha_pipeline.ingest import IngestReport, ingest_history, ingest_now, ingest_time_lapse
from orcha_pipeline.installation import SteppedClock
from orcha_pipeline.model import HOUR, Window
from orcha_pipeline.resources import NodesResource, WarehouseResource

FACTS = {
    "earnings": "What the nodes say they earned: running totals and dated amounts, in their own unit.",
    "balances": "Where the money that was earned stands: accrued, pending, settled, doubtful, held.",
    "resource_usage": "What the nodes use: bytes, connections, cores, as far as they tell.",
    "node_health": "Whether each node works, why not, and how its reputation stands.",
    "allocations_observed": "What each node has now, as it reports it itself.",
}
PRICES = dg.AssetKey(["prices"])
OWNERS = ["team:orcha"]


def fact_keys(protocols: Sequence[str]) -> list[dg.AssetKey]:
    """Keys of the raw facts, `<protocol>/<fact>`."""
    return [dg.AssetKey([protocol, fact]) for protocol in protocols for fact in FACTS]


def _specs(protocols: Sequence[str]) -> list[dg.AssetSpec]:
    lanes = [
        dg.AssetSpec(
            [protocol, fact],
            group_name=protocol,
            description=f"{protocol.capitalize()}: {description}",
            kinds={"python", "duckdb"},
            owners=OWNERS,
            metadata={"dagster/table_name": fact},
        )
        for protocol in protocols
        for fact, description in FACTS.items()
    ]
    prices = dg.AssetSpec(
        PRICES,
        group_name="market",
        description="USD prices of the tokens the nodes are paid in, with their source and age.",
        kinds={"python", "duckdb"},
        owners=OWNERS,
        metadata={"dagster/table_name": "prices"},
    )
    return [*lanes, prices]


def build_ingest(protocols: Sequence[str]) -> dg.AssetsDefinition:
    """One operation that reads all nodes at once and gives every protocol's raw facts and the prices.

    One, because nodes are read side by side and the testnet's past can be played only once. A node that fails is
    marked in `node_health` and delays nobody.
    """

    @dg.multi_asset(
        name="ingest",
        specs=_specs(protocols),
        partitions_def=hourly,
        backfill_policy=dg.BackfillPolicy.single_run(),
        can_subset=True,
        pool="duckdb",
    )
    def ingest(
        context: dg.AssetExecutionContext, nodes: NodesResource, warehouse: WarehouseResource
    ) -> Iterator[dg.MaterializeResult[Any]]:
        span = context.partition_time_window
        window = Window(span.start, span.end)
        installation = nodes.installation()
        store = warehouse.warehouse
        selected = {key.path[0] for key in context.selected_asset_keys if key != PRICES}
        with nodes.adapters(sorted(selected)) as adapters, nodes.prices() as prices:
            clock = installation.clock
            if isinstance(clock, SteppedClock) and not clock.is_live():
                report = ingest_time_lapse(
                    installation, clock, store, adapters, prices, window=window, wall_clock=SystemClock()
                )
            else:
                # Which hour a run is for is told by the wall clock; what it reads is stamped by the nodes' clock,
                # which on the testnet may have been moved ahead.
                report = IngestReport()
                # A cycle that was queued over the full hour still reads the present.
                current = window.start <= SystemClock().now() < window.end + HOUR
                if window.hours > 1 or not current:
                    report = ingest_history(installation, store, adapters, prices, window=window)
                if current:
                    report = report.plus(ingest_now(installation, store, adapters, prices))
        for node, reason in sorted(report.failures.items()):
            context.log.warning("%s could not be read: %s", node, reason)
        # A protocol without a node has no rows, and is materialized all the same: what is skipped upstream would be
        # skipped down to the decision.
        for key in sorted(context.selected_asset_keys):
            yield _result(key, report, simulated=installation.simulated)

    return ingest


def _result(key: dg.AssetKey, report: IngestReport, *, simulated: bool) -> dg.MaterializeResult[Any]:
    rows = report.price_rows if key == PRICES else report.rows[key.path[0], key.path[1]]
    failures = "\n".join(f"- **{node}**: {reason}" for node, reason in sorted(report.failures.items()))
    return dg.MaterializeResult(
        asset_key=key,
        metadata={
            "dagster/row_count": rows,
            "nodes that failed": dg.MetadataValue.md(failures or "none"),
            "simulated": simulated,
        },
    )
