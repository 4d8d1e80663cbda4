"""A restore under way, on record: one that was interrupted is found, nothing works on half of it, and it is ended.

The new files lie complete beside the old ones before the journal is written. From then on each is put in place by one
renaming, which can be done again from anywhere in between.
"""

import os
import shutil
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from orcha_pipeline.disk import sync_folder
from orcha_pipeline.errors import BackupError

JOURNAL = "restore.json"
CONFIG_STAGED = "orcha.toml"
"""Name of the new settings file in `staged`, and of the old one in `aside`."""


class Journal(BaseModel):
    """What is to be put in place: everything in `staged` (a folder of the data folder) but the settings file.

    `old` are the names that make way; they go to the folder `aside`. The settings file goes to `config`, where given.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    archive: str
    staged: str
    aside: str
    old: tuple[str, ...]
    new: tuple[str, ...]
    config: Path | None = None
    config_before: bool = False
    """Whether there was a settings file before."""


def refuse_half_restored(home: Path) -> None:
    """Raise `BackupError` where a restore was interrupted: what is there is part old and part new."""
    if (journal := pending(home)) is not None:
        raise BackupError(
            f"The restore of {journal.archive} into {home} was interrupted. `orcha restore` ends it; nothing else "
            "works until then. What was there before is safe."
        )


def pending(home: Path) -> Journal | None:
    """The restore that was interrupted, if one was."""
    path = home / JOURNAL
    try:
        return Journal.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, ValidationError) as error:
        raise BackupError(
            f"{path} tells of an interrupted restore but cannot be read. Move it away, then restore the archive anew."
        ) from error


def begin(home: Path, journal: Journal) -> None:
    """Put it on record, whole or not at all."""
    draft = home / journal.staged / JOURNAL
    with draft.open("x", encoding="utf-8") as file:
        file.write(journal.model_dump_json(indent=1))
        file.flush()
        os.fsync(file.fileno())
    for folder in (home / journal.staged, home):
        sync_folder(folder)
    draft.rename(home / JOURNAL)
    sync_folder(home)


def carry_on(home: Path, journal: Journal) -> None:
    """Put everything in its place, from wherever it was left, and take the restore off the record.

    Raises `BackupError` where that is not possible; the restore stays on record.
    """
    try:
        _place(home, journal)
    except OSError as error:
        raise BackupError(
            f"The restore of {journal.archive} is not complete: {error.filename}: {error.strerror}. Mend that, then "
            "run `orcha restore`, which goes on where it ended."
        ) from error
    (home / JOURNAL).unlink()
    sync_folder(home)
    shutil.rmtree(home / journal.staged, ignore_errors=True)


def _place(home: Path, journal: Journal) -> None:
    staged, aside = home / journal.staged, home / journal.aside
    if journal.old or journal.config_before:
        aside.mkdir(mode=0o700, exist_ok=True)
    for name in dict.fromkeys([*journal.old, *journal.new]):
        if name in journal.new and not (staged / name).exists():
            continue  # it is in its place
        if name in journal.old and os.path.lexists(home / name):
            (home / name).rename(aside / name)
        if name in journal.new:
            (staged / name).rename(home / name)
    if journal.config is not None:
        kept = aside / CONFIG_STAGED if journal.config_before else None
        _place_config(staged / CONFIG_STAGED, journal.config, kept)
    for folder in (aside, home):
        if folder.exists():
            sync_folder(folder)


def _place_config(staged: Path, target: Path, kept: Path | None) -> None:
    """Replace the settings file, which may be on another disk than the data folder; the old one stays as `kept`."""
    if not staged.exists():
        return  # it is in its place
    if kept is not None and not kept.exists():
        _copy(target, kept)
    _copy(staged, target)
    staged.unlink()


def _copy(source: Path, target: Path) -> None:
    """Copy a file, whole or not at all, for its owner's eyes alone."""
    draft = target.with_name(f".{target.name}.draft")
    draft.unlink(missing_ok=True)
    with draft.open("xb") as file:
        draft.chmod(0o600)
        file.write(source.read_bytes())
        file.flush()
        os.fsync(file.fileno())
    draft.replace(target)
    sync_folder(target.parent)
