"""The operator's contract and the nodes' wallets on Polygon, read by JSON-RPC; answers decoded from Solidity's ABI.

Decoding trusts nothing: every offset and length is held against the bytes that are there.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, cast

import httpx
from pydantic import Field

from orcha_pipeline.errors import ApiError, ParseError
from orcha_pipeline.protocols.http import HttpStatusError, NodeHttp
from orcha_pipeline.protocols.parsing import LARGEST_WHOLE, ApiModel, parse

POLYGON = 137
SECONDS_PER_BLOCK = 2.0
"""Polygon makes a block about every two seconds."""
GET_SPONSORSHIPS_AND_EARNINGS = "0x2ebd89d1"
VALUE_WITHOUT_EARNINGS = "0xc229918e"
METADATA = "0x392f37e9"
OPERATORS_CUT_FRACTION = "0x558a1568"
GET_NODE_ADDRESSES = "0x2e949824"
_WORD = 32
_BYTES = re.compile(r"0x(?:[0-9a-fA-F]{2})*")
_QUANTITY = re.compile(r"0x[0-9a-fA-F]{1,64}")
_NO_BATCH = frozenset({400, 405, 413, 415})
"""What servers that know no batches answer to one."""


@dataclass(frozen=True, slots=True)
class Unclaimed:
    """What `getSponsorshipsAndEarnings()` says: wei by sponsorship, and the sum beyond which anyone may withdraw it."""

    by_sponsorship: Mapping[str, int]
    limit_wei: int

    @property
    def total_wei(self) -> int:
        """Earned and not withdrawn, before the protocol's fee."""
        return sum(self.by_sponsorship.values())


@dataclass(frozen=True, slots=True)
class ChainEarnings:
    """What has accrued, and the operator's cut of profits (1e18 is all of it)."""

    unclaimed: Unclaimed
    cut_fraction: int


@dataclass(frozen=True, slots=True)
class ChainStanding:
    """What endangers an operator, as of block `number`. `gas_wei`: wallet -> POL, in wei."""

    number: int
    unclaimed: Unclaimed
    value_wei: int
    gas_wei: Mapping[str, int]


# ---------------------------------------------------------------- Solidity's ABI


class _MalformedError(ValueError):
    """Bytes that are not what the function returns."""


def _bytes(text: Any) -> bytes:
    if not isinstance(text, str) or not _BYTES.fullmatch(text):
        raise _MalformedError("not hexadecimal bytes")
    found = bytes.fromhex(text[2:])
    if not found:
        raise _MalformedError("no bytes: there is no such contract at this address")
    return found


def _word(data: bytes, at: int) -> int:
    if at < 0 or at + _WORD > len(data):
        raise _MalformedError(f"{len(data)} bytes end before byte {at + _WORD}")
    return int.from_bytes(data[at : at + _WORD])


def _amount(data: bytes, at: int) -> int:
    value = _word(data, at)
    if value >= LARGEST_WHOLE:
        raise _MalformedError("an amount beyond the supply of any token")
    return value


def _address(data: bytes, at: int) -> str:
    value = _word(data, at)
    if value >= 1 << 160:
        raise _MalformedError("more than 20 bytes where an address should be")
    return f"0x{value:040x}"


def _tail(data: bytes, head: int, *, item: int) -> tuple[int, int]:
    """Where the dynamic value of the head word at `head` has its first item, and how many of `item` bytes it has."""
    offset = _word(data, head)
    count = _word(data, offset) if offset <= len(data) else -1
    if count < 0 or count * item > len(data) - offset - _WORD:
        raise _MalformedError(f"a length or offset beyond the {len(data)} bytes there are")
    return offset + _WORD, count


def _words(data: bytes, head: int) -> range:
    start, count = _tail(data, head, item=_WORD)
    return range(start, start + count * _WORD, _WORD)


def _unclaimed(text: Any) -> Unclaimed:
    data = _bytes(text)
    addresses = [_address(data, at) for at in _words(data, 0)]
    earnings = [_amount(data, at) for at in _words(data, _WORD)]
    if len(addresses) != len(earnings) or len(set(addresses)) != len(addresses):
        raise _MalformedError(f"{len(earnings)} earnings of {len(addresses)} sponsorships")
    return Unclaimed(dict(zip(addresses, earnings, strict=True)), _amount(data, 2 * _WORD))


def _number(text: Any) -> int:
    return _amount(_bytes(text), 0)


def _addresses(text: Any) -> list[str]:
    data = _bytes(text)
    return [_address(data, at) for at in _words(data, 0)]


def _text(text: Any) -> str:
    data = _bytes(text)
    start, length = _tail(data, 0, item=1)
    try:
        return data[start : start + length].decode()
    except UnicodeDecodeError:
        raise _MalformedError("the text is not UTF-8") from None


def _quantity(text: Any) -> int:
    if not isinstance(text, str) or not _QUANTITY.fullmatch(text):
        raise _MalformedError("not a hexadecimal quantity")
    value = int(text, 16)
    if value >= LARGEST_WHOLE:
        raise _MalformedError("a quantity beyond all reason")
    return value


_DECODERS = {
    GET_SPONSORSHIPS_AND_EARNINGS: _unclaimed,
    VALUE_WITHOUT_EARNINGS: _number,
    METADATA: _text,
    OPERATORS_CUT_FRACTION: _number,
    GET_NODE_ADDRESSES: _addresses,
}


def decode(node: str, selector: str, result: Any) -> Any:
    """What the contract's function of this selector returned; `ParseError` where the bytes are something else."""
    try:
        return _DECODERS[selector](result)
    except _MalformedError as error:
        raise ParseError(node, f"rpc: eth_call {selector}: {error}") from None


