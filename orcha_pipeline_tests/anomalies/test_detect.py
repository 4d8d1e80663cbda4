import json
from dataclasses import replace
from datetime import timedelta

import numpy as np
import pandas as pd
import pytest

from orcha_pipeline.anomalies.detect import detect
from orcha_pipeline.model import ApplicationStatus, BalanceKind
from orcha_pipeline.settings import AnomalySettings
from orcha_pipeline.warehouse.anomaly_inputs import LastChange, Standing
from orcha_pipeline_tests.anomalies.worlds import (
    MONEY,
    NOW,
    a_forecast,
    by_hour,
    dropped,
    known,
    no_forecasts,
    readings,
    seasonal,
    usage,
)


def found(features, health=None, forecasts=None, **changes):
    return detect(known(features, health, forecasts, **changes), AnomalySettings()).anomalies


def rules(anomalies) -> set[str]:
    return {anomaly.rule for anomaly in anomalies}


@pytest.mark.parametrize("seed", range(4))
def test_a_node_that_earns_and_answers_as_ever_raises_nothing(seed):
    frame = seasonal(seed=seed)
    assert found(frame, readings(days=14, seed=seed), usage=usage(seed=seed)) == []


@pytest.mark.parametrize("seed", range(4))
def test_a_planted_drop_is_raised_by_the_rule_and_by_the_forest(seed):
    anomalies = found(dropped(seasonal(seed=seed), 0.9), readings(days=14, seed=seed), usage=usage(seed=seed))
    assert rules(anomalies) == {"earnings-drop", "unusual-hour", "series-earnings", "series-yield"}
    unusual = next(a for a in anomalies if a.rule == "unusual-hour")
    assert "the hour from 2026-02-01 11:00 UTC is unlike its past" in unusual.evidence
    assert "fall of earnings" in unusual.evidence
    assert all((a.detected_at, a.subject, a.node, a.host) == (NOW, "storj-1", "storj-1", "box") for a in anomalies)


def test_a_drop_of_forty_percent_is_raised_in_native_units_against_past_days():
    (anomaly,) = [a for a in found(dropped(seasonal(noise=0.01), 0.4)) if a.rule == "earnings-drop"]
    assert anomaly.score == pytest.approx(0.4, abs=0.05)
    assert "native units" in anomaly.evidence
    assert "same hour in the past 7 days" in anomaly.evidence


def test_without_a_forecast_a_fall_such_as_the_past_days_had_is_chance_until_the_third_hour():
    frame = seasonal(noise=0.0)
    of_that_hour = frame.index[-1 - 24 * 3]
    frame.loc[of_that_hour, ["net_native", "yield_native", "net_usd", "yield_usd"]] *= 0.6
    once = rule(found(dropped(frame, 0.4)), "earnings-drop")
    assert once.severity == "info"
    assert "the least of these was" in once.evidence
    assert rule(found(dropped(frame, 0.4, hours=3)), "earnings-drop").severity == "warning"
    assert rule(found(dropped(frame, 0.95)), "earnings-drop").severity == "critical"


def test_the_forecast_for_the_hour_comes_before_its_past():
    frame = seasonal(noise=0.0)
    usual = frame["yield_usd"].iloc[-1]
    assert found(frame, forecasts=a_forecast(usual)) == []
    anomaly = rule(found(dropped(frame, 0.35), forecasts=a_forecast(usual)), "earnings-drop")
    assert anomaly.severity == "info"  # a tenth of the hours were expected to earn a fifth less
    anomaly = rule(found(dropped(frame, 0.45), forecasts=a_forecast(usual)), "earnings-drop")
    assert anomaly.severity == "warning"
    assert "USD at full share" in anomaly.evidence
    assert "forecast of 2026-02-01 10:05" in anomaly.evidence


def test_hours_that_fall_short_of_an_unsure_forecast_are_chance_until_it_is_the_third():
    frame = seasonal(noise=0.0)
    usual = frame["yield_usd"].iloc[-1]
    unsure = a_forecast(usual, issued=NOW - timedelta(hours=5)).assign(p10=0.3 * usual)
    forecasts = pd.concat([unsure.assign(hour=hour) for hour in frame["hour"].iloc[-3:]])
    severities = [
        rule(found(dropped(frame, 1.0, hours=hours), forecasts=forecasts), "earnings-drop").severity
        for hours in (1, 2, 3)
    ]
    assert severities == ["info", "info", "critical"]


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
    anomalies = found(frame, forecasts=a_forecast(usual))
    assert {(a.rule, a.severity) for a in anomalies} == {("earnings-drop", "info"), ("series-yield", "info")}


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


@pytest.mark.parametrize(
    ("scores", "name", "evidence"),
    [
        ('{"suspended_satellites": 1}', "node-flagged", "1 suspension"),
        ('{"disqualified_satellites": 1}', "node-slashed", "disqualified by 1 satellite"),
        ('{"pol": 0.4}', "low-gas", "0.4 POL are left in the wallet; 1 are called enough"),
    ],
)
def test_a_danger_that_has_a_rule_of_its_own_is_told_once(scores, name, evidence):
    (anomaly,) = found(seasonal(), readings(state="at_risk", reason="it is not pinged", scores=scores))
    assert (anomaly.rule, anomaly.severity) == (name, "critical")
    assert anomaly.evidence.startswith(f"{evidence}; its reputation or stake is in danger: it is not pinged (")
    (alone,) = found(seasonal(), readings(scores=scores))
    assert (alone.rule, alone.evidence) == (name, evidence)


