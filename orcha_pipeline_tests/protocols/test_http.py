import socket
import threading
from collections.abc import Iterator

import httpx
import pytest
from pydantic import SecretStr

from orcha_pipeline.errors import (
    AdapterError,
    ApiError,
    AuthenticationError,
    NodeConnectionError,
    ParseError,
    SettingsError,
)
from orcha_pipeline.protocols import http
from orcha_pipeline.protocols.http import HttpStatusError, NodeHttp, time_budget
from orcha_pipeline_tests.protocols.fakes import SECRET, Script


def client(transport: httpx.BaseTransport | None, url: str = "http://127.0.0.1:9999", **changes) -> NodeHttp:
    return NodeHttp("storj-1", url, **({"timeout_seconds": 5.0, "transport": transport} | changes))


@pytest.mark.parametrize("prefix", ["", "/nodes/storj-1", "/nodes/storj-1/"])
def test_a_path_is_added_to_the_base_address_and_its_prefix(prefix):
    script = Script({f"{prefix.rstrip('/')}/api/sno/": {"ok": True}})
    assert client(script, f"http://127.0.0.1:9999{prefix}").get_json("/api/sno/", {"id": "a b"}) == {"ok": True}
    assert dict(script.requests[0].url.params) == {"id": "a b"}


def test_an_address_with_a_path_of_its_own_is_posted_to_as_it_is():
    script = Script({"/api/key/subgraphs/id/X": {"data": 1}})
    assert client(script, "http://127.0.0.1:9999/api/key/subgraphs/id/X").post_json("", {"query": "q"}) == {"data": 1}


@pytest.mark.parametrize("url", ["127.0.0.1:80", "ftp://h/", "http://user:pw@h/", "http://", "http://h:port/"])
def test_an_address_that_is_none_is_a_settings_error_that_does_not_repeat_it(url):
    with pytest.raises(SettingsError, match="storj-1") as error:
        client(None, url)
    assert "pw" not in str(error.value)


@pytest.mark.parametrize(
    ("answer", "kind", "told"),
    [
        (httpx.Response(401, text="Missing application key"), AuthenticationError, "Missing application key"),
        (httpx.Response(403, text="Forbidden"), AuthenticationError, "Forbidden"),
        (httpx.Response(404, json={"error": "trust: satellite is untrusted"}), ApiError, "satellite is untrusted"),
        (httpx.Response(500, json={"error": {"message": "boom"}}), ApiError, "boom"),
        (
            httpx.Response(500, json={"detail": "no gas", "problems": ["Insufficient gas"]}),
            ApiError,
            "Insufficient gas",
        ),
        (httpx.Response(429, html="<h1>slow down</h1>", headers={"retry-after": "9"}), ApiError, "asks to wait 9 s"),
        (httpx.Response(200, html="<html></html>"), ParseError, "expected JSON, got text/html"),
        (httpx.Response(200, json=None, content=b'{"a": '), ParseError, "broken JSON"),
        (httpx.Response(200, content=b'{"a": NaN}'), ParseError, "broken JSON"),
        (httpx.Response(200, content=b'{"a": 1e9999999999999999999999}'), ParseError, "broken JSON"),
        (httpx.Response(200, content=b"[" * 100_000), ParseError, "broken JSON"),
        (httpx.Response(200, content=b"1" * 5000), ParseError, "broken JSON"),
        (httpx.Response(200, content=b"\xff\xfe\xfd"), ParseError, "broken JSON"),
        (httpx.Response(200, content=b"x" * 16_000_001), ParseError, "over 16 MB"),
        (httpx.Response(302, headers={"location": "http://evil.example/"}), ApiError, "another address"),
        (httpx.Response(302, headers={"location": "/a"}), ApiError, "in a circle"),
    ],
)
def test_each_bad_answer_is_its_own_kind_of_error(answer, kind, told):
    with pytest.raises(kind, match=told):
        client(Script({"/a": answer})).get_json("/a")


def test_a_redirect_within_the_same_origin_is_followed():
    script = Script({"/api/sno": httpx.Response(301, headers={"location": "/api/sno/"}), "/api/sno/": [1]})
    assert client(script).get_json("/api/sno") == [1]


@pytest.mark.parametrize("status", [429, 502, 503, 504])
def test_a_get_is_tried_again_when_the_server_is_busy(status):
    answers = iter([httpx.Response(status), httpx.Response(status, headers={"retry-after": "1"})])
    script = Script({"/a": lambda _request: next(answers, {"fine": 1})})
    assert client(script).get_json("/a") == {"fine": 1}
    assert len(script.requests) == 3


