"""Whatever an API answers, an adapter gives a typed reading or a typed error, and never makes up a zero."""

import copy
import json
from collections.abc import Callable, Iterator
from datetime import timedelta
from decimal import Decimal
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from orcha_pipeline.clock import FixedClock
from orcha_pipeline.errors import AdapterError, ParseError
from orcha_pipeline.model import EarningsBucket, EarningsCounter, HealthReading, UsageReading, Window
from orcha_pipeline.protocols.registry import adapter_type
from orcha_pipeline_tests.protocols import answers
from orcha_pipeline_tests.protocols.fakes import NOW, SECRET, FakeController, Script, settings

WINDOW = Window(NOW - timedelta(hours=1), NOW)
OPTIONS = {"streamr": {"subgraph_url": "http://127.0.0.1:9999/graph", "operator": answers.OPERATOR}}
ROUTES: dict[str, Callable[[], dict[str, Any]]] = {
    "storj": answers.storj_routes,
    "golem": answers.golem_routes,
    "streamr": answers.streamr_routes,
    "grass": answers.grass_routes,
}
STRANGE = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(10**40), 10**40),
    st.floats(),
    st.text(max_size=20),
    st.sampled_from(["NaN", "Infinity", "-1", "1e999", "0x10", "٣", "", "0001-01-01T00:00:00+14:00", SECRET, "\ud800"]),
    st.just([]),
    st.just({}),
    st.lists(st.integers(), max_size=2),
)


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    yield path
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, child in items:
        yield from places(child, (*path, key))


def changed(value: Any, path: tuple[Any, ...], replacement: Any, *, remove: bool) -> Any:
    if not path:
        return replacement
    value = copy.deepcopy(value)
    parent = value
    for key in path[:-1]:
        parent = parent[key]
    if remove:
        del parent[path[-1]]
    else:
        parent[path[-1]] = replacement
    return value


def adapter(protocol: str, routes: dict[str, Any]):
    return adapter_type(protocol)(
        settings(protocol, options=OPTIONS.get(protocol, {})),
        controller=FakeController(),
        clock=FixedClock(NOW),
        transport=Script(routes),
    )


def outcomes(protocol: str, routes: dict[str, Any]) -> dict[str, Any]:
    """Part -> what was read or the error; anything that is no `AdapterError` fails the test by itself."""
    node = adapter(protocol, routes)
    parts = {
        "health": node.health,
        "earnings": lambda: list(node.earnings(WINDOW)),
        "history": lambda: list(node.earnings_history(Window(NOW - timedelta(days=28), NOW))),
        "usage": lambda: list(node.resource_usage()),
        "allocation": node.allocation,
    }
    if protocol == "storj":
        parts |= {"balances": lambda: list(node.balances()), "advice": lambda: list(node.advice())}
    if protocol == "golem":
        parts |= {"balances": lambda: list(node.balances()), "advice": lambda: list(node.advice())}
        parts["allocations"] = lambda: list(node.allocations())
    if protocol == "streamr":
        parts |= {"balances": lambda: list(node.balances()), "advice": lambda: list(node.advice())}
        parts["allocations"] = lambda: list(node.allocations())
    if protocol == "grass":
        parts |= {"balances": lambda: list(node.balances()), "advice": lambda: list(node.advice())}
    found: dict[str, Any] = {}
    for name, read in parts.items():
        try:
            found[name] = read()
        except AdapterError as error:
            found[name] = error
    assert SECRET not in str([str(o) for o in found.values() if isinstance(o, AdapterError)])
    return found


def check_types(found: dict[str, Any]) -> None:
    for name, outcome in found.items():
        if isinstance(outcome, AdapterError):
            continue
        if name == "health":
            assert isinstance(outcome, HealthReading)
        elif name == "usage":
            assert all(isinstance(u, UsageReading) for u in outcome)
        elif name == "balances":
            assert all(b.amount is None or (b.amount.is_finite() and b.amount >= 0) for b in outcome)
        elif name in ("earnings", "history"):
            for item in outcome:
                assert isinstance(item, EarningsCounter | EarningsBucket)
                for amount in (item.amounts.gross, item.amounts.net, item.amounts.held):
                    assert amount is None or (isinstance(amount, Decimal) and amount.is_finite() and amount >= 0)


@pytest.mark.parametrize("protocol", ROUTES)
def test_the_unchanged_answers_are_read_in_full(protocol):
    found = outcomes(protocol, ROUTES[protocol]())
    assert not [o for o in found.values() if isinstance(o, AdapterError)]
    check_types(found)


