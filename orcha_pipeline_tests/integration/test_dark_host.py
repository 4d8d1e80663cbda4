"""All nodes of a host away at once, and a price feed that tells absurd prices: held with reason, nothing invented."""

import json
import math
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from orcha_pipeline.assets.ingest import PRICES, fact_keys
from orcha_pipeline.model import HealthState, Verdict
from orcha_pipeline.resources import NodesResource
from orcha_pipeline.warehouse.facts import naive
from orcha_pipeline_tests.integration.conftest import Rig
from orcha_pipeline_tests.integration.soundness import expect_sound

pytestmark = pytest.mark.integration

NODES = ("storj-1", "golem-1", "streamr-1", "grass-1")


@pytest.fixture(autouse=True)
def nothing_but_earnings(monkeypatch):
    """Without a fault the first decision reallocates: an equal split is far from the best one."""
    monkeypatch.setenv("ORCHA_PLANNER__PRESET", "bold")
    monkeypatch.setenv("ORCHA_PLANNER__MIN_CONFIDENCE", "0")


def test_with_every_node_away_the_cycle_decides_to_hold_and_the_next_one_goes_on(rig: Rig):
    shares = {node: state["share"] for node, state in rig.truth().items()}
    began = rig.installation.clock.now()
    for node in NODES:
        rig.fault(node, "dead")
    assert rig.run_cycle().success
    decision = rig.decision()
    assert decision.decided_at >= began
    assert decision.verdict is Verdict.HOLD
    assert decision.reason.startswith("Holds: ")
    health = rig.rows("SELECT node, state FROM node_health WHERE observed_at >= ?", naive(began))
    assert {row["node"] for row in health} == set(NODES)
    assert HealthState.HEALTHY.value not in {row["state"] for row in health}
    assert rig.rows("SELECT * FROM applications") == []
    rig.heal()
    assert {node: state["share"] for node, state in rig.truth().items()} == shares
    assert rig.run_cycle().success
    assert rig.decision().verdict is Verdict.REALLOCATE
    expect_sound(rig)


class AbsurdPrices(ThreadingHTTPServer):
    """CoinGecko's simple prices, with an answer of one's choice for every token."""

    answer: Any = 1.0

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Quotes)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class _Quotes(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        ids = parse_qs(urlsplit(self.path).query).get("ids", [""])[0].split(",")
        assert isinstance(self.server, AbsurdPrices)
        body = json.dumps(dict.fromkeys(ids, self.server.answer)).encode()  # NaN is spelt as Python spells it
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 (the library's name)
        """Say nothing."""


@contextmanager
def absurd_prices() -> Iterator[AbsurdPrices]:
    with AbsurdPrices() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


def quote(usd: Any, moment: float) -> dict[str, Any]:
    return {"usd": usd, "last_updated_at": int(moment)}


def test_absurd_prices_are_marked_and_not_used(rig: Rig, monkeypatch):
    (before,) = rig.rows("SELECT arg_max(usd, observed_at) AS usd FROM prices WHERE token = 'golem'")
    with absurd_prices() as server:
        made = rig.installation
        prices = made.settings.prices.model_copy(update={"url": server.url})
        moved = replace(made, settings=made.settings.model_copy(update={"prices": prices}))
        monkeypatch.setattr(NodesResource, "installation", lambda _self: moved)
        for usd in (0, -1.0, math.nan, 1e12, float(before["usd"]) * 1000, "abc", {"eur": 1.0}, None):
            rig.advance(minutes=2)  # a source is asked once a minute
            began = made.clock.now()
            server.answer = {"eur": 1.0} if isinstance(usd, dict) else quote(usd, began.timestamp())
            assert rig.run_cycle(*fact_keys(["storj"]), PRICES).success
            rows = rig.rows("SELECT token, usd, provenance FROM prices WHERE observed_at >= ?", naive(began))
            assert rows
            for row in rows:
                assert row["usd"] is None or 0 < row["usd"] < 100 * before["usd"], (usd, row)
                assert row["provenance"] != "measured", (usd, row)
        assert rig.run_cycle().success
    expect_sound(rig)