@pytest.mark.parametrize(("status", "after"), [(429, "600"), (429, "31"), (500, "0"), (404, "0"), (401, "0")])
def test_what_would_not_help_or_takes_too_long_is_not_tried_again(status, after):
    script = Script({"/a": httpx.Response(status, headers={"retry-after": after})})
    with pytest.raises(AdapterError):
        client(script, timeout_seconds=100.0).get_json("/a")
    assert len(script.requests) == 1


def test_a_post_is_sent_once():
    script = Script({"/a": httpx.Response(503)})
    with pytest.raises(HttpStatusError):
        client(script).post_json("/a", {})
    assert len(script.requests) == 1


def test_a_refused_connection_is_tried_three_times_and_named():
    def refuse(request: httpx.Request):
        raise httpx.ConnectError("[Errno 111] Connection refused", request=request)

    script = Script({"/a": refuse})
    with pytest.raises(NodeConnectionError, match="Connection refused; is the node running"):
        client(script).get_json("/a")
    assert len(script.requests) == 3


class _Drip(httpx.SyncByteStream):
    def __init__(self, clock: list[float]) -> None:
        self.clock = clock

    def __iter__(self) -> Iterator[bytes]:
        while True:
            self.clock[0] += 1.0
            yield b" "


def test_a_body_that_drips_is_cut_at_the_time_budget(monkeypatch):
    clock = [0.0]
    monkeypatch.setattr(http, "monotonic", lambda: clock[0])
    script = httpx.MockTransport(lambda _request: httpx.Response(200, stream=_Drip(clock)))
    with pytest.raises(NodeConnectionError, match="within the time budget"):
        client(script).get_json("/a")
    assert clock[0] == 5.0


def test_an_outer_budget_that_is_spent_ends_a_call_before_it_is_made():
    script = Script({"/a": 1})
    with time_budget(0.0), pytest.raises(NodeConnectionError, match="within the time budget"):
        client(script).get_json("/a")
    assert script.requests == []


def test_headers_that_drip_over_a_real_socket_are_cut_at_the_time_budget():
    """Each byte comes well within any read timeout, so only a bound on the whole call ends it."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        stop = threading.Event()

        def drip() -> None:
            connection, _ = server.accept()
            with connection:
                connection.sendall(b"HTTP/1.1 200 OK\r\nX-Slow: ")
                while not stop.wait(0.02):
                    try:
                        connection.sendall(b"a")
                    except OSError:
                        return

        thread = threading.Thread(target=drip)
        thread.start()
        node = client(None, f"http://127.0.0.1:{server.getsockname()[1]}", timeout_seconds=0.3)
        try:
            with pytest.raises(NodeConnectionError, match="within the time budget"):
                node.get_json("/a")
        finally:
            stop.set()
            node.close()
            thread.join()


@pytest.mark.parametrize(
    "answer",
    [
        httpx.Response(401, text=f"invalid key {SECRET}"),
        httpx.Response(500, json={"error": f"bearer {SECRET} is broken"}),
        httpx.Response(400, text="cannot POST /api/0123456789abcdef0123456789abcdef/subgraphs"),
        httpx.Response(200, headers={"content-type": f"text/{SECRET}"}),
    ],
)
def test_no_error_repeats_a_secret_even_if_the_server_does(answer):
    url = "http://127.0.0.1:9999/api/0123456789abcdef0123456789abcdef/x"
    node = NodeHttp(
        "golem-1",
        url,
        timeout_seconds=5,
        headers={"Authorization": SecretStr(f"Bearer {SECRET}")},
        transport=Script({"/api/0123456789abcdef0123456789abcdef/x/me": answer}),
    )
    with pytest.raises(AdapterError) as error:
        node.get_json("/me")
    assert SECRET not in str(error.value)
    assert "0123456789abcdef" not in str(error.value)


def test_a_token_that_http_cannot_carry_is_a_settings_error_that_does_not_repeat_it():
    with pytest.raises(SettingsError) as error:
        client(None, headers={"Authorization": SecretStr("tok\nen-secret")})
    assert "secret" not in str(error.value)


def test_numbers_with_a_fraction_stay_as_written():
    script = Script({"/a": httpx.Response(200, content=b'{"a": 0.10000000000000000001}')})
    assert str(client(script).get_json("/a")["a"]) == "0.10000000000000000001"


def test_text_is_given_as_it_is_and_a_page_is_refused():
    assert client(Script({"/m": httpx.Response(200, text="up 1\n")})).get_text("/m") == "up 1\n"
    with pytest.raises(ParseError, match="expected text"):
        client(Script({"/m": httpx.Response(200, html="<p>")})).get_text("/m")
