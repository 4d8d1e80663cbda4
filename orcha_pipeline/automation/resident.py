"""What a sensor needs of Dagster, without an instance of its own for each look.

Dagster opens an instance for every look of a sensor that takes a resource or asks its context for one: three databases
and all of alembic's scripts, 0.1 s of CPU, of which some KiB are never given back (alembic leaves an `atexit` behind
each time), 13 MiB an hour with five sensors. One instance stays open here instead, and the sensors take no resource.
"""

import threading

import dagster as dg

_lock = threading.Lock()
_open: list[dg.DagsterInstance] = []


def instance_of(context: dg.SensorEvaluationContext) -> dg.DagsterInstance:
    """The instance of this look, kept for the looks that follow; the context's own where a test gave it one."""
    ref = context.instance_ref
    if ref is None:
        return context.instance
    with _lock:
        for kept in _open:
            if kept.get_ref() == ref:
                return kept
        opened = dg.DagsterInstance.from_ref(ref)
        _open.append(opened)
        return opened


def latest_materialization(context: dg.SensorEvaluationContext, asset_key: dg.AssetKey) -> dg.EventLogEntry | None:
    """The latest materialization since the context's cursor, which moves behind it; None if there is none.

    As Dagster's own asset sensor looks: of several since the last look, the latest alone counts, and a look that fails
    leaves the cursor where it was.
    """
    after = int(context.cursor) if context.cursor else None
    records = (
        instance_of(context)
        .fetch_materializations(dg.AssetRecordsFilter(asset_key, after_storage_id=after), ascending=False, limit=1)
        .records
    )
    if not records:
        return None
    context.update_cursor(str(records[0].storage_id))
    return records[0].event_log_entry
