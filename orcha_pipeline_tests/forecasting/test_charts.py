import subprocess
import sys
from datetime import timedelta

from orcha_pipeline.forecasting.charts import forecast_fan_png, loss_curve_png
from orcha_pipeline.forecasting.serving import forecast
from orcha_pipeline_tests.forecasting.synthetic import START, features

PNG = b"\x89PNG\r\n\x1a\n"


def height(png):
    return int.from_bytes(png[20:24])


def test_the_fan_has_a_panel_a_node(settings):
    frame = features(hours=200, outages=0.02)
    other = features(node="storj-2", hours=200)
    both = [*forecasts(frame, settings), *forecasts(other, settings)]
    one, two = forecast_fan_png(frame, both[:1]), forecast_fan_png(frame, both)
    assert one.startswith(PNG)
    assert height(two) > 1.5 * height(one)


def test_a_fan_of_nothing_and_one_without_history_are_still_pictures(settings):
    frame = features(hours=200)
    assert forecast_fan_png(frame, []).startswith(PNG)
    assert forecast_fan_png(frame.iloc[:0], forecasts(frame, settings)).startswith(PNG)


def test_the_loss_curve_is_a_picture_even_of_one_epoch():
    assert loss_curve_png([1.0], [1.1], best_epoch=1).startswith(PNG)


def test_drawing_never_loads_pyplot():
    code = (
        "import sys; from orcha_pipeline.forecasting.charts import loss_curve_png as draw;"
        "draw([2], [2], best_epoch=1);"
        "sys.exit('matplotlib.pyplot' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def forecasts(frame, settings):
    nodes = sorted(set(frame["node"]))
    return forecast(frame, nodes=nodes, issued_at=START + timedelta(hours=180), model_dir=None, settings=settings)