def test_of_several_dangers_the_gravest_tells_that_the_node_is_at_risk():
    scores = '{"open_flags": 1, "pol": 0.4}'
    told = {a.rule: a for a in found(seasonal(), readings(state="at_risk", reason="flagged", scores=scores))}
    assert {name: each.severity for name, each in told.items()} == {"node-flagged": "critical", "low-gas": "warning"}
    assert "in danger: flagged" in told["node-flagged"].evidence
    away = found(seasonal(), readings(state="error", reason="no driver", scores=scores))
    assert rules(away) == {"node-error", "node-flagged", "low-gas"}


def test_what_was_taken_while_nobody_read_the_node_for_weeks_is_told():
    before = readings(at=NOW - timedelta(days=20), scores='{"slashings": 1}')
    lost = readings(at=NOW - timedelta(days=19), state="unreachable")
    now = readings(scores='{"slashings": 2}')
    (anomaly,) = found(seasonal(), pd.concat([before, lost, now]))
    assert anomaly.evidence == "slashed 1 time since 2026-01-12 12:05 UTC, 2 in all"


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
    assert found(*naive) == found(frame, health, forecasts)


def test_nodes_are_judged_by_their_own_past_alone():
    sick, well = dropped(seasonal(node="a-1"), 0.9), seasonal(node="b-1", seed=1, price=40.0)
    anomalies = found(pd.concat([sick, well]), pd.concat([readings("a-1"), readings("b-1")]))
    assert {anomaly.node for anomaly in anomalies} == {"a-1"}


def test_a_short_history_leaves_the_rules_alone_to_speak():
    assert found(dropped(seasonal(2), 0.9)) == []  # one past day is no expectation either
    assert rules(found(dropped(seasonal(2), 0.9), forecasts=a_forecast(0.05))) == {"earnings-drop"}


def test_a_counter_that_starts_again_is_no_deviation_of_use():
    used = usage()
    restarted = (used["hour"] > NOW - timedelta(hours=2)) & (used["metric"] == "cpu_seconds_total")
    used.loc[restarted, ["mean", "last"]] -= used.loc[restarted, "last"].iloc[0]
    assert found(seasonal(), readings(days=14), usage=used) == []


def test_an_empty_warehouse_raises_nothing():
    empty = readings().iloc[:0]
    assert found(seasonal().iloc[:0], empty, no_forecasts()) == []


# --- what is not of a node's hours


def rule(anomalies, name):
    return next(anomaly for anomaly in anomalies if anomaly.rule == name)


def test_only_configured_nodes_are_looked_at():
    both = pd.concat([dropped(seasonal(node="a-1"), 0.9), seasonal(node="b-1", seed=1)])
    health = pd.concat([readings("a-1", "unreachable"), readings("b-1")])
    assert found(both, health, nodes=["b-1"]) == []


def test_scores_of_a_week_are_read_from_the_readings():
    health = readings(days=7)
    audits = [1.0 - 0.03 * i / len(health) for i in range(len(health))]
    health["scores"] = [json.dumps({"audit": audit, "open_flags": 1}) for audit in audits]
    anomalies = found(seasonal(), health)
    assert "below 0.96, where a satellite disqualifies" in rule(anomalies, "score-falling").evidence
    assert rule(anomalies, "node-flagged").evidence == "1 open flag"


def test_a_score_that_is_told_no_longer_is_unknown():
    health = readings(days=7)
    health["scores"] = [json.dumps({"audit": 1.0 - 0.03 * i / len(health)}) for i in range(len(health))]
    health.loc[health.index[-1], "scores"] = "{}"
    assert found(seasonal(), health) == []


def test_a_node_that_earns_nothing_beside_one_that_earns_is_told():
    anomalies = found(pd.concat([dropped(seasonal(node="storj-1"), 1.0, hours=4), seasonal(node="storj-2", seed=1)]))
    anomaly = rule(anomalies, "zero-while-peers-earn")
    assert (anomaly.subject, anomaly.score) == ("storj-1", 4.0)
    alone = found(pd.concat([dropped(seasonal(node="storj-1"), 1.0, hours=4), seasonal(node="golem-1", seed=1)]))
    assert "zero-while-peers-earn" not in rules(alone)


def test_the_disk_of_the_host_is_read_from_its_own_use():
    times = pd.date_range(end=NOW, periods=4 * 24 * 7, freq="15min")
    frames = [
        pd.DataFrame({"node": "host:box", "observed_at": times, "metric": metric, "value": values})
        for metric, values in (
            ("disk_used_bytes", [60e9 + 5e9 * i / 96 for i in range(len(times))]),
            ("disk_total_bytes", 100e9),
        )
    ]
    anomaly = rule(found(seasonal(), usage=by_hour(pd.concat(frames))), "disk-filling")
    assert (anomaly.scope, anomaly.subject, anomaly.host, anomaly.node) == ("host", "box", "box", None)


