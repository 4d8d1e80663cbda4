"""A Storj storage node's console API, and the node's earnings in Storj's own terms.

What the node earns in US dollars is told as a storage node tells it: byte-hours at rest, egress and audit bytes per
day and satellite, priced by each satellite and rounded to a hundredth of a cent. Traffic is the node's own count;
what is stored the satellites count, and the node hears of it twice a day, twelve hours to two and a half days late.

A file `console.json` in the node's folder changes what the node shows, at once:
`{"version": "1.142.7", "upToDate": false, "quicStatus": "Misconfigured", "notifications": [{"type": 1, "title": "…",
"message": "…", "createdAt": "2026-10-20T00:00:00Z"}], "satellites": {"us1.storj.io:7777": {"disqualified": TIME,
"suspended": TIME, "auditScore": 0.97, "suspensionScore": 0.9, "onlineScore": 0.8}}}`; all of it may be left out.
The node's public port is served under `/public-port`.
"""

import json
import math
import re
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, cast

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route, Router

from orcha_pipeline.testnet.answers import json_answer, month_start, rfc3339, text_answer
from orcha_pipeline.testnet.economy import Economy, Node
from orcha_pipeline.testnet.noise import hexadecimal
from orcha_pipeline.testnet.storj_books import (
    AUDIT_CENTS,
    COUNTS_EVERY,
    DISK_CENTS,
    EGRESS_CENTS,
    FILL,
    SATELLITES,
    Satellite,
    StorjBooks,
    held_rate,
)
from orcha_pipeline.testnet.worlds import DAY, HOUR

VERSION = "1.162.3"
NEW_DISK_SPACE = (1, 143)
"""The first version whose `diskSpace` tells the allocation apart from what is free."""
LEAST_PAYOUT = 400_000
"""Micro-USD. Less is not sent: it waits for the next month's."""
UNHEALTHY_ONLINE = 0.9


_SPA = "<!DOCTYPE html><html><head><title>Storage Node Dashboard</title></head><body><div id=app></div></body></html>"


def _round2(value: float) -> float:
    """Go's `math.Round(x*100)/100`: halves away from zero."""
    return math.floor(value * 100.0 + 0.5) / 100.0


def _month(at: int, back: int = 0) -> tuple[int, int]:
    """Start and end of the calendar month `back` months before the one `at` lies in."""
    moment = datetime.fromtimestamp(at, UTC)
    return month_start(moment.year, moment.month - back), month_start(moment.year, moment.month - back + 1)


def _months_between(early: int, late: int) -> int:
    a, b = datetime.fromtimestamp(early, UTC), datetime.fromtimestamp(late, UTC)
    return (b.year - a.year) * 12 + b.month - a.month


@dataclass(frozen=True, slots=True)
class Shown:
    """What `console.json` makes the node show."""

    version: str = VERSION
    up_to_date: bool = True
    quic_status: str = "OK"
    satellites: Mapping[str, Mapping[str, Any]] = field(default_factory=dict[str, Mapping[str, Any]])
    notifications: Sequence[Mapping[str, Any]] = ()

    @property
    def is_new(self) -> bool:
        """Whether `diskSpace` is of the new generation, and days that were not counted yet are filled."""
        major, minor, *_ = (int(part) for part in self.version.split("."))
        return (major, minor) >= NEW_DISK_SPACE


