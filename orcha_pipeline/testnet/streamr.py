"""Streamr operators: each node's own `/info`, and the subgraph that tells what their stakes earn, to the wei.

Each stake earns `totalPayoutWeiPerSec x amountWei / totalStakedWei` from `updateTimestamp` on, on top of `earningsWei`.
Every day at 23:00 UTC the operator withdraws: 5 % protocol fee, then the operator's cut, the rest is profit.
"""

import json
import math
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field
from decimal import Decimal
from functools import lru_cache
from typing import Any, cast

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route, Router

from orcha_pipeline.testnet.answers import json_answer, text_answer
from orcha_pipeline.testnet.economy import Economy, Node, Piece
from orcha_pipeline.testnet.levers import SPONSORSHIPS_AT_FULL, node_name, operator_address
from orcha_pipeline.testnet.noise import hexadecimal, uniform
from orcha_pipeline.testnet.worlds import DAY, HOUR

OPERATOR = operator_address(node_name("streamr"))
NODE_ADDRESS = "0x" + hexadecimal(0, "streamr-node", 0, 40)
WEI = 10**18
FIRST_BLOCK, FIRST_BLOCK_AT, BLOCK_SECONDS = 78_000_000, 1_795_000_000, 2
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
class Circumstances:
    """What befalls an operator only on request. All else follows from the economy."""

    open_flags: int = 0
    slashings: list[tuple[int, int]] = field(default_factory=list[tuple[int, int]])
    """(unix seconds, wei), oldest first."""
    pol_wei: int = 2 * WEI
    redundancy: int | None = 1
    """None: the operator's description is empty."""
    keys: list[str] = field(default_factory=list[str])
    """Keys that the node's HTTP API asks for; none: it is open."""
    silent_since: int | None = None
    """No heartbeat has come on chain since."""
    indexed: dict[str, Any] | None = None
    """The subgraph stands still: the moment it stopped at and the books as they were then."""


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
        self.circumstances = Circumstances()

    def slash(self, at: int, wei: int) -> None:
        """The operator loses DATA. It is taken from what is not staked, for the stakes' sizes are the testnet's."""
        self.circumstances.slashings.append((at, wei))

    def stop_indexing(self, at: int) -> None:
        """The subgraph reads no more blocks from `at` on."""
        self.circumstances.indexed = None
        self.circumstances.indexed = {"at": at, "books": json.loads(json.dumps(self.dump()))}

    def resume_indexing(self) -> None:
        """The subgraph catches up with the chain."""
        self.circumstances.indexed = None

    def unclaimed(self, at: int) -> dict[int, int]:
        """Sponsorship -> wei that a withdrawal at this moment would pay, before the fee."""
        return {number: stake.live(at) for number, stake in sorted(self.stakes.items())}

    def busy_until(self, at: int) -> int | None:
        """Nothing that has begun holds on to what it was given."""
        del at

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
            "circumstances": asdict(self.circumstances),
        }

    def load(self, saved: Mapping[str, Any]) -> None:
        """Take back what `dump` gave."""
        self.stakes = {int(number): Stake(**stake) for number, stake in saved["stakes"].items()}
        self.profits, self.cut, self.fees = saved["sums"]
        self.days = {int(number): Bucket(**bucket) for number, bucket in saved["days"].items()}
        self.circumstances = Circumstances(**saved["circumstances"])


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


def _read(entity: Mapping[str, Any], name: str, type_name: str) -> Any:
    """A field; relations are worked out only when they are asked for."""
    if name not in entity:
        raise QueryError(f"Type `{type_name}` has no field `{name}`")
    found = entity[name]
    return found() if callable(found) else found


def _project(value: Any, selection: tuple[Field, ...], type_name: str, variables: Mapping[str, Any]) -> Any:
    """The selected fields of an entity, or of each of a list, after filter, order, `first` and `skip`."""
    if value is None:
        return None
    if isinstance(value, list):
        items = cast("list[Any]", value)
        return [_project(item, selection, type_name, variables) for item in items]
    answer: dict[str, Any] = {}
    for wanted in selection:
        found = _read(value, wanted.name, type_name)
        is_entity = isinstance(found, dict) or (isinstance(found, list) and wanted.name not in {"nodes", "controllers"})
        if is_entity and not wanted.inner:
            raise QueryError(f"Field `{wanted.name}` of type `{wanted.name}` must have a selection of subfields")
        if wanted.inner and not is_entity and found is not None:
            raise QueryError(f"Field `{wanted.name}` must not have a selection since it has no subfields")
        if isinstance(found, list) and is_entity:
            found = _page(cast("list[Any]", found), wanted, variables)
        answer[wanted.alias] = _project(found, wanted.inner, wanted.name, variables) if is_entity else found
    return answer


