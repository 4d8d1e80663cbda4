import json
import subprocess
import sys
from datetime import timedelta

import numpy as np
import pytest

from orcha_pipeline.forecasting import artifact
from orcha_pipeline.forecasting.serving import forecast
from orcha_pipeline.model import HOUR
from orcha_pipeline_tests.forecasting.synthetic import START, features, panel

NOW = START + timedelta(hours=200, minutes=17)


def serve(*frames, model_dir=None, issued_at=NOW, target="yield_usd"):
    issued = forecast(panel(*frames), issued_at=issued_at, model_dir=model_dir, min_history_hours=48)
    return [one for one in issued if one.target == target]


def unsound(one):
    quantiles = np.array([one.p10, one.p50, one.p90])
    return not (np.isfinite(quantiles).all() and (quantiles >= 0).all() and (np.diff(quantiles, axis=0) >= 0).all())


def test_the_champion_answers_for_the_24_hours_from_the_current_one_on(simple_model):
    (one,) = serve(features(hours=200), model_dir=simple_model.folder)
    assert one.hours == tuple(START + (200 + h) * HOUR for h in range(24))
    assert one.issued_at == NOW
    assert "hour_mean" in one.model
    assert (one.version, one.note) == ("unregistered", "")
    assert not unsound(one)
    assert all(low < high for low, high in zip(one.p10, one.p90, strict=True))


def test_native_earnings_are_forecast_beside_the_yield_and_in_their_own_unit(simple_model):
    (usd,) = serve(features(hours=200), model_dir=simple_model.folder)
    (native,) = serve(features(hours=200), model_dir=simple_model.folder, target="net_native")
    assert native.hours == usd.hours
    assert not unsound(native)
    assert native.p50 != usd.p50


def test_the_registered_version_is_named(simple_model):
    artifact.write(simple_model.folder, artifact.Registration(name="orcha-storj", version="12"))
    (one,) = serve(features(hours=200), model_dir=simple_model.folder)
    assert one.version == "12"


def test_nothing_at_or_after_the_current_hour_is_looked_at(simple_model):
    frame = features(hours=260)
    changed = frame.copy()
    changed.loc[200:, ["yield_usd", "net_native", "share"]] = 99.0
    for model in (simple_model.folder, None):
        assert serve(frame, model_dir=model) == serve(changed, model_dir=model) == serve(frame[:200], model_dir=model)


def test_missing_last_hours_are_a_gap_and_not_a_shift(simple_model):
    frame = features(hours=200, noise=0.0)
    (gap,) = serve(frame.head(195), model_dir=simple_model.folder)
    (whole,) = serve(frame, model_dir=simple_model.folder)
    assert gap.hours == whole.hours
    np.testing.assert_allclose(gap.p50, whole.p50, rtol=0.3)


def test_without_a_champion_seasonal_naive_answers_and_says_so():
    (one,) = serve(features(hours=200))
    assert (one.model, one.version) == ("seasonal_naive", "24h")
    assert one.note == "no model has become champion yet"
    assert not unsound(one)


def test_a_node_with_too_little_history_gets_seasonal_naive_beside_one_with_enough(simple_model):
    young = features(node="storj-2", hours=40, start=START + 160 * HOUR)
    old, new = serve(features(hours=200), young, model_dir=simple_model.folder)
    assert (old.node, old.note) == ("storj-1", "")
    assert (new.node, new.model) == ("storj-2", "seasonal_naive")
    assert new.note == "40 known hours of history, 48 needed"


def test_a_node_the_model_never_saw_is_served_by_what_suits_all(simple_model):
    (one,) = serve(features(node="storj-9", hours=200), model_dir=simple_model.folder)
    assert one.note == ""
    assert not unsound(one)


def test_a_node_without_a_known_hour_gets_no_forecast(simple_model):
    silent = features(node="storj-2", hours=200).assign(yield_usd=np.nan)
    for model in (simple_model.folder, None):
        assert [one.node for one in serve(features(hours=200), silent, model_dir=model)] == ["storj-1"]
    assert serve(features(hours=200), issued_at=START) == []


def test_a_cold_start_of_a_few_hours_is_a_forecast_with_a_wide_band():
    (one,) = serve(features(hours=3), issued_at=START + 3 * HOUR)
    assert not unsound(one)
    assert max(one.p90) > max(one.p50)


def truncate(folder):
    path = folder / artifact.EXAMPLE_FILE
    path.write_bytes(path.read_bytes()[:-100])


def drop_part(folder):
    (folder / artifact.EXAMPLE_FILE).unlink()


def drop_manifest(folder):
    (folder / artifact.MANIFEST_FILE).unlink()


def break_manifest(folder):
    (folder / artifact.MANIFEST_FILE).write_text("{", encoding="utf-8")


def break_registration(folder):
    (folder / artifact.REGISTRATION_FILE).write_text("{}", encoding="utf-8")


def be_of_another_format(folder):
    path = folder / artifact.MANIFEST_FILE
    path.write_text(json.dumps(json.loads(path.read_text(encoding="utf-8")) | {"format": 1}), encoding="utf-8")


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (truncate, "missing or damaged"),
        (drop_part, "missing or damaged"),
        (drop_manifest, "is missing"),
        (break_manifest, "cannot be read"),
        (break_registration, "cannot be read"),
        (be_of_another_format, "cannot be read by this version"),
    ],
)
def test_a_damaged_model_is_named_and_replaced_by_seasonal_naive(simple_model, damage, words):
    damage(simple_model.folder)
    (one,) = serve(features(hours=200), model_dir=simple_model.folder)
    assert one.model == "seasonal_naive"
    assert words in one.note
    assert not unsound(one)


def test_a_naive_moment_is_refused():
    with pytest.raises(ValueError, match="time zone"):
        serve(features(hours=200), issued_at=NOW.replace(tzinfo=None))


def test_serving_loads_no_heavy_library(simple_model):
    code = f"""
import sys
from datetime import timedelta
from pathlib import Path
import numpy as np
from orcha_pipeline.forecasting.panel import HourlySeries
from orcha_pipeline.forecasting.serving import forecast
from orcha_pipeline_tests.forecasting.conftest import TRAINED_AT
found = forecast([HourlySeries("a:yield_usd", 490000, np.arange(300.0))], issued_at=TRAINED_AT,
                 model_dir=Path({str(simple_model.folder)!r}), min_history_hours=48)
print(found[0].note or sorted({{"tensorflow", "keras", "mlflow", "onnx", "dagster", "lightgbm"}} & set(sys.modules)))
"""
    ran = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert "tensorflow" not in ran.stdout
    assert "mlflow" not in ran.stdout