@pytest.mark.parametrize("protocol", ROUTES)
@hypothesis_settings(max_examples=75, deadline=None)
@given(data=st.data())
def test_a_changed_answer_gives_a_reading_or_a_typed_error(protocol, data):
    routes = ROUTES[protocol]()
    path = data.draw(st.sampled_from(sorted(routes)))
    place = data.draw(st.sampled_from(list(places(routes[path]))))
    remove = bool(place) and data.draw(st.booleans())
    answer = changed(routes[path], place, None if remove else data.draw(STRANGE), remove=remove)
    routes[path] = httpx.Response(200, headers={"content-type": "application/json"}, content=json.dumps(answer))
    check_types(outcomes(protocol, routes))


@pytest.mark.parametrize("protocol", ROUTES)
@hypothesis_settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_a_broken_body_gives_a_typed_error(protocol, data):
    routes = ROUTES[protocol]()
    path = data.draw(st.sampled_from(sorted(routes)))
    whole = json.dumps(routes[path]).encode()
    cut = data.draw(st.integers(0, len(whole) - 1))
    body = data.draw(st.sampled_from([whole[:cut], whole[:cut] + b"\x00\xff", b"<html>", b"{} {}"]))
    status = data.draw(st.sampled_from([200, 204, 206, 400, 401, 404, 418, 429, 500, 503]))
    kind = data.draw(st.sampled_from(["application/json", "text/html", "application/json; charset=latin-1", ""]))
    routes[path] = httpx.Response(status, headers={"content-type": kind}, content=body)
    found = outcomes(protocol, routes)
    check_types(found)
    assert any(isinstance(o, AdapterError) for o in found.values()) or status == 500


EARNING_FIELDS = [
    ("storj", "/api/sno/", ("satellites",)),
    ("storj", f"/api/sno/satellite/{answers.US}", ("storageDaily",)),
    ("storj", f"/api/sno/satellite/{answers.US}", ("storageDaily", 1, "atRestTotal")),
    ("storj", f"/api/sno/satellite/{answers.US}", ("bandwidthDaily", 0, "egress", "usage")),
    ("storj", f"/api/sno/satellite/{answers.EU}", ("bandwidthDaily", 1, "intervalStart")),
    ("storj", f"/api/sno/satellite/{answers.EU}", ("priceModel", "DiskSpace")),
    ("storj", f"/api/sno/satellite/{answers.EU}", ("nodeJoinedAt",)),
    ("golem", "/payment-api/v1/debitNotes", (1, "totalAmountDue")),
    ("golem", "/payment-api/v1/debitNotes", (1, "status")),
    ("golem", "/payment-api/v1/debitNotes", (1, "timestamp")),
    ("golem", "/me", ("identity",)),
    ("golem", "/payment-api/v1/debitNotes", (1, "paymentPlatform")),
    ("golem", "/payment-api/v1/invoices", (0, "amount")),
    ("golem", "/payment-api/v1/invoices", (0, "status")),
    ("streamr", "/graph", ("data", "operator", "cumulativeProfitsWei")),
    ("streamr", "/graph", ("data", "operator", "stakes")),
    ("streamr", "/graph", ("data", "operator", "stakes", 0, "earningsWei")),
    ("streamr", "/graph", ("data", "operator", "stakes", 0, "sponsorship", "isRunning")),
    ("streamr", "/graph", ("data", "operator", "stakes", 0, "sponsorship", "projectedInsolvency")),
    ("streamr", "/graph", ("data", "operator", "stakes", 0, "updateTimestamp")),
    ("streamr", "/graph", ("data", "operator", "operatorsCutFraction")),
    ("grass", "/activeDevices", ("result", "data")),
    ("grass", "/activeDevices", ("result", "data", 0, "aggUptime")),
    ("grass", "/activeDevices", ("result", "data", 0, "multiplier")),
    ("grass", "/activeDevices", ("result", "data", 1, "ipScore")),
]


@pytest.mark.parametrize(("protocol", "path", "place"), EARNING_FIELDS)
@pytest.mark.parametrize("replacement", ["remove", 1.5e300, "", "NaN", [[]], {}])
def test_a_field_that_earnings_rest_on_is_never_guessed(protocol, path, place, replacement):
    routes = ROUTES[protocol]()
    routes[path] = changed(routes[path], place, replacement, remove=replacement == "remove")
    outcome = outcomes(protocol, routes)["earnings"]
    assert isinstance(outcome, ParseError)
    assert "$" in outcome.message
