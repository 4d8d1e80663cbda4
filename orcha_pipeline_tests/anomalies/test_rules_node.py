from datetime import UTC, datetime, timedelta

import pytest

from orcha_pipeline.anomalies.rules_node import clock_skew, health_anomaly, memory_leak, usage_spike
from orcha_pipeline.model import CLOCK_AHEAD, HealthReading, HealthState

AT = datetime(2026, 2, 1, 12, 5, tzinfo=UTC)
STEADY = [10.0 + hour % 3 for hour in range(60)]
HALF = [0.5] * 61


@pytest.mark.parametrize(
    ("reading", "rule", "severity", "told"),
    [
        (
            HealthReading(state=HealthState.UNREACHABLE, reason="connection refused"),
            "node-unreachable",
            "critical",
            "refused",
        ),
        (HealthReading(state=HealthState.ERROR, reason="HTML"), "node-error", "warning", "HTML"),
        (
            HealthReading(
                state=HealthState.AT_RISK,
                reason="audits fail",
                scores={"audit": 0.961, "online": 0.99, CLOCK_AHEAD: 0.0},
            ),
            "node-at-risk",
            "critical",
            "audits fail (audit 0.961, online 0.99)",
        ),
    ],
)
def test_a_node_that_is_not_well_raises_what_fits_its_state(reading, rule, severity, told):
    anomaly = health_anomaly("storj-1", reading, at=AT, host="box")
    assert (anomaly.rule, anomaly.severity, anomaly.host) == (rule, severity, "box")
    assert told in anomaly.evidence
    assert anomaly.remedy


@pytest.mark.parametrize(
    ("kind", "remedy"), [("authentication", "Renew"), ("parse", "newer than Orcha"), ("", "Read the node's log")]
)
def test_the_remedy_of_an_error_depends_on_its_kind(kind, remedy):
    reading = HealthReading(state=HealthState.ERROR, error_kind=kind)
    assert remedy in health_anomaly("storj-1", reading, at=AT).remedy


@pytest.mark.parametrize("state", [HealthState.HEALTHY, HealthState.RESTARTING])
def test_a_node_that_works_or_restarts_raises_nothing(state):
    assert health_anomaly("storj-1", HealthReading(state=state), at=AT) is None


@pytest.mark.parametrize(
    ("ahead", "told"), [(61.0, "0:01:01 (h:mm:ss) ahead of"), (-7200.0, "2:00:00 (h:mm:ss) behind")]
)
def test_a_clock_that_is_off_is_told_with_its_direction(ahead, told):
    anomaly = clock_skew("a-1", {CLOCK_AHEAD: ahead}, at=AT, seconds=60)
    assert told in anomaly.evidence
    assert anomaly.score == abs(ahead)


@pytest.mark.parametrize("scores", [{}, {CLOCK_AHEAD: 60.0}, {CLOCK_AHEAD: -3.0}])
def test_a_clock_that_is_right_or_unknown_is_not_told(scores):
    assert clock_skew("a-1", scores, at=AT, seconds=60) is None


# --- use of resources


def spike(uses, shares=HALF, factor=3.0):
    return usage_spike("a-1", uses, shares, at=AT, factor=factor)


def test_use_far_beyond_a_weeks_most_is_a_spike_and_the_worst_is_told():
    anomaly = spike({"memory_bytes": [*STEADY, 36.0], "cpu_seconds_total": [*STEADY, 48.0]})
    assert anomaly.score == 4.0
    assert anomaly.evidence == "cpu_seconds_total: 48 in the last hour, 4.0 times the most of the past week"


@pytest.mark.parametrize(
    "uses",
    [
        {},
        {"memory_bytes": [*STEADY, 35.0]},
        {"memory_bytes": [*STEADY, None]},
        {"memory_bytes": [None, *[10.0] * 46, *[None] * 13, 100.0]},
        {"cpu_seconds_total": [*[0.0] * 60, 100.0]},
        {"disk_used_bytes": [*STEADY, 100.0]},
    ],
    ids=["none", "less", "unknown", "little past", "never used", "disks fill"],
)
def test_what_may_be_ordinary_is_no_spike(uses):
    assert spike(uses) is None


def test_more_use_at_a_larger_share_is_no_spike():
    uses = {"cpu_seconds_total": [*STEADY, 48.0]}
    assert spike(uses, [*[0.2] * 60, 0.4]) is None
    assert spike(uses, [*[0.2] * 60, 0.1]).score == 4.0


def leak(memory, shares=None, percent=30.0):
    return memory_leak("a-1", {"memory_bytes": memory}, shares or [0.5] * len(memory), at=AT, percent=percent)


def test_memory_that_rises_all_day_is_a_leak():
    anomaly = leak([1e9 * (1 + 0.02 * hour) for hour in range(24)])
    assert anomaly.score == pytest.approx(0.46)
    assert "rose steadily from 1e+09 to 1.46e+09 in 24 hours, by 46 %" in anomaly.evidence
    assert anomaly.since == AT - timedelta(hours=24)


@pytest.mark.parametrize(
    ("memory", "shares"),
    [
        ([1e9 * (1 + 0.01 * hour) for hour in range(24)], None),
        ([1e9 + 1e8 * (hour % 12) for hour in range(24)], None),
        ([1e9] * 23 + [2e9], None),
        ([None] * 5 + [1e9 * (1 + 0.02 * hour) for hour in range(19)], None),
        ([1e9 * (1 + 0.02 * hour) for hour in range(24)], [0.2] * 12 + [0.4] * 12),
        ([], None),
    ],
    ids=["little", "up and down", "at once", "little known", "share changed", "nothing"],
)
def test_what_is_given_back_or_asked_for_is_no_leak(memory, shares):
    assert leak(memory, shares) is None
