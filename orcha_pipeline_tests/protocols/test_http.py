import re
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta

import httpx
import pytest
from pydantic import SecretStr

from orcha_pipeline.clock import FixedClock
from orcha_pipeline.errors import (
    AdapterError,
    ApiError,
    AuthenticationError,
    NodeConnectionError,
    ParseError,
    SettingsError,
)
from orcha_pipeline.protocols import circuit, http
from orcha_pipeline.protocols.http import HttpStatusError, NodeHttp, new_reading, patient, seconds_ahead, time_budget
from orcha_pipeline.protocols.levers import wait_for
from orcha_pipeline_tests.protocols.fakes import NOW, SECRET, Script, no_waiting


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


def test_a_sentence_of_the_library_joins_ours():
    def hang_up(request: httpx.Request):
        raise httpx.RemoteProtocolError("Server disconnected without sending a response.", request=request)

    with pytest.raises(NodeConnectionError, match="sending a response; is the node running"):
        client(Script({"/a": hang_up})).get_json("/a")


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
    with time_budget(0.0), pytest.raises(NodeConnectionError, match="not asked, nothing is left of the time budget"):
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


# --- connections


@contextmanager
def served(*scripts: Callable[[socket.socket], None]) -> Iterator[tuple[str, list[int]]]:
    """A server on loopback that lets each connection be played by the next script; how many were opened."""
    opened: list[int] = []
    with socket.create_server(("127.0.0.1", 0)) as server:

        def play() -> None:
            for script in scripts:
                connection, _ = server.accept()
                opened.append(1)
                with connection:
                    script(connection)

        thread = threading.Thread(target=play)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.getsockname()[1]}", opened
        finally:
            thread.join()


def is_whole(request: bytes) -> bool:
    """Whether head and body have arrived: they may come in one piece or in two."""
    head, end, body = request.partition(b"\r\n\r\n")
    length = re.search(rb"content-length: (\d+)", head.lower())
    return bool(end) and len(body) >= (int(length[1]) if length else 0)


def answer(connection: socket.socket, body: bytes = b"1") -> bool:
    """Answer one request; False where there is none."""
    request = b""
    while not is_whole(request):
        received = connection.recv(65536)
        if not received:
            return False
        request += received
    head = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(body)
    connection.sendall(head + body)
    return True


def keep_answering(connection: socket.socket) -> None:
    while answer(connection):
        pass


def test_many_calls_share_one_connection():
    with served(keep_answering) as (url, opened):
        node = client(None, url)
        assert [node.get_json(f"/{i}") for i in range(20)] == [1] * 20
        assert node.post_json("/a", {}) == 1
        node.close()
    assert len(opened) == 1


