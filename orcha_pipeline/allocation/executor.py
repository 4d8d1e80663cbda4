"""Carrying out a decision step by step: shrink before grow, everything journaled, read back, rolled back on failure.

Speaks to nodes through their adapters and to the warehouse through a `Journal`; keeps nothing between applications.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Literal, Protocol

from orcha_pipeline.allocation.plan import total_use
from orcha_pipeline.clock import Clock
from orcha_pipeline.errors import AdapterError, OrchaError, where
from orcha_pipeline.model import RESOURCES, ApplicationStatus, Lever, LeverMode, Resources
from orcha_pipeline.protocols.base import Adapter

_SLACK = 1e-9  # part of a capacity: rounding error of a sum


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """One lever to be moved, with the value and share the decision found and those it wants."""

    node: str
    lever: str
    value_from: float
    value_to: float
    share_from: float
    share_to: float


@dataclass(frozen=True, slots=True)
class Surroundings:
    """A host's capacity, its nodes' demands at share 1.0, and what the nodes use that a decision leaves alone."""

    capacity: Resources
    demands: Mapping[str, Resources]
    others: Resources


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One move of one lever, as the table `application_steps` keeps it: written before it acts and again after."""

    application_id: str
    step: int
    kind: Literal["apply", "rollback"]
    node: str
    lever: str
    previous: float | None
    requested: float
    read_back: float | None
    status: Literal["intended", "done", "failed"]
    error: str
    started_at: datetime
    ended_at: datetime | None


