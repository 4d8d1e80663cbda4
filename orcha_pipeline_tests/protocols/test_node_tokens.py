import base64
import json
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import SecretStr

from orcha_pipeline.protocols.node_tokens import expires_at


def token(claims) -> SecretStr:
    """A JSON Web Token with these claims (text: as it is), without padding as they are written."""
    text = claims if isinstance(claims, str) else json.dumps(claims)
    body = base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")
    return SecretStr(f"eyJhbGciOiJIUzI1NiJ9.{body}.c2lnbmF0dXJl")


def test_a_token_tells_when_it_expires():
    assert expires_at(token({"exp": 1795175301, "userId": "ü"})) == datetime(2026, 11, 20, 11, 48, 21, tzinfo=UTC)


@pytest.mark.parametrize(
    "given",
    [
        SecretStr("testnet-grass-token"),
        SecretStr("a.b.c"),
        SecretStr("a.!.c"),
        token({}),
        token({"exp": "tomorrow"}),
        token({"exp": True}),
        token({"exp": -1}),
        token({"exp": 1e300}),
        token('{"exp": NaN}'),
        token("[1]"),
        token("[" * 100_000),
    ],
)
def test_what_does_not_say_is_unknown(given):
    assert expires_at(given) is None


@given(st.text())
def test_no_text_is_an_error(text):
    expires_at(SecretStr(text))
    expires_at(SecretStr(f"a.{text}.b"))
