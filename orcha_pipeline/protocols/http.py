"""The one HTTP layer of all adapters: time budgets, retries, circuit breaker, size limits, failures as `AdapterError`s.

Requests go straight to an `httpx` transport rather than through `httpx.Client`: the client logs whole addresses,
and an address may hold an API key; it would also follow the environment's proxies and keep cookies.
"""

import base64
import functools
import html
import json
import re
import ssl
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from email.utils import parsedate_to_datetime
from time import monotonic
from typing import Any, NoReturn, cast
from urllib.parse import quote, quote_plus

import httpcore
import httpx
import stamina
from pydantic import SecretStr

from orcha_pipeline.clock import Clock
from orcha_pipeline.errors import (
    AdapterError,
    ApiError,
    AuthenticationError,
    NodeConnectionError,
    ParseError,
    SettingsError,
)
from orcha_pipeline.protocols.circuit import Circuit, GivenUpError

MAX_BODY_BYTES = 16_000_000
MAX_REDIRECTS = 3
LONGEST_RETRY_AFTER = 30.0
"""Seconds. What a server asks for beyond this is not waited for."""
CONNECT_SECONDS = 2.0
"""For opening a connection, within the budget: one packet may get lost, an address that swallows all is given up."""
SHORTEST_SECRET = 6
LONG_PATH_SEGMENT = 20
"""A part of the configured address this long may be an API key, as in The Graph's gateway: it is not repeated."""
_REPEATABLE = frozenset({429, 502, 503, 504})
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_RETRIES = stamina.RetryingCaller(attempts=3, timeout=None, wait_initial=0.1, wait_max=1.0, wait_jitter=0.1)
_LONGEST_BACKOFF = 0.5
# Retries go to the log: stamina's own choice, where structlog is installed, is to print them to standard output.
stamina.instrumentation.set_on_retry_hooks([stamina.instrumentation.LoggingOnRetryHook])

_deadline: ContextVar[float | None] = ContextVar("deadline", default=None)


class _Reading:
    """One look at a node: what it has answered so far."""

    def __init__(self) -> None:
        self.answers: dict[tuple[Any, ...], Any] = {}


_reading: ContextVar[_Reading | None] = ContextVar("reading", default=None)
_patient: ContextVar[bool] = ContextVar("patient", default=False)


def remaining_seconds() -> float:
    """What is left of the innermost `time_budget`; infinite outside of any."""
    deadline = _deadline.get()
    return float("inf") if deadline is None else deadline - monotonic()


@contextmanager
def time_budget(seconds: float) -> Generator[None]:
    """All HTTP calls inside together take no longer than `seconds`, nor longer than an outer budget allows."""
    outer = _deadline.get()
    end = monotonic() + seconds
    token = _deadline.set(end if outer is None else min(outer, end))
    try:
        yield
    finally:
        _deadline.reset(token)


@contextmanager
def new_reading() -> Generator[None]:
    """Inside, a question is asked once: its answer holds for the block, which is one look at a node.

    A node that was given up before is asked once more, however short ago that was.
    """
    token = _reading.set(_Reading())
    try:
        yield
    finally:
        _reading.reset(token)


@contextmanager
def patient() -> Generator[None]:
    """Inside, failures are expected (the node restarts): no call is held back for them, and none is counted."""
    token = _patient.set(True)
    try:
        yield
    finally:
        _patient.reset(token)


class HttpStatusError(ApiError):
    """The node answered with an HTTP error status. `detail` is the node's own message, cleaned."""

    def __init__(self, node: str, message: str, *, status: int, detail: str, retry_after: float | None = None) -> None:
        super().__init__(node, message)
        self.status = status
        self.detail = detail
        self.retry_after = retry_after


class HttpAuthenticationError(AuthenticationError):
    """The node refused with 401 or 403. `detail` is its own message, cleaned; "an HTML page" where it sent one."""

    def __init__(self, node: str, message: str, *, status: int, detail: str) -> None:
        super().__init__(node, message)
        self.status = status
        self.detail = detail


HTML_PAGE = "an HTML page"
"""What stands for a body that is one."""


@dataclass(frozen=True, slots=True)
class _Answer:
    status: int
    headers: httpx.Headers
    content: bytes

    @property
    def content_type(self) -> str:
        return self.headers.get("content-type", "").split(";")[0].strip().lower()