def _resolve(value: Any, variables: Mapping[str, Any]) -> Any:
    if isinstance(value, _Variable):
        if value.name not in variables:
            raise QueryError(f"Variable `${value.name}` is not defined")
        return variables[value.name]
    if isinstance(value, dict):
        return {key: _resolve(inner, variables) for key, inner in cast("dict[str, Any]", value).items()}
    if isinstance(value, list):
        return [_resolve(inner, variables) for inner in cast("list[Any]", value)]
    return value


_NUMBER = re.compile(r"-?[0-9]+(\.[0-9]+)?")
_CONDITIONS: Mapping[str, Callable[[Any, Any], bool]] = {
    "not_in": lambda own, given: own not in given,
    "in": lambda own, given: own in given,
    "not": lambda own, given: own != given,
    "gte": lambda own, given: own >= given,
    "gt": lambda own, given: own > given,
    "lte": lambda own, given: own <= given,
    "lt": lambda own, given: own < given,
}


def _comparable(name: str, value: Any) -> Any:
    """What is compared: a number where it is one, an entity by its id."""
    if isinstance(value, dict):
        return str(cast("dict[str, Any]", value)["id"])
    if isinstance(value, list):
        return [_comparable(name, item) for item in cast("list[Any]", value)]
    text = str(value)
    return Decimal(text) if name != "id" and _NUMBER.fullmatch(text) else text


def _meets(row: Mapping[str, Any], key: str, given: Any) -> bool:
    for suffix, holds in _CONDITIONS.items():
        if key.endswith(f"_{suffix}") and (name := key.removesuffix(f"_{suffix}")) in row:
            return holds(_comparable(name, _read(row, name, "where")), _comparable(name, given))
    return _comparable(key, _read(row, key, "where")) == _comparable(key, given)


def _page(rows: list[Any], wanted: Field, variables: Mapping[str, Any]) -> list[Any]:
    arguments: dict[str, Any] = {key: _resolve(value, variables) for key, value in wanted.arguments.items()}
    for key, given in arguments.get("where", {}).items():
        rows = [row for row in rows if _meets(row, key, given)]
    order = arguments.get("orderBy", "id")
    if rows and order not in rows[0]:
        raise QueryError(f"Value `{order}` is not a field to order `{wanted.name}` by")
    if "orderBy" in arguments or (rows and "id" in rows[0]):
        rows = sorted(
            rows, key=lambda row: _comparable(order, row[order]), reverse=arguments.get("orderDirection") == "desc"
        )
    # The Graph gives 100 rows where no number is asked for, and never more than 1000.
    first, skip = arguments.get("first", 100), arguments.get("skip", 0)
    if not isinstance(first, int) or not 0 < first <= 1000:
        raise QueryError(f"The value of the `first` argument must be between 1 and 1000, but is {first}")
    return rows[skip : skip + first]


def block_time(at: int) -> int:
    """When the chain's newest block at a moment was made."""
    return at - at % BLOCK_SECONDS


def block_number(at: int) -> int:
    """Its number."""
    return FIRST_BLOCK + (block_time(at) - FIRST_BLOCK_AT) // BLOCK_SECONDS


_INDEXING_TAKES = 4
"""Seconds that the subgraph is behind the chain's newest block."""


