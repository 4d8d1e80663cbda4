"""The nightly backup: a new archive first, then those go that are too many."""

from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from orcha_pipeline.backup.save import Backup, archive_name, back_up, target_of
from orcha_pipeline.backup.snapshot import Source

NIGHTLY = "orcha-nightly-*Z.tar.gz"


@dataclass(frozen=True, slots=True)
class Nightly:
    """What a night came to: the new archive, how many there are by now, and those that were removed."""

    backup: Backup
    kept: int
    removed: tuple[Path, ...]


def nightly_backup(source: Source, folder: Path, *, keep: int, made_at: datetime) -> Nightly:
    """Add an archive to `folder`, then remove all but the last `keep` of those made at night.

    Where the new one cannot be made, nothing is removed. Archives made by hand stay. Raises `OrchaError`.
    """
    target = target_of(None, folder, made_at).with_name(archive_name(made_at, nightly=True))
    backup = back_up(source, target, made_at)
    found = sorted(folder.glob(NIGHTLY))
    removed = [path for path in found[:-keep] if path != backup.path]
    for path in removed:
        path.unlink(missing_ok=True)
    return Nightly(backup, len(found) - len(removed), tuple(removed))