class NodeHttp:
    """HTTP to one base address (which may have a path), for the node named in every error.

    Secret header values, and long parts of the address's own path, never appear in an error. GETs are tried up to
    three times on connection errors, 429, 502, 503 and 504, always inside the time budget; other methods once.

    After three attempts in a row that found no connection or no answer in time, or three GETs that ended with a 5xx,
    GETs fail at once for a while. What changes something is always sent: a rollback must not wait.
    """

    def __init__(
        self,
        node: str,
        base_url: str,
        *,
        timeout_seconds: float,
        headers: Mapping[str, str | SecretStr] | None = None,
        transport: httpx.BaseTransport | None = None,
        socket_path: str | None = None,
        attempts: int = 3,
    ) -> None:
        """`timeout_seconds` bounds each call, body and retries included. `socket_path`: speak over that unix socket.

        `attempts`: how often a GET is tried. Raises `SettingsError` for an address that is none.
        """
        self.node = node
        self._timeout = timeout_seconds
        try:
            self._base = httpx.URL(base_url)
        except httpx.InvalidURL:
            raise SettingsError(f"node {node!r}: the address is malformed; write it as http://HOST:PORT") from None
        if self._base.scheme not in ("http", "https") or not self._base.host or self._base.userinfo:
            raise SettingsError(
                f"node {node!r}: the address must read http://HOST:PORT or https://HOST, without a user or password"
            )
        given = dict(headers or {})
        self._headers = {"Accept": "application/json", "Accept-Encoding": "identity", "User-Agent": "orcha"} | {
            name: value.get_secret_value() if isinstance(value, SecretStr) else value for name, value in given.items()
        }
        if not all(value.isascii() and value.isprintable() for value in self._headers.values()):
            raise SettingsError(f"node {node!r}: the key or token holds characters that HTTP cannot carry")
        self._secrets = _secrets(self._base, (value for value in given.values() if isinstance(value, SecretStr)))
        self._transport = transport or _BoundedTransport(socket_path)
        self._attempts = attempts
        self._circuit = Circuit(node)
        self.dated: datetime | None = None
        """The server's own time at its last answer, to a second; None where it does not tell."""

    def get_json(self, path: str = "", params: Mapping[str, str | int] | None = None) -> Any:
        """The parsed answer of a GET; numbers with a fraction are `Decimal`, exactly as written.

        Asked once a `new_reading`: whoever asks again there gets the same value, and must not change it.
        """
        return self._once_a_reading(path, params, lambda: self._json(self._get(path, params), path))

    def get_text(self, path: str = "", params: Mapping[str, str | int] | None = None) -> str:
        """The body of a GET as text."""
        answer = self._get(path, params)
        if "html" in answer.content_type:
            raise self._not_what_was_asked(answer, path, "text")
        try:
            return answer.content.decode()
        except UnicodeDecodeError:
            raise ParseError(self.node, f"{self._shown(path)}: the text is not UTF-8") from None

    def post_json(
        self,
        path: str = "",
        body: Any = None,
        *,
        params: Mapping[str, str | int] | None = None,
        timeout_seconds: float | None = None,
        asks: bool = False,
    ) -> Any:
        """The parsed answer of a POST with a JSON body, None where the answer is empty (204). Never repeated.

        `asks`: it changes nothing, as a GraphQL query, and is asked once a `new_reading`.
        """

        def post() -> Any:
            with time_budget(timeout_seconds or self._timeout):
                answer = self._attempt("POST", path, params, body)
            return None if answer.status == 204 or not answer.content else self._json(answer, path)

        return self._once_a_reading(path, params, post, json.dumps(body)) if asks else post()

    def delete(
        self,
        path: str = "",
        params: Mapping[str, str | int] | None = None,
        *,
        timeout_seconds: float | None = None,
    ) -> None:
        """Delete what is at `path`. Never repeated."""
        with time_budget(timeout_seconds or self._timeout):
            self._once("DELETE", path, params, None)

    def close(self) -> None:
        """Close the connections."""
        self._transport.close()

    def _once_a_reading(
        self, path: str, params: Mapping[str, str | int] | None, ask: Callable[[], Any], body: str = ""
    ) -> Any:
        reading = _reading.get()
        if reading is None or _patient.get():
            return ask()
        question = (self, path, tuple(sorted((params or {}).items())), body)
        if question not in reading.answers:
            reading.answers[question] = ask()
        return reading.answers[question]

    def _get(self, path: str, params: Mapping[str, str | int] | None) -> _Answer:
        with time_budget(self._timeout):
            try:
                if self._attempts == 1:
                    return self._attempt("GET", path, params, None)
                return _RETRIES(_backoff, self._attempt, "GET", path, params, None)
            except HttpStatusError as error:
                # Counted once a call, not once an attempt: one endpoint that is busy says little of the others.
                if error.status >= 500 and not _patient.get():
                    self._circuit.failed(_reading.get(), f"HTTP {error.status}")
                raise

    def _attempt(self, method: str, path: str, params: Mapping[str, str | int] | None, body: Any) -> _Answer:
        """`_once`, as far as the circuit lets it."""
        reading, patiently = _reading.get(), _patient.get()
        if method == "GET" and not patiently:
            self._circuit.check(reading)
        try:
            answer = self._once(method, path, params, body)
        except _NotAskedError:
            raise
        except NodeConnectionError as error:
            if not patiently and self._circuit.failed(reading, error.message):
                raise GivenUpError(self.node, error.message) from None
            raise
        except AdapterError as error:
            if not isinstance(error, HttpStatusError) or error.status < 500:
                self._circuit.answered()
            raise
        self._circuit.answered()
        return answer

    def _once(self, method: str, path: str, params: Mapping[str, str | int] | None, body: Any) -> _Answer:
        # Joined by hand: `URL.join` would drop the base address's own path.
        joined = f"{self._base.path.rstrip('/')}/{path.lstrip('/')}" if path else self._base.path
        try:
            url = self._base.copy_with(path=joined)
            url = url.copy_merge_params(dict(params)) if params else url
        except httpx.InvalidURL:
            raise ParseError(self.node, "an id that the node gave cannot be part of an address") from None
        for _ in range(MAX_REDIRECTS + 1):
            answer = self._exchange(method, url, path, body)
            if answer.status not in _REDIRECTS:
                return self._checked(answer, path)
            url = self._redirected(method, url, answer, path)
        raise ApiError(self.node, f"{self._shown(path)}: redirects in a circle")

    def _exchange(self, method: str, url: httpx.URL, path: str, body: Any) -> _Answer:
        left = remaining_seconds()
        if left <= 0:
            raise _NotAskedError(self.node, f"{self._shown(path)}: not asked, nothing is left of the time budget")
        timeouts = dict.fromkeys(("read", "write", "pool"), left) | {"connect": min(left, CONNECT_SECONDS)}
        request = httpx.Request(method, url, headers=self._headers, json=body, extensions={"timeout": timeouts})
        try:
            response = self._transport.handle_request(request)
            # A cache's answer is of another moment.
            self.dated = None if "age" in response.headers else _http_date(response.headers.get("date", ""))
            try:
                return _Answer(response.status_code, response.headers, self._body(response, path))
            finally:
                response.close()
        except httpx.ConnectTimeout:
            raise NodeConnectionError(
                self.node, f"{self._shown(path)}: no connection in time; is the node running?"
            ) from None
        except httpx.TimeoutException:
            raise self._too_slow(path) from None
        except httpx.DecodingError:
            raise ParseError(self.node, f"{self._shown(path)}: the body's compression is broken") from None
        except httpx.TransportError as error:
            told = self.cleaned(str(error)).rstrip(".") or type(error).__name__
            raise NodeConnectionError(self.node, f"{self._shown(path)}: {told}; is the node running?") from None

    def _body(self, response: httpx.Response, path: str) -> bytes:
        chunks: list[bytes] = []
        size = 0
        for chunk in response.iter_bytes():
            size += len(chunk)
            if size > MAX_BODY_BYTES:
                raise ParseError(self.node, f"{self._shown(path)}: the body is over {MAX_BODY_BYTES // 10**6} MB")
            if remaining_seconds() <= 0:
                raise self._too_slow(path)
            chunks.append(chunk)
        return b"".join(chunks)

    def _redirected(self, method: str, url: httpx.URL, answer: _Answer, path: str) -> httpx.URL:
        try:
            target = url.join(answer.headers.get("location", ""))
        except httpx.InvalidURL:
            raise ApiError(self.node, f"{self._shown(path)}: redirects to nowhere") from None
        origins = [(u.scheme, u.host, u.port) for u in (url, target)]
        if method != "GET" or origins[0] != origins[1]:
            # Another origin must never see the key.
            raise ApiError(self.node, f"{self._shown(path)}: redirects to another address; set the node's final url")
        return target

    def _checked(self, answer: _Answer, path: str) -> _Answer:
        if 200 <= answer.status < 300:
            return answer
        detail = self.cleaned(_detail(answer))
        told = f"{self._shown(path)}: HTTP {answer.status}" + (f": {detail}" if detail else "")
        if answer.status in (401, 403):
            remedy = "set a valid key or token (token_env)"
            raise HttpAuthenticationError(self.node, f"{told}; {remedy}", status=answer.status, detail=detail)
        retry_after = _retry_after(answer.headers) if answer.status in _REPEATABLE else None
        if answer.status == 429:
            told += "; too many requests" + (f", asks to wait {retry_after:g} s" if retry_after else "")
        raise HttpStatusError(self.node, told, status=answer.status, detail=detail, retry_after=retry_after)

    def _json(self, answer: _Answer, path: str) -> Any:
        if answer.content_type and "json" not in answer.content_type:
            raise self._not_what_was_asked(answer, path, "JSON")
        try:
            parsed: Any = json.loads(answer.content, parse_float=Decimal, parse_constant=_refuse_constant)
            if rb"\u" in answer.content:
                # Half a surrogate pair parses, but could be neither stored nor printed nor sent.
                json.dumps(parsed, ensure_ascii=False, default=str).encode()
            return parsed
        except (ValueError, ArithmeticError, RecursionError):
            raise ParseError(self.node, f"{self._shown(path)}: broken JSON ({len(answer.content)} bytes)") from None

    def _not_what_was_asked(self, answer: _Answer, path: str, expected: str) -> ParseError:
        kind = self.cleaned(answer.content_type)
        return ParseError(
            self.node, f"{self._shown(path)}: expected {expected}, got {kind}; is this the address of the API?"
        )

    def _too_slow(self, path: str) -> NodeConnectionError:
        return NodeConnectionError(self.node, f"{self._shown(path)}: no complete answer within the time budget")

    def _shown(self, path: str) -> str:
        """The address without what may be secret in it: the base's own path and the query."""
        port = f":{self._base.port}" if self._base.port else ""
        return self.cleaned(f"{self._base.scheme}://{self._base.host}{port} {path.split('?', maxsplit=1)[0]}".strip())

    def cleaned(self, text: str) -> str:
        """`text` of the node's own, fit for a message: no secret, no control character, 300 characters."""
        for secret in self._secrets:
            text = text.replace(secret, "***")
        printable = "".join(c if c.isprintable() else " " for c in text)
        return " ".join(printable.split())[:300]


