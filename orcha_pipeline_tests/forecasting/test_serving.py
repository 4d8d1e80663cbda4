import json
import subprocess
import sys
from datetime import timedelta

import numpy as np
import pandas as pd
import pytest

from orcha_pipeline.forecasting import artifact
from orcha_pipeline.forecasting.serving import forecast
from orcha_pipeline.model import HOUR
from orcha_pipeline_tests.forecasting.conftest import write_hand_made_model
from orcha_pipeline_tests.forecasting.synthetic import START, features

NOW = START + timedelta(hours=200, minutes=17)


def serve(frame, settings, model_dir=None, nodes=("storj-1",), issued_at=NOW):
    return forecast(frame, nodes=nodes, issued_at=issued_at, model_dir=model_dir, settings=settings)


def unsound(one):
    quantiles = np.array([one.p10, one.p50, one.p90])
    return not (np.isfinite(quantiles).all() and (quantiles >= 0).all() and (np.diff(quantiles, axis=0) >= 0).all())


def test_the_network_is_served_for_the_24_hours_from_the_current_one_on(settings, hand_made_model):
    frame = features(hours=200)
    (one,) = serve(frame, settings, hand_made_model)
    assert one.hours == tuple(START + (200 + h) * HOUR for h in range(24))
    assert one.issued_at == NOW
    assert (one.model, one.version, one.note) == ("lstm", "unregistered", "")
    np.testing.assert_allclose(one.p50, frame["yield_usd"].to_numpy()[-24:], rtol=1e-4)
    assert not unsound(one)
    assert all(low < high for low, high in zip(one.p10, one.p90, strict=True))


def test_the_widening_of_the_manifest_is_applied(settings, tmp_path, hand_made_model):
    frame = features(hours=200)
    wider = write_hand_made_model(tmp_path / "wider", offsets=(-1.0, 0.0, 1.0), widening=(0.5, 0.5))
    (narrow,), (wide,) = serve(frame, settings, hand_made_model), serve(frame, settings, wider)
    assert narrow.p50 == wide.p50
    assert all(w < n for w, n in zip(wide.p10, narrow.p10, strict=True))
    assert all(w > n for w, n in zip(wide.p90, narrow.p90, strict=True))


def test_the_registered_version_is_named(settings, hand_made_model):
    artifact.write(hand_made_model, artifact.Registration(name="orcha-storj", version="12"))
    (one,) = serve(features(hours=200), settings, hand_made_model)
    assert one.version == "12"


def test_nothing_at_or_after_the_current_hour_is_looked_at(settings, hand_made_model):
    frame = features(hours=260)
    changed = frame.copy()
    changed.loc[200:, ["yield_usd", "share"]] = 99.0
    for model in (hand_made_model, None):
        assert serve(frame, settings, model) == serve(changed, settings, model)
        assert serve(frame, settings, model) == serve(frame.head(200), settings, model)


def test_missing_last_hours_are_a_gap_and_not_a_shift(settings, hand_made_model):
    frame = features(hours=200)
    (one,) = serve(frame.head(195), settings, hand_made_model)
    (whole,) = serve(frame, settings, hand_made_model)
    assert one.model == "lstm"
    assert one.hours == whole.hours
    np.testing.assert_allclose(one.p50[:19], whole.p50[:19], rtol=1e-4)


def test_without_a_model_seasonal_naive_answers_and_says_so(settings):
    (one,) = serve(features(hours=200), settings)
    assert (one.model, one.version) == ("seasonal-naive", "24h")
    assert one.note == "no model has been trained yet"
    assert not unsound(one)


def test_a_node_with_too_little_history_gets_seasonal_naive_beside_one_with_enough(settings, hand_made_model):
    young = features(node="storj-2", hours=40, start=START + 160 * HOUR)
    frame = pd.concat([features(hours=200), young])
    old, new = serve(frame, settings, hand_made_model, nodes=("storj-1", "storj-2"))
    assert (old.node, old.model) == ("storj-1", "lstm")
    assert (new.node, new.model) == ("storj-2", "seasonal-naive")
    assert new.note == "40 known hours of history, 48 needed"


