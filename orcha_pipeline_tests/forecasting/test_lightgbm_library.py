import subprocess
import sys

import numpy as np
import pytest

from orcha_pipeline.errors import ModelError
from orcha_pipeline.forecasting import lightgbm_library
from orcha_pipeline.forecasting.lightgbm_library import Booster, library_path


@pytest.fixture(scope="module")
def rows():
    """Rows as float32, one feature in ten unknown."""
    rng = np.random.default_rng(3)
    made = rng.normal(size=(3_000, 5)).astype(np.float32)
    made[rng.random(made.shape) < 0.1] = np.nan
    return made


@pytest.fixture(scope="module")
def trained(rows):
    import lightgbm

    target = np.nansum(rows, axis=1) + np.nan_to_num(rows[:, 0]) ** 2
    data = lightgbm.Dataset(rows, target)
    return lightgbm.train({"objective": "l1", "verbosity": -1, "num_threads": 1}, data, num_boost_round=40)


@pytest.fixture
def saved(trained, tmp_path):
    path = tmp_path / "booster.txt"
    trained.save_model(path)
    return path


def test_it_predicts_exactly_what_lightgbm_predicts(trained, saved, rows):
    expected = trained.predict(rows)
    assert np.ptp(expected) > 1
    np.testing.assert_array_equal(Booster.read(saved).predict(rows), expected)


def test_a_model_made_from_text_is_the_same_as_one_read_from_a_file(trained, saved, rows):
    made = Booster(trained.model_to_string(), source="text")
    np.testing.assert_array_equal(made.predict(rows), Booster.read(saved).predict(rows))


def test_it_knows_its_rounds_and_features(saved):
    booster = Booster.read(saved)
    assert (booster.rounds, booster.features) == (40, 5)


def test_columns_that_lie_apart_in_memory_are_read_in_their_places(trained, saved, rows):
    by_column = np.asfortranarray(rows)
    np.testing.assert_array_equal(Booster.read(saved).predict(by_column), trained.predict(rows))


def test_no_rows_give_no_numbers(saved):
    assert Booster.read(saved).predict(np.empty((0, 5), dtype=np.float32)).shape == (0,)


@pytest.mark.parametrize("shape", [(4, 4), (4, 6), (5,)])
def test_rows_of_another_shape_are_refused(saved, shape):
    with pytest.raises(ModelError, match="trained on 5 features"):
        Booster.read(saved).predict(np.zeros(shape, dtype=np.float32))


def test_a_missing_file_is_a_clear_error(tmp_path):
    with pytest.raises(ModelError, match=r"none\.txt cannot be read"):
        Booster.read(tmp_path / "none.txt")


@pytest.mark.parametrize(
    "damage",
    [
        pytest.param(lambda whole: b"", id="empty"),
        pytest.param(lambda whole: b"not a model", id="other"),
        pytest.param(lambda whole: whole[: len(whole) // 2], id="cut off"),
        pytest.param(lambda whole: whole[len(whole) // 2 :], id="without its head"),
        pytest.param(lambda whole: b"\xff\xfe" + whole, id="not text"),
    ],
)
def test_a_damaged_file_is_a_clear_error(saved, damage):
    saved.write_bytes(damage(saved.read_bytes()))
    with pytest.raises(ModelError, match=r"booster\.txt"):
        Booster.read(saved)


def test_what_lightgbm_itself_refuses_is_told_in_its_words(saved):
    saved.write_text(saved.read_text().replace("num_class=1\n", ""))
    with pytest.raises(ModelError, match="number of classes"):
        Booster.read(saved)


def test_a_missing_package_is_a_clear_error(monkeypatch):
    monkeypatch.setattr(lightgbm_library, "find_spec", lambda name: None)
    with pytest.raises(ModelError, match="not installed"):
        library_path()


def test_predicting_imports_neither_lightgbm_nor_what_it_pulls_in(saved):
    script = """
import sys
from pathlib import Path
import numpy as np
from orcha_pipeline.forecasting.lightgbm_library import Booster
Booster.read(Path(sys.argv[1])).predict(np.zeros((3, 5), dtype=np.float32))
assert not {"lightgbm", "sklearn", "scipy", "pandas"} & set(sys.modules), sorted(sys.modules)
"""
    subprocess.run([sys.executable, "-c", script, str(saved)], check=True, timeout=120)
