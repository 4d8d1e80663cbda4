from datetime import UTC, datetime
from typing import Any

import pytest

from orcha_pipeline.anomalies.rules import HourEarned, earnings_drop, health_anomaly, same_hour_median
from orcha_pipeline.model import HealthReading, HealthState

AT = datetime(2026, 2, 1, 12, 5, tzinfo=UTC)


def an_hour(earned, expected, **changes: Any):
    known: dict[str, Any] = {
        "node": "golem-1",
        "hour": AT.replace(hour=11, minute=0),
        "earned": earned,
        "expected": expected,
        "unit": "GLM",
        "source": "median of the same hour in the past 7 days",
    }
    return HourEarned(**{**known, **changes})


def drop(earned, expected, **changes: Any):
    return earnings_drop(an_hour(earned, expected, **changes), detected_at=AT)


@pytest.mark.parametrize("earned", [0.71, 1.0, 5.0])
def test_a_fall_of_up_to_thirty_percent_is_no_drop(earned):
    assert drop(earned, 1.0) is None


def test_a_fall_of_more_than_thirty_percent_is_a_drop_with_evidence_and_remedy():
    anomaly = drop(0.6, 1.0)
    assert (anomaly.rule, anomaly.severity, anomaly.node) == ("earnings-drop", "warning", "golem-1")
    assert anomaly.score == pytest.approx(0.4)
    assert anomaly.evidence == (
        "earned 0.6 GLM in the hour from 2026-02-01 11:00 UTC where 1 were expected "
        "(median of the same hour in the past 7 days): 40 % less"
    )
    assert anomaly.remedy
    assert anomaly.slot == AT.replace(minute=0)


def test_a_fall_to_nearly_nothing_is_critical():
    assert drop(0.2, 1.0).severity == "critical"
    assert drop(0.0, 1.0).score == 1.0


@pytest.mark.parametrize(("earned", "expected"), [(None, 1.0), (0.0, None), (0.0, 0.0), (0.0, -1.0)])
def test_what_is_unknown_or_was_never_expected_is_no_drop(earned, expected):
    assert drop(earned, expected) is None


def test_a_fall_in_price_alone_is_information_not_a_fault():
    anomaly = drop(0.5, 1.0, unit="USD", native_ratio=0.97)
    assert anomaly.severity == "info"
    assert "in its own token it earned as usual" in anomaly.evidence
    assert drop(0.5, 1.0, unit="USD", native_ratio=0.5).severity == "warning"


def test_the_same_hour_of_too_few_days_is_no_expectation():
    assert same_hour_median([1.0, None, 3.0]) is None
    assert same_hour_median([1.0, None, 3.0, 2.0]) == 2.0


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
            HealthReading(state=HealthState.AT_RISK, reason="audits fail", scores={"audit": 0.961, "online": 0.99}),
            "node-at-risk",
            "critical",
            "audits fail (audit 0.961, online 0.99)",
        ),
    ],
)
def test_a_node_that_is_not_well_raises_what_fits_its_state(reading, rule, severity, told):
    anomaly = health_anomaly("storj-1", reading, detected_at=AT)
    assert (anomaly.rule, anomaly.severity) == (rule, severity)
    assert told in anomaly.evidence
    assert anomaly.remedy


@pytest.mark.parametrize(
    ("kind", "remedy"), [("authentication", "Renew"), ("parse", "newer than Orcha"), ("", "Read the node's log")]
)
def test_the_remedy_of_an_error_depends_on_its_kind(kind, remedy):
    reading = HealthReading(state=HealthState.ERROR, error_kind=kind)
    assert remedy in health_anomaly("storj-1", reading, detected_at=AT).remedy


@pytest.mark.parametrize("state", [HealthState.HEALTHY, HealthState.RESTARTING])
def test_a_node_that_works_or_restarts_raises_nothing(state):
    assert health_anomaly("storj-1", HealthReading(state=state), detected_at=AT) is None
