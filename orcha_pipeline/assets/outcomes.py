"""What each applied decision earned, against what it promised."""

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any

import dagster as dg

from orcha_pipeline.allocation.outcomes import Measured, measured, promised
from orcha_pipeline.assets.allocation import ALLOCATION_DECISION
from orcha_pipeline.assets.ingest import OWNERS
from orcha_pipeline.model import HOUR
from orcha_pipeline.resources import NodesResource, WarehouseResource
from orcha_pipeline.warehouse import decisions
from orcha_pipeline.warehouse.decisions import OutcomeRow, Unmeasured
from orcha_pipeline.warehouse.derived import QUARTERS_MAY_CHANGE
from orcha_pipeline.warehouse.planning_rows import quarters_in_force

OUTCOMES = dg.AssetKey(["outcomes"])
RECORD_DAYS = 30


def outcome_row(due: Unmeasured, came: Measured, now: datetime) -> OutcomeRow:
    """Promise and result side by side."""
    row = due.decision
    hours = (due.until - due.applied_at) / HOUR
    cut = f"cut short by the next change after {hours:.3g} of {row.hours or 0.0:.3g} h" if due.cut_short else ""
    return OutcomeRow(
        decision_id=row.decision_id,
        host=row.host,
        applied_at=due.applied_at,
        measured_at=now,
        hours=hours,
        promised_usd=promised(
            row, None if row.gain_usd_per_hour is None else row.gain_usd_per_hour * (row.hours or 0.0), hours
        ),
        promised_p10=promised(row, row.gain_p10, hours),
        promised_p90=promised(row, row.gain_p90, hours),
        earned_usd=came.earned_usd,
        unchanged_usd=came.unchanged_usd,
        gained_usd=came.gained_usd,
        wrong=None if came.gained_usd is None else came.gained_usd < 0,
        note="; ".join(text for text in (cut, came.note) if text),
    )


def build_outcomes() -> dg.AssetsDefinition:
    """The asset that measures what was promised."""

    @dg.asset(
        key=OUTCOMES,
        deps=[ALLOCATION_DECISION],
        group_name="decision",
        kinds={"python", "duckdb"},
        owners=OWNERS,
        metadata={"dagster/table_name": "outcomes"},
        pool="duckdb",
    )
    def outcomes(
        context: dg.AssetExecutionContext, nodes: NodesResource, warehouse: WarehouseResource
    ) -> dg.MaterializeResult[Any]:
        """What each applied decision earned once its hours are over, against its promise and the old shares."""
        installation = nodes.installation()
        now = installation.clock.now()
        hosts = {host.name for host in installation.settings.hosts}
        curvature = installation.settings.planner.response_curvature
        store = warehouse.warehouse
        with store.read() as connection:
            found = [
                outcome_row(due, came, now)
                for due in decisions.unmeasured(connection, now=now)
                # What is unknown may yet be told by later readings; after some hours it will not.
                if not (came := measured(quarters_in_force(connection, due), due.decision, curvature=curvature)).missing
                or now >= due.until + QUARTERS_MAY_CHANGE
            ]
        with store.write() as connection:
            for row in found:
                decisions.record_outcome(connection, row)
            record = decisions.switching_record(connection, hosts, now - timedelta(days=RECORD_DAYS))
        for row in found:
            if row.wrong:
                context.log.info("Decision %s of %s did not pay: %s", row.decision_id, row.host, _told(row)["gained"])
        metadata: dict[str, Any] = {
            "dagster/row_count": len(found),
            "measured now": len(found),
            f"measured in {RECORD_DAYS} days": record.measured,
            f"promised in {RECORD_DAYS} days, USD": record.promised_usd,
            f"gained in {RECORD_DAYS} days, USD": record.gained_usd,
            "simulated": installation.simulated,
        }
        if record.wrong_share is not None:
            metadata[f"wrong switches in {RECORD_DAYS} days, share"] = record.wrong_share
        if found:
            metadata["outcomes"] = dg.MetadataValue.table([dg.TableRecord(_told(row)) for row in found])
        return dg.MaterializeResult(metadata=metadata)

    return outcomes


def _told(row: OutcomeRow) -> Mapping[str, str]:
    return {
        "decision": row.decision_id,
        "host": row.host,
        "hours": f"{row.hours:.3g}",
        "promised": _usd(row.promised_usd),
        "gained": _usd(row.gained_usd),
        "earned": _usd(row.earned_usd),
        "at the old shares": _usd(row.unchanged_usd),
        "note": row.note,
    }


def _usd(amount: float | None) -> str:
    return "unknown" if amount is None else f"{amount:+.6f} USD"
