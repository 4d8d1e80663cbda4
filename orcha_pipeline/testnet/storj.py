"""A Storj storage node's console API (v1.143 and later), and the node's earnings in Storj's own terms.

What the node earns in US dollars is told as a storage node tells it: byte-hours at rest, egress and audit bytes per
day and satellite, priced by each satellite and rounded to a hundredth of a cent.
"""

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route, Router

from orcha_pipeline.testnet.answers import json_answer, month_start, rfc3339, text_answer
from orcha_pipeline.testnet.economy import Economy, Node, Piece
from orcha_pipeline.testnet.worlds import DAY, HOUR

VERSION = "1.162.3"
FILL = 0.93
"""The part of its effective allocation that a settled node has filled."""
_DISK_CENTS, _EGRESS_CENTS, _AUDIT_CENTS = 149, 200, 200
_USAGE_PART, _REPAIR_PART, _AUDIT_PART = 0.78, 0.2, 0.02
"""How egress income divides; repair and audit are priced alike."""


@dataclass(frozen=True, slots=True)
class Satellite:
    """One satellite: its part of the node's business, and how many months before the testnet's start it was joined."""

    id: str
    url: str
    weight: float
    months: int


SATELLITES = (
    Satellite("12EayRS2V1kEsWESU9QMRseFhdxYxKicsiFmxrsLZHeLUtdps3S", "us1.storj.io:7777", 0.55, 64),
    Satellite("12L9ZFwhzVpuEKMUNUqkaTLGzwY9G24tbiigLiXpmZWKwmcNDDs", "eu1.storj.io:7777", 0.30, 7),
    Satellite("121RTSDpyNZVcEU84Ticf2L1ntiuUimbWgfATz21tuvgk3vzoA6", "ap1.storj.io:7777", 0.15, 1),
)

_SPA = "<!DOCTYPE html><html><head><title>Storage Node Dashboard</title></head><body><div id=app></div></body></html>"


@dataclass(slots=True)
class Day:
    """What one UTC day came to, over all satellites. Bytes are exact in sum and rounded only when they are shown."""

    byte_hours: float = 0.0
    egress: float = 0.0
    repair: float = 0.0
    audit: float = 0.0
    ingress: float = 0.0
    offline_seconds: int = 0


