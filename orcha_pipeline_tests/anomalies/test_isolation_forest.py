import numpy as np
import pandas as pd
import pytest

from orcha_pipeline.anomalies.isolation_forest import (
    FALSE_ALARMS,
    FEATURES,
    MIN_HISTORY_HOURS,
    conformal_threshold,
    node_features,
    score_latest,
)
from orcha_pipeline_tests.anomalies.worlds import dropped, seasonal


def hourly(frame: pd.DataFrame) -> pd.DataFrame:
    return frame.set_index("hour")


def latency(index, *, seed=0):
    return pd.Series(0.1 * np.exp(np.random.default_rng(seed + 1000).normal(0, 0.2, len(index))), index=index)


def use(index, *, seed=0):
    return pd.DataFrame(
        {"cpu": 3600 * np.exp(np.random.default_rng(seed + 2000).normal(0, 0.1, len(index)))}, index=index
    )


def a_table(days=14, *, seed=0, drop=0.0, slow=1.0, busy=1.0, healthy=1.0):
    frame = hourly(dropped(seasonal(days, seed=seed), drop))
    frame.loc[frame.index[-1], "healthy_fraction"] = healthy
    answers, load = latency(frame.index, seed=seed), use(frame.index, seed=seed)
    answers.iloc[-1] *= slow
    load.iloc[-1] *= busy
    return node_features(frame, latency=answers, usage=load)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(
    ("planted", "feature"),
    [({"drop": 0.8}, "earnings"), ({"slow": 6.0}, "latency"), ({"busy": 3.0}, "use"), ({"busy": 0.1}, "use")],
)
def test_a_planted_fault_in_the_latest_hour_is_unusual(planted, feature, seed):
    (hour,) = score_latest(a_table(seed=seed, **planted)).hours
    assert hour.unusual
    deviations = {name: abs(value) for name, value in hour.features.items() if name != "health"}
    assert max(deviations, key=lambda name: deviations[name]) == feature


def test_half_an_hour_of_bad_health_in_a_healthy_past_is_unusual():
    (hour,) = score_latest(a_table(healthy=0.5)).hours
    assert hour.unusual


@pytest.mark.slow
@pytest.mark.parametrize(("days", "past"), [(6, 90), (14, 280)])
def test_ordinary_hours_of_seasonal_histories_rarely_fire(days, past):
    judged = [hour for seed in range(4) for hour in score_latest(a_table(days, seed=seed), hours=15).hours]
    assert len(judged) == 60
    # One in n + 1 is expected; twice the standard deviation above that is let pass.
    expected = len(judged) / past
    assert sum(hour.unusual for hour in judged) <= expected + 2 * expected**0.5


def test_an_ordinary_hour_is_not_unusual():
    assert not any(hour.unusual for seed in range(4) for hour in score_latest(a_table(seed=seed)).hours)


def test_good_news_is_ordinary():
    table = a_table(drop=-3.0, slow=0.01)
    assert table.iloc[-1][["earnings", "latency"]].tolist() == [0.0, 0.0]


def test_below_forty_eight_comparable_hours_there_is_no_judgement():
    result = score_latest(a_table(3))
    assert result.hours == ()
    assert result.note.startswith("not enough history: ")
    assert result.note.endswith(f" of {MIN_HISTORY_HOURS} comparable hours")
    assert score_latest(a_table(4)).hours


def test_a_node_without_any_hour_has_no_judgement():
    assert score_latest(node_features(hourly(seasonal(1)).iloc[:0])).hours == ()


def test_an_hour_of_unknown_earnings_is_not_judged():
    frame = hourly(seasonal())
    frame.loc[frame.index[-1], ["net_native", "net_usd", "yield_usd", "yield_native"]] = np.nan
    assert score_latest(node_features(frame)).note == "the earnings of the latest hours are unknown"


def test_the_same_seed_gives_the_same_scores_and_another_seed_others():
    table = a_table()
    assert score_latest(table, seed=1) == score_latest(table, seed=1)
    assert score_latest(table, seed=1) != score_latest(table, seed=2)


def test_no_feature_looks_into_the_future():
    whole, known = a_table(10), a_table(10, drop=0.9, slow=9, busy=9)
    pd.testing.assert_frame_equal(whole.iloc[:-1], known.iloc[:-1])
    assert list(whole.columns) == list(FEATURES)


def test_a_change_of_price_or_share_is_no_deviation_of_earnings():
    frame = hourly(seasonal())
    moved = frame.copy()
    moved.loc[moved.index[-30:], ["net_usd", "yield_usd", "usd_price"]] *= 0.2
    moved.loc[moved.index[-30:], ["net_native", "net_usd", "share"]] *= 0.3
    pd.testing.assert_series_equal(node_features(frame)["earnings"], node_features(moved)["earnings"])


def test_use_that_follows_a_change_of_share_is_no_deviation():
    frame = hourly(seasonal())
    load = use(frame.index)
    frame.loc[frame.index[-2:], "share"] = 0.1
    load.iloc[-2:] *= 0.2
    assert node_features(frame, usage=load)["use"].iloc[-2:].tolist() == [0.0, 0.0]
    frame["share"] = 0.5
    assert node_features(frame, usage=load)["use"].iloc[-2] < -3


def test_a_hole_in_the_readings_counts_as_ordinary():
    frame = hourly(seasonal())
    answers = latency(frame.index)
    answers.iloc[-1] = np.nan
    assert node_features(frame, latency=answers)["latency"].iloc[-1] == 0.0


def test_a_node_without_noise_does_not_fire_on_a_wobble():
    frame = hourly(seasonal(noise=0.0))
    frame.loc[frame.index[-1], ["yield_native", "net_native"]] *= 0.995
    assert node_features(frame)["earnings"].iloc[-1] > -0.3


def test_the_threshold_is_the_conformal_quantile_and_the_highest_score_for_short_pasts():
    scores = np.arange(1000.0)
    assert conformal_threshold(scores, FALSE_ALARMS) == 998.0  # rank ceil(1001 x (1 - 1/336)) = 999
    assert conformal_threshold(scores[:100], FALSE_ALARMS) == 99.0
