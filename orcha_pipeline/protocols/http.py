"""The one HTTP layer of all adapters: time budgets, retries, size limits, and failures as `AdapterError`s.

Requests go straight to an `httpx` transport rather than through `httpx.Client`: the client logs whole addresses,
and an address may hold an API key; it would also follow the environment's proxies and keep cookies.
"""

import functools
import json
import re
import ssl
from collections.abc import Generator, Iterable, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from decimal import Decimal
from time import monotonic
from typing import Any, NoReturn, cast

import httpcore
import httpx
import stamina
from pydantic import SecretStr

from orcha_pipeline.errors import ApiError, AuthenticationError, NodeConnectionError, ParseError, SettingsError

MAX_BODY_BYTES = 16_000_000
MAX_REDIRECTS = 3
LONGEST_RETRY_AFTER = 30.0
"""Seconds. What a server asks for beyond this is not waited for."""
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


class HttpStatusError(ApiError):
    """The node answered with an HTTP error status. `detail` is the node's own message, cleaned."""

    def __init__(self, node: str, message: str, *, status: int, detail: str, retry_after: float | None = None) -> None:
        super().__init__(node, message)
        self.status = status
        self.detail = detail
        self.retry_after = retry_after


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
    ) -> None:
        """`timeout_seconds` bounds each call, body and retries included. `socket_path`: speak over that unix socket.

        Raises `SettingsError` for an address that is none.
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

    def get_json(self, path: str = "", params: Mapping[str, str | int] | None = None) -> Any:
        """The parsed answer of a GET; numbers with a fraction are `Decimal`, exactly as written."""
        return self._json(self._get(path, params), path)

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
    ) -> Any:
        """The parsed answer of a POST with a JSON body, None where the answer is empty (204). Never repeated."""
        with time_budget(timeout_seconds or self._timeout):
            answer = self._once("POST", path, params, body)
        return None if answer.status == 204 or not answer.content else self._json(answer, path)

    def close(self) -> None:
        """Close the connections."""
        self._transport.close()

    def _get(self, path: str, params: Mapping[str, str | int] | None) -> _Answer:
        with time_budget(self._timeout):
            return _RETRIES(_backoff, self._once, "GET", path, params, None)

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
            raise self._too_slow(path)
        request = httpx.Request(
            method,
            url,
            headers=self._headers,
            json=body,
            extensions={"timeout": dict.fromkeys(("connect", "read", "write", "pool"), left)},
        )
        try:
            response = self._transport.handle_request(request)
            try:
                return _Answer(response.status_code, response.headers, self._body(response, path))
            finally:
                response.close()
        except httpx.TimeoutException:
            raise self._too_slow(path) from None
        except httpx.DecodingError:
            raise ParseError(self.node, f"{self._shown(path)}: the body's compression is broken") from None
        except httpx.TransportError as error:
            told = self.cleaned(str(error)) or type(error).__name__
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
            raise AuthenticationError(self.node, f"{told}; set a valid key or token (token_env)")
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


def _secrets(base: httpx.URL, values: Iterable[SecretStr]) -> tuple[str, ...]:
    found = {part for part in base.path.split("/") if len(part) >= LONG_PATH_SEGMENT}
    found |= {value for _, value in base.params.multi_items()}
    for value in values:
        found |= {value.get_secret_value(), *value.get_secret_value().split()}
    # Longest first, so that a part of a secret does not spoil the match of the whole.
    return tuple(sorted((s for s in found if len(s) >= SHORTEST_SECRET), key=len, reverse=True))


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a JSON number")


def _retry_after(headers: httpx.Headers) -> float | None:
    given = headers.get("retry-after", "")
    return float(given) if re.fullmatch(r"[0-9]{1,6}", given) else None


def _backoff(error: Exception) -> bool | float:
    """Whether to try again inside what is left of the budget, and after how many seconds if the server says so."""
    left = remaining_seconds()
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
        return "an HTML page"
    text = answer.content[:4096].decode(errors="replace")
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
