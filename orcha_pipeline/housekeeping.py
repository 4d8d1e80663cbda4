"""Keeping the disk flat while Orcha runs for weeks: what is too old goes, what is long past is kept in fewer rows.

What frees room comes before what needs some, so that it helps on a disk that is nearly full too. One part that fails
keeps no other from being done. Every part is done in short pieces, each of them whole: a process that dies in between
leaves the rest to the next night.
"""

from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from filelock import FileLock, Timeout

from orcha_pipeline.dagster_history import databases, delete_old_runs, sweep
from orcha_pipeline.disk import MIB
from orcha_pipeline.errors import OrchaError, where
from orcha_pipeline.installation import Installation
from orcha_pipeline.sqlite_files import shrink
from orcha_pipeline.warehouse.compaction import Compaction, compact
from orcha_pipeline.warehouse.facts import scalar
from orcha_pipeline.warehouse.retention import delete_old
from orcha_pipeline.warehouse.rollup import roll_up

if TYPE_CHECKING:
    import dagster as dg

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Tidied:
    """What was done. `bytes_before` and `bytes_after` are of the warehouse and of Dagster's files."""

    runs_deleted: int = 0
    rows_deleted: Mapping[str, int] = field(default_factory=dict[str, int])
    """By table."""
    rows_rolled_up: Mapping[str, int] = field(default_factory=dict[str, int])
    """By table, how many fewer there are."""
    warehouse: Compaction | None = None
    """What came of compacting it; None where that failed."""
    bytes_before: int
    bytes_after: int
    problems: tuple[str, ...] = ()
    """Why a part was not done."""

    def told(self) -> str:
        """In a few sentences, for a terminal."""
        sentences = [
            f"{sum(self.rows_rolled_up.values()):,} rows fewer are kept of what is long past.",
            f"{sum(self.rows_deleted.values()):,} rows were deleted{_by_table(self.rows_deleted)}.",
            f"{self.runs_deleted:,} of Dagster's runs were deleted.",
            f"On the disk: {self.bytes_before / MIB:,.1f} MiB before, {self.bytes_after / MIB:,.1f} MiB now.",
        ]
        if self.warehouse is not None:
            sentences.append(f"Compacting the warehouse: {self.warehouse.outcome}.")
        return "\n".join([*sentences, *self.problems])


def _by_table(rows: Mapping[str, int]) -> str:
    told = ", ".join(f"{table} {count:,}" for table, count in rows.items() if count)
    return f" ({told})" if told else ""


def keep_house(installation: Installation, instance: "dg.DagsterInstance | None") -> Tidied:
    """Do all of it now; `instance` is Dagster's, None where there is none yet.

    Raises `OrchaError` where there is no warehouse of this version, or where another process is at it.
    """
    settings, warehouse = installation.settings, installation.warehouse
    kept, dagster_home = settings.housekeeping, settings.home / "dagster"
    with warehouse.read() as connection:
        scalar(connection, "SELECT count(*) FROM rollups")
    now, wall_clock = _now(installation), datetime.now(UTC)
    before, raw_until = now - timedelta(days=kept.kept_days), now - timedelta(days=kept.raw_days)
    with _alone(settings.home):
        bytes_before = _used(settings.warehouse_path, dagster_home)
        parts = _Parts()
        runs = parts.do(
            "Dagster's runs",
            # Dated by the machine's clock; what they read is by the nodes', which on the testnet is another.
            lambda: instance and delete_old_runs(instance, before=wall_clock - timedelta(days=kept.runs_days)),
        )
        parts.do("Dagster's files", lambda: _tidy_files(dagster_home))
        deleted = parts.do("old rows", lambda: delete_old(warehouse, plans_before=raw_until, before=before))
        rolled_up = parts.do("the roll-up", lambda: roll_up(warehouse, until=raw_until))
        return Tidied(
            runs_deleted=runs or 0,
            rows_deleted=deleted or {},
            rows_rolled_up=rolled_up or {},
            warehouse=parts.do("compacting the warehouse", lambda: compact(warehouse)),
            bytes_before=bytes_before,
            bytes_after=_used(settings.warehouse_path, dagster_home),
            problems=tuple(parts.problems),
        )


class _Parts:
    """Does one part after another, whatever becomes of them, and keeps why one failed."""

    def __init__(self) -> None:
        self.problems: list[str] = []

    def do(self, what: str, part: Callable[[], T]) -> T | None:
        """What `part` gives; None where it failed."""
        try:
            return part()
        except OrchaError as error:
            self.problems.append(str(error))
        except Exception as error:  # noqa: BLE001 (Dagster's storage fails in any way, and the other parts free room)
            self.problems.append(f"{what.capitalize()} could not be done: {where(error)}. The next night tries again.")
        return None


def _tidy_files(dagster_home: Path) -> None:
    sweep(dagster_home)
    for file in databases(dagster_home):
        shrink(file)


def _now(installation: Installation) -> datetime:
    try:
        return installation.clock.now()
    except OrchaError:  # the testnet, whose clock it is, is away; its clock is never behind the machine's
        return datetime.now(UTC)


def _used(*places: Path) -> int:
    """Bytes of these files, and of all files in these folders."""
    files = [file for place in places for file in ([place] if place.is_file() else place.rglob("*"))]
    return sum(_size(file) for file in files)


def _size(file: Path) -> int:
    try:
        return file.stat().st_size if file.is_file() else 0
    except FileNotFoundError:  # another process has just removed it
        return 0


@contextmanager
def _alone(home: Path) -> Generator[None]:
    folder = home / "locks"
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / "housekeeping.lock", blocking=False)
    try:
        lock.acquire()
    except Timeout:
        raise OrchaError("Another process is tidying up here already. Look again when it has ended.") from None
    try:
        yield
    finally:
        lock.release()


def housekeeping_now(installation: Installation) -> Tidied:
    """What `orcha housekeeping` does: all of it, also while Orcha does not run."""
    folder = installation.settings.home / "dagster"
    if not (folder / "dagster.yaml").exists():
        return keep_house(installation, None)
    import dagster as dg

    with dg.DagsterInstance.from_config(str(folder)) as instance:
        return keep_house(installation, instance)
