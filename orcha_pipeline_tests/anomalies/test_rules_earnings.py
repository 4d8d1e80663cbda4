from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from orcha_pipeline.anomalies.rules_earnings import (
    HourEarned,
    earnings_drop,
    flatline,
    same_hour,
    zero_while_peers_earn,
)

AT = datetime(2026, 2, 1, 12, 5, tzinfo=UTC)
END = AT.replace(minute=0)
LIVELY = [1.0 + 0.01 * (hour % 7) for hour in range(72)]


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


def drop(earned, expected, *, percent=30.0, **changes: Any):
    return earnings_drop(an_hour(earned, expected, **changes), at=AT, percent=percent, host="box")


@pytest.mark.parametrize("earned", [0.71, 1.0, 5.0])
def test_a_fall_of_up_to_thirty_percent_is_no_drop(earned):
    assert drop(earned, 1.0) is None


def test_a_fall_of_more_than_thirty_percent_is_a_drop_with_evidence_and_remedy():
    anomaly = drop(0.6, 1.0)
    assert (anomaly.rule, anomaly.severity) == ("earnings-drop", "warning")
    assert (anomaly.scope, anomaly.subject, anomaly.node, anomaly.host) == ("node", "golem-1", "golem-1", "box")
    assert anomaly.score == pytest.approx(0.4)
    assert anomaly.evidence == (
        "earned 0.6 GLM in the hour from 2026-02-01 11:00 UTC where 1 were expected "
        "(median of the same hour in the past 7 days): 40 % less"
    )
    assert anomaly.remedy
    assert anomaly.slot == AT.replace(minute=0)
    assert anomaly.since == AT.replace(hour=11, minute=0)


def test_where_a_drop_begins_is_the_operators_to_say():
    assert drop(0.6, 1.0, percent=50.0) is None
    assert drop(0.9, 1.0, percent=5.0).score == pytest.approx(0.1)


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


def test_a_drop_that_an_unsure_forecast_allows_is_information():
    assert drop(0.5, 1.0, low=0.7).severity == "info"
    assert "one hour in ten was expected to earn less than 0.7" in drop(0.5, 1.0, low=0.7).evidence
    assert drop(0.5, 1.0, low=0.8).severity == "warning"
    assert drop(0.0, 1.0, low=0.2).severity == "info"
    assert drop(0.0, 1.0, low=0.9).severity == "critical"


def test_what_lasts_for_three_hours_is_no_chance_however_unsure_the_forecast():
    short = [(0.1, 1.0), (0.65, 1.0)]
    anomaly = drop(0.1, 1.0, low=0.3, before=short)
    assert anomaly.severity == "critical"
    assert anomaly.evidence.endswith("90 % less; the 2 hours before it fell short as well")
    assert drop(0.0, 1.0, low=0.0, before=short).severity == "warning", "one hour in ten earns nothing"
    assert drop(0.0, 1.0, low=0.0, before=[(0.0, 1.0), *short]).severity == "warning"
    for before in ([], short[1:], [(0.75, 1.0), short[1]], [(None, 1.0), short[1]], [short[0], (0.1, None)]):
        assert drop(0.0, 1.0, low=0.0, before=before).severity == "info"
    assert drop(0.5, 1.0, unit="USD", native_ratio=0.97, before=short).severity == "info", "the price alone fell"


def test_the_same_hour_of_too_few_days_is_no_expectation():
    assert same_hour([1.0, None, 3.0]) is None
    assert same_hour([1.0, None, 3.0, 2.0, 2.5]) == (2.25, 1.0)


# --- flatline


def flat(earned, hours=6):
    return flatline("a-1", earned, end=END, at=AT, hours=hours)


def test_hours_that_repeat_themselves_as_never_before_are_a_flatline():
    anomaly = flat([*LIVELY, *[1.5] * 6])
    assert (anomaly.rule, anomaly.score) == ("earnings-flatline", 6.0)
    assert anomaly.since == END - timedelta(hours=6)
    assert "each of the 6 hours since 2026-02-01 06:00 UTC earned exactly 1.5" in anomaly.evidence


@pytest.mark.parametrize(
    "earned",
    [
        [*LIVELY, *[1.5] * 5],
        [*LIVELY, *[1.5] * 8, 1.6],
        [*LIVELY, *[1.5] * 8, None],
        [*LIVELY, 1.5, 1.5, 1.5, None, 1.5, 1.5, 1.5],
        [*LIVELY[:40], *[1.5] * 8],
        [1.5] * 80,
        [],
    ],
    ids=["short", "over", "unknown now", "a hole", "little past", "always so", "nothing"],
)
def test_what_may_be_ordinary_is_no_flatline(earned):
    assert flat(earned) is None


def test_a_node_that_used_to_repeat_itself_is_told_of_only_when_that_lasts_twice_as_long():
    often = [*LIVELY, *[2.0] * 4, None, *[2.0] * 4, 1.0]  # eight hours alike, one of them unknown
    assert flat([*often, *[1.5] * 15]) is None
    assert flat([*often, *[1.5] * 16]).score == 16.0


@pytest.mark.parametrize("hours", [6, 20, 26 * 24])
def test_a_node_that_earns_nothing_repeats_no_answer(hours):
    assert flat([*LIVELY, *[0.0] * hours]) is None
    assert flat([*LIVELY, *[1e-9] * hours]) is not None


# --- zero while peers earn


def zero(earned, peers, hours=3):
    return zero_while_peers_earn("a-1", earned, peers, end=END, at=AT, hours=hours)


def test_nothing_while_the_others_of_its_protocol_earn_is_told():
    anomaly = zero([*LIVELY, 0.0, 0.0, 0.0], [[1.0, 0.0, 2.0], [1.0, 1.0, 1.0]])
    assert (anomaly.rule, anomaly.severity, anomaly.score) == ("zero-while-peers-earn", "critical", 3.0)
    assert "2 other nodes of its protocol earned" in anomaly.evidence
    assert anomaly.since == END - timedelta(hours=3)


@pytest.mark.parametrize(
    ("earned", "peers"),
    [
        ([*LIVELY, 0.0, 0.0], [[1.0, 1.0, 1.0]]),
        ([*LIVELY, 1.0, 1.0, 1.0], [[1.0, 1.0, 1.0]]),
        ([*LIVELY, 0.0, 0.0, None], [[1.0, 1.0, 1.0]]),
        ([*LIVELY, 0.0, 0.0, 0.0], []),
        ([*LIVELY, 0.0, 0.0, 0.0], [[1.0, None, 1.0]]),
        ([*LIVELY, 0.0, 0.0, 0.0], [[1.0, 1.0, 1.0], [0.0, 0.0, 0.0]]),
        ([0.0, 0.0, 0.0, *LIVELY, 0.0, 0.0, 0.0], [[1.0, 1.0, 1.0]]),
        ([0.0, 0.0, 0.0], [[1.0, 1.0, 1.0]]),
    ],
    ids=["short", "it earns", "unknown", "no peer", "unknown peer", "a peer too", "it did before", "no past"],
)
def test_what_may_be_ordinary_is_not_told_as_zero(earned, peers):
    assert zero(earned, peers) is None
