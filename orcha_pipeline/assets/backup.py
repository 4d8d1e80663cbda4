"""One archive a night of everything that could not be had again."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import dagster as dg

from orcha_pipeline.assets.ingest import OWNERS
from orcha_pipeline.backup.commands import source_of
from orcha_pipeline.backup.nightly import nightly_backup
from orcha_pipeline.disk import MIB
from orcha_pipeline.errors import OrchaError
from orcha_pipeline.resources import NodesResource

BACKUP = dg.AssetKey(["backup"])


def build_backup() -> dg.AssetsDefinition:
    """The asset that makes the nightly backup."""

    # Not in the pool "duckdb": it holds writers up for the copy of one file, and then packs for as long as it takes.
    @dg.asset(key=BACKUP, group_name="upkeep", kinds={"python", "file"}, owners=OWNERS)
    def backup(context: dg.AssetExecutionContext, nodes: NodesResource) -> dg.MaterializeResult[Any]:
        """Warehouse, models and settings in an archive that was read back; then those go that are too many."""
        installation = nodes.installation()
        settings = installation.settings
        source = source_of(installation, Path(nodes.config) if nodes.config else None)
        try:
            night = nightly_backup(source, settings.backup_folder, keep=settings.backup.keep, made_at=datetime.now(UTC))
        except OrchaError as error:
            raise dg.Failure(f"{error} Earlier backups are as they were.", allow_retries=False) from error
        for path in night.removed:
            context.log.info("Removed %s: the last %d are kept.", path, settings.backup.keep)
        made = night.backup
        return dg.MaterializeResult(
            metadata={
                "archive": dg.MetadataValue.path(str(made.path)),
                "MiB": made.size / MIB,
                "files": len(made.manifest.files),
                "kept": night.kept,
                "removed": len(night.removed),
                "simulated": installation.simulated,
            }
        )

    return backup