class StreamrNode:
    """Answers of one operator's node, and what subgraph and chain tell of the operator, from the economy's state."""

    def __init__(self, economy: Economy, node: Node, books: StreamrBooks) -> None:
        self.economy = economy
        self.node = node
        self.books = books
        self.address = operator_address(node.name)
        """Of the operator's contract."""
        self.wallet = NODE_ADDRESS if self.address == OPERATOR else "0x" + hexadecimal(0, f"wallet/{node.name}", 0, 40)
        """Of the node."""

    @property
    def circumstances(self) -> Circumstances:
        """What befalls the operator only on request."""
        return self.books.circumstances

    def indexed(self) -> tuple[StreamrBooks, int]:
        """The books as the subgraph knows them, and as of when."""
        stopped = self.circumstances.indexed
        if stopped is None:
            return self.books, self.economy.now
        books = StreamrBooks()
        books.load(stopped["books"])
        return books, stopped["at"]

    # ------------------------------------------------------------ subgraph

    def value_wei(self, books: StreamrBooks) -> tuple[int, int]:
        """DATA staked, and DATA that the contract holds."""
        staked = len(books.stakes) * _STAKE
        lost = sum(wei for _, wei in books.circumstances.slashings)
        free = _FREE_BALANCE + (SPONSORSHIPS_AT_FULL - len(books.stakes)) * _STAKE + books.profits + books.cut - lost
        return staked, free

    @property
    def description(self) -> str:
        """The operator's own metadata: JSON, or nothing."""
        redundancy = self.circumstances.redundancy
        return "" if redundancy is None else json.dumps({"redundancyFactor": redundancy})

    def operator(self) -> dict[str, Any]:
        """The operator entity."""
        books, now = self.indexed()
        trouble = books.circumstances
        staked, free = self.value_wei(books)
        updated = max((stake.updated for stake in books.stakes.values()), default=self.economy.start)
        seen = min(now, self.node.seen_at)
        if trouble.silent_since is not None:
            seen = min(seen, trouble.silent_since)
        return {
            "id": self.address,
            "valueWithoutEarnings": str(staked + free),
            "totalStakeInSponsorshipsWei": str(staked),
            "dataTokenBalanceWei": str(free),
            "valueUpdateTimestamp": str(updated),
            "valueUpdateBlockNumber": str(block_number(updated)),
            "exchangeRate": f"{1.0 + books.profits / WEI / 125_000.0:.10f}",
            "cumulativeProfitsWei": str(books.profits),
            "cumulativeOperatorsCutWei": str(books.cut),
            "cumulativeEarningsWei": str(books.profits + books.cut),
            "operatorsCutFraction": str(WEI * _CUT_PERCENT // 100),
            "slashingsCount": len(trouble.slashings),
            "latestHeartbeatTimestamp": str(seen - seen % DAY),
            "latestHeartbeatMetadata": json.dumps({"nodeId": self.wallet[2:]}),
            "metadataJsonString": self.description,
            "owner": "0x" + hexadecimal(0, f"owner/{self.address}", 0, 40),
            "delegatorCount": 1,
            "nodes": [self.wallet],
            "controllers": [],
            "stakes": self.stakes,
            "slashingEvents": self.slashings,
            "flagsTargeted": self.flags,
            "queueEntries": list,
        }

    def stakes(self) -> list[dict[str, Any]]:
        """The stake entities."""
        books, now = self.indexed()
        return [self._stake(number, stake, now) for number, stake in sorted(books.stakes.items())]

    def _stake(self, number: int, stake: Stake, now: int) -> dict[str, Any]:
        return {
            "id": f"{self.sponsorship_id(number)}-{self.address}",
            "amountWei": str(_STAKE),
            "lockedWei": "0",
            "minimumStakeWei": str(5_000 * WEI),
            "earningsWei": str(stake.earned),
            "updateTimestamp": stake.updated,
            "joinTimestamp": stake.joined,
            "operator": self.operator,
            "sponsorship": lambda: self._sponsorship(number, stake, stake.rate, now),
        }

    def sponsorships(self) -> list[dict[str, Any]]:
        """Every sponsorship that this operator can stake on, those it is in among them."""
        books, now = self.indexed()
        whole = sum(_weight(number) for number in books.stakes)
        each = sum(stake.rate for stake in books.stakes.values()) / whole if whole else 0.0
        found: list[dict[str, Any]] = []
        for number in range(SPONSORSHIPS_AT_FULL):
            stake = books.stakes.get(number)
            rate = stake.rate if stake else round(each * _weight(number))
            found.append(self._sponsorship(number, stake, rate, now))
        return found

    def _sponsorship(self, number: int, stake: Stake | None, rate: int, now: int) -> dict[str, Any]:
        """`rate`: wei a second for each stake of the usual size. Others are in it too, none of them of the testnet."""
        everyone = 4 + int(8 * uniform(0, "others", number))
        payout = rate * everyone
        count = everyone if stake else everyone - 1
        total = _STAKE * count
        return {
            "id": self.sponsorship_id(number),
            "isRunning": rate > 0,
            "totalPayoutWeiPerSec": str(payout),
            "totalStakedWei": str(total),
            "operatorCount": count,
            "minOperators": 1,
            "maxOperators": None,
            "remainingWei": str(payout * 60 * DAY),
            "projectedInsolvency": str(now + 60 * DAY) if rate else None,
            "spotAPY": f"{payout * 365 * DAY / total:.6f}",
            "minimumStakingPeriodSeconds": "0",
            "stream": {"id": self.stream(number)},
            "stakes": lambda: [self._stake(number, stake, now)] if stake else [],
        }

    def sponsorship_id(self, number: int) -> str:
        """Address of a sponsorship's contract."""
        label = "sponsorship" if self.address == OPERATOR else f"sponsorship/{self.address}"
        return "0x" + hexadecimal(0, label, number, 40)

    def stream(self, number: int) -> str:
        """Id of a sponsorship's stream."""
        label = "streamer" if self.address == OPERATOR else f"streamer/{self.address}"
        return f"0x{hexadecimal(0, label, number, 40)}/feed-{number}"

    def flags(self) -> list[dict[str, Any]]:
        """Those that are open, and an old one that came to nothing."""
        books, _ = self.indexed()
        results = ["failed"] + ["voting", "waiting"] * books.circumstances.open_flags
        return [
            {
                "id": f"{self.sponsorship_id(0)}-{self.address}-{number}",
                "result": result,
                "flaggingTimestamp": self.economy.start,
                "voteEndTimestamp": self.economy.start + HOUR,
                "target": self.operator,
                "sponsorship": {"id": self.sponsorship_id(0)},
            }
            for number, result in enumerate(results[: 1 + books.circumstances.open_flags])
        ]

    def slashings(self) -> list[dict[str, Any]]:
        """The slashing events."""
        books, _ = self.indexed()
        return [
            {
                "id": f"{self.address}-{number}",
                "amount": str(wei),
                "date": str(at),
                "operator": self.operator,
                "sponsorship": {"id": self.sponsorship_id(0)},
            }
            for number, (at, wei) in enumerate(books.circumstances.slashings)
        ]

    def buckets(self) -> list[dict[str, Any]]:
        """The operator's days."""
        books, _ = self.indexed()
        return [
            {
                "id": f"{self.address}-{day * DAY}",
                "operator": self.operator,
                "date": str(day * DAY),
                "profitsWei": str(bucket.profits),
                "lossesWei": "0",
                "operatorsCutWei": str(bucket.cut),
                "cumulativeEarningsWei": str(bucket.cumulative),
                "valueWithoutEarnings": str(_FREE_BALANCE + SPONSORSHIPS_AT_FULL * _STAKE + bucket.cumulative),
                "totalStakeInSponsorshipsWei": str(bucket.staked),
            }
            for day, bucket in books.days.items()
        ]

    # ------------------------------------------------------------ the node itself

    def info(self) -> dict[str, Any]:
        """`/info`: `getDiagnosticInfo()` with both encodings of node ids."""
        connections = self._connections()
        return {
            "controlLayer": {
                "localPeerDescriptor": {
                    "nodeId": _buffer(self.wallet[2:]),
                    "websocket": {"host": "203.0.113.7", "port": 32200, "tls": False},
                    "type": 0,
                    "region": 56,
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
                        "ipAddress": (198 << 24) + (51 << 16) + (100 << 8) + peer + 1,
                        "region": 56,
                        "publicKey": _buffer(identity),
                        "signature": _buffer(identity * 2),
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


class Subgraph:
    """The Graph's index of the contracts: operators by lower-case address, and what belongs to them."""

    def __init__(self, operators: Mapping[str, StreamrNode]) -> None:
        self.operators = operators

    def answer(self, body: bytes) -> dict[str, Any]:
        """The answer to a GraphQL request; whatever is wrong with it becomes `errors`."""
        try:
            request: dict[str, Any] = json.loads(body)
            text: Any = request["query"]
            variables: dict[str, Any] = request.get("variables") or {}
            if not isinstance(text, str):
                raise QueryError("`query` must be a string")
            fields = parse_query(text)
            return {"data": {wanted.alias: self._field(wanted, fields, variables) for wanted in fields}}
        except (ValueError, KeyError, TypeError, AttributeError, ArithmeticError) as error:
            message = str(error) if isinstance(error, QueryError) else f"failed to parse request: {error!r}"
            return {"errors": [{"message": message}]}

    def _field(self, wanted: Field, fields: tuple[Field, ...], variables: Mapping[str, Any]) -> Any:
        if not wanted.inner:
            raise QueryError(f"Field `{wanted.name}` of type `Query` must have a selection of subfields")
        if wanted.name == "_meta":
            return _project(self._meta(fields, variables), wanted.inner, "_Meta_", variables)
        if wanted.name in _LISTS:
            type_name, of_operator = _LISTS[wanted.name]
            rows = [row for operator in self._meant(wanted, variables) for row in of_operator(operator)]
            return _project(_page(rows, wanted, variables), wanted.inner, type_name, variables)
        if wanted.name not in _SINGLE:
            raise QueryError(f"Type `Query` has no field `{wanted.name}`")
        if "id" not in wanted.arguments:
            raise QueryError(f"No value provided for required argument: `id` of `{wanted.name}`")
        identity = str(_resolve(wanted.arguments["id"], variables))
        found: Any = None
        if wanted.name == "network":
            found = dict(_NETWORK) if identity == _NETWORK["id"] else None
        elif wanted.name == "sponsorship":
            every = (s for operator in self.operators.values() for s in operator.sponsorships())
            found = next((sponsorship for sponsorship in every if sponsorship["id"] == identity), None)
        elif operator := self.operators.get(identity):
            found = operator.operator()
        return _project(found, wanted.inner, _SINGLE[wanted.name], variables)

    def _meant(self, wanted: Field, variables: Mapping[str, Any]) -> Iterable[StreamrNode]:
        """The operator that the filter names, or all: a testnet may have a thousand."""
        where: Any = _resolve(wanted.arguments.get("where", {}), variables)
        named = where.get("operator", where.get("target"))
        if named is None:
            return self.operators.values()
        operator = self.operators.get(str(named))
        return [] if operator is None else [operator]

    def _meta(self, fields: tuple[Field, ...], variables: Mapping[str, Any]) -> dict[str, Any]:
        """How far the index has come, of the operator that the same request asks for: one's may stand still."""
        asked = [_resolve(field.arguments.get("id"), variables) for field in fields if field.name == "operator"]
        known = [operator for identity in asked if (operator := self.operators.get(str(identity)))]
        _, at = (known or [next(iter(self.operators.values()))])[0].indexed()
        at = block_time(at) - _INDEXING_TAKES
        block = {"number": block_number(at), "timestamp": at, "hash": "0x" + hexadecimal(0, "block", at, 64)}
        return {"block": block, "deployment": "QmTestnet", "hasIndexingErrors": False}


_SINGLE = {"operator": "Operator", "sponsorship": "Sponsorship", "network": "Network"}
_LISTS: Mapping[str, tuple[str, Callable[[StreamrNode], list[dict[str, Any]]]]] = {
    "operators": ("Operator", lambda operator: [operator.operator()]),
    "sponsorships": ("Sponsorship", StreamrNode.sponsorships),
    "stakes": ("Stake", StreamrNode.stakes),
    "flags": ("Flag", StreamrNode.flags),
    "slashingEvents": ("SlashingEvent", StreamrNode.slashings),
    "operatorDailyBuckets": ("OperatorDailyBucket", StreamrNode.buckets),
    "queueEntries": ("QueueEntry", lambda _operator: []),
}
_NETWORK: Mapping[str, Any] = {
    "id": "network-entity-id",
    "minimumStakeWei": str(5_000 * WEI),
    "slashingFraction": str(WEI // 10),
    "earlyLeaverPenaltyWei": str(5_000 * WEI),
    "maxAllowedEarningsFraction": str(WEI // 20),
    "fishermanRewardFraction": str(WEI // 4),
    "protocolFeeFraction": str(WEI * _FEE_PERCENT // 100),
    "maxQueueSeconds": 30 * DAY,
    "maxPenaltyPeriodSeconds": 14 * DAY,
}


def by_address(operators: StreamrNode | Mapping[str, StreamrNode]) -> Mapping[str, StreamrNode]:
    """Operators by lower-case address, also where there is only one."""
    return {operators.address: operators} if isinstance(operators, StreamrNode) else operators


def routes(emulator: StreamrNode) -> Router:
    """The node's own addresses, relative to its base address."""

    def refusal(request: Request) -> Response | None:
        keys = emulator.circumstances.keys
        given = request.headers.get("authorization", "")
        if not keys:
            return None
        if not given.lower().startswith("bearer "):
            return text_answer("Unauthorized", 401)
        return None if given[len("bearer ") :] in keys else text_answer("Forbidden", 403)

    async def info(request: Request) -> Response:
        return refusal(request) or json_answer(emulator.info())

    async def missing(request: Request) -> Response:
        path = request.scope["path"].removeprefix(request.scope.get("root_path", ""))
        return text_answer(f"<pre>Cannot {request.method} {path}</pre>", 404, media_type="text/html")

    return Router(
        [Route("/info", info, methods=["GET"]), Route("/{rest:path}", missing, methods=["GET", "POST"])],
        redirect_slashes=False,
    )


def subgraph_route(operators: StreamrNode | Mapping[str, StreamrNode], path: str) -> Route:
    """The Graph's one address. `operators`: one, or all by lower-case address of their contracts."""
    index = Subgraph(by_address(operators))

    async def graph(request: Request) -> Response:
        return json_answer(index.answer(await request.body()))

    return Route(path, graph, methods=["POST"])