class Journal(Protocol):
    """Where steps are kept. Both methods return only when the step is safely written."""

    def step_intended(self, step: Step) -> None:
        """A step that is about to act."""
        ...

    def step_finished(self, step: Step) -> None:
        """The same step with what came of it."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class ApplicationOutcome:
    """What came of an application. `reason` is for the operator; after a failed rollback it says what to do.

    `stuck`: node -> what to do by hand, of those that could not be set back.
    """

    status: ApplicationStatus
    reason: str
    steps: tuple[Step, ...]
    started_at: datetime
    ended_at: datetime
    stuck: Mapping[str, str] = field(default_factory=dict[str, str])


class ApplicationError(OrchaError):
    """Something nobody expected happened during an application. `outcome` tells how the nodes were left."""

    def __init__(self, outcome: ApplicationOutcome) -> None:
        self.outcome = outcome
        super().__init__(outcome.reason)


def apply_changes(
    changes: Sequence[Change],
    *,
    application_id: str,
    adapters: Mapping[str, Adapter],
    journal: Journal,
    clock: Clock,
    around: Surroundings,
    why_not: Callable[[str, Lever], str] = lambda _node, _lever: "",
    stopped: Callable[[], str] = lambda: "",
) -> ApplicationOutcome:
    """Move the levers of `changes`, or leave everything as it was.

    `adapters` are by node; they and the demands `around` cover at least the changed ones. Nothing is touched
    (`dropped`) unless every lever still stands where the decision found it, `why_not` tells nothing against moving a
    node, and no moment of the sequence exceeds the capacity. `stopped`
    is asked before every step whether the operator has stopped all changes. A step that is stopped, fails or reads
    back more than half a step of the lever away is undone with all before it, last first (`rolled_back`, or
    `rollback_failed`). An error that is not an adapter's (the journal's, say) is rolled back likewise and then raised
    as `ApplicationError`.
    """
    application = _Application(
        application_id=application_id,
        adapters=adapters,
        journal=journal,
        clock=clock,
        around=around,
    )
    return application.carry_out(changes, why_not=why_not, stopped=stopped)


def roll_back(
    steps: Sequence[Step],
    changes: Sequence[Change],
    *,
    why: str,
    application_id: str,
    adapters: Mapping[str, Adapter],
    journal: Journal,
    clock: Clock,
    around: Surroundings,
) -> ApplicationOutcome:
    """Set back what the recorded `steps` of `changes` have moved, last first, where it does not stand there already.

    For an application whose process ended in its midst: a step that was intended may have acted. `why` begins the
    reason; the rest is as for `apply_changes`.
    """
    application = _Application(
        application_id=application_id,
        adapters=adapters,
        journal=journal,
        clock=clock,
        around=around,
    )
    return application.taken_back(steps, changes, why)


@dataclass(frozen=True, slots=True)
class _Move:
    """A change with the lever as the node describes it now."""

    change: Change
    lever: Lever

    @property
    def tolerance(self) -> float:
        return self.lever.step / 2


class _Dropped(Exception):  # noqa: N818 -- a reason to stop, not an error
    """Nothing was touched; the text says why."""


class _Application:
    """One application under way."""

    def __init__(
        self,
        *,
        application_id: str,
        adapters: Mapping[str, Adapter],
        journal: Journal,
        clock: Clock,
        around: Surroundings,
    ) -> None:
        self._id = application_id
        self._adapters = adapters
        self._journal = journal
        self._clock = clock
        self._around = around
        self._steps: list[Step] = []
        self._shares: dict[str, float] = {}
        """What each changed node takes at most, as far as is known."""
        self._limit = around.capacity
        self._unwritten: dict[int, Step] = {}
        """Steps of which the last word is not in the journal, by number."""
        self._begun: list[_Move] = []
        """Moves that may have acted, in order."""

    def carry_out(
        self, changes: Sequence[Change], *, why_not: Callable[[str, Lever], str], stopped: Callable[[], str]
    ) -> ApplicationOutcome:
        started = self._clock.now()
        try:
            moves = self._prepared(changes, why_not)
            failure = self._forward(moves, stopped)
        except _Dropped as why:
            return self._outcome(ApplicationStatus.DROPPED, str(why), started)
        except BaseException as unexpected:
            told = f"{type(unexpected).__name__}: {unexpected}" if str(unexpected) else type(unexpected).__name__
            outcome = self._rolled_back(f"The application broke off ({told}).", started)
            if isinstance(unexpected, Exception):
                raise ApplicationError(outcome) from unexpected
            raise  # an interrupt or the end of the process: the nodes are back, now it may have its way
        if failure:
            return self._rolled_back(failure, started)
        told = ", ".join(f"{move.change.node} {move.lever.name} = {_value(move)}" for move in moves)
        return self._outcome(ApplicationStatus.APPLIED, f"Applied and read back: {told}.", started)

    def taken_back(self, steps: Sequence[Step], changes: Sequence[Change], why: str) -> ApplicationOutcome:
        started = self._clock.now()
        self._steps = list(steps)
        by_node = {change.node: change for change in changes}
        self._shares = {change.node: change.share_from for change in changes}
        undone = {step.node for step in steps if step.kind == "rollback" and step.status == "done"}
        for step in steps:
            if step.kind == "apply" and step.node not in undone and step.previous is not None:
                change = by_node[step.node]
                self._begun.append(
                    _Move(replace(change, value_from=step.previous), self._lever_of(step.node, step.lever))
                )
                done = step.status == "done"
                self._shares[step.node] = change.share_to if done else max(change.share_from, change.share_to)
        now = self._use().as_dict()
        self._limit = Resources(
            **{name: max(now[name], most) for name, most in self._around.capacity.as_dict().items()}
        )
        return self._rolled_back(why, started, only_where_needed=True)

    def _lever_of(self, node: str, name: str) -> Lever:
        """The lever as the node describes it; one of that name without a range where it does not answer."""
        try:
            return next(lever for lever in self._adapters[node].levers() if lever.name == name)
        except Exception:  # noqa: BLE001 -- to set it back is tried all the same, and tells what is wrong
            return Lever(
                name=name, unit="", mode=LeverMode.RESTART, minimum=0.0, maximum=0.0, step=0.0, at_full_share=0.0
            )

    # --- before the first step

    def _prepared(self, changes: Sequence[Change], why_not: Callable[[str, Lever], str]) -> list[_Move]:
        """The moves in a safe order, after every reason not to begin has been looked for."""
        if not changes:
            raise _Dropped("There is nothing to change.")
        if len({change.node for change in changes}) < len(changes):
            raise _Dropped("A node is to be changed twice in one decision.")
        moves = [self._read(change, why_not) for change in changes]
        moves.sort(key=lambda move: move.change.share_to > move.change.share_from)  # shrink before grow
        self._shares = {move.change.node: move.change.share_from for move in moves}
        # Where today's use is above capacity already, it must at least never rise.
        now = self._use().as_dict()
        self._limit = Resources(
            **{name: max(now[name], most) for name, most in self._around.capacity.as_dict().items()}
        )
        shares = dict(self._shares)
        for move in moves:
            shares[move.change.node] = move.change.share_to
            if exceeded := self._exceeded(shares):
                raise _Dropped(f"Moving {move.change.node} would exceed the host's {exceeded}.")
        return moves

    def _read(self, change: Change, why_not: Callable[[str, Lever], str]) -> _Move:
        """The lever as it stands; dropped unless it stands where the decision found it."""
        adapter = self._adapters.get(change.node)
        if adapter is None or change.node not in self._around.demands:
            raise _Dropped(f"{change.node} is not configured any more.")
        try:
            lever = next((lever for lever in adapter.levers() if lever.name == change.lever), None)
            reading = adapter.allocation()
        except AdapterError as failure:
            raise _Dropped(f"{change.node} could not be read before the first step: {failure.message}") from failure
        except Exception as failure:  # noqa: BLE001 -- a plug-in fails in any way
            # Its text may repeat a secret, so it is not kept.
            told = f"the adapter failed: {where(failure)}"
            raise _Dropped(f"{change.node} could not be read before the first step: {told}") from None
        if lever is None:
            raise _Dropped(f"{change.node} has no lever {change.lever} any more.")
        if not lever.writable:
            raise _Dropped(f"{change.node}: {lever.why_not or f'its {lever.name} cannot be changed from here'}.")
        if reading.lever != change.lever or reading.value is None:
            raise _Dropped(f"{change.node} does not tell where its {change.lever} stands.")
        if abs(reading.value - change.value_from) > lever.step / 2:
            raise _Dropped(
                f"{change.node}: {change.lever} stands at {reading.value:g} {lever.unit}, "
                f"but the decision was made at {change.value_from:g}."
            )
        if not lever.minimum - lever.step / 2 <= change.value_to <= lever.maximum + lever.step / 2:
            raise _Dropped(
                f"{change.node}: {change.lever} takes {lever.minimum:g} to {lever.maximum:g} {lever.unit} now, "
                f"not {change.value_to:g}."
            )
        if why := why_not(change.node, lever):
            raise _Dropped(f"{change.node} must stay as it is: {why}.")
        return _Move(replace(change, value_from=reading.value), lever)

    # --- forward

    def _forward(self, moves: Sequence[_Move], stopped: Callable[[], str]) -> str:
        """Carry out the moves; returns what failed, or nothing."""
        for move in moves:
            change = move.change
            if stop := stopped():
                return stop
            step = self._intended("apply", move, previous=change.value_from, requested=change.value_to)
            try:
                self._journal.step_intended(step)
            except BaseException:
                self._steps.pop()  # what is not written does not act: there is nothing of it to set back
                raise
            self._begun.append(move)
            # Until it is read back the node may stand on either side.
            self._shares[change.node] = max(change.share_from, change.share_to)
            finished = self._acted(step, move)
            self._unwritten[finished.step] = finished
            self._journal.step_finished(finished)
            del self._unwritten[finished.step]
            if finished.status == "failed":
                return f"{change.node}: {finished.error}"
            self._shares[change.node] = change.share_to
        return ""

    def _intended(
        self, kind: Literal["apply", "rollback"], move: _Move, *, previous: float | None, requested: float
    ) -> Step:
        step = Step(
            application_id=self._id,
            step=len(self._steps),
            kind=kind,
            node=move.change.node,
            lever=move.lever.name,
            previous=previous,
            requested=requested,
            read_back=None,
            status="intended",
            error="",
            started_at=self._clock.now(),
            ended_at=None,
        )
        self._steps.append(step)
        return step

    def _acted(self, step: Step, move: _Move) -> Step:
        """Move the lever as `step` says; an adapter's error or a wrong read-back is in the step that comes back."""
        try:
            applied = self._adapters[step.node].apply(step.lever, step.requested)
        except AdapterError as failure:
            return self._finished(step, None, failure.message)
        except Exception as failure:  # noqa: BLE001 -- a plug-in fails in any way; its text may repeat a secret
            return self._finished(step, None, f"the adapter failed: {where(failure)}")
        if applied.read_back is None:
            return self._finished(step, None, f"{step.lever} could not be read back")
        if not abs(applied.read_back - step.requested) <= move.tolerance:
            told = f"{step.lever} reads back {applied.read_back:g} {move.lever.unit} instead of {step.requested:g}"
            return self._finished(step, applied.read_back, told)
        return self._finished(step, applied.read_back, "")

    def _finished(self, step: Step, read_back: float | None, error: str) -> Step:
        finished = replace(
            step,
            read_back=read_back,
            status="failed" if error else "done",
            error=error,
            ended_at=self._clock.now(),
        )
        self._steps[step.step] = finished
        return finished

    # --- back

    def _rolled_back(self, why: str, started: datetime, *, only_where_needed: bool = False) -> ApplicationOutcome:
        """Undo what was begun, last first. Every node is tried, whatever fails on the way.

        With `only_where_needed` a node that stands where it stood before is not moved, so that it need not restart.
        """
        for step in [step for step in self._steps if step.status == "intended"]:
            self._unwritten[step.step] = self._finished(step, None, "broke off before it was read back")
        self._write_all()
        # Of an application that is taken up again some may be back already.
        undone = [step.node for step in self._steps if step.kind == "rollback" and step.status == "done"]
        stuck: dict[str, str] = {}
        failures: list[str] = []
        for move in reversed(self._begun):
            left_at = next(step.read_back for step in self._steps if step.node == move.change.node)
            step = self._intended("rollback", move, previous=left_at, requested=move.change.value_from)
            self._write(self._journal.step_intended, step)
            if only_where_needed and self._stands_at(move, surely=True):
                finished = self._finished(step, move.change.value_from, "")
            else:
                finished = self._undone(step, move)
            self._write(self._journal.step_finished, finished)
            if finished.status == "done":
                self._shares[move.change.node] = move.change.share_from
                undone.append(move.change.node)
            else:
                stuck[move.change.node] = _to_do(move)
                failures.append(f"{_to_do(move)} (it failed: {finished.error})")
        failure = self._write_all()
        notes = f" Not all steps could be written: {failure}." if failure else ""
        if stuck:
            told = (
                f"{why} Not everything could be set back. Please {'; '.join(failures)}; then "
                f"`orcha unfreeze {' '.join(stuck)}`.{notes}"
            )
            return replace(self._outcome(ApplicationStatus.ROLLBACK_FAILED, told, started), stuck=stuck)
        if not self._begun and not undone:
            return self._outcome(ApplicationStatus.DROPPED, f"{why} Nothing had been changed.{notes}", started)
        told = f"{why} Set back and read back: {', '.join(undone)}.{notes}"
        return self._outcome(ApplicationStatus.ROLLED_BACK, told, started)

    def _undone(self, step: Step, move: _Move) -> Step:
        """Set one lever back, unless growing again would exceed the host because another node could not be set back."""
        name = move.change.node
        held, self._shares[name] = self._shares[name], max(self._shares[name], move.change.share_from)
        if exceeded := self._exceeded(self._shares):
            self._shares[name] = held
            return self._finished(
                step, None, f"left where it is, for setting it back would exceed the host's {exceeded}"
            )
        finished = self._acted(step, move)
        if finished.status == "failed" and self._stands_at(move, surely=False):
            # The answer was lost, the change was not: what the node itself shows is what counts.
            finished = self._finished(step, move.change.value_from, "")
        return finished

    def _stands_at(self, move: _Move, *, surely: bool) -> bool:
        """Whether a node reads as standing where it stood before the application, with nothing else in its settings.

        What waits there would come into force with some later restart, unknown to anybody. `surely`: not where nothing
        tells of it either.
        """
        adapter = self._adapters[move.change.node]
        try:
            value, waits = adapter.allocation().value, adapter.pending_change()
        except Exception:  # noqa: BLE001 -- unknown is not restored: the step stays failed with its own error
            return False
        if waits or (waits is None and surely):
            return False
        return value is not None and abs(value - move.change.value_from) <= move.tolerance

    # --- small parts

    def _write(self, write: "_Write", step: Step) -> str:
        """Write a step of a rollback. A journal that fails must not keep a node from being set back: it is told why."""
        self._unwritten[step.step] = step
        try:
            write(step)
        except Exception as failure:  # noqa: BLE001 -- returned and told in the outcome
            return f"{type(failure).__name__}: {failure}"
        del self._unwritten[step.step]
        return ""

    def _write_all(self) -> str:
        """Try again to write what could not be written; why not, where that fails too."""
        failures = [self._write(self._journal.step_finished, step) for step in list(self._unwritten.values())]
        return next(filter(None, failures), "")

    def _use(self, shares: Mapping[str, float] | None = None) -> Resources:
        by_node = self._shares if shares is None else shares
        return total_use(
            [(self._around.others, 1.0), *((self._around.demands[node], share) for node, share in by_node.items())]
        )

    def _exceeded(self, shares: Mapping[str, float]) -> str:
        """The resources that these shares would exceed, in words; empty where they fit."""
        use, limit = self._use(shares).as_dict(), self._limit.as_dict()
        return ", ".join(
            f"{name} ({use[name]:g} of {limit[name]:g})"
            for name in RESOURCES
            if use[name] > limit[name] + _SLACK * max(1.0, limit[name])
        )

    def _outcome(self, status: ApplicationStatus, reason: str, started: datetime) -> ApplicationOutcome:
        return ApplicationOutcome(
            status=status, reason=reason, steps=tuple(self._steps), started_at=started, ended_at=self._clock.now()
        )


class _Write(Protocol):
    def __call__(self, step: Step, /) -> None: ...


def _value(move: _Move) -> str:
    return f"{move.change.value_to:g} {move.lever.unit}"


def _to_do(move: _Move) -> str:
    change = move.change
    return f"set {move.lever.name} of {change.node} to {change.value_from:g} {move.lever.unit} by hand"