def reset_mid_body(connection: socket.socket) -> None:
    connection.recv(65536)
    connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 100\r\n\r\n[1, ")
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # closing sends a reset


def cut_mid_body(connection: socket.socket) -> None:
    connection.recv(65536)
    connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 100\r\n\r\n[1, ")


@pytest.mark.parametrize("broken", [reset_mid_body, cut_mid_body])
def test_a_body_that_breaks_off_is_asked_for_again(broken):
    with served(broken, broken, keep_answering) as (url, opened):
        node = client(None, url)
        assert node.get_json("/a") == 1
        node.close()
    assert len(opened) == 3


@pytest.mark.parametrize("broken", [reset_mid_body, cut_mid_body])
def test_a_body_that_always_breaks_off_is_a_connection_error(broken):
    with served(broken, broken, broken) as (url, _):
        node = client(None, url)
        with pytest.raises(NodeConnectionError, match="is the node running"):
            node.get_json("/a")
        node.close()


# --- Retry-After


@pytest.mark.parametrize(
    ("headers", "told"),
    [
        ({"retry-after": "Fri, 20 Nov 2026 11:00:09 GMT", "date": "Fri, 20 Nov 2026 11:00:00 GMT"}, "wait 9 s"),
        ({"retry-after": "Fri, 20 Nov 2026 12:00:40 GMT"}, "wait 40 s"),
        ({"retry-after": "Fri, 20 Nov 2026 11:00:00 GMT"}, "too many requests$"),
        ({"retry-after": "soon"}, "too many requests$"),
        ({"retry-after": "-1"}, "too many requests$"),
        ({"retry-after": "99999999"}, "too many requests$"),
    ],
)
def test_the_wait_asked_for_may_be_a_date_by_the_servers_own_clock(headers, told, monkeypatch):
    class Now(datetime):
        @classmethod
        def now(cls, tz=None):
            return cls(2026, 11, 20, 12, 0, tzinfo=UTC)

    monkeypatch.setattr(http, "datetime", Now)
    with pytest.raises(HttpStatusError, match=told):
        client(Script({"/a": httpx.Response(429, headers=headers)})).post_json("/a", {})


def test_no_connection_is_waited_for_longer_than_for_a_lost_packet():
    asked: list[float] = []
    script = Script({"/a": lambda request: asked.append(request.extensions["timeout"]["connect"]) or 1})
    client(script, timeout_seconds=60.0).get_json("/a")
    with time_budget(0.5):
        client(script, timeout_seconds=60.0).get_json("/a")
    assert asked[0] == http.CONNECT_SECONDS
    assert 0 < asked[1] <= 0.5


# --- the circuit


class Sick:
    """A node whose calls end with what `ends` says: "refused", "slow", a status, or an answer."""

    def __init__(self, monkeypatch) -> None:
        self.clock = [0.0]
        monkeypatch.setattr(circuit, "monotonic", lambda: self.clock[0])
        self.ends: str | int = "refused"
        self.script = Script({"/a": self._answer, "/b": self._answer})
        self.http = client(self.script)

    def _answer(self, request: httpx.Request):
        if self.ends == "refused":
            raise httpx.ConnectError("Connection refused", request=request)
        if self.ends == "slow":
            raise httpx.ReadTimeout("", request=request)
        return httpx.Response(self.ends) if isinstance(self.ends, int) else self.ends

    def ask(self, path: str = "/a") -> int:
        """How many requests one GET took; the error, if any, is looked at by the caller's `last`."""
        before = len(self.script.requests)
        self.last: AdapterError | None = None
        try:
            self.http.get_json(path)
        except AdapterError as error:
            self.last = error
        return len(self.script.requests) - before


@pytest.fixture
def sick(monkeypatch) -> Sick:
    return Sick(monkeypatch)


@pytest.mark.parametrize("ends", ["refused", "slow"])
def test_a_node_that_does_not_answer_is_given_up_after_three_attempts(sick, ends):
    sick.ends = ends
    assert sick.ask() == 3
    first = sick.last
    assert sick.ask("/b") == 0
    assert isinstance(sick.last, NodeConnectionError)
    assert "not asked again for 15 s" in sick.last.message
    assert first is not None
    assert first.message in sick.last.message


def test_after_a_while_one_attempt_shows_whether_the_node_is_back(sick):
    sick.ask()
    sick.clock[0] = 14.9
    assert sick.ask() == 0
    sick.clock[0] = 15.0
    assert sick.ask() == 1, "a node that is still away costs one attempt, not three"
    assert sick.ask() == 0
    sick.clock[0] = 30.0
    sick.ends = "fine"
    assert sick.ask() == 1
    assert sick.last is None
    sick.ends = "refused"
    assert sick.ask() == 3, "a node that came back has its three attempts again"


def test_a_node_that_was_given_up_is_not_waited_for_between_attempts(sick, monkeypatch):
    sick.ask()
    checked = []
    check = circuit.Circuit.check
    monkeypatch.setattr(circuit.Circuit, "check", lambda *given: checked.append(1) or check(*given))
    assert sick.ask() == 0
    assert len(checked) == 1


def test_a_new_reading_asks_once_more_however_short_ago_the_node_was_given_up(sick):
    with new_reading():
        assert [sick.ask(), sick.ask()] == [3, 0]
    with new_reading():
        assert [sick.ask(), sick.ask()] == [1, 0]
    with new_reading():
        sick.ends = "fine"
        assert [sick.ask(), sick.ask()] == [1, 0], "what was answered holds for the reading"
    assert [sick.ask(), sick.ask()] == [1, 1]


def test_a_reading_asks_a_question_once_and_another_one_for_itself():
    script = Script({"/a": lambda request: {"at": len(script.requests)}, "/graph": lambda _request: {"data": 1}})
    node, other = client(script), client(script)
    with new_reading():
        first = [node.get_json("/a"), node.get_json("/a"), node.get_json("/a", {"page": 2}), other.get_json("/a")]
        for query in ("{a}", "{a}", "{b}"):
            node.post_json("/graph", {"query": query}, asks=True)
        node.post_json("/a", {})
        with patient():
            assert node.get_json("/a") == {"at": 7}, "who waits for a change must see it"
    with new_reading():
        assert node.get_json("/a") == {"at": 8}
    assert [answer["at"] for answer in first] == [1, 1, 2, 3]
    assert [request.url.path for request in script.requests] == ["/a"] * 3 + ["/graph"] * 2 + ["/a"] * 3


def test_an_answer_in_between_starts_the_count_anew(sick):
    node = client(sick.script)
    for _ in range(4):
        for ends in ("refused", "refused", "fine"):
            sick.ends = ends
            try:
                node.post_json("/a", {})
            except NodeConnectionError:
                assert ends == "refused"
    sick.ends = "refused"
    before = len(sick.script.requests)
    with pytest.raises(NodeConnectionError):
        node.get_json("/a")
    assert len(sick.script.requests) - before == 3


def test_a_busy_endpoint_counts_once_a_call_so_that_it_does_not_shut_off_the_others(sick):
    sick.ends = 503
    assert [sick.ask("/a"), sick.ask("/a")] == [3, 3]
    sick.ends = "fine"
    assert sick.ask("/b") == 1
    sick.ends = 503
    assert [sick.ask("/a"), sick.ask("/a"), sick.ask("/a"), sick.ask("/a")] == [3, 3, 3, 0]
    assert sick.last is not None
    assert "HTTP 503" in sick.last.message


@pytest.mark.parametrize("ends", [400, 401, 404, 409, 429])
def test_a_node_that_refuses_is_there_and_is_asked_on(sick, ends):
    sick.ends = ends
    for _ in range(5):
        assert sick.ask() > 0
    assert not isinstance(sick.last, NodeConnectionError)


def test_a_change_is_sent_even_to_a_node_that_was_given_up(sick):
    sick.ask()
    before = len(sick.script.requests)
    with pytest.raises(NodeConnectionError, match="refused"):
        sick.http.post_json("/a", {})
    assert len(sick.script.requests) == before + 1
    sick.ends = "fine"
    assert sick.http.post_json("/a", {}) == "fine"
    assert sick.ask() == 1, "what was answered shows that the node is back"


def test_who_waits_for_a_restart_is_never_held_back_and_counts_nothing(sick, monkeypatch):
    no_waiting(monkeypatch)
    asked = []

    def back_at_the_fifth_look():
        asked.append(sick.ask())
        if len(asked) == 4:
            sick.ends = "fine"
        if sick.last:
            raise sick.last
        return "up"

    sick.ask()
    assert wait_for(back_at_the_fifth_look, seconds=30) == "up"
    assert asked == [3, 3, 3, 3, 1]
    assert sick.ask() == 1, "the circuit was closed by the answer"
    sick.ends = "refused"
    with patient():
        assert [sick.ask(), sick.ask()] == [3, 3]
    assert sick.ask() == 3, "failures that were expected are not counted"


def test_a_budget_that_others_have_spent_says_nothing_of_the_node(sick):
    sick.ends = "fine"
    with time_budget(0.0):
        assert [sick.ask() for _ in range(5)] == [0] * 5
    assert sick.ask() == 1


def test_many_threads_give_a_node_up_together_and_none_waits_for_another(sick):
    hanging, release = threading.Event(), threading.Event()

    def hang(request: httpx.Request):
        hanging.set()
        release.wait()
        return {"late": 1}

    sick.script.routes["/hang"] = hang
    slow = threading.Thread(target=lambda: sick.http.get_json("/hang"))
    slow.start()
    hanging.wait()
    try:
        threads = [threading.Thread(target=sick.ask) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sick.ask() == 0
    finally:
        release.set()
        slow.join()
    assert sick.ask() == 3, "the late answer has closed the circuit"


def test_the_reason_of_a_node_given_up_holds_no_secret(monkeypatch):
    sick = Sick(monkeypatch)

    def told(request: httpx.Request):
        raise httpx.ConnectError(f"proxy {SECRET} refused", request=request)

    sick.script.routes["/a"] = told
    sick.http = client(sick.script, headers={"Authorization": SecretStr(SECRET)})
    sick.ask()
    sick.ask()
    assert sick.last is not None
    assert "not asked again" in sick.last.message
    assert SECRET not in str(sick.last)


# --- the server's clock


def dated(**headers):
    return Script({"/x": httpx.Response(200, json={}, headers={"date": "Fri, 20 Nov 2026 12:01:30 GMT", **headers})})


def test_the_date_of_an_answer_tells_how_far_the_servers_clock_is_ahead():
    node = client(dated())
    assert seconds_ahead(node.dated, FixedClock(NOW)) is None
    node.get_json("/x")
    assert seconds_ahead(node.dated, FixedClock(NOW)) == 90.0
    assert seconds_ahead(node.dated, FixedClock(NOW + timedelta(hours=2))) == -7110.0


@pytest.mark.parametrize("headers", [{"age": "30"}, {"date": "yesterday"}, {"date": ""}])
def test_a_cached_or_undated_answer_tells_nothing_of_the_clock(headers):
    node = client(dated(**headers))
    node.get_json("/x")
    assert node.dated is None