class StorjBooks:
    """Storage and traffic per UTC day."""

    def __init__(self, disk_gb: float) -> None:
        """`disk_gb`: disk at share 1.0."""
        self.bytes_at_full = disk_gb * 1e9 * FILL
        self.days: dict[int, Day] = {}

    def accrue(self, piece: Piece) -> None:
        """Divide the money of a piece between storage and traffic, and turn it into bytes."""
        day = self.days.setdefault(piece.start // DAY, Day())
        if not piece.up:
            day.offline_seconds += piece.seconds
            return
        cents = piece.earned * 100.0
        stored = piece.effective * self.bytes_at_full * piece.seconds / HOUR
        disk_cents = min(stored / 720.0 * _DISK_CENTS / 1e12, 0.8 * cents)
        day.byte_hours += disk_cents * 1e12 / _DISK_CENTS * 720.0
        traffic = (cents - disk_cents) * 1e12
        day.egress += traffic * _USAGE_PART / _EGRESS_CENTS
        day.repair += traffic * _REPAIR_PART / _AUDIT_CENTS
        day.audit += traffic * _AUDIT_PART / _AUDIT_CENTS
        day.ingress += 0.15 * traffic / _EGRESS_CENTS

    def total(self, since: int, until: int) -> Day:
        """The sum over days `[since, until)`, Unix seconds at midnights."""
        total = Day()
        for number in range(since // DAY, -(-until // DAY)):
            if day := self.days.get(number):
                total.byte_hours += day.byte_hours
                total.egress += day.egress
                total.repair += day.repair
                total.audit += day.audit
                total.ingress += day.ingress
                total.offline_seconds += day.offline_seconds
        return total

    def dump(self) -> dict[str, Any]:
        """Day number -> its figures."""
        return {
            str(number): [d.byte_hours, d.egress, d.repair, d.audit, d.ingress, d.offline_seconds]
            for number, d in self.days.items()
        }

    def load(self, saved: Mapping[str, Any]) -> None:
        """Take back what `dump` gave."""
        self.days = {int(number): Day(*figures) for number, figures in saved.items()}


def _round2(value: float) -> float:
    """Go's `math.Round(x*100)/100`: halves away from zero."""
    return math.floor(value * 100.0 + 0.5) / 100.0


def held_rate(months: int) -> int:
    """Percent held back, by whole calendar months since the satellite was joined."""
    for limit, rate in ((3, 75), (6, 50), (9, 25)):
        if months < limit:
            return rate
    return 0


def _month(at: int, back: int = 0) -> tuple[int, int]:
    """Start and end of the calendar month `back` months before the one `at` lies in."""
    moment = datetime.fromtimestamp(at, UTC)
    return month_start(moment.year, moment.month - back), month_start(moment.year, moment.month - back + 1)


def _months_between(early: int, late: int) -> int:
    a, b = datetime.fromtimestamp(early, UTC), datetime.fromtimestamp(late, UTC)
    return (b.year - a.year) * 12 + b.month - a.month


class StorjNode:
    """Answers of the console, from the economy's state."""

    def __init__(self, economy: Economy, node: Node, books: StorjBooks) -> None:
        self.economy = economy
        self.node = node
        self.books = books

    # ------------------------------------------------------------ figures

    def joined(self, satellite: Satellite) -> int:
        """When the satellite was joined: some days into a month before the testnet began."""
        moment = datetime.fromtimestamp(self.economy.start, UTC)
        return month_start(moment.year, moment.month - satellite.months) + 6 * DAY + 8 * HOUR

    def disk(self) -> dict[str, int]:
        """`diskSpace`, bytes."""
        demand = self.economy.world.protocols["storj"].demand.disk_gb
        allocated = round(min(self.node.lever_value * 1e12, self.economy.world.capacity.disk_gb * 1e9))
        used = round(self.node.effective * demand * 1e9 * FILL)
        return {
            "used": used,
            "available": max(0, allocated - used),
            "overused": max(0, used - allocated),
            "allocated": allocated,
            "trash": int(used * 0.002),
            "reclaimable": int(used * 0.0015),
        }

    def monthly(self, satellite: Satellite, since: int, until: int) -> dict[str, float]:
        """One satellite's `PayoutMonthly`, cents."""
        total = self.books.total(since, until)
        egress = int(total.egress * satellite.weight)
        repair_audit = int(total.repair * satellite.weight) + int(total.audit * satellite.weight)
        disk = total.byte_hours * satellite.weight / 720.0
        egress_payout = _round2(egress * _EGRESS_CENTS / 1e12)
        repair_payout = _round2(repair_audit * _AUDIT_CENTS / 1e12)
        disk_payout = _round2(disk * _DISK_CENTS / 1e12)
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
        """The sum over satellites; as in the original `heldRate` is not summed and stays 0."""
        parts = [self.estimate(satellite) for satellite in SATELLITES]
        whole: dict[str, Any] = {
            month: {key: 0 if key == "heldRate" else sum(part[month][key] for part in parts) for key in parts[0][month]}
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
        at_rest = int(total.byte_hours * weight / 720.0 * _DISK_CENTS / 1e12 * 1e4)
        get, repair, audit = (
            int(bytes_ * weight * _EGRESS_CENTS / 1e12 * 1e4) for bytes_ in (total.egress, total.repair, total.audit)
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
            "distributed": earned - held,
        }

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

    def usage(self, weight: float, *, interval: bool) -> dict[str, Any]:
        """This month's days and their sums, for a part of the business. Empty lists are `null`, as Go writes them."""
        now = self.economy.now
        since, _ = _month(now)
        storage: list[dict[str, Any]] = []
        bandwidth: list[dict[str, Any]] = []
        egress_sum = ingress_sum = 0
        for number in range(since // DAY, now // DAY + 1):
            day = self.books.days.get(number)
            if day is None:
                continue
            hours = min(24.0, (now - number * DAY) / HOUR)
            at_rest = day.byte_hours * weight
            row: dict[str, Any] = {"atRestTotal": at_rest, "atRestTotalBytes": at_rest / hours}
            if interval:
                row["intervalInHours"] = hours
            storage.append({**row, "intervalStart": rfc3339(number * DAY), "calculated": number == now // DAY})
            usage, repair, audit = (int(part * weight) for part in (day.egress, day.repair, day.audit))
            ingress = int(day.ingress * weight)
            bandwidth.append(
                {
                    "egress": {"repair": repair, "audit": audit, "usage": usage},
                    "ingress": {"repair": 0, "usage": ingress},
                    "delete": 0,
                    "intervalStart": rfc3339(number * DAY),
                }
            )
            egress_sum += usage + repair + audit
            ingress_sum += ingress
        return {
            "storageDaily": storage or None,
            "bandwidthDaily": bandwidth or None,
            "storageSummary": sum(row["atRestTotal"] for row in storage),
            "averageUsageBytes": sum(row["atRestTotalBytes"] for row in storage) / len(storage) if storage else 0,
            "bandwidthSummary": egress_sum + ingress_sum,
            "egressSummary": egress_sum,
            "ingressSummary": ingress_sum,
        }

    def audits(self, satellite: Satellite) -> dict[str, Any]:
        """Reputation: the online score is what the last 30 days were."""
        now = self.economy.now
        offline = self.books.total(now - now % DAY - 29 * DAY, now).offline_seconds
        return {
            "auditScore": 1,
            "suspensionScore": 1,
            "onlineScore": max(0.0, 1.0 - offline / (30 * DAY)),
            "satelliteName": satellite.url,
        }

    # ------------------------------------------------------------ answers

    def dashboard(self) -> dict[str, Any]:
        """`/api/sno/`."""
        now, node = self.economy.now, self.node
        month = self.usage(1.0, interval=False)
        return {
            "nodeID": "1Xf5b3xHn1ajoNRpJJJd3RebWUgZ58BVqNxKPAH2g1snSAEyNt",
            "wallet": "0x187C8C43890fe4C91aFabbC62128D383A90548Dd",
            "walletFeatures": None,
            "satellites": [
                {
                    "id": satellite.id,
                    "url": satellite.url,
                    "disqualified": None,
                    "suspended": None,
                    "vettedAt": rfc3339(self.joined(satellite) + 40 * DAY) if satellite.months > 1 else None,
                }
                for satellite in SATELLITES
            ],
            "diskSpace": self.disk(),
            "bandwidth": {"used": month["bandwidthSummary"], "available": 0},
            "lastPinged": rfc3339(node.seen_at),
            "version": VERSION,
            "allowedVersion": "1.158.2",
            "upToDate": True,
            "startedAt": rfc3339(node.started_at),
            "configuredPort": "28967",
            "quicStatus": "OK",
            "lastQuicPingedAt": rfc3339(now - now % HOUR),
        }

    def satellite(self, satellite: Satellite) -> dict[str, Any]:
        """`/api/sno/satellite/{id}`."""
        audits = self.audits(satellite)
        return {
            "id": satellite.id,
            **self.usage(satellite.weight, interval=True),
            "audits": audits,
            "auditHistory": {"score": audits["onlineScore"], "windows": None},
            "priceModel": {
                "EgressBandwidth": _EGRESS_CENTS,
                "RepairBandwidth": _AUDIT_CENTS,
                "AuditBandwidth": _AUDIT_CENTS,
                "DiskSpace": _DISK_CENTS,
            },
            "nodeJoinedAt": rfc3339(self.joined(satellite)),
            "vettedAt": rfc3339(self.joined(satellite) + 40 * DAY) if satellite.months > 1 else None,
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


def routes(emulator: StorjNode) -> Router:  # noqa: C901 - one short function for each address of the API
    """The console's addresses, relative to the node's base address."""

    async def dashboard(_request: Request) -> Response:
        return _go(emulator.dashboard())

    async def satellites(_request: Request) -> Response:
        answer = emulator.usage(1.0, interval=False)
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
                "egressBandwidth": _EGRESS_CENTS,
                "repairBandwidth": _AUDIT_CENTS,
                "auditBandwidth": _AUDIT_CENTS,
                "diskSpace": _DISK_CENTS,
            }
        )

    async def estimated(request: Request) -> Response:
        wanted = request.query_params.get("id")
        if not wanted:
            return _go(emulator.estimates())
        found = _find(wanted)
        return found if isinstance(found, Response) else _go(emulator.estimate(found))

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

    async def periods(_request: Request) -> Response:
        return _go(emulator.settled_periods() or None)

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
    }

    async def moved(request: Request) -> Response:
        """StrictSlash: the same address with the slash added or taken away, for good."""
        url = request.url
        path = url.path.rstrip("/") if url.path.endswith("/") else f"{url.path}/"
        return RedirectResponse(str(url.replace(path=path)), status_code=301)

    table = [Route(path, endpoint, methods=["GET"]) for path, endpoint in addresses.items()]
    table += [Route(path.rstrip("/") if path.endswith("/") else f"{path}/", moved) for path in addresses]
    # Everything else is the dashboard's page with status 200: a wrong address looks like a success.
    table.append(Route("/{rest:path}", page))
    return Router(table, redirect_slashes=False)
