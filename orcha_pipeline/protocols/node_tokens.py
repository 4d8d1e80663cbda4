"""What a token tells of itself: a JSON Web Token carries the time at which it expires, for anyone to read."""

import base64
import json
from datetime import UTC, datetime
from typing import Any, cast

from pydantic import SecretStr

LATEST = 32_503_680_000
"""The year 3000: no token lasts as long, and later times are no dates to Python everywhere."""


def expires_at(token: SecretStr) -> datetime | None:
    """When a token expires, by its own claim `exp`; None where it is no JSON Web Token or does not say."""
    parts = token.get_secret_value().split(".")
    if len(parts) != 3:
        return None
    try:
        claims: Any = json.loads(base64.urlsafe_b64decode(parts[1] + "=" * (-len(parts[1]) % 4)))
    except (ValueError, RecursionError):
        return None
    ends: Any = cast("dict[str, Any]", claims).get("exp") if isinstance(claims, dict) else None
    if isinstance(ends, bool) or not isinstance(ends, int | float) or not 0 < ends < LATEST:
        return None
    return datetime.fromtimestamp(ends, UTC)