def test_a_context_full_of_unknowns_is_not_given_to_the_network(settings, hand_made_model):
    frame = features(hours=200)
    frame.loc[150:190, "yield_usd"] = np.nan
    (one,) = serve(frame, settings, hand_made_model)
    assert one.model == "seasonal-naive"
    assert "too many unknown hours in the last 72" in one.note


def test_a_node_without_a_known_hour_gets_no_forecast(settings, hand_made_model):
    silent = features(node="storj-2", hours=200).assign(yield_usd=np.nan)
    frame = pd.concat([features(hours=200), silent])
    nodes = ("storj-1", "storj-2", "never-seen")
    for model in (hand_made_model, None):
        assert [one.node for one in serve(frame, settings, model, nodes=nodes)] == ["storj-1"]
    assert serve(frame.iloc[:0], settings, hand_made_model) == []
    assert serve(frame, settings, issued_at=START) == []


def truncate_onnx(folder):
    path = folder / artifact.ONNX_FILE
    path.write_bytes(path.read_bytes()[:-100])


def drop_onnx(folder):
    (folder / artifact.ONNX_FILE).unlink()


def drop_manifest(folder):
    (folder / artifact.MANIFEST_FILE).unlink()


def break_manifest(folder):
    (folder / artifact.MANIFEST_FILE).write_text("{", encoding="utf-8")


def break_registration(folder):
    (folder / artifact.REGISTRATION_FILE).write_text("{}", encoding="utf-8")


def own_up_to_garbage(folder):
    onnx, manifest = folder / artifact.ONNX_FILE, folder / artifact.MANIFEST_FILE
    onnx.write_bytes(b"garbage")
    honest = json.loads(manifest.read_text(encoding="utf-8")) | {"onnx_sha256": artifact.sha256_of(onnx)}
    manifest.write_text(json.dumps(honest), encoding="utf-8")


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (truncate_onnx, "missing or damaged"),
        (drop_onnx, "missing or damaged"),
        (drop_manifest, "is missing"),
        (break_manifest, "cannot be read"),
        (break_registration, "cannot be read"),
        (own_up_to_garbage, "cannot be run"),
    ],
)
def test_a_damaged_model_is_named_and_replaced_by_seasonal_naive(settings, hand_made_model, damage, words):
    damage(hand_made_model)
    (one,) = serve(features(hours=200), settings, hand_made_model)
    assert one.model == "seasonal-naive"
    assert words in one.note
    assert not unsound(one)


def test_a_model_with_other_inputs_is_not_fed_ours(settings, tmp_path):
    other = write_hand_made_model(tmp_path / "other", offsets=(-1, 0, 1), channels=("yield",), code_version="9.9")
    (one,) = serve(features(hours=200), settings, other)
    assert one.model == "seasonal-naive"
    assert "version 9.9" in one.note


@pytest.mark.parametrize("absurd", [float("nan"), float("inf"), 1e30])
def test_an_answer_that_is_not_finite_is_no_forecast(settings, tmp_path, absurd):
    mad = write_hand_made_model(tmp_path / "mad", offsets=(-1.0, 0.0, absurd))
    (one,) = serve(features(hours=200), settings, mad)
    assert one.model == "seasonal-naive"
    assert "not finite" in one.note
    assert not unsound(one)


def test_a_naive_moment_is_refused(settings):
    with pytest.raises(ValueError, match="time zone"):
        serve(features(hours=200), settings, issued_at=NOW.replace(tzinfo=None))


def test_serving_loads_neither_tensorflow_nor_mlflow(hand_made_model):
    code = f"""
import sys
from datetime import timedelta
from pathlib import Path
from orcha_pipeline.forecasting.serving import forecast
from orcha_pipeline.settings import Settings
from orcha_pipeline_tests.forecasting.synthetic import START, features
(one,) = forecast(features(hours=200), nodes=["storj-1"], issued_at=START + timedelta(hours=200),
                  model_dir=Path({str(hand_made_model)!r}), settings=Settings())
assert one.model == "lstm", one.note
print(sorted({{"tensorflow", "keras", "mlflow", "tf2onnx", "onnx", "dagster"}} & set(sys.modules)))
"""
    ran = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert ran.stdout.strip() == "[]"
