"""A Streamr operator: the node's own `/info`, and the subgraph that tells what its stakes earn, to the wei.

Each stake earns `totalPayoutWeiPerSec x amountWei / totalStakedWei` from `updateTimestamp` on, on top of `earningsWei`.
Every day at 23:00 UTC the operator withdraws: 5 % protocol fee, then the operator's cut, the rest is profit.
"""

import json
import math
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import lru_cache
from typing import Any, cast

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route, Router

from orcha_pipeline.testnet.answers import json_answer, text_answer
from orcha_pipeline.testnet.economy import Economy, Node, Piece
from orcha_pipeline.testnet.levers import SPONSORSHIPS_AT_FULL
from orcha_pipeline.testnet.noise import hexadecimal, uniform
from orcha_pipeline.testnet.worlds import DAY, HOUR

OPERATOR = "0x" + "ab" * 20
NODE_ADDRESS = "0x" + hexadecimal(0, "streamr-node", 0, 40)
WEI = 10**18
_STAKE = 6_000 * WEI
_FREE_BALANCE = 5_000 * WEI
_FEE_PERCENT = 5
_CUT_PERCENT = 10
_WITHDRAW_AT = 23 * HOUR


@dataclass(slots=True)
class Stake:
    """A stake in one sponsorship: `earned` wei up to `updated`, and `rate` wei a second since."""

    joined: int
    updated: int
    earned: int = 0
    rate: int = 0

    def live(self, at: int) -> int:
        """Wei not withdrawn yet."""
        return self.earned + self.rate * max(0, at - self.updated)


@dataclass(slots=True)
class Bucket:
    """One UTC day of the operator, wei."""

    profits: int = 0
    cut: int = 0
    cumulative: int = 0
    staked: int = 0


def _weight(number: int) -> float:
    """How a sponsorship pays against the others."""
    return 0.5 + uniform(0, "sponsorship", number)


