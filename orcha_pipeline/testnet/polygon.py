"""Polygon's JSON-RPC, as much of it as Streamr's clients ask: operators' and sponsorships' contracts, gas, blocks.

Alone or in batches, as the real servers answer: what is wrong becomes an `error` object with HTTP status 200.
"""

import json
from collections.abc import Callable, Mapping
from typing import Any, cast

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from orcha_pipeline.testnet.answers import json_answer
from orcha_pipeline.testnet.noise import hexadecimal
from orcha_pipeline.testnet.streamr import StreamrNode, block_number, block_time, by_address

CHAIN_ID = 137
_GAS_PRICE = 30 * 10**9
_METHOD_NOT_FOUND, _INVALID_REQUEST, _INVALID_PARAMS, _PARSE_ERROR, _REVERTED = -32601, -32600, -32602, -32700, 3


class _RpcError(Exception):
    def __init__(self, code: int, message: str) -> None:
        self.code = code
        self.message = message
        super().__init__(message)


# ---------------------------------------------------------------- Solidity's ABI, the writing half of it


def _word(value: int) -> str:
    return f"{value:064x}"


def _padded(data: bytes) -> str:
    return data.hex() + "00" * (-len(data) % 32)


def _string(text: str) -> str:
    data = text.encode()
    return _word(32) + _word(len(data)) + _padded(data)


def _array(values: list[int]) -> str:
    return _word(len(values)) + "".join(map(_word, values))


def _arrays_and_number(first: list[int], second: list[int], number: int) -> str:
    """`(T[], U[], uint256)`: two offsets and the number, then the arrays."""
    heads = 3 * 32
    return _word(heads) + _word(heads + 32 * (1 + len(first))) + _word(number) + _array(first) + _array(second)