def test_prices_changes_cycles_and_the_clock_have_their_say():
    prices = pd.DataFrame(
        {
            "token": "golem",
            "observed_at": [NOW - timedelta(hours=5)],
            "usd": 0.25,
            "priced_at": [NOW - timedelta(hours=5)],
        }
    )
    changes = [
        LastChange(host="box", status=ApplicationStatus.ROLLED_BACK, reason="no", ended_at=NOW - timedelta(hours=1))
    ]
    anomalies = found(
        seasonal(),
        prices=prices,
        changes=changes,
        decided_at=[NOW - timedelta(minutes=15 * n) for n in (9, 8, 7, 6)],
        clock_jumped="it jumped",
    )
    assert {(a.rule, a.scope, a.subject) for a in anomalies} == {
        ("price-stale", "token", "golem"),
        ("allocation-failed", "host", "box"),
        ("missed-cycles", "orcha", "orcha"),
        ("clock-jumped", "orcha", "orcha"),
    }


def test_a_price_of_weeks_ago_is_as_stale_as_one_of_this_morning():
    long_ago = NOW - timedelta(days=40)
    prices = pd.DataFrame({"token": "golem", "observed_at": [long_ago], "usd": 0.25, "priced_at": [long_ago]})
    assert rules(found(seasonal(), prices=prices)) == {"price-stale"}


def test_money_that_waits_is_told_of_its_node():
    standing = Standing(
        node="storj-1",
        kind=BalanceKind.PENDING,
        account="polygon",
        amount=2.0,
        unit="GLM",
        oldest_at=NOW - timedelta(days=5),
    )
    assert rules(found(seasonal(), standings=[standing])) == {"invoices-ageing"}


def test_thresholds_are_the_operators():
    frame = dropped(seasonal(noise=0.01), 0.4)
    strict = AnomalySettings(earnings_drop_percent=50.0)
    assert "earnings-drop" not in rules(detect(known(frame), strict).anomalies)


# --- the forest judges an hour once


def test_an_hour_that_was_judged_is_told_again_without_another_look():
    frame, health = dropped(seasonal(), 0.9), readings(days=14)
    first = detect(known(frame, health), AnomalySettings())
    (hour,) = first.judged
    assert (hour.node, hour.hour, bool(hour.evidence)) == ("storj-1", NOW.replace(hour=11, minute=0), True)
    other = replace(hour, score=9.0, evidence="told before")
    again = detect(known(frame, health, judged={"storj-1": other}), AnomalySettings())
    assert rule(again.anomalies, "unusual-hour").evidence == "told before"
    assert again.judged == [other]


def test_an_hour_that_was_found_ordinary_stays_so_and_the_next_is_judged_anew():
    hour = detect(known(seasonal(), readings(days=14)), AnomalySettings()).judged[0]
    assert hour.evidence == ""
    old = replace(hour, hour=hour.hour - timedelta(hours=1), evidence="told before")
    assert detect(known(seasonal(), readings(days=14), judged={"storj-1": old}), AnomalySettings()).judged == [hour]


def test_of_an_hour_without_known_earnings_nothing_is_judged():
    frame = seasonal()
    frame.loc[frame.index[-1], MONEY] = None
    assert detect(known(frame), AnomalySettings()).judged == []


def test_counters_are_compared_by_the_hour_whatever_the_time_between_their_readings():
    # Read by the hour at first, then every quarter: the last reading of an hour is then 45 minutes later in it.
    by_the_hour = pd.date_range(end=NOW.replace(minute=0) - timedelta(hours=1), periods=24 * 14, freq="h")
    quarters = pd.date_range(by_the_hour[-1], NOW, freq="15min")[1:]
    times = by_the_hour.union(quarters)
    noise = np.random.default_rng(0).normal(0, 30, len(times))
    rows = pd.DataFrame(
        {
            "node": "storj-1",
            "observed_at": times,
            "metric": "cpu_seconds_total",
            "value": (times - times[0]).total_seconds() + noise,
        }
    )
    assert found(seasonal(), readings(days=14), usage=by_hour(rows)) == []


def test_the_silence_of_a_node_that_was_away_is_not_told_once_more():
    frame = seasonal().iloc[:-2]
    away = readings(days=7)
    away.loc[away.index[-9:-1], ["state", "reason"]] = "unreachable", "refused"
    assert found(frame, away) == []
    assert rules(found(frame, readings(days=7))) == {"series-earnings"}


def test_the_silence_of_orcha_itself_is_no_outage_of_every_node():
    began = NOW - timedelta(minutes=125)
    read = readings(days=7)
    unread = read[(read["observed_at"] <= began) | (read["observed_at"] >= NOW - timedelta(minutes=5))]
    frame = seasonal()
    frame.loc[frame["hour"] >= began, MONEY] = None  # what those hours earned is not known
    assert found(frame, unread) == []
    assert rules(found(frame, read)) == {"series-earnings"}