class StreamrBooks:
    """Stakes by sponsorship number, what was withdrawn, and the days' buckets."""

    def __init__(self) -> None:
        self.stakes: dict[int, Stake] = {}
        self.profits = 0
        self.cut = 0
        self.fees = 0
        self.days: dict[int, Bucket] = {}

    def accrue(self, piece: Piece) -> None:
        """Stake on as many sponsorships as the node is set to, and let them earn the piece's rate."""
        count = min(SPONSORSHIPS_AT_FULL, int(piece.value))
        self.stake_on(count, piece.start)
        per_second = piece.earned / piece.seconds
        weights = [_weight(number) for number in self.stakes]
        whole = sum(weights)
        for stake, weight in zip(self.stakes.values(), weights, strict=True):
            rate = round(per_second * weight / whole * WEI)
            if abs(rate - stake.rate) > 1e-9 * rate:
                stake.earned, stake.updated, stake.rate = stake.live(piece.start), piece.start, rate
        bucket = self.days.setdefault(piece.start // DAY, Bucket())
        bucket.staked, bucket.cumulative = len(self.stakes) * _STAKE, self.profits + self.cut
        # Pieces end at every step of the world, so that the hour of withdrawal is always the end of one.
        if piece.end % DAY == _WITHDRAW_AT:
            for stake in self.stakes.values():
                self._withdraw(stake, piece.end)

    def stake_on(self, count: int, at: int) -> None:
        """The autostaker leaves the worst-paid sponsorships first and joins the best ones first."""
        if len(self.stakes) == count:
            return
        best = sorted(range(SPONSORSHIPS_AT_FULL), key=_weight, reverse=True)[:count]
        for number in [number for number in self.stakes if number not in best]:
            self._withdraw(self.stakes.pop(number), at)
        for number in best:
            self.stakes.setdefault(number, Stake(joined=at, updated=at))

    def _withdraw(self, stake: Stake, at: int) -> None:
        earned = stake.live(at)
        stake.earned, stake.updated = 0, at
        after_fee = earned - earned * _FEE_PERCENT // 100
        cut = after_fee * _CUT_PERCENT // 100
        self.fees += earned - after_fee
        self.cut += cut
        self.profits += after_fee - cut
        bucket = self.days.setdefault(at // DAY, Bucket())
        bucket.cut += cut
        bucket.profits += after_fee - cut
        bucket.cumulative = self.profits + self.cut

    def dump(self) -> dict[str, Any]:
        """Stakes, sums and days."""
        return {
            "stakes": {str(number): asdict(stake) for number, stake in self.stakes.items()},
            "sums": [self.profits, self.cut, self.fees],
            "days": {str(number): asdict(bucket) for number, bucket in self.days.items()},
        }

    def load(self, saved: Mapping[str, Any]) -> None:
        """Take back what `dump` gave."""
        self.stakes = {int(number): Stake(**stake) for number, stake in saved["stakes"].items()}
        self.profits, self.cut, self.fees = saved["sums"]
        self.days = {int(number): Bucket(**bucket) for number, bucket in saved["days"].items()}


# ---------------------------------------------------------------- GraphQL, as much of it as the subgraph is asked


@dataclass(frozen=True, slots=True)
class Field:
    """One selected field with its arguments; no inner selection means a scalar."""

    alias: str
    name: str
    arguments: Mapping[str, Any]
    inner: tuple["Field", ...]


class QueryError(ValueError):
    """What The Graph would answer in `errors`, with HTTP status 200."""


_TOKEN = re.compile(r'"(?:[^"\\]|\\.)*"|[A-Za-z_][A-Za-z0-9_]*|-?\d+(?:\.\d+)?|[{}()\[\]:$!=]')
_BLANK = re.compile(r"(?:[\s,\ufeff]|#[^\n]*)*")


class _Reader:
    """Reads a query into fields. No fragments and no directives: the subgraph's clients here use none."""

    def __init__(self, text: str) -> None:
        self.tokens: list[str] = []
        place = 0
        while True:
            blank = _BLANK.match(text, place)
            place = blank.end() if blank else place
            if place >= len(text):
                break
            token = _TOKEN.match(text, place)
            if token is None:
                raise QueryError(f"Unexpected `{text[place]}`")
            self.tokens.append(token.group())
            place = token.end()
        self.place = 0

    def peek(self) -> str:
        return self.tokens[self.place] if self.place < len(self.tokens) else ""

    def take(self, wanted: str = "") -> str:
        token = self.peek()
        if not token or (wanted and token != wanted):
            raise QueryError(f"Unexpected `{token or 'end of input'}`" + (f", expected `{wanted}`" if wanted else ""))
        self.place += 1
        return token

    def document(self) -> tuple[Field, ...]:
        if self.peek() == "query":
            while self.peek() not in {"{", ""}:
                self.place += 1
        selection = self.selection()
        if self.peek():
            raise QueryError(f"Unexpected `{self.peek()}`")
        return selection

    def selection(self) -> tuple[Field, ...]:
        self.take("{")
        found: list[Field] = []
        while self.peek() != "}":
            alias = name = self._name()
            if self.peek() == ":":
                self.take()
                name = self._name()
            arguments: dict[str, Any] = {}
            if self.peek() == "(":
                self.take()
                while self.peek() != ")":
                    key = self._name()
                    self.take(":")
                    arguments[key] = self._value()
                self.take(")")
            inner = self.selection() if self.peek() == "{" else ()
            found.append(Field(alias, name, arguments, inner))
        self.take("}")
        if not found:
            raise QueryError("Unexpected `}`, expected a field")
        return tuple(found)

    def _name(self) -> str:
        token = self.take()
        if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", token):
            raise QueryError(f"Unexpected `{token}`, expected a name")
        return token

    def _value(self) -> Any:
        found = self.take()
        if found == "$":
            return _Variable(self._name())
        if found == "{":
            table: dict[str, Any] = {}
            while self.peek() != "}":
                key = self._name()
                self.take(":")
                table[key] = self._value()
            self.take("}")
            return table
        if found == "[":
            items: list[Any] = []
            while self.peek() != "]":
                items.append(self._value())
            self.take("]")
            return items
        return json.loads(found) if found[0] in '"-0123456789' or found in {"true", "false", "null"} else found


@dataclass(frozen=True, slots=True)
class _Variable:
    name: str


@lru_cache(maxsize=64)
def parse_query(text: str) -> tuple[Field, ...]:
    """The fields a query selects; `QueryError` where it is malformed."""
    return _Reader(text).document()


def _project(value: Any, selection: tuple[Field, ...], type_name: str, variables: Mapping[str, Any]) -> Any:
    """The selected fields of an entity, or of each of a list, after `first`, `skip` and the order asked for."""
    if value is None:
        return None
    if isinstance(value, list):
        items = cast("list[Any]", value)
        return [_project(item, selection, type_name, variables) for item in items]
    answer: dict[str, Any] = {}
    for wanted in selection:
        if wanted.name not in value:
            raise QueryError(f"Type `{type_name}` has no field `{wanted.name}`")
        found = value[wanted.name]
        if isinstance(found, list) and wanted.inner:
            found = _page(cast("list[Any]", found), wanted.arguments, variables)
        is_entity = isinstance(found, dict) or (isinstance(found, list) and wanted.name not in {"nodes", "controllers"})
        if is_entity and not wanted.inner:
            raise QueryError(f"Field `{wanted.name}` of type `{wanted.name}` must have a selection of subfields")
        if wanted.inner and not is_entity and found is not None:
            raise QueryError(f"Field `{wanted.name}` must not have a selection since it has no subfields")
        answer[wanted.alias] = _project(found, wanted.inner, wanted.name, variables) if is_entity else found
    return answer


def _resolve(value: Any, variables: Mapping[str, Any]) -> Any:
    if isinstance(value, _Variable):
        if value.name not in variables:
            raise QueryError(f"Variable `${value.name}` is not defined")
        return variables[value.name]
    return value


def _page(rows: list[Any], arguments: Mapping[str, Any], variables: Mapping[str, Any]) -> list[Any]:
    key = _resolve(arguments.get("orderBy"), variables)
    if key:
        rows = sorted(rows, key=lambda row: int(row[key]), reverse=arguments.get("orderDirection") == "desc")
    skip = _resolve(arguments.get("skip", 0), variables)
    # The Graph gives 100 rows where no number is asked for, and never more than 1000.
    first = _resolve(arguments.get("first", 100), variables)
    if not isinstance(first, int) or not 0 < first <= 1000:
        raise QueryError(f"The value of the `first` argument must be between 1 and 1000, but is {first}")
    return rows[skip : skip + first]


class StreamrNode:
    """Answers of the node and of the subgraph, from the economy's state."""

    def __init__(self, economy: Economy, node: Node, books: StreamrBooks) -> None:
        self.economy = economy
        self.node = node
        self.books = books

    # ------------------------------------------------------------ subgraph

    def graph(self, body: bytes) -> dict[str, Any]:
        """The answer to a GraphQL request; whatever is wrong with it becomes `errors`."""
        try:
            request: dict[str, Any] = json.loads(body)
            text: Any = request["query"]
            variables: dict[str, Any] = request.get("variables") or {}
            if not isinstance(text, str):
                raise QueryError("`query` must be a string")
            return {"data": self._answer(parse_query(text), variables)}
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            message = str(error) if isinstance(error, QueryError) else f"failed to parse request: {error!r}"
            return {"errors": [{"message": message}]}

    def _answer(self, fields: tuple[Field, ...], variables: Mapping[str, Any]) -> dict[str, Any]:
        answer: dict[str, Any] = {}
        for wanted in fields:
            if not wanted.inner:
                raise QueryError(f"Field `{wanted.name}` of type `Query` must have a selection of subfields")
            if wanted.name == "operator":
                mine = _resolve(wanted.arguments.get("id"), variables) == OPERATOR
                answer[wanted.alias] = _project(self.operator() if mine else None, wanted.inner, "Operator", variables)
            elif wanted.name == "operatorDailyBuckets":
                where: Any = _resolve(wanted.arguments.get("where", {}), variables)
                rows = _page(self.buckets(where, variables), wanted.arguments, variables)
                answer[wanted.alias] = _project(rows, wanted.inner, "OperatorDailyBucket", variables)
            elif wanted.name == "network":
                network = {
                    "id": "network-entity-id",
                    "minimumStakeWei": str(5_000 * WEI),
                    "slashingFraction": str(WEI // 10),
                }
                answer[wanted.alias] = _project(network, wanted.inner, "Network", variables)
            elif wanted.name == "_meta":
                meta = {"block": {"number": self.block(), "timestamp": self.block_time()}, "hasIndexingErrors": False}
                answer[wanted.alias] = _project(meta, wanted.inner, "_Meta_", variables)
            else:
                raise QueryError(f"Type `Query` has no field `{wanted.name}`")
        return answer

    def block_time(self) -> int:
        """When the newest indexed block was made: the subgraph lags a few blocks behind the chain."""
        return self.economy.now - self.economy.now % 2 - 4

    def block(self) -> int:
        """Number of the newest indexed block."""
        return 78_000_000 + (self.block_time() - 1_795_000_000) // 2

    def operator(self) -> dict[str, Any]:
        """The operator entity, with everything the documented query asks for."""
        now, books = self.economy.now, self.books
        staked = len(books.stakes) * _STAKE
        balance = _FREE_BALANCE + (SPONSORSHIPS_AT_FULL - len(books.stakes)) * _STAKE + books.profits + books.cut
        updated = max((stake.updated for stake in books.stakes.values()), default=self.economy.start)
        return {
            "id": OPERATOR,
            "valueWithoutEarnings": str(staked + balance),
            "totalStakeInSponsorshipsWei": str(staked),
            "dataTokenBalanceWei": str(balance),
            "valueUpdateTimestamp": str(updated),
            "exchangeRate": f"{1.0 + books.profits / WEI / 125_000.0:.10f}",
            "cumulativeProfitsWei": str(books.profits),
            "cumulativeOperatorsCutWei": str(books.cut),
            "cumulativeEarningsWei": str(books.profits + books.cut),
            "operatorsCutFraction": str(WEI * _CUT_PERCENT // 100),
            "slashingsCount": 0,
            "latestHeartbeatTimestamp": str(self.node.seen_at - self.node.seen_at % DAY),
            "latestHeartbeatMetadata": json.dumps({"nodeId": NODE_ADDRESS[2:]}),
            "metadataJsonString": json.dumps({"redundancyFactor": 1}),
            "nodes": [NODE_ADDRESS],
            "controllers": [],
            "stakes": [self._stake(number, stake, now) for number, stake in sorted(books.stakes.items())],
            "slashingEvents": [],
            "flagsTargeted": [],
            "queueEntries": [],
        }

    def _stake(self, number: int, stake: Stake, now: int) -> dict[str, Any]:
        others = 4 + int(8 * uniform(0, "others", number))
        payout = stake.rate * others
        sponsorship = "0x" + hexadecimal(0, "sponsorship", number, 40)
        return {
            "id": f"{sponsorship}-{OPERATOR}",
            "amountWei": str(_STAKE),
            "lockedWei": "0",
            "minimumStakeWei": str(5_000 * WEI),
            "earningsWei": str(stake.earned),
            "updateTimestamp": stake.updated,
            "joinTimestamp": stake.joined,
            "sponsorship": {
                "id": sponsorship,
                "isRunning": stake.rate > 0,
                "totalPayoutWeiPerSec": str(payout),
                "totalStakedWei": str(_STAKE * others),
                "operatorCount": others,
                "minOperators": 1,
                "maxOperators": None,
                "remainingWei": str(payout * 60 * DAY),
                "projectedInsolvency": str(now + 60 * DAY) if stake.rate else None,
                "spotAPY": f"{payout * 365 * DAY / (_STAKE * others):.6f}",
                "minimumStakingPeriodSeconds": "0",
                "stream": {"id": self.stream(number)},
            },
        }

    def stream(self, number: int) -> str:
        """Id of a sponsorship's stream."""
        return f"0x{hexadecimal(0, 'streamer', number, 40)}/feed-{number}"

    def buckets(self, where: Mapping[str, Any], variables: Mapping[str, Any]) -> list[dict[str, Any]]:
        """The operator's days."""
        if _resolve(where.get("operator", OPERATOR), variables) != OPERATOR:
            return []
        since = int(_resolve(where.get("date_gte", 0), variables))
        return [
            {
                "id": f"{OPERATOR}-{day * DAY}",
                "date": str(day * DAY),
                "profitsWei": str(bucket.profits),
                "lossesWei": "0",
                "operatorsCutWei": str(bucket.cut),
                "cumulativeEarningsWei": str(bucket.cumulative),
                "valueWithoutEarnings": str(_FREE_BALANCE + SPONSORSHIPS_AT_FULL * _STAKE + bucket.cumulative),
                "totalStakeInSponsorshipsWei": str(bucket.staked),
            }
            for day, bucket in self.books.days.items()
            if day * DAY >= since
        ]

    # ------------------------------------------------------------ the node itself

    def info(self) -> dict[str, Any]:
        """`/info`: `getDiagnosticInfo()` with both encodings of node ids."""
        connections = self._connections()
        return {
            "controlLayer": {
                "localPeerDescriptor": {
                    "nodeId": _buffer(NODE_ADDRESS[2:]),
                    "websocket": {"host": "203.0.113.7", "port": 32200, "tls": False},
                    "type": 0,
                },
                "transport": {"connections": connections, "connectionCount": len(connections)},
                "router": {
                    "messagesRouted": sum(each["messagesReceived"] for each in connections),
                    "messagesSent": sum(each["messagesSent"] for each in connections),
                },
                "neighborCount": len(connections),
                "nearbyContactCount": len(connections),
                "randomContactCount": len(connections),
            },
            "contentLayer": {
                "streamParts": [
                    {
                        "id": f"{self.stream(number)}#0",
                        "info": {
                            "neighborCount": 4 if self.node.was_up else 0,
                            "nearbyNodeViewCount": 6,
                            "randomNodeViewCount": 6,
                            "leftNodeViewCount": 2,
                            "rightNodeViewCount": 2,
                            "messagesPropagated": max(0, self.economy.now - self.node.ready_at) * 3,
                        },
                    }
                    for number in sorted(self.books.stakes)
                ]
            },
        }

    def _connections(self) -> list[dict[str, Any]]:
        """Each neighbour's connection lasts some hours and is then opened anew, its counters from zero."""
        now, node = self.economy.now, self.node
        if not node.was_up:
            return []
        count = 4 + len(self.books.stakes) // 2
        demand = self.economy.world.protocols["streamr"].demand.bandwidth_mbps
        bytes_a_second = 0.5 * node.effective * demand * 1e6 / 8.0 / count
        found: list[dict[str, Any]] = []
        for peer in range(count):
            lasts = HOUR + int(5 * HOUR * uniform(0, "connection", peer))
            opened = max(node.ready_at, now - now % lasts)
            age = max(0, now - opened)
            identity = hexadecimal(0, "peer", peer, 40)
            found.append(
                {
                    "remotePeerDescriptor": {
                        "nodeId": _buffer(identity) if peer % 2 else _indexed(identity),
                        "type": 0,
                        "websocket": {"host": f"198.51.100.{peer + 1}", "port": 32200, "tls": True},
                    },
                    "lastUsedTimestamp": now * 1000,
                    "replacedAsDuplicate": False,
                    "stopped": False,
                    "openedAt": opened * 1000,
                    "bytesSent": int(0.6 * bytes_a_second * age),
                    "bytesReceived": int(0.4 * bytes_a_second * age),
                    "messagesSent": math.ceil(age / 2),
                    "messagesReceived": math.ceil(age / 3),
                }
            )
        return found


def _bytes(identity: str) -> list[int]:
    return list(bytes.fromhex(identity))


def _buffer(identity: str) -> dict[str, Any]:
    return {"type": "Buffer", "data": _bytes(identity)}


def _indexed(identity: str) -> dict[str, Any]:
    return {str(place): value for place, value in enumerate(_bytes(identity))}


def routes(emulator: StreamrNode) -> Router:
    """The node's own addresses, relative to its base address."""

    async def info(_request: Request) -> Response:
        return json_answer(emulator.info())

    async def missing(request: Request) -> Response:
        path = request.scope["path"].removeprefix(request.scope.get("root_path", ""))
        return text_answer(f"<pre>Cannot {request.method} {path}</pre>", 404, media_type="text/html")

    return Router(
        [Route("/info", info, methods=["GET"]), Route("/{rest:path}", missing, methods=["GET", "POST"])],
        redirect_slashes=False,
    )


def subgraph_route(emulator: StreamrNode, address: str) -> Route:
    """The Graph's one address."""

    async def graph(request: Request) -> Response:
        return json_answer(emulator.graph(await request.body()))

    return Route(address, graph, methods=["POST"])