def _sponsorships_and_earnings(operator: StreamrNode) -> str:
    unclaimed = operator.books.unclaimed(block_time(operator.economy.now))
    addresses = [int(operator.sponsorship_id(number), 16) for number in unclaimed]
    return _arrays_and_number(addresses, list(unclaimed.values()), sum(operator.value_wei(operator.books)) // 20)


_OPERATOR_CALLS: Mapping[str, Callable[[StreamrNode], str]] = {
    "2ebd89d1": _sponsorships_and_earnings,
    "c229918e": lambda operator: _word(sum(operator.value_wei(operator.books))),
    "392f37e9": lambda operator: _string(operator.description),
    "558a1568": lambda operator: _word(int(operator.operator()["operatorsCutFraction"])),
    "2e949824": lambda operator: _word(32) + _array([int(operator.wallet, 16)]),
    "04cbab8b": lambda operator: _word(operator.value_wei(operator.books)[0]),
}
"""Selector -> answer: getSponsorshipsAndEarnings, valueWithoutEarnings, metadata, operatorsCutFraction,
getNodeAddresses, totalStakedIntoSponsorshipsWei."""
_STREAM_ID = "f4408e4b"
"""`streamId()` of a sponsorship."""


# ---------------------------------------------------------------- JSON-RPC


class Chain:
    """Answers of one chain that all operators are on. `operators`: by lower-case address of their contracts."""

    def __init__(self, operators: Mapping[str, StreamrNode]) -> None:
        self.operators = operators

    def answer(self, body: bytes) -> Any:
        """The answer to one request, or a list of answers to a batch."""
        try:
            request: Any = json.loads(body)
        except ValueError:
            return _failed(None, _RpcError(_PARSE_ERROR, "Parse error"))
        if not isinstance(request, list):
            return self._one(request)
        batch = cast("list[Any]", request)
        return [self._one(each) for each in batch] or _failed(None, _RpcError(_INVALID_REQUEST, "Invalid Request"))

    def _one(self, request: Any) -> dict[str, Any]:
        if not isinstance(request, dict) or not isinstance(cast("dict[str, Any]", request).get("method"), str):
            return _failed(None, _RpcError(_INVALID_REQUEST, "Invalid Request"))
        call = cast("dict[str, Any]", request)
        number: Any = call.get("id")
        method: str = call["method"]
        if method not in _METHODS:
            missing = f"the method {method} does not exist/is not available"
            return _failed(number, _RpcError(_METHOD_NOT_FOUND, missing))
        try:
            result = _METHODS[method](self, list(call.get("params") or []))
        except _RpcError as error:
            return _failed(number, error)
        except (LookupError, ValueError, TypeError, AttributeError):
            return _failed(number, _RpcError(_INVALID_PARAMS, f"invalid argument of {method}"))
        return {"jsonrpc": "2.0", "id": number, "result": result}

    @property
    def now(self) -> int:
        """The chain's time, unix seconds."""
        return next(iter(self.operators.values())).economy.now

    def call(self, params: list[Any]) -> str:
        """`eth_call`: what a contract's function returns; nothing where no contract is."""
        to, data = str(params[0]["to"]).lower(), str(params[0].get("data") or params[0]["input"])
        selector = data.removeprefix("0x")[:8].lower()
        operator = self.operators.get(to)
        if operator is not None:
            if selector not in _OPERATOR_CALLS:
                raise _RpcError(_REVERTED, "execution reverted")
            return "0x" + _OPERATOR_CALLS[selector](operator)
        if selector == _STREAM_ID:
            every = (s for operator in self.operators.values() for s in operator.sponsorships())
            stream = next((s["stream"]["id"] for s in every if s["id"] == to), None)
            return "0x" if stream is None else "0x" + _string(stream)
        return "0x"

    def balance(self, params: list[Any]) -> str:
        """`eth_getBalance`: POL of a node's wallet, in wei."""
        wallet = str(params[0]).lower()
        if len(wallet) != 42:
            raise ValueError(wallet)
        owners = (operator for operator in self.operators.values() if operator.wallet == wallet)
        owner = next(owners, None)
        return hex(owner.circumstances.pol_wei if owner else 0)

    def block(self, params: list[Any]) -> dict[str, Any] | None:
        """`eth_getBlockByNumber`: a block without its transactions."""
        newest = block_number(self.now)
        number = newest if params[0] in {"latest", "pending", "safe", "finalized"} else int(params[0], 16)
        if not 0 <= number <= newest:
            return None
        at = block_time(self.now) - 2 * (newest - number)
        return {
            "number": hex(number),
            "hash": "0x" + hexadecimal(0, "block", at, 64),
            "parentHash": "0x" + hexadecimal(0, "block", at - 2, 64),
            "nonce": "0x0000000000000000",
            "miner": "0x" + "00" * 20,
            "difficulty": "0x15",
            "extraData": "0x",
            "gasLimit": "0x1c9c380",
            "gasUsed": "0x0",
            "baseFeePerGas": hex(_GAS_PRICE),
            "timestamp": hex(at),
            "transactions": [],
        }


def _failed(number: Any, error: _RpcError) -> dict[str, Any]:
    return {"jsonrpc": "2.0", "id": number, "error": {"code": error.code, "message": error.message}}


def _fee_history(chain: Chain, params: list[Any]) -> dict[str, Any]:
    count = int(str(params[0]), 0)
    oldest = block_number(chain.now) - count + 1
    return {"oldestBlock": hex(oldest), "baseFeePerGas": [hex(_GAS_PRICE)] * (count + 1), "gasUsedRatio": [0.5] * count}


_METHODS: Mapping[str, Callable[[Chain, list[Any]], Any]] = {
    "eth_chainId": lambda _chain, _params: hex(CHAIN_ID),
    "net_version": lambda _chain, _params: str(CHAIN_ID),
    "web3_clientVersion": lambda _chain, _params: "bor/testnet",
    "eth_syncing": lambda _chain, _params: False,
    "eth_blockNumber": lambda chain, _params: hex(block_number(chain.now)),
    "eth_getBlockByNumber": Chain.block,
    "eth_call": Chain.call,
    "eth_getBalance": Chain.balance,
    "eth_gasPrice": lambda _chain, _params: hex(_GAS_PRICE),
    "eth_maxPriorityFeePerGas": lambda _chain, _params: hex(_GAS_PRICE),
    "eth_feeHistory": _fee_history,
    "eth_getTransactionCount": lambda _chain, _params: "0x0",
    "eth_getLogs": lambda _chain, _params: [],
}


def chain_route(operators: StreamrNode | Mapping[str, StreamrNode], path: str) -> Route:
    """The chain's one address. `operators`: one, or all by lower-case address of their contracts."""
    chain = Chain(by_address(operators))

    async def rpc(request: Request) -> Response:
        return json_answer(chain.answer(await request.body()))

    return Route(path, rpc, methods=["POST"])