class StorjNode:
    """Answers of the console, from the economy's state."""

    def __init__(self, economy: Economy, node: Node, books: StorjBooks) -> None:
        self.economy = economy
        self.node = node
        self.books = books
        self.folder = economy.levers[node.name].folder

    def shown(self) -> Shown:
        """What the folder asks to be shown; a file that is not JSON shows up as a failure of the node."""
        try:
            given: Any = json.loads((self.folder / "console.json").read_text(encoding="utf-8"))
        except FileNotFoundError:
            return Shown()
        return Shown(
            version=given.get("version", VERSION),
            up_to_date=given.get("upToDate", True),
            quic_status=given.get("quicStatus", "OK"),
            satellites=given.get("satellites", {}),
            notifications=given.get("notifications", ()),
        )

    def of(self, satellite: Satellite) -> Mapping[str, Any]:
        """What the folder asks to be shown of one satellite."""
        return self.shown().satellites.get(satellite.url, {})

    # ------------------------------------------------------------ figures

    def joined(self, satellite: Satellite) -> int:
        """When the satellite was joined: some days into a month before the testnet began."""
        moment = datetime.fromtimestamp(self.economy.start, UTC)
        return month_start(moment.year, moment.month - satellite.months) + 6 * DAY + 8 * HOUR

    def vetted(self, satellite: Satellite) -> str | None:
        """When the satellite began to send as much as to others; None: not yet."""
        return rfc3339(self.joined(satellite) + 40 * DAY) if satellite.months > 1 else None

    def disk(self) -> dict[str, int]:
        """`diskSpace`, bytes."""
        demand = self.economy.world.protocols["storj"].demand.disk_gb
        allocated = round(min(self.node.lever_value * 1e12, self.economy.world.capacity.disk_gb * 1e9))
        used = round(self.node.effective * demand * 1e9 * FILL)
        trash = int(used * 0.002)
        if not self.shown().is_new:
            return {
                "used": used - trash,
                "available": allocated,
                "trash": trash,
                "overused": max(0, used - allocated),
            }
        return {
            "used": used,
            "available": max(0, allocated - used),
            "overused": max(0, used - allocated),
            "allocated": allocated,
            "trash": trash,
            "reclaimable": int(used * 0.0015),
        }

    def counted_until(self, satellite: Satellite) -> int:
        """Up to when the node has heard what a satellite counted as stored."""
        now = self.economy.now
        return now - now % COUNTS_EVERY - satellite.behind

    def monthly(self, satellite: Satellite, since: int, until: int) -> dict[str, float]:
        """One satellite's `PayoutMonthly`, cents. Of what is stored only what was counted."""
        total = self.books.total(since, until)
        egress = int(total.egress * satellite.weight)
        repair_audit = int(total.repair * satellite.weight) + int(total.audit * satellite.weight)
        counted = self.counted_until(satellite)
        days = range(since // DAY, -(-until // DAY))
        disk = sum(self.books.byte_hours(number, counted) for number in days) * satellite.weight / 720.0
        egress_payout = _round2(egress * EGRESS_CENTS / 1e12)
        repair_payout = _round2(repair_audit * AUDIT_CENTS / 1e12)
        disk_payout = _round2(disk * DISK_CENTS / 1e12)
        rate = held_rate(_months_between(self.joined(satellite), since))
        held = (disk_payout + egress_payout + repair_payout) * rate / 100
        return {
            "egressBandwidth": egress,
            "egressBandwidthPayout": egress_payout,
            "egressRepairAudit": repair_audit,
            "egressRepairAuditPayout": repair_payout,
            "diskSpace": disk,
            "diskSpacePayout": disk_payout,
            "heldRate": rate,
            "payout": _round2(disk_payout + egress_payout + repair_payout - held),
            "held": held,
        }

    def estimate(self, satellite: Satellite) -> dict[str, Any]:
        """One satellite's current and previous month, cents."""
        now = self.economy.now
        since, until = _month(now)
        current = self.monthly(satellite, since, now)
        previous = self.monthly(satellite, *_month(now, 1))
        begun = max(since, self.joined(satellite))
        # Go divides by zero here in the month's first instant; the conversion of the result is not defined.
        passed = (now - begun) / 60.0
        expected = int(current["payout"] / passed * ((until - begun) / 60.0)) if passed else 0
        return {"currentMonth": current, "previousMonth": previous, "currentMonthExpectations": expected}

    def estimates(self) -> dict[str, Any]:
        """The sum over satellites but those that disqualified; as in the original `heldRate` stays 0."""
        parts = [self.estimate(satellite) for satellite in SATELLITES if not self.of(satellite).get("disqualified")]
        keys = self.monthly(SATELLITES[0], *_month(self.economy.now, 1))
        whole: dict[str, Any] = {
            month: {key: 0 if key == "heldRate" else sum(part[month][key] for part in parts) for key in keys}
            for month in ("currentMonth", "previousMonth")
        }
        whole["currentMonthExpectations"] = sum(part["currentMonthExpectations"] for part in parts)
        return whole

    def paystub(self, satellite: Satellite, period: str) -> dict[str, Any] | None:
        """A settled month in micro-USD; satellites settle in the first week of the month after."""
        year, month = (int(part) for part in period.split("-"))
        since, until = month_start(year, month), month_start(year, month + 1)
        created = until + 6 * DAY + 11 * HOUR
        if self.economy.now < created or until <= self.economy.start:
            return None
        total, weight = self.books.total(since, until), satellite.weight
        at_rest = int(total.byte_hours * weight / 720.0 * DISK_CENTS / 1e12 * 1e4)
        get, repair, audit = (
            int(bytes_ * weight * EGRESS_CENTS / 1e12 * 1e4) for bytes_ in (total.egress, total.repair, total.audit)
        )
        earned = at_rest + get + repair + audit
        held = int(earned * held_rate(_months_between(self.joined(satellite), since)) / 100)
        return {
            "satelliteId": satellite.id,
            "period": period,
            "created": rfc3339(created),
            "codes": "",
            "usageAtRest": total.byte_hours * weight / 720.0,
            "usageGet": int(total.egress * weight),
            "usagePut": int(total.ingress * weight),
            "usageGetRepair": int(total.repair * weight),
            "usagePutRepair": 0,
            "usageGetAudit": int(total.audit * weight),
            "compAtRest": at_rest,
            "compGet": get,
            "compPut": 0,
            "compGetRepair": repair,
            "compPutRepair": 0,
            "compGetAudit": audit,
            "surgePercent": 0,
            "held": held,
            "owed": earned - held,
            "disposed": 0,
            "paid": earned - held,
            "distributed": self.distributed(satellite, period, earned - held),
        }

    def distributed(self, satellite: Satellite, period: str, paid: int) -> int:
        """What was sent for a month: everything that waits, once it is worth the fee."""
        year, month = (int(part) for part in period.split("-"))
        before = self.paystub(satellite, f"{year - (month == 1):04d}-{(month - 2) % 12 + 1:02d}")
        waiting = before["paid"] - before["distributed"] if before else 0
        return max(0, paid + waiting) if paid + waiting >= LEAST_PAYOUT else 0

    def payout_history(self, period: str) -> list[dict[str, Any]]:
        """`/api/heldamount/payout-history/{period}`."""
        answer: list[dict[str, Any]] = []
        for satellite in SATELLITES:
            stub = self.paystub(satellite, period)
            if stub is None:
                continue
            earned = stub["compAtRest"] + stub["compGet"] + stub["compGetRepair"] + stub["compGetAudit"]
            year, month = (int(part) for part in period.split("-"))
            joined = self.joined(satellite)
            receipt = f"zksync-era:0x{hexadecimal(0, f'receipt/{satellite.url}/{period}', 0, 64)}"
            answer.append(
                {
                    "satelliteID": satellite.id,
                    "satelliteURL": satellite.url,
                    "age": _months_between(joined, self.economy.now),
                    "earned": earned,
                    "surge": earned,
                    "surgePercent": 100,
                    "held": stub["held"],
                    "heldPercent": held_rate(_months_between(joined, month_start(year, month))),
                    "afterHeld": earned - stub["held"],
                    "disposed": 0,
                    "paid": stub["paid"],
                    "receipt": receipt if stub["distributed"] else "",
                    "isExitComplete": False,
                    "distributed": stub["distributed"],
                }
            )
        return answer

    def settled_periods(self) -> list[str]:
        """Months that have paystubs."""
        moment = datetime.fromtimestamp(self.economy.start, UTC)
        year, month, periods = moment.year, moment.month, list[str]()
        while month_start(year, month) < self.economy.now:
            period = f"{year + (month - 1) // 12:04d}-{(month - 1) % 12 + 1:02d}"
            if self.paystub(SATELLITES[0], period):
                periods.append(period)
            month += 1
        return periods

    def storage_days(self, satellite: Satellite) -> list[dict[str, Any]]:
        """This month's `storageDaily` of one satellite; newer nodes fill what was not counted with the last level."""
        now, counted, is_new = self.economy.now, self.counted_until(satellite), self.shown().is_new
        since, _ = _month(now)
        rows: list[dict[str, Any]] = []
        level: float | None = None
        # The first day may lie in the month before: its level is carried on.
        for number in range(since // DAY - 4, now // DAY + 1):
            begins = max(number * DAY, self.economy.start)
            ends = min((number + 1) * DAY, counted)
            row: dict[str, Any] | None = None
            if ends > begins and number in self.books.days:
                at_rest = self.books.byte_hours(number, counted) * satellite.weight
                interval = (ends - begins) / HOUR
                level = at_rest / interval
                row = {"atRestTotal": at_rest, "atRestTotalBytes": level, "intervalInHours": interval}
            elif level is not None and is_new:
                interval = (min((number + 1) * DAY, now) - number * DAY) / HOUR or 24.0
                row = {"atRestTotal": 0, "atRestTotalBytes": level, "intervalInHours": interval}
            if row is None or number * DAY < since:
                continue
            row["intervalStart"] = rfc3339(number * DAY)
            if is_new:
                row["calculated"] = ends <= begins
            rows.append(row)
        return rows

    def bandwidth_days(self, satellite: Satellite) -> list[dict[str, Any]]:
        """This month's `bandwidthDaily` of one satellite."""
        since, _ = _month(self.economy.now)
        rows: list[dict[str, Any]] = []
        for number in range(since // DAY, self.economy.now // DAY + 1):
            if (day := self.books.days.get(number)) is None:
                continue
            usage, repair, audit = (int(part * satellite.weight) for part in (day.egress, day.repair, day.audit))
            rows.append(
                {
                    "egress": {"repair": repair, "audit": audit, "usage": usage},
                    "ingress": {"repair": 0, "usage": int(day.ingress * satellite.weight)},
                    "delete": 0,
                    "intervalStart": rfc3339(number * DAY),
                }
            )
        return rows

    def usage(self, satellites: Sequence[Satellite], *, interval: bool) -> dict[str, Any]:
        """This month's days and their sums over satellites. Empty lists are `null`, as Go writes them."""
        storage = _added_up([self.storage_days(satellite) for satellite in satellites])
        bandwidth = _added_up([self.bandwidth_days(satellite) for satellite in satellites])
        if not interval:
            storage = [{key: value for key, value in row.items() if key != "intervalInHours"} for row in storage]
        egress = sum(_moved(row, "egress") for row in bandwidth)
        ingress = sum(_moved(row, "ingress") for row in bandwidth)
        return {
            "storageDaily": storage or None,
            "bandwidthDaily": bandwidth or None,
            "storageSummary": sum(row["atRestTotal"] for row in storage),
            "averageUsageBytes": sum(row["atRestTotalBytes"] for row in storage) / len(storage) if storage else 0,
            "bandwidthSummary": egress + ingress,
            "egressSummary": egress,
            "ingressSummary": ingress,
        }

    def audits(self, satellite: Satellite) -> dict[str, Any]:
        """Reputation: the online score is what the last 30 days were."""
        now = self.economy.now
        offline = self.books.total(now - now % DAY - 29 * DAY, now).offline_seconds
        given = self.of(satellite)
        return {
            "auditScore": given.get("auditScore", 1),
            "suspensionScore": given.get("suspensionScore", 1),
            "onlineScore": given.get("onlineScore", max(0.0, 1.0 - offline / (30 * DAY))),
            "satelliteName": satellite.url,
        }

    # ------------------------------------------------------------ answers

    def dashboard(self) -> dict[str, Any]:
        """`/api/sno/`."""
        now, node, shown = self.economy.now, self.node, self.shown()
        days = [day for satellite in SATELLITES for day in self.bandwidth_days(satellite)]
        return {
            "nodeID": "1Xf5b3xHn1ajoNRpJJJd3RebWUgZ58BVqNxKPAH2g1snSAEyNt",
            "wallet": "0x187C8C43890fe4C91aFabbC62128D383A90548Dd",
            "walletFeatures": None,
            "satellites": [
                {
                    "id": satellite.id,
                    "url": satellite.url,
                    "disqualified": self.of(satellite).get("disqualified"),
                    "suspended": self.of(satellite).get("suspended"),
                    **({"vettedAt": self.vetted(satellite)} if shown.is_new else {}),
                }
                for satellite in SATELLITES
            ],
            "diskSpace": self.disk(),
            "bandwidth": {"used": sum(_moved(day) for day in days), "available": 0},
            "lastPinged": rfc3339(node.seen_at),
            "version": shown.version,
            "allowedVersion": "1.158.2",
            "upToDate": shown.up_to_date,
            "startedAt": rfc3339(node.started_at),
            "configuredPort": "28967",
            "quicStatus": shown.quic_status,
            "lastQuicPingedAt": rfc3339(now - now % HOUR),
        }

    def satellite(self, satellite: Satellite) -> dict[str, Any]:
        """`/api/sno/satellite/{id}`."""
        audits = self.audits(satellite)
        return {
            "id": satellite.id,
            **self.usage([satellite], interval=True),
            "audits": audits,
            "auditHistory": {"score": audits["onlineScore"], "windows": None},
            "priceModel": {
                "EgressBandwidth": EGRESS_CENTS,
                "RepairBandwidth": AUDIT_CENTS,
                "AuditBandwidth": AUDIT_CENTS,
                "DiskSpace": DISK_CENTS,
            },
            "nodeJoinedAt": rfc3339(self.joined(satellite)),
            "vettedAt": self.vetted(satellite),
        }

    def held_history(self) -> list[dict[str, Any]]:
        """`/api/heldamount/held-history`, micro-USD of the settled months."""
        periods = self.settled_periods()
        answer: list[dict[str, Any]] = []
        for satellite in SATELLITES:
            thirds = [0, 0, 0]
            for period in periods:
                stub = self.paystub(satellite, period)
                year, month = (int(part) for part in period.split("-"))
                age = _months_between(self.joined(satellite), month_start(year, month))
                if stub and age < 9:
                    thirds[age // 3] += stub["held"]
            answer.append(
                {
                    "satelliteID": satellite.id,
                    "satelliteName": satellite.url,
                    "holdForFirstPeriod": thirds[0],
                    "holdForSecondPeriod": thirds[1],
                    "holdForThirdPeriod": thirds[2],
                    "totalHeld": sum(thirds),
                    "totalDisposed": 0,
                    "joinedAt": rfc3339(self.joined(satellite)),
                }
            )
        return answer

    def notifications(self) -> list[dict[str, Any]]:
        """All of them, newest first."""
        found = [
            {
                "id": (known := str(uuid.uuid5(uuid.NAMESPACE_OID, f"{self.node.name}/{number}/{given['title']}"))),
                "senderId": SATELLITES[0].id,
                "type": given["type"],
                "title": given["title"],
                "message": given.get("message", ""),
                "readAt": rfc3339(self.economy.now) if known in self.books.read else None,
                "createdAt": given["createdAt"],
            }
            for number, given in enumerate(self.shown().notifications)
        ]
        return sorted(found, key=lambda notification: notification["createdAt"], reverse=True)

    def mark_read(self, ids: Sequence[str]) -> None:
        """Mark notifications as read."""
        self.books.read.update(ids)
        self.economy.altered = True

    def health(self) -> dict[str, Any]:
        """What the public port says. Details only where config.yaml asks for them."""
        statuses: list[dict[str, Any]] = [
            {
                "OnlineScore": self.audits(satellite)["onlineScore"],
                "SatelliteID": satellite.id,
                "DisqualifiedAt": self.of(satellite).get("disqualified"),
                "SuspendedAt": self.of(satellite).get("suspended"),
            }
            for satellite in SATELLITES
        ]
        healthy = all(
            s["OnlineScore"] >= UNHEALTHY_ONLINE and not s["DisqualifiedAt"] and not s["SuspendedAt"] for s in statuses
        )
        config = (self.folder / "config.yaml").read_text(encoding="utf-8")
        details = re.search(r"^healthcheck\.details:[ \t]*true", config, re.MULTILINE)
        return {
            "Statuses": statuses if details else None,
            "Help": "To access Storagenode services, please use DRPC protocol!",
            "AllHealthy": healthy,
        }


def _moved(day: Mapping[str, Any], *directions: str) -> int:
    """Bytes of a day's row, in both directions unless some are given."""
    return sum(sum(day[direction].values()) for direction in directions or ("egress", "ingress"))


def _added_up(series: Sequence[Sequence[dict[str, Any]]]) -> list[dict[str, Any]]:
    """Rows of several satellites as one a day: numbers are added, marks are kept."""
    if len(series) == 1:
        return list(series[0])
    days: dict[str, dict[str, Any]] = {}
    for row in (row for rows in series for row in rows):
        day: str = row["intervalStart"]
        days[day] = _sum(days[day], row) if day in days else row
    return [days[day] for day in sorted(days)]


def _sum(one: dict[str, Any], other: dict[str, Any]) -> dict[str, Any]:
    def added(a: Any, b: Any) -> Any:
        if isinstance(a, dict):
            return _sum(cast("dict[str, Any]", a), b)
        if isinstance(a, bool):
            return a or b
        return a if isinstance(a, str) else a + b

    return {key: added(value, other[key]) for key, value in one.items()}


def _error(status: int, message: str) -> Response:
    return json_answer({"error": message}, status, end="\n")


def _go(content: Any) -> Response:
    """Go's encoder ends every document with a line feed."""
    return json_answer(content, end="\n")


_PERIOD = re.compile(r"\d{4}-(0[1-9]|1[0-2])")
_BASE58 = re.compile(r"[1-9A-HJ-NP-Za-km-z]{50,52}")


def _find(text: str) -> Satellite | Response:
    """The satellite of this id, or the answer to a bad or unknown one."""
    for satellite in SATELLITES:
        if satellite.id == text:
            return satellite
    if not _BASE58.fullmatch(text):
        return _error(400, "consoleapi storagenode: node ID: invalid base58 string")
    return _error(404, "consoleapi storagenode: console: trust: satellite is untrusted")


def routes(emulator: StorjNode) -> Router:  # noqa: C901, PLR0915 - one short function for each address of the API
    """The console's addresses, relative to the node's base address."""

    async def dashboard(_request: Request) -> Response:
        return _go(emulator.dashboard())

    async def satellites(_request: Request) -> Response:
        answer = emulator.usage(SATELLITES, interval=False)
        answer["earliestJoinedAt"] = rfc3339(min(emulator.joined(satellite) for satellite in SATELLITES))
        answer["audits"] = [emulator.audits(satellite) for satellite in SATELLITES]
        return _go(answer)

    async def satellite(request: Request) -> Response:
        found = _find(request.path_params["id"])
        return found if isinstance(found, Response) else _go(emulator.satellite(found))

    async def pricing(request: Request) -> Response:
        found = _find(request.path_params["id"])
        if isinstance(found, Response):
            return found
        return _go(
            {
                "satelliteID": found.id,
                "egressBandwidth": EGRESS_CENTS,
                "repairBandwidth": AUDIT_CENTS,
                "auditBandwidth": AUDIT_CENTS,
                "diskSpace": DISK_CENTS,
            }
        )

    async def estimated(request: Request) -> Response:
        wanted = request.query_params.get("id")
        if not wanted:
            return _go(emulator.estimates())
        found = _find(wanted)
        if isinstance(found, Response):
            return found
        if emulator.of(found).get("disqualified"):
            what = "console: estimationservice: node was disqualified on satellite"
            return _error(500, f"consoleapi storagenode: {what}")
        return _go(emulator.estimate(found))

    async def paystubs(request: Request) -> Response:
        begin = request.path_params["begin"]
        end = request.path_params.get("end", begin)
        if not _PERIOD.fullmatch(begin) or not _PERIOD.fullmatch(end):
            return _error(400, "consoleapi payouts: wrong period format: period start has wrong format")
        chosen: tuple[Satellite, ...] = SATELLITES
        wanted = request.query_params.get("id")
        if wanted:
            found = _find(wanted)
            if isinstance(found, Response):
                return found
            chosen = (found,)
        periods = [period for period in emulator.settled_periods() if begin <= period <= end]
        stubs = [stub for period in periods for each in chosen if (stub := emulator.paystub(each, period))]
        if wanted and "end" not in request.path_params:
            return _go(stubs[0] if stubs else None)
        return _go(stubs or None)

    async def held_history(_request: Request) -> Response:
        return _go(emulator.held_history())

    async def periods(request: Request) -> Response:
        wanted = request.query_params.get("id")
        found = _find(wanted) if wanted else None
        return found if isinstance(found, Response) else _go(emulator.settled_periods() or None)

    async def payout_history(request: Request) -> Response:
        period: str = request.path_params["period"]
        if not _PERIOD.fullmatch(period):
            return _error(400, "consoleapi payouts: wrong period format: period has wrong format")
        return _go(emulator.payout_history(period) or None)

    async def notifications(request: Request) -> Response:
        asked: dict[str, int] = {}
        for name in ("limit", "page"):
            text = request.query_params.get(name, "")
            if not re.fullmatch(r"[0-9]+", text):
                why = f"strconv.ParseUint: parsing {json.dumps(text)}: invalid syntax"
                return _error(400, f"consoleapi notifications: {why}")
            asked[name] = int(text)
        limit, number = min(asked["limit"], 50), asked["page"]
        if limit == 0 or number == 0:
            return _error(500, "consoleapi notifications: notifications: limit and page can not be 0")
        everything = emulator.notifications()
        offset = (number - 1) * limit
        return _go(
            {
                "page": {
                    "notifications": everything[offset : offset + limit] or None,
                    "offset": offset,
                    "limit": limit,
                    "currentPage": number,
                    "pageCount": -(-len(everything) // limit),
                },
                "unreadCount": sum(notification["readAt"] is None for notification in everything),
                "totalCount": len(everything),
            }
        )

    async def read_one(request: Request) -> Response:
        try:
            wanted = str(uuid.UUID(request.path_params["id"]))
        except ValueError:
            return _error(500, "consoleapi notifications: uuid: invalid string")
        emulator.mark_read([wanted])
        return Response(media_type="application/json")

    async def read_all(_request: Request) -> Response:
        emulator.mark_read([notification["id"] for notification in emulator.notifications()])
        return Response(media_type="application/json")

    async def public_port(_request: Request) -> Response:
        health = emulator.health()
        # No content type is set there, and Go takes the text for what it looks like.
        return Response(json.dumps(health, indent=2), 200 if health["AllHealthy"] else 503, media_type="text/plain")

    async def refused(_request: Request) -> Response:
        return Response(status_code=405)

    async def page(request: Request) -> Response:
        del request
        return text_answer(_SPA, media_type="text/html")

    addresses: dict[str, Callable[[Request], Any]] = {
        "/api/sno/": dashboard,
        "/api/sno/satellites": satellites,
        "/api/sno/satellite/{id}": satellite,
        "/api/sno/satellites/{id}/pricing": pricing,
        "/api/sno/estimated-payout": estimated,
        "/api/heldamount/paystubs/{begin}": paystubs,
        "/api/heldamount/paystubs/{begin}/{end}": paystubs,
        "/api/heldamount/held-history": held_history,
        "/api/heldamount/periods": periods,
        "/api/heldamount/payout-history/{period}": payout_history,
        "/api/notifications/list": notifications,
        "/public-port": public_port,
    }
    written: dict[str, Callable[[Request], Any]] = {
        "/api/notifications/readall": read_all,
        "/api/notifications/{id}/read": read_one,
    }

    async def moved(request: Request) -> Response:
        """StrictSlash: the same address with the slash added or taken away, for good."""
        url = request.url
        path = url.path.rstrip("/") if url.path.endswith("/") else f"{url.path}/"
        return RedirectResponse(str(url.replace(path=path)), status_code=301)

    table = [Route(path, endpoint, methods=["GET"]) for path, endpoint in addresses.items()]
    table += [Route(path, endpoint, methods=["POST"]) for path, endpoint in written.items()]
    table += [Route(path, refused) for path in written]
    table += [Route(path.rstrip("/") if path.endswith("/") else f"{path}/", moved) for path in addresses]
    # Everything else is the dashboard's page with status 200: a wrong address looks like a success.
    table.append(Route("/{rest:path}", page))
    return Router(table, redirect_slashes=False)
