"""Small helpers the emulators share: JSON answers, times and amounts as the real services write them."""

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from starlette.requests import Request
from starlette.responses import Response


def json_answer(
    content: Any, status: int = 200, *, end: str = "", headers: Mapping[str, str] | None = None
) -> Response:
    """`content` as compact JSON; `end` is what the service's encoder puts after it."""
    body = json.dumps(content, separators=(",", ":")) + end
    return Response(body, status, dict(headers) if headers else None, media_type="application/json")


def text_answer(content: str, status: int = 200, *, media_type: str = "text/plain") -> Response:
    """Plain text, or the media type given."""
    return Response(content, status, media_type=media_type)


def rfc3339(at: int) -> str:
    """Unix seconds as `2026-11-20T11:49:28Z`."""
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def rfc3339_millis(at: float) -> str:
    """Unix seconds as `2026-11-20T11:49:28.000Z`."""
    return datetime.fromtimestamp(at, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def month_start(year: int, month: int) -> int:
    """Unix seconds of a month's first moment; months beyond 1..12 count on into other years."""
    years, month0 = divmod(month - 1, 12)
    return int(datetime(year + years, month0 + 1, 1, tzinfo=UTC).timestamp())


def parse_time(text: str) -> float:
    """Unix seconds of an ISO 8601 time; `ValueError` where it is none or has no zone."""
    # A plus sign that was not percent-encoded arrives as a blank.
    moment = datetime.fromisoformat(text.replace(" ", "+"))
    if moment.tzinfo is None:
        raise ValueError(f"{text} has no zone")
    return moment.timestamp()


def query_int(request: Request, name: str) -> int | None:
    """A query parameter as a number; None where it is not given; `ValueError` where it is no number."""
    text = request.query_params.get(name)
    return None if text is None or not text else int(text)
