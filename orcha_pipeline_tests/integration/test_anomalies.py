"""The testnet's outages, cycle by cycle: every planted fault is told once, for as long as it lasts, and no longer."""

from datetime import UTC, datetime, timedelta

import pytest

from orcha_pipeline.anomalies.catalogue import MASKING
from orcha_pipeline.automation.jobs import CYCLE
from orcha_pipeline.definitions import build_defs
from orcha_pipeline.model import SLOT, Window, hour_of, slot_of
from orcha_pipeline.settings_file import load_settings
from orcha_pipeline.warehouse.anomaly_rows import masked_hours
from orcha_pipeline.warehouse.facts import naive
from orcha_pipeline_tests.bench.soak_direct import DirectCycle
from orcha_pipeline_tests.integration.conftest import Rig
from orcha_pipeline_tests.integration.soundness import expect_sound

pytestmark = [pytest.mark.integration, pytest.mark.slow, pytest.mark.timeout(600)]

NODES = ("storj-1", "golem-1", "streamr-1", "grass-1")
FEED = "coingecko"
OF_FAULTS = ("node-unreachable", "node-error", "clock-skew", "price-stale", "allocation-failed", "missed-cycles")
"""Rules that a fault of the testnet raises; what its nodes earn meanwhile is nobody's plan."""
JUST_BEGUN = timedelta(seconds=3)

Told = dict[int, set[tuple[str, str]]]
"""Cycle -> rule and subject of what was told in it."""


class Cycles:
    """Cycles of the real assets, a slot apart, on a testnet whose time is let pass."""

    def __init__(self, rig: Rig) -> None:
        self.rig = rig
        definitions = build_defs(load_settings())
        self.cycle = DirectCycle(definitions, definitions.get_repository_def(), CYCLE)
        self.next = slot_of(rig.installation.clock.now()) + SLOT
        self.count = 0
        self.told: Told = {}

    def play(self, cycles: int) -> None:
        for _ in range(cycles):
            self.rig.advance_to(self.next + JUST_BEGUN)
            played = self.cycle.play(datetime.now(UTC))
            assert played.success, played.error
            rows = self.rig.rows(
                "SELECT rule, subject FROM anomalies WHERE slot = ? AND list_contains(?, rule)",
                naive(self.next),
                list(OF_FAULTS),
            )
            self.told[self.count] = {(row["rule"], row["subject"]) for row in rows}
            assert len(self.told[self.count]) == len(rows)
            self.count += 1
            self.next += SLOT
            for decision_id in played.to_apply:
                self.cycle.apply(decision_id, datetime.now(UTC))

    def with_fault(self, cycles: int, kind: str, *doors: str, **more: object) -> range:
        """Plays these cycles with the fault, and two without it; gives those that had it."""
        for door in doors:
            self.rig.fault(door, kind, **more)
        first = self.count
        self.play(cycles)
        self.rig.heal()
        self.play(2)
        return range(first, first + cycles)

    def spells(self) -> dict[tuple[str, str], list[range]]:
        """Rule and subject -> the unbroken stretches of cycles that told it."""
        found: dict[tuple[str, str], list[range]] = {}
        for number in range(self.count):
            for key in self.told[number]:
                spells = found.setdefault(key, [])
                if spells and spells[-1].stop == number:
                    spells[-1] = range(spells[-1].start, number + 1)
                else:
                    spells.append(range(number, number + 1))
        return found


@pytest.fixture
def cycles(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> Cycles:
    # The machine that this runs on is not what is looked at.
    monkeypatch.setenv("ORCHA_ANOMALIES__DISK_DAYS", "0")
    return Cycles(rig)


def test_every_planted_fault_is_told_once_and_is_over_when_it_is(cycles: Cycles):
    rig = cycles.rig
    cycles.play(2)
    began = slot_of(rig.installation.clock.now())
    away = cycles.with_fault(3, "dead", "storj-1")
    until = slot_of(rig.installation.clock.now())
    rubbish = cycles.with_fault(2, "html", "streamr-1")
    ahead = cycles.with_fault(2, "skew", "golem-1", skew_seconds=7200)
    dark = cycles.with_fault(2, "dead", *NODES)
    silent = cycles.with_fault(6, "dead", FEED)
    rig.advance(minutes=5 * 15)  # Orcha itself is away
    cycles.next = slot_of(rig.installation.clock.now()) + SLOT
    back = cycles.count
    cycles.play(2)

    spells = cycles.spells()
    assert spells.pop(("node-unreachable", "storj-1")) == [away, dark]
    assert spells.pop(("node-error", "streamr-1")) == [rubbish]
    assert spells.pop(("clock-skew", "golem-1")) == [ahead]
    for node in ("golem-1", "streamr-1", "grass-1"):
        assert spells.pop(("node-unreachable", node)) == [dark]
    # The last price counts for an hour: the feed's silence is told from then on, of every token alike.
    (stale,) = {tuple(spells.pop(key)) for key in list(spells) if key[0] == "price-stale"}
    assert stale == (range(silent.start + 4 - 1, silent.stop),)
    assert spells.pop(("missed-cycles", "orcha")) == [range(back, back + 1)]
    assert spells == {}

    day = Window(hour_of(began) - timedelta(hours=6), hour_of(until) + timedelta(hours=12))
    with rig.warehouse.read() as connection:
        masked = masked_hours(connection, MASKING, day, at_most=timedelta(hours=72))
    hours = {hour_of(began + place * SLOT) for place in range(1, 1 + len(away))}
    assert hours <= masked["storj-1"]
    assert set(masked) == set(NODES)
    expect_sound(rig)


def test_a_change_that_does_not_take_is_told_until_one_works(cycles: Cycles, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("ORCHA_PLANNER__PRESET", "bold")
    monkeypatch.setenv("ORCHA_PLANNER__MIN_CONFIDENCE", "0")
    rig = cycles.rig
    for node in NODES:
        rig.fault(node, "apply_fails")
    cycles.play(1)
    (application,) = rig.rows("SELECT status FROM applications")
    assert application["status"] == "rolled_back"
    assert cycles.told[0] == set()
    cycles.play(2)
    host = rig.installation.settings.hosts[0].name
    assert cycles.told[1] == cycles.told[2] == {("allocation-failed", host)}