# ---------------------------------------------------------------- JSON-RPC


class _Problem(ApiModel):
    code: int
    message: str


class _Answer(ApiModel):
    id: Annotated[int, Field(strict=True)]
    result: Any = None
    error: _Problem | None = None


@dataclass(frozen=True, slots=True)
class _Call:
    method: str
    params: tuple[Any, ...] = ()

    def body(self, number: int) -> dict[str, Any]:
        return {"jsonrpc": "2.0", "id": number, "method": self.method, "params": list(self.params)}


_CHAIN_ID, _BLOCK_NUMBER = _Call("eth_chainId"), _Call("eth_blockNumber")


def _contract_call(contract: str, selector: str) -> _Call:
    return _Call("eth_call", ({"to": contract, "data": selector}, "latest"))


class PolygonChain:
    """One JSON-RPC server of Polygon. Methods raise `NodeConnectionError`, `ApiError` or `ParseError`."""

    def __init__(
        self, node: str, url: str, *, timeout_seconds: float, transport: httpx.BaseTransport | None = None
    ) -> None:
        self._node = node
        self._http = NodeHttp(node, url, timeout_seconds=timeout_seconds, transport=transport)

    def earnings(self, operator: str) -> ChainEarnings:
        """What has accrued to the operator and the cut of it, at the newest block."""
        unclaimed, cut = self._ask(
            [_contract_call(operator, s) for s in (GET_SPONSORSHIPS_AND_EARNINGS, OPERATORS_CUT_FRACTION)]
        )
        fraction: int = decode(self._node, OPERATORS_CUT_FRACTION, cut)
        if fraction > 10**18:
            raise ParseError(self._node, f"rpc: eth_call {OPERATORS_CUT_FRACTION}: a cut of more than everything")
        return ChainEarnings(decode(self._node, GET_SPONSORSHIPS_AND_EARNINGS, unclaimed), fraction)

    def standing(self, operator: str, wallets: Sequence[str] | None) -> ChainStanding:
        """What endangers the operator. `wallets` None: those that the contract names as its nodes'."""
        selectors = (GET_SPONSORSHIPS_AND_EARNINGS, VALUE_WITHOUT_EARNINGS)
        calls = [_BLOCK_NUMBER, *(_contract_call(operator, selector) for selector in selectors)]
        if wallets is None:
            block, unclaimed, value, nodes = self._ask([*calls, _contract_call(operator, GET_NODE_ADDRESSES)])
            named: list[str] = decode(self._node, GET_NODE_ADDRESSES, nodes)
            wallets, gas = named, self._ask(self._gas_calls(named)) if named else []
        else:
            block, unclaimed, value, *gas = self._ask([*calls, *self._gas_calls(wallets)])
        return ChainStanding(
            number=self._quantity("eth_blockNumber", block),
            unclaimed=decode(self._node, GET_SPONSORSHIPS_AND_EARNINGS, unclaimed),
            value_wei=decode(self._node, VALUE_WITHOUT_EARNINGS, value),
            gas_wei={w: self._quantity("eth_getBalance", wei) for w, wei in zip(wallets, gas, strict=True)},
        )

    def block_number(self) -> int:
        """The newest block's."""
        return self._quantity("eth_blockNumber", self._ask([_BLOCK_NUMBER])[0])

    def metadata(self, operator: str) -> str:
        """The operator's own description: JSON, or nothing."""
        return decode(self._node, METADATA, self._ask([_contract_call(operator, METADATA)])[0])

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    @staticmethod
    def _gas_calls(wallets: Sequence[str]) -> list[_Call]:
        return [_Call("eth_getBalance", (wallet, "latest")) for wallet in wallets]

    def _quantity(self, method: str, result: Any) -> int:
        try:
            return _quantity(result)
        except _MalformedError as error:
            raise ParseError(self._node, f"rpc: {method}: {error}") from None

    def _ask(self, calls: Sequence[_Call]) -> list[Any]:
        """Results in the order of `calls`, never of another chain than Polygon."""
        calls = [_CHAIN_ID, *calls]
        chain, *results = self._results(calls, self._post(calls))
        number = self._quantity("eth_chainId", chain)
        if number != POLYGON:
            raise ApiError(
                self._node,
                f"rpc: options.rpc_url serves chain {number}; Streamr's contracts are on Polygon ({POLYGON})",
            )
        return results

    def _post(self, calls: Sequence[_Call]) -> list[Any]:
        bodies = [call.body(number) for number, call in enumerate(calls)]
        try:
            answer: Any = self._http.post_json("", bodies)
        except HttpStatusError as error:
            if error.status not in _NO_BATCH:
                raise
            answer = None
        if isinstance(answer, list):
            return cast("list[Any]", answer)
        return [self._http.post_json("", body) for body in bodies]

    def _results(self, calls: Sequence[_Call], answers: list[Any]) -> list[Any]:
        """Results by the number of their call: a batch is answered in any order."""
        found = {answer.id: answer for answer in parse(self._node, "rpc", list[_Answer], answers)}
        results: list[Any] = []
        for number, call in enumerate(calls):
            answer = found.get(number)
            if answer is None:
                raise ParseError(self._node, f"rpc: {call.method}: no answer in the batch")
            if answer.error is not None:
                told = self._http.cleaned(answer.error.message)
                raise ApiError(self._node, f"rpc: {call.method}: {told} (code {answer.error.code})")
            results.append(answer.result)
        return results
