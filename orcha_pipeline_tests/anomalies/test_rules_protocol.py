from datetime import UTC, datetime, timedelta

import pytest

from orcha_pipeline.anomalies.rules_protocol import (
    Owed,
    flagged,
    invoices_ageing,
    low_gas,
    score_falling,
    slashed,
    token_expiring,
)
from orcha_pipeline.model import BalanceKind

AT = datetime(2026, 2, 1, 12, 5, tzinfo=UTC)
DAY = timedelta(days=1)


def course(first, a_day, *, days=7.0, noise=0.0):
    """A reading every quarter of an hour up to now."""
    count = int(96 * days) + 1
    return [
        (AT - (count - 1 - i) * DAY / 96, first + a_day * i / 96 + (noise if i % 2 else -noise)) for i in range(count)
    ]


def falling(protocol="storj", days=7.0, **scores):
    return score_falling("a-1", protocol, scores, at=AT, days=days)


def test_a_score_on_its_way_to_the_cliff_is_told_with_the_days_left():
    anomaly = falling(audit=course(1.0, -0.004))
    assert (anomaly.rule, anomaly.severity) == ("score-falling", "warning")
    assert "its audit score is 0.972 and falls by 0.004 a day: below 0.96" in anomaly.evidence
    assert "disqualifies the node for good, in 3 days" in anomaly.evidence
    assert anomaly.score == pytest.approx(1 / 4)


def test_what_falls_within_a_day_is_critical_and_the_nearest_cliff_is_told():
    anomaly = falling(audit=course(1.0, -0.001), online=course(0.99, -0.06, days=1.0))
    assert (anomaly.severity, "the node counts as unhealthy" in anomaly.evidence) == ("critical", True)


def test_past_one_cliff_the_next_is_looked_at():
    assert (
        "below 0.6, where a satellite suspends the node, in 4 days"
        in falling(online=course(0.88, -0.055, days=1.0)).evidence
    )
    assert falling(online=course(0.88, -0.02)) is None


@pytest.mark.parametrize(
    ("protocol", "scores"),
    [
        ("storj", {}),
        ("storj", {"audit": course(1.0, -0.0005)}),
        ("storj", {"audit": course(0.965, 0.001)}),
        ("storj", {"audit": course(0.97, 0.0, noise=0.005)}),
        ("storj", {"online": course(0.99, -0.03, days=0.3)}),
        ("golem", {"audit": course(1.0, -0.01)}),
        ("grass", {"ip_score": course(80.0, -5.0)}),
    ],
    ids=["unknown", "far away", "rising", "noise", "too short", "no such score", "still high"],
)
def test_a_score_that_is_not_in_danger_is_not_told(protocol, scores):
    assert falling(protocol, **scores) is None


def test_a_jump_of_one_reading_is_no_course():
    samples = course(0.99, 0.0)
    assert falling(audit=[*samples[:-1], (AT, 0.962)]) is None


# --- penalties


def test_accusations_are_told_by_their_number():
    assert flagged("a-1", {"open_flags": 2.0}, at=AT).evidence == "2 open flags"
    assert flagged("a-1", {"suspended_satellites": 1.0}, at=AT).evidence == "1 suspension"
    assert flagged("a-1", {"open_flags": 0.0}, at=AT) is None
    assert flagged("a-1", {}, at=AT) is None


def test_a_slashing_is_told_for_a_day():
    new = [(AT - 2 * DAY, 1.0), (AT - DAY / 2, 1.0), (AT, 3.0)]
    told = slashed("a-1", {"slashings": new}, at=AT)
    assert told.evidence == "slashed 2 times since 2026-02-01 00:05 UTC, 3 in all"
    assert told.score == 2.0
    assert slashed("a-1", {"slashings": [(AT - 3 * DAY, 1.0), (AT - DAY, 3.0), (AT, 3.0)]}, at=AT) is None
    assert slashed("a-1", {"slashings": [(AT, 3.0)]}, at=AT) is None
    assert slashed("a-1", {"slashings": [(AT - DAY / 2, 3.0), (AT, 1.0)]}, at=AT) is None


def test_a_slashing_while_nobody_read_the_node_is_told_once_it_is_read_again():
    assert (
        "slashed 2 times since 2026-01-29"
        in slashed("a-1", {"slashings": [(AT - 3 * DAY, 1.0), (AT, 3.0)]}, at=AT).evidence
    )
    both = [(AT - 3 * DAY, 1.0), (AT - DAY / 2, 3.0), (AT - DAY / 4, 3.0), (AT, 4.0)]
    assert "slashed 3 times since 2026-01-29" in slashed("a-1", {"slashings": both}, at=AT).evidence


