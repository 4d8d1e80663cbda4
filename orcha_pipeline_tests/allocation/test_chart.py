from io import BytesIO

import pytest
from matplotlib import image

from orcha_pipeline.allocation.chart import plan_png
from orcha_pipeline.model import Verdict
from orcha_pipeline_tests.allocation.build import a_host, a_node, planned


@pytest.mark.parametrize("verdict", [None, Verdict.HOLD, Verdict.REALLOCATE])
def test_the_picture_of_a_plan_is_a_png_with_something_on_it(verdict):
    plan = planned(
        a_host(cpu=10, simulated=True), a_node("a", 0.1, 0.2), a_node("b", 0.01, None), a_node("c", None, 0.1)
    )
    pixels = image.imread(BytesIO(plan_png(plan, verdict)), format="png")
    assert pixels.shape[0] > 300
    assert pixels.shape[1] > 800
    assert len({tuple(pixel) for pixel in pixels[::7, ::7].reshape(-1, pixels.shape[2]).round(2)}) > 5


def test_another_plan_gives_another_picture():
    host = a_host(cpu=10)
    assert plan_png(planned(host, a_node("a", 0.1, 0.2))) != plan_png(planned(host, a_node("a", 0.1, 0.4)))


def test_a_host_without_nodes_can_be_drawn():
    assert plan_png(planned(a_host())).startswith(b"\x89PNG")
