"""What adapters parse answers with: strict field types, and shape errors that name the JSON path.

Fields not asked for are ignored; a missing or mistyped one is a `ParseError`, never a default. All numbers these
APIs promise are finite and not negative, so anything else is refused.
"""

import re
from datetime import UTC, datetime
from decimal import ROUND_HALF_EVEN, Context, Decimal
from functools import partial
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, TypeAdapter, ValidationError
from pydantic.alias_generators import to_camel

from orcha_pipeline.errors import ParseError
from orcha_pipeline.model import Amounts

T = TypeVar("T")
LARGEST_NUMBER = Decimal(10) ** 24
LARGEST_AMOUNT = Decimal(10) ** 18
_NOTHING = Decimal(0)
LARGEST_WHOLE = 10**36
"""A thousand times the supply of the largest token, in wei."""
_NUMBER = re.compile(r"-?[0-9]{1,60}(\.[0-9]{1,60})?([eE][+-]?[0-9]{1,3})?")
_EXACT = Context(prec=100, rounding=ROUND_HALF_EVEN)


class ApiModel(BaseModel):
    """Part of an answer. Attribute names are snake_case for the API's camelCase."""

    model_config = ConfigDict(extra="ignore", frozen=True, alias_generator=to_camel)


def _decimal(value: Any, *, text: bool) -> Decimal:
    wanted = "a number or a numeric string" if text else "a number"
    if text and isinstance(value, str) and len(value) < 130 and _NUMBER.fullmatch(value):
        value = Decimal(value)
    if isinstance(value, bool) or not isinstance(value, int | float | Decimal):
        raise ValueError(f"expected {wanted}, got {_kind(value)}")  # noqa: TRY004 (pydantic wants a ValueError)
    number = value if isinstance(value, Decimal) else Decimal(repr(value))
    if not number.is_finite() or not 0 <= number < LARGEST_NUMBER:
        raise ValueError(f"expected {wanted} from 0 to 1e24")
    return number


def _float(value: Any, *, text: bool) -> float:
    return float(_decimal(value, text=text))


def _whole(value: Any) -> int:
    if isinstance(value, str) and re.fullmatch(r"[0-9]{1,40}", value):
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < LARGEST_WHOLE:
        raise ValueError(f"expected a whole number of 0 or more, got {_kind(value)}")
    return value


def _time(value: Any) -> datetime:
    wanted = "expected a time such as 2026-11-20T10:15:30Z"
    if not isinstance(value, str):
        raise ValueError(f"{wanted}, got {_kind(value)}")  # noqa: TRY004 (pydantic wants a ValueError)
    try:
        moment = datetime.fromisoformat(value)
        aware = moment.astimezone(UTC) if moment.tzinfo else None
    except (ValueError, OverflowError):
        raise ValueError(wanted) from None
    if aware is None:
        raise ValueError(f"{wanted}, got one without a zone")
    return aware


def _kind(value: Any) -> str:
    names = {bool: "true or false", str: "a text", dict: "an object", list: "a list", type(None): "null"}
    return names.get(type(value), "a number")  # pyright: ignore[reportUnknownArgumentType]


def _null_is_empty(value: Any) -> Any:
    return [] if value is None else value


Amount = Annotated[Decimal, BeforeValidator(partial(_decimal, text=False))]
"""A JSON number, exactly as written."""
AmountText = Annotated[Decimal, BeforeValidator(partial(_decimal, text=True))]
"""A JSON number or a decimal string, exactly as written."""
Number = Annotated[float, BeforeValidator(partial(_float, text=False))]
"""A JSON number, as a float."""
NumberText = Annotated[float, BeforeValidator(partial(_float, text=True))]
"""A JSON number, or the same in a string."""
Whole = Annotated[int, BeforeValidator(_whole)]
"""A whole number, or the digits of one in a string (wei, seconds)."""
UtcTime = Annotated[datetime, BeforeValidator(_time)]
"""An RFC 3339 time with its zone; digits beyond microseconds are cut."""
Listed = Annotated[list[T], BeforeValidator(_null_is_empty)]
"""A list that Go writes as null when it is empty."""


def parse(node: str, where: str, kind: type[T], payload: Any) -> T:
    """`payload` as `kind`, or `ParseError` naming `where` it came from, the JSON path and what was expected there."""
    try:
        return TypeAdapter(kind).validate_python(payload)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        path = "$" + "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in first["loc"])
        told = "is missing" if first["type"] == "missing" else first["msg"].removeprefix("Value error, ")
        raise ParseError(node, f"{where}: {path[:200]}: {told}") from None


def native(node: str, amount: Decimal) -> Decimal:
    """`amount` to 18 decimal places, the finest that any token and the warehouse know; `ParseError` if absurd."""
    if not abs(amount) < LARGEST_AMOUNT:
        raise ParseError(node, f"an amount of {amount:.3e} is beyond the supply of any token")
    return amount.quantize(Decimal("1e-18"), context=_EXACT)


def whole_amounts(
    node: str, gross: Decimal, net: Decimal, *, held: Decimal = _NOTHING, doubtful: Decimal = _NOTHING
) -> Amounts:
    """Known amounts, each to 18 places. Nothing is held or doubtful where the protocol knows no such thing."""
    return Amounts(
        gross=native(node, gross), held=native(node, held), net=native(node, net), doubtful=native(node, doubtful)
    )