def disqualified(*counts, days=None):
    """By so many satellites, read once a day up to now; the last of them so many days ago."""
    samples = [
        (AT - ago * DAY, float(count)) for ago, count in zip(range(len(counts) - 1, -1, -1), counts, strict=True)
    ]
    ages = {} if days is None else {"days_since_disqualified": [(AT, days)]}
    return slashed("a-1", {"disqualified_satellites": samples} | ages, at=AT)


def test_a_disqualification_is_told_for_a_week_and_not_for_good():
    # The field is never taken back: a node that one of four satellites lost earns on, on three.
    assert disqualified(1, days=6.9).evidence == "disqualified by 1 satellite"
    assert disqualified(1, days=7.0) is None
    assert disqualified(*[1] * 9, days=700.0) is None
    assert disqualified(*[1] * 9, 2, days=0.1).score == 2.0
    assert disqualified(0) is None


def test_a_disqualification_of_unknown_time_is_told_while_it_is_new_here():
    assert disqualified(1) is not None
    assert disqualified(*[0] * 3, *[1] * 7) is not None
    assert disqualified(*[0] * 3, *[1] * 8) is None
    assert disqualified(*[1] * 8) is None


# --- money, gas, tokens


def owed(kind, amount, *, days=None):
    oldest = None if days is None else AT - days * DAY
    return Owed(kind=kind, account="erc20-polygon-glm", amount=amount, unit="GLM", oldest_at=oldest)


def ageing(*standings, percent=10.0):
    return invoices_ageing("a-1", standings, at=AT, days=3, percent=percent)


def test_a_few_requestors_that_never_pay_are_everyday():
    some = [owed(BalanceKind.SETTLED, 80.0), owed(BalanceKind.ACCRUED, 11.0), owed(BalanceKind.LOST, 900.0)]
    assert ageing(*some, owed(BalanceKind.DOUBTFUL, 10.0, days=20)) is None
    assert ageing(*some, owed(BalanceKind.DOUBTFUL, 11.0, days=20)) is not None
    assert ageing(*some, owed(BalanceKind.DOUBTFUL, 0.1, days=20), percent=0.0) is not None
    other = Owed(kind=BalanceKind.SETTLED, account="erc20-mainnet-glm", amount=500.0, unit="GLM", oldest_at=None)
    assert ageing(other, owed(BalanceKind.DOUBTFUL, 0.1, days=20)) is not None, "each account by itself"


def test_invoices_that_wait_too_long_or_may_never_be_paid_are_told():
    anomaly = ageing(owed(BalanceKind.PENDING, 2.0, days=4), owed(BalanceKind.DOUBTFUL, 1.5, days=20))
    assert "2 GLM (erc20-polygon-glm) are accepted and not paid, the oldest for 4 days" in anomaly.evidence
    assert "1.5 GLM (erc20-polygon-glm), 43 % of what was earned lately, may never be paid" in anomaly.evidence
    assert anomaly.score == 20.0


@pytest.mark.parametrize(
    "standing",
    [
        owed(BalanceKind.PENDING, 2.0, days=2),
        owed(BalanceKind.PENDING, 2.0),
        owed(BalanceKind.PENDING, 0.0, days=9),
        owed(BalanceKind.DOUBTFUL, 0.0, days=9),
        owed(BalanceKind.SETTLED, 2.0, days=9),
    ],
)
def test_money_that_is_on_its_way_is_not_told(standing):
    assert ageing(standing) is None


def gas(samples, least=1.0, days=7.0):
    return low_gas("a-1", samples, at=AT, least=least, days=days)


def test_little_gas_is_told_and_so_is_gas_that_soon_runs_out():
    assert gas(course(0.9, 0.0)).severity == "warning"
    soon = gas(course(10.0, -1.0))
    assert soon.severity == "warning"
    assert "3 POL are left" in soon.evidence
    assert "at 1 a day they last 3 days" in soon.evidence
    assert gas(course(5.0, -4.9, days=1.0)).severity == "critical"
    assert gas([(AT, 0.0)]).severity == "critical"


def test_enough_gas_or_an_unknown_wallet_is_not_told():
    assert gas([]) is None
    assert gas(course(20.0, -1.0)) is None
    assert gas([(AT, 1.0)]) is None


@pytest.mark.parametrize(("left", "severity"), [(3.0, "warning"), (0.9, "critical"), (-0.1, "critical")])
def test_a_token_that_expires_soon_is_told(left, severity):
    anomaly = token_expiring("a-1", {"token_seconds_left": left * 86400}, at=AT, days=3)
    assert anomaly.severity == severity
    assert f"expires at {AT + left * DAY:%Y-%m-%d %H:%M} UTC" in anomaly.evidence


@pytest.mark.parametrize("scores", [{}, {"token_seconds_left": 4.0 * 86400}])
def test_a_token_that_lasts_or_does_not_say_is_not_told(scores):
    assert token_expiring("a-1", scores, at=AT, days=3) is None
