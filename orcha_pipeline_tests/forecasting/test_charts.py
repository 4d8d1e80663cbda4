import subprocess
import sys
from datetime import timedelta

from orcha_pipeline.forecasting.charts import error_by_horizon_png, forecast_fan_png, loss_curve_png
from orcha_pipeline.forecasting.serving import forecast
from orcha_pipeline_tests.forecasting.synthetic import START, features, panel

PNG = b"\x89PNG\r\n\x1a\n"


def height(png):
    return int.from_bytes(png[20:24])


def forecasts(series):
    return forecast(series, issued_at=START + timedelta(hours=180), model_dir=None, min_history_hours=48)


def test_the_fan_has_a_panel_a_forecast():
    series = panel(features(hours=200, outages=0.02), features(node="storj-2", hours=200))
    all_of_them = forecasts(series)
    one, two = forecast_fan_png(series, all_of_them[:1]), forecast_fan_png(series, all_of_them[:2])
    assert one.startswith(PNG)
    assert height(two) > 1.5 * height(one)


def test_a_fan_of_nothing_and_one_without_history_are_still_pictures():
    series = panel(features(hours=200))
    assert forecast_fan_png(series, []).startswith(PNG)
    assert forecast_fan_png([], forecasts(series)).startswith(PNG)


def test_the_loss_curve_is_a_picture_even_of_one_epoch():
    assert loss_curve_png([1.0], [1.1], best_epoch=1).startswith(PNG)


def test_the_error_by_horizon_has_a_line_a_model():
    assert error_by_horizon_png({"served": [0.1, 0.2], "seasonal_naive": [0.2, 0.3]}).startswith(PNG)


def test_drawing_never_loads_pyplot():
    code = (
        "import sys; from orcha_pipeline.forecasting.charts import loss_curve_png as draw;"
        "draw([2], [2], best_epoch=1);"
        "sys.exit('matplotlib.pyplot' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
