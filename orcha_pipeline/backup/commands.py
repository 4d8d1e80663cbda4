"""`orcha backup` and `orcha restore`: what they do, and what they tell."""

from collections.abc import Generator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from orcha_pipeline.backup.journal import carry_on, pending
from orcha_pipeline.backup.manifest import Manifest
from orcha_pipeline.backup.restore import Restored, restore
from orcha_pipeline.backup.save import Backup, back_up, target_of
from orcha_pipeline.backup.snapshot import Source
from orcha_pipeline.disk import MIB
from orcha_pipeline.errors import BackupError, SupervisionError
from orcha_pipeline.installation import Installation, open_installation
from orcha_pipeline.settings_file import DEFAULT_NAME, settings_path
from orcha_pipeline.supervisor import instance_lock

VERSION = 1
"""Of what `--json` prints. Grows by one when a key changes its meaning or goes away."""


def source_of(installation: Installation, config: Path | None) -> Source:
    """What is backed up of an installation."""
    return Source(home=installation.settings.home, config=settings_path(config), simulated=installation.simulated)


def back_up_now(config: Path | None, out: Path | None) -> Backup:
    """Make an archive; `out` is a file, or a folder to put it in. Raises `OrchaError`."""
    installation, made_at = open_installation(config), datetime.now(UTC)
    target = target_of(out, installation.settings.backup_folder, made_at)
    return back_up(source_of(installation, config), target, made_at)


def backup_told(backup: Backup) -> str:
    """For a person."""
    manifest = backup.manifest
    lines = [f"Wrote {backup.path}: {len(manifest.files)} files, {backup.size / MIB:,.1f} MiB, read back and whole."]
    if manifest.has_config:
        lines.append("Your settings file is in it, with any token that stands there: nobody but you may read the file.")
    return "\n".join([*lines, *_unfinished_told(manifest)])


def backup_json(backup: Backup) -> dict[str, Any]:
    """For a program. Keys are added, never renamed."""
    manifest = backup.manifest
    return {
        "version": VERSION,
        "archive": str(backup.path),
        "made_at": f"{manifest.made_at:%Y-%m-%dT%H:%M:%SZ}",
        "bytes": backup.size,
        "files": len(manifest.files),
        "unpacked_bytes": manifest.size,
        "has_config": manifest.has_config,
        "simulated": manifest.simulated,
        "unfinished_applications": manifest.unfinished,
    }


@contextmanager
def held(home: Path) -> Generator[None]:
    """Keep Orcha from being started in `home` meanwhile. Raises `BackupError` where it runs."""
    with ExitStack() as stack:
        try:
            stack.enter_context(instance_lock(home))
        except SupervisionError as error:
            raise BackupError(f"{error}. Nothing was changed: Orcha must not run there meanwhile.") from error
        yield


def finish_interrupted(home: Path) -> str:
    """End a restore that was interrupted, and tell so; empty where there is none."""
    if (journal := pending(home)) is None:
        return ""
    carry_on(home, journal)
    return (
        f"The restore of {journal.archive}, which was interrupted, is complete. What was there before is in "
        f"{home / journal.aside}. `orcha doctor` tells whether the nodes stand where the restored record says."
    )


def question(manifest: Manifest, home: Path, config: Path | None) -> str:
    """What is about to happen."""
    files, simulated = len(manifest.files), ", of simulated nodes" if manifest.simulated else ""
    what = f"{home}" if config is None else f"{home} and {config}"
    return (
        f"The archive is whole: {files} files of {manifest.made_at:%Y-%m-%d %H:%M} UTC from {manifest.home}{simulated}."
        f"\n{what} will be as they were then; what is there now is moved aside."
    )


def restore_now(archive: Path, manifest: Manifest, home: Path, config: Path | None) -> str:
    """Restore a verified archive; tells what came of it. Raises `OrchaError`."""
    return restored_told(
        manifest, restore(archive, manifest, home=home, config=config, now=datetime.now(UTC)), home=home
    )


def restored_told(manifest: Manifest, restored: Restored, *, home: Path) -> str:
    """For a person: what is where, and what to do next."""
    lines = [f"{home} is as it was at {manifest.made_at:%Y-%m-%d %H:%M} UTC: {restored.files} files."]
    if restored.config is not None:
        lines.append(f"{restored.config} is the archive's.")
    elif manifest.has_config:
        lines.append("The settings file of the archive was left out; --config-too restores it as well.")
    if restored.aside is not None:
        lines.append(f"What was there before is in {restored.aside}: remove it once all is well.")
    lines += _unfinished_told(manifest)
    when = "after `orcha up`" if manifest.simulated else "before `orcha up`"
    return "\n".join(
        [
            *lines,
            f"Now run `orcha doctor`, {when}: the nodes may stand elsewhere than this record says, and it names those.",
        ]
    )


def _unfinished_told(manifest: Manifest) -> list[str]:
    if not manifest.unfinished:
        return []
    many = "An application was" if manifest.unfinished == 1 else f"{manifest.unfinished} applications were"
    return [f"{many} under way in this record: after a restore the next `orcha up` finishes it, or sets it back."]


def settings_target(config: Path | None) -> Path:
    """Where the settings file in force is, or would be."""
    return settings_path(config) or Path(DEFAULT_NAME).absolute()