def seconds_ahead(dated: datetime | None, clock: Clock) -> float | None:
    """How far a server is ahead of `clock` that has just answered at `dated`, by its own time."""
    return None if dated is None else float(round((dated - clock.now()).total_seconds()))


def _secrets(base: httpx.URL, values: Iterable[SecretStr]) -> tuple[str, ...]:
    found = {part for part in base.path.split("/") if len(part) >= LONG_PATH_SEGMENT}
    found |= {value for _, value in base.params.multi_items()}
    for value in values:
        found |= {value.get_secret_value(), *value.get_secret_value().split()}
    spellings = {s for secret in found if len(secret) >= SHORTEST_SECRET for s in _spellings(secret)}
    # Longest first, so that a part of a secret does not spoil the match of the whole.
    return tuple(sorted((s for s in spellings if len(s) >= SHORTEST_SECRET), key=len, reverse=True))


def _spellings(secret: str) -> Iterator[str]:
    """A secret as it was given, and as a server may repeat it: in an address, in HTML, in JSON, in Base64."""
    yield secret
    for quoted in (quote(secret), quote(secret, safe=""), quote_plus(secret)):
        yield quoted
        yield re.sub(r"%[0-9A-F]{2}", lambda code: code[0].lower(), quoted)
    yield html.escape(secret)
    yield json.dumps(secret)[1:-1]
    yield json.dumps(secret)[1:-1].replace("/", r"\/")
    for offset in range(3):
        # Base64 of a text that holds the secret `offset` bytes after a multiple of three: without the characters at
        # either end that depend on what stands beside it.
        padded = bytes(offset) + secret.encode()
        whole = padded[: len(padded) // 3 * 3]
        first = 0 if offset == 0 else 4
        yield base64.b64encode(whole).decode()[first:]
        yield base64.urlsafe_b64encode(whole).decode()[first:]


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a JSON number")


class _NotAskedError(NodeConnectionError):
    """The time budget was spent before the call, which tells nothing of the node."""


def _retry_after(headers: httpx.Headers) -> float | None:
    """Seconds to wait, from a number or an HTTP date; a date is held against the server's own clock."""
    given = headers.get("retry-after", "").strip()
    if re.fullmatch(r"[0-9]{1,6}", given):
        return float(given)
    at = _http_date(given)
    if at is None:
        return None
    return max(0.0, (at - (_http_date(headers.get("date", "")) or datetime.now(UTC))).total_seconds())


def _http_date(text: str) -> datetime | None:
    try:
        moment = parsedate_to_datetime(text)
    except ValueError:
        return None
    return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment


def _backoff(error: Exception) -> bool | float:
    """Whether to try again inside what is left of the budget, and after how many seconds if the server says so."""
    left = remaining_seconds()
    if isinstance(error, GivenUpError):
        return False
    if isinstance(error, NodeConnectionError):
        return left > _LONGEST_BACKOFF
    if not isinstance(error, HttpStatusError) or error.status not in _REPEATABLE:
        return False
    if error.retry_after is None:
        return left > _LONGEST_BACKOFF
    return error.retry_after if error.retry_after < min(left, LONGEST_RETRY_AFTER) else False


def _detail(answer: _Answer) -> str:
    """The message inside an error's body, in the shapes that the protocols use; empty when there is none."""
    if "html" in answer.content_type:
        return HTML_PAGE
    # The whole body: a secret across a cut would not be known for one.
    text = answer.content.decode(errors="replace")
    try:
        body: Any = json.loads(text)
    except (ValueError, RecursionError):
        return text
    if not isinstance(body, dict):
        return ""
    fields = cast("dict[str, Any]", body)
    error: Any = fields.get("error")
    nested: Any = cast("dict[str, Any]", error).get("message") if isinstance(error, dict) else error
    parts = [part for part in (fields.get("message"), nested, fields.get("detail")) if isinstance(part, str)]
    problems: Any = fields.get("problems")
    if isinstance(problems, list):
        parts += [problem for problem in cast("list[Any]", problems) if isinstance(problem, str)]
    if not parts:  # yagna's health check says no more than where it failed
        parts = [part for part in (fields.get("type"), fields.get("step")) if isinstance(part, str)]
    return "; ".join(parts)


@functools.cache
def _ssl_context() -> ssl.SSLContext:
    """One for the process: loading the certificates takes longer than most requests."""
    return httpx.create_ssl_context()


class _BoundedStream(httpcore.NetworkStream):
    """A connection whose every read and write ends with the time budget, so that not even a drip outlasts it."""

    def __init__(self, stream: httpcore.NetworkStream) -> None:
        self._stream = stream

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        left = remaining_seconds()
        if left <= 0:
            raise httpcore.ReadTimeout
        return self._stream.read(max_bytes, left if timeout is None else min(left, timeout))

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        left = remaining_seconds()
        if left <= 0:
            raise httpcore.WriteTimeout
        self._stream.write(buffer, left if timeout is None else min(left, timeout))

    def close(self) -> None:
        self._stream.close()

    def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore.NetworkStream:
        return _BoundedStream(self._stream.start_tls(ssl_context, server_hostname, timeout))

    def get_extra_info(self, info: str) -> Any:
        return self._stream.get_extra_info(info)


class _BoundedBackend(httpcore.SyncBackend):
    """Opens connections bounded by the time budget."""

    def connect_tcp(self, *args: Any, **kwargs: Any) -> httpcore.NetworkStream:
        return _BoundedStream(super().connect_tcp(*args, **kwargs))

    def connect_unix_socket(self, *args: Any, **kwargs: Any) -> httpcore.NetworkStream:
        return _BoundedStream(super().connect_unix_socket(*args, **kwargs))


class _BoundedTransport(httpx.HTTPTransport):
    """httpx's own transport on connections bounded by the time budget; ignores the environment's proxies."""

    def __init__(self, socket_path: str | None) -> None:
        super().__init__(verify=_ssl_context(), trust_env=False)
        # httpx offers no way to hand its pool a network backend.
        self._pool = httpcore.ConnectionPool(
            ssl_context=_ssl_context(), uds=socket_path, network_backend=_BoundedBackend(), keepalive_expiry=5.0
        )
