from datetime import timedelta

import pandas as pd
import pytest

from orcha_pipeline.anomalies.detect import detect
from orcha_pipeline_tests.anomalies.worlds import (
    MONEY,
    NOW,
    a_forecast,
    dropped,
    no_forecasts,
    readings,
    seasonal,
    usage,
)


def found(features, health=None, forecasts=None, *, now=NOW, **changes):
    return detect(
        features,
        readings() if health is None else health,
        no_forecasts() if forecasts is None else forecasts,
        now=now,
        **changes,
    )


def rules(anomalies) -> set[str]:
    return {anomaly.rule for anomaly in anomalies}


@pytest.mark.parametrize("seed", range(4))
def test_a_node_that_earns_and_answers_as_ever_raises_nothing(seed):
    frame = seasonal(seed=seed)
    assert found(frame, readings(days=14, seed=seed), usage=usage(seed=seed)) == []


@pytest.mark.parametrize("seed", range(4))
def test_a_planted_drop_is_raised_by_the_rule_and_by_the_forest(seed):
    anomalies = found(dropped(seasonal(seed=seed), 0.9), readings(days=14, seed=seed), usage=usage(seed=seed))
    assert rules(anomalies) == {"earnings-drop", "unusual-hour"}
    unusual = next(a for a in anomalies if a.rule == "unusual-hour")
    assert "the hour from 2026-02-01 11:00 UTC is unlike its past" in unusual.evidence
    assert "fall of earnings" in unusual.evidence
    assert all(a.detected_at == NOW and a.node == "storj-1" for a in anomalies)


def test_a_drop_of_forty_percent_is_raised_in_native_units_against_past_days():
    (anomaly,) = [a for a in found(dropped(seasonal(noise=0.01), 0.4)) if a.rule == "earnings-drop"]
    assert anomaly.score == pytest.approx(0.4, abs=0.05)
    assert "native units" in anomaly.evidence
    assert "same hour in the past 7 days" in anomaly.evidence


def test_the_forecast_for_the_hour_comes_before_its_past():
    frame = seasonal(noise=0.0)
    usual = frame["yield_usd"].iloc[-1]
    assert found(frame, forecasts=a_forecast(usual)) == []
    (anomaly,) = found(dropped(frame, 0.35), forecasts=a_forecast(usual))[:1]
    assert (anomaly.rule, anomaly.severity) == ("earnings-drop", "warning")
    assert "USD at full share" in anomaly.evidence
    assert "forecast of 2026-02-01 10:05" in anomaly.evidence


def test_of_several_forecasts_the_last_that_could_not_know_the_hour_counts():
    frame = seasonal(noise=0.0)
    usual = frame["yield_usd"].iloc[-1]
    forecasts = pd.concat(
        [
            a_forecast(9 * usual, issued=NOW - timedelta(hours=20)),
            a_forecast(usual, issued=NOW - timedelta(hours=2)),
            a_forecast(9 * usual, issued=NOW - timedelta(minutes=1)),  # after the hour
        ]
    )
    assert found(frame, forecasts=forecasts) == []


def test_a_fallen_price_is_information_only():
    frame = seasonal(noise=0.0)
    usual = frame["yield_usd"].iloc[-1]
    frame.loc[frame.index[-1], ["net_usd", "yield_usd", "usd_price"]] *= 0.5
    (anomaly,) = found(frame, forecasts=a_forecast(usual))
    assert (anomaly.rule, anomaly.severity) == ("earnings-drop", "info")


def test_a_smaller_share_is_no_drop():
    frame = seasonal(noise=0.0)
    frame.loc[frame.index[-1], "share"] = 0.1
    frame.loc[frame.index[-1], ["net_native", "net_usd"]] *= 0.2
    assert found(frame) == []


def test_unknown_earnings_are_no_drop():
    frame = seasonal()
    frame.loc[frame.index[-1], MONEY] = None
    assert found(frame) == []


def test_a_node_of_unknown_share_is_judged_by_what_it_earned():
    frame = seasonal(noise=0.01)
    frame[["share", "yield_native", "yield_usd"]] = None
    assert found(frame) == []
    assert "earnings-drop" in rules(found(dropped(frame, 0.5)))


def test_only_the_latest_health_speaks():
    down = readings(state="unreachable", at=NOW - timedelta(hours=1), reason="refused")
    up = readings(at=NOW - timedelta(minutes=5))
    assert rules(found(seasonal(), down)) == {"node-unreachable"}
    assert found(seasonal(), pd.concat([up, down])) == []


def test_a_node_at_risk_is_raised_with_its_scores():
    (anomaly,) = found(seasonal(), readings(state="at_risk", reason="online score falls", scores='{"online": 0.61}'))
    assert anomaly.rule == "node-at-risk"
    assert "online 0.61" in anomaly.evidence


def test_a_node_of_which_only_the_health_is_known_is_still_judged_by_it():
    assert rules(found(seasonal().iloc[:0], readings("new-1", "unreachable"))) == {"node-unreachable"}


def test_an_hour_long_past_is_not_raised_again():
    later = NOW + timedelta(hours=5)
    assert found(dropped(seasonal(), 0.9), now=later) == []


def test_nothing_later_than_now_is_looked_at():
    before = NOW - timedelta(hours=1)
    frame, health = seasonal(), readings(state="unreachable")
    assert found(dropped(frame, 0.9), health, a_forecast(99.0), now=before) == []


def test_times_without_a_zone_are_utc_and_give_the_same():
    frame, health, forecasts = dropped(seasonal(), 0.9), readings(days=14), a_forecast(0.05)
    naive = [
        f.assign(**{c: f[c].dt.tz_localize(None) for c in f if isinstance(f[c].dtype, pd.DatetimeTZDtype)})
        for f in (frame, health, forecasts)
    ]
    assert detect(*naive, now=NOW) == detect(frame, health, forecasts, now=NOW)


def test_nodes_are_judged_by_their_own_past_alone():
    sick, well = dropped(seasonal(node="a-1"), 0.9), seasonal(node="b-1", seed=1, price=40.0)
    anomalies = found(pd.concat([sick, well]), pd.concat([readings("a-1"), readings("b-1")]))
    assert {anomaly.node for anomaly in anomalies} == {"a-1"}


def test_a_short_history_leaves_the_rules_alone_to_speak():
    assert found(dropped(seasonal(2), 0.9)) == []  # one past day is no expectation either
    assert rules(found(dropped(seasonal(2), 0.9), forecasts=a_forecast(0.05))) == {"earnings-drop"}


def test_a_counter_that_starts_again_is_no_deviation_of_use():
    used = usage()
    restart = used["observed_at"] > NOW - timedelta(hours=1, minutes=30)
    counter = used["metric"] == "cpu_seconds_total"
    used.loc[restart & counter, "value"] -= used.loc[restart & counter, "value"].iloc[0]
    assert found(seasonal(), readings(days=14), usage=used) == []


def test_an_empty_warehouse_raises_nothing():
    empty = readings().iloc[:0]
    assert detect(seasonal().iloc[:0], empty, no_forecasts(), now=NOW) == []
