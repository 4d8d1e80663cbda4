"""A Golem provider's yagna REST API, and the node's earnings as agreements, debit notes, invoices and payments.

One agreement follows another without a gap. A debit note comes every 120 s of an activity; its `totalAmountDue` is
what the activity has come to so far. Nothing of this is stored: the books keep what was earned over time, and every
note, invoice and payment is worked out from it when it is asked for, always the same.
"""

import asyncio
import bisect
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import wraps
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route, Router

from orcha_pipeline.testnet.answers import json_answer, parse_time, query_int, rfc3339_millis, text_answer
from orcha_pipeline.testnet.economy import Economy, Node, Piece
from orcha_pipeline.testnet.levers import GOLEM_CPU_COEFFICIENT
from orcha_pipeline.testnet.noise import hexadecimal, uniform
from orcha_pipeline.testnet.worlds import DAY

APP_KEY = "testnet-app-key"
PLATFORM = "erc20-polygon-glm"
PROVIDER = "0x9f5b6832e221585266836271a5023b6745aa9409"
NOTE_SECONDS = 120
_TILE = 5400
"""Mean length of an activity in seconds."""
_KEEP = 62 * DAY
_LOST = 0.02
"""The part of invoices that no requestor ever accepts."""


class GolemBooks:
    """What was earned over time: knots `(moment, total so far, GLM a second from here on)`."""

    def __init__(self, start: int) -> None:
        """`start`: the first moment that can be earned in, Unix seconds."""
        self.moments: list[int] = []
        self.totals: list[float] = []
        self.rates: list[float] = []
        self.until = start

    def accrue(self, piece: Piece) -> None:
        """A new knot wherever the rate changes, so that the past never depends on how finely it was asked for."""
        rate = piece.earned / piece.seconds
        if not self.rates or abs(rate - self.rates[-1]) > 1e-9 * max(rate, self.rates[-1]):
            self.totals.append(self.total(piece.start))
            self.moments.append(piece.start)
            self.rates.append(rate)
            if self.moments[0] < piece.start - 2 * _KEEP:
                cut = bisect.bisect_left(self.moments, piece.start - _KEEP)
                del self.moments[:cut], self.totals[:cut], self.rates[:cut]
        self.until = piece.end

    def total(self, at: int) -> float:
        """GLM earned up to a moment."""
        place = bisect.bisect_right(self.moments, at) - 1
        if place < 0:
            return self.totals[0] if self.totals else 0.0
        return self.totals[place] + (min(at, self.until) - self.moments[place]) * self.rates[place]

    @property
    def since(self) -> int:
        """The first moment the books know."""
        return self.moments[0] if self.moments else self.until

    def dump(self) -> dict[str, Any]:
        """The knots."""
        return {"moments": self.moments, "totals": self.totals, "rates": self.rates, "until": self.until}

    def load(self, saved: Mapping[str, Any]) -> None:
        """Take back what `dump` gave."""
        self.moments, self.totals = list(saved["moments"]), list(saved["totals"])
        self.rates, self.until = list(saved["rates"]), saved["until"]


@dataclass(frozen=True, slots=True)
class Activity:
    """One agreement with its one activity: `[begin, end)` in Unix seconds."""

    number: int
    begin: int
    end: int

    @property
    def agreement_id(self) -> str:
        """Id of the agreement."""
        return hexadecimal(0, "agreement", self.number, 64)

    @property
    def id(self) -> str:
        """Id of the activity."""
        return hexadecimal(0, "activity", self.number, 32)

    @property
    def requestor(self) -> str:
        """Who pays."""
        return "0x" + hexadecimal(0, "requestor", self.number % 7, 40)

    @property
    def accepted(self) -> bool:
        """False for the few invoices that are never accepted."""
        return uniform(0, "lost", self.number) >= _LOST

    @property
    def paid_at(self) -> int:
        """When an accepted invoice is paid: minutes to an hour after the end."""
        return self.end + 300 + int(3300 * uniform(0, "paid", self.number))


def _boundary(number: int) -> int:
    return number * _TILE + int((uniform(0, "tile", number) - 0.5) * 0.7 * _TILE)


def activity_at(moment: int) -> Activity:
    """The activity that runs at a moment."""
    number = moment // _TILE
    if moment < _boundary(number):
        number -= 1
    elif moment >= _boundary(number + 1):
        number += 1
    return Activity(number, _boundary(number), _boundary(number + 1))


def _uuid(label: str, number: int) -> str:
    digits = hexadecimal(0, label, number, 32)
    return f"{digits[:8]}-{digits[8:12]}-4{digits[13:16]}-a{digits[17:20]}-{digits[20:]}"


def decimal_text(amount: float) -> str:
    """GLM in whole tokens as a decimal string, as a BigDecimal is written."""
    return f"{amount:.15f}".rstrip("0").rstrip(".") or "0"


@dataclass(slots=True)
class Counters:
    """Metrics since yagna started, over activities that ended up to `until`."""

    until: int
    begun: int = 0
    issued: int = 0
    paid: int = 0
    nano_glm: int = 0

    def add(self, activity: Activity, due: float, now: int) -> None:
        """Count one activity as it stands now."""
        self.begun += 1
        if activity.end <= now:
            self.issued += 1
            if activity.accepted and activity.paid_at <= now:
                self.paid += 1
                self.nano_glm += int(due * 1e9)


class GolemNode:
    """Answers of the yagna daemon, from the economy's state."""

    def __init__(self, economy: Economy, node: Node, books: GolemBooks) -> None:
        self.economy = economy
        self.node = node
        self.books = books
        self._settled = Counters(until=0)

    # ------------------------------------------------------------ agreements

    def activities(self, since: int) -> Iterator[Activity]:
        """Activities that end after `since` and earned something, in order, the running one last."""
        now = self.economy.now
        moment = max(since, self.books.since)
        while moment < now:
            activity = activity_at(moment)
            # What was earned before the books begin is not known any more: such an activity is left out.
            whole = activity.begin >= self.books.since or not self.books.totals[0]
            if whole and self.books.total(min(activity.end, now)) > self.books.total(activity.begin):
                yield activity
            moment = activity.end

    def due(self, activity: Activity, at: int) -> float:
        """GLM the activity has come to at a moment."""
        return self.books.total(min(at, activity.end)) - self.books.total(activity.begin)

    def _parties(self, activity: Activity) -> dict[str, Any]:
        return {
            "issuerId": PROVIDER,
            "recipientId": activity.requestor,
            "payeeAddr": PROVIDER,
            "payerAddr": activity.requestor,
            "paymentPlatform": PLATFORM,
        }

    def debit_notes(self, after: float, limit: int | None) -> list[dict[str, Any]]:
        """Notes dated after `after`, oldest first."""
        notes: list[dict[str, Any]] = []
        for activity in self.activities(int(after) - NOTE_SECONDS):
            first = max(0, (int(after) - activity.begin) // NOTE_SECONDS - 1) if after > activity.begin else 0
            begun = self.books.total(activity.begin)
            count = -(-(activity.end - activity.begin) // NOTE_SECONDS)
            known = self.books.total(activity.begin + first * NOTE_SECONDS) - begun
            previous = self._previous(activity, first, begun)
            for number in range(first + 1, count + 1):
                at = min(activity.begin + number * NOTE_SECONDS, activity.end)
                if at > self.economy.now:
                    break
                due = self.books.total(at) - begun
                if due > known:
                    note = self._note_id(activity, number)
                    if at > after:
                        notes.append(self._note(activity, note, previous, at, due))
                        if limit is not None and len(notes) >= limit:
                            return notes
                    known, previous = due, note
        return notes

    def _note_id(self, activity: Activity, number: int) -> str:
        return _uuid("note", activity.number * 1000 + number)

    def _previous(self, activity: Activity, number: int, begun: float) -> str | None:
        """Id of the last note up to the one of this number: a note exists only where something was earned."""
        for each in range(number, 0, -1):
            at = activity.begin + each * NOTE_SECONDS
            if self.books.total(at) > self.books.total(max(at - NOTE_SECONDS, activity.begin)):
                return self._note_id(activity, each)
            if self.books.total(at) <= begun:
                return None
        return None

    def _note(self, activity: Activity, note: str, previous: str | None, at: int, due: float) -> dict[str, Any]:
        return {
            "debitNoteId": note,
            **self._parties(activity),
            "previousDebitNoteId": previous,
            "timestamp": rfc3339_millis(at),
            "agreementId": activity.agreement_id,
            "activityId": activity.id,
            "totalAmountDue": decimal_text(due),
            "usageCounterVector": [due / GOLEM_CPU_COEFFICIENT, float(at - activity.begin)],
            "paymentDueDate": rfc3339_millis(at + 720),
            "status": "ACCEPTED" if self.economy.now >= at + 10 else "RECEIVED",
        }

    def invoices(self, after: float, limit: int | None) -> list[dict[str, Any]]:
        """Invoices dated after `after`, oldest first: one when an agreement has ended."""
        found: list[dict[str, Any]] = []
        for activity in self.activities(int(after) - 1):
            if activity.end <= self.economy.now and activity.end > after:
                found.append(self.invoice(activity))
                if limit is not None and len(found) >= limit:
                    break
        return found

    def invoice(self, activity: Activity) -> dict[str, Any]:
        """The invoice of an ended agreement."""
        now = self.economy.now
        status = "ISSUED"
        if activity.accepted and now >= activity.end + 30:
            status = "SETTLED" if now >= activity.paid_at else "ACCEPTED"
        return {
            "invoiceId": _uuid("invoice", activity.number),
            **self._parties(activity),
            "timestamp": rfc3339_millis(activity.end),
            "agreementId": activity.agreement_id,
            "activityIds": [activity.id],
            "amount": decimal_text(self.due(activity, activity.end)),
            "paymentDueDate": rfc3339_millis(activity.end + DAY),
            "status": status,
        }

    def payments(self, after: float, limit: int | None) -> list[dict[str, Any]]:
        """Payments dated after `after`, oldest first."""
        paid = [
            activity
            for activity in self.activities(int(after) - 2 * 3600)
            if activity.accepted and after < activity.paid_at <= self.economy.now
        ]
        paid.sort(key=lambda activity: activity.paid_at)
        return [self.payment(activity) for activity in paid[:limit]]

    def payment(self, activity: Activity) -> dict[str, Any]:
        """The payment of an invoice."""
        amount = decimal_text(self.due(activity, activity.end))
        return {
            "paymentId": _uuid("payment", activity.number),
            "payerId": activity.requestor,
            "payeeId": PROVIDER,
            "payerAddr": activity.requestor,
            "payeeAddr": PROVIDER,
            "paymentPlatform": PLATFORM,
            "amount": amount,
            "timestamp": rfc3339_millis(activity.paid_at),
            "agreementPayments": [{"agreementId": activity.agreement_id, "amount": amount}],
            "activityPayments": [],
            "details": "0x" + hexadecimal(0, "transaction", activity.number, 64),
        }

    def find(self, attribute: Callable[[Activity], str], wanted: str) -> Activity | None:
        """The activity whose id (of whatever kind) is `wanted`; newest first, for those are asked for."""
        moment = self.economy.now - 1
        while moment >= self.books.since:
            activity = activity_at(moment)
            if attribute(activity) == wanted:
                return activity if self.due(activity, self.economy.now) > 0 else None
            moment = activity.begin - 1
        return None

    # ------------------------------------------------------------ offers

    def offers(self) -> list[dict[str, Any]]:
        """One offer an active preset. What is offered is what the provider loaded, not what the file says by now."""
        if self.node.lever_share <= 0.0:
            return []
        published = max(self.node.started_at, self.economy.now - self.economy.now % 3600)
        return [self._offer(preset, published) for preset in self.node.detail["presets"]]

    def _offer(self, preset: Mapping[str, Any], published: int) -> dict[str, Any]:
        coefficients: Mapping[str, float] = preset.get("usage-coeffs", {})
        usage = list(coefficients)
        return {
            "properties": {
                f"golem.com.payment.platform.{PLATFORM}.address": PROVIDER,
                "golem.com.pricing.model": preset.get("pricing-model", "linear"),
                "golem.com.pricing.model.linear.coeffs": [*coefficients.values(), preset.get("initial-price", 0.0)],
                "golem.com.scheme": "payu",
                "golem.com.scheme.payu.debit-note.interval-sec?": NOTE_SECONDS,
                "golem.com.usage.vector": usage,
                "golem.inf.cpu.architecture": "x86_64",
                "golem.inf.cpu.cores": max(1, int(self.node.lever_value) // 2),
                "golem.inf.cpu.threads": int(self.node.lever_value),
                "golem.inf.mem.gib": self.node.detail["mem_gib"],
                "golem.inf.storage.gib": self.node.detail["storage_gib"],
                "golem.node.debug.subnet": "public",
                "golem.node.id.name": "orcha-testnet",
                "golem.runtime.name": preset.get("exeunit-name", "vm"),
                "golem.runtime.version": "0.5.3",
            },
            "constraints": "(&(golem.srv.comp.expiration>0)(golem.node.debug.subnet=public))",
            "offerId": hexadecimal(0, f"offer/{self.node.signature}/{preset['name']}", published, 64),
            "providerId": PROVIDER,
            "timestamp": rfc3339_millis(published),
        }

    # ------------------------------------------------------------ metrics

    def metrics(self) -> str:
        """Prometheus text; money in nano-GLM, counted since yagna started."""
        counters = replace(self._settled)
        for activity in self.activities(max(self.books.since, counters.until)):
            if activity.begin < counters.until:
                continue
            counters.add(activity, self.due(activity, activity.end), self.economy.now)
            if activity.end + 3600 <= self.economy.now:
                # Nothing about it can change any more, so that later readings need not go through it again.
                self._settled.add(activity, self.due(activity, activity.end), self.economy.now)
                self._settled.until = activity.end
        lines = {
            f'payment_amount_received{{platform="{PLATFORM}"}}': counters.nano_glm,
            f'payment_amount_sent{{platform="{PLATFORM}"}}': 0,
            "payment_invoices_provider_issued": counters.issued,
            "payment_invoices_provider_sent": counters.issued,
            "payment_invoices_provider_paid": counters.paid,
            "activity_provider_created": counters.begun,
            "activity_provider_destroyed": counters.issued,
            "market_agreements_provider_approved": counters.begun,
            "market_offers_subscribed": len(self.offers()),
            "net_public_addresses": 1,
        }
        return "".join(f"{name} {value}\n" for name, value in sorted(lines.items()))


def _bad_request(message: str | None, status: int = 400) -> Response:
    return json_answer({"message": message}, status)


_Endpoint = Callable[[Request], Any]


def _guarded(endpoint: _Endpoint) -> _Endpoint:
    """Ask for the app-key first, as yagna's middleware does: as a bearer token or in the query."""

    @wraps(endpoint)
    async def guard(request: Request) -> Response:
        header = request.headers.get("authorization", "")
        scheme, _, key = header.partition(" ")
        if scheme.lower() != "bearer" or not key:
            key = request.query_params.get("authToken", "")
        if not key:
            return text_answer("Missing application key", 401)
        if key != APP_KEY:
            return text_answer("Invalid application key", 401)
        try:
            return await endpoint(request)
        except ValueError as error:
            return _bad_request(str(error))

    return guard


def _paging(request: Request, limit_name: str) -> tuple[float, int | None]:
    after = request.query_params.get("afterTimestamp")
    limit = query_int(request, limit_name)
    if limit is not None and limit <= 0:
        raise ValueError(f"{limit_name}: invalid value")
    return parse_time(after) if after else 0.0, limit


def routes(emulator: GolemNode) -> Router:  # noqa: C901, PLR0915 - one short function for each address of the API
    """Yagna's addresses, relative to the node's base address."""

    async def me(_request: Request) -> Response:
        return json_answer({"identity": PROVIDER, "name": "golem-cli", "role": "manager"})

    async def version(_request: Request) -> Response:
        current = {"version": "0.17.6", "name": "v0.17.6", "seen": True, "releaseTs": "2026-02-01T14:23:48"}
        return json_answer({"current": current, "pending": None})

    async def healthcheck(_request: Request) -> Response:
        if emulator.node.was_up:
            return json_answer({"status": "ok"})
        problem = "/healthcheck/market-bcast-timeout"
        content = {
            "type": problem,
            "detail": "Last received market broadcast is too old",
            "instance": problem,
            "step": "market-check",
            "lastBcastAgeSecs": emulator.economy.now - emulator.node.seen_at,
        }
        answer = json_answer(content, 500)
        answer.headers["content-type"] = "application/problem+json"
        return answer

    async def metrics(_request: Request) -> Response:
        return text_answer(emulator.metrics())

    async def debit_notes(request: Request) -> Response:
        return json_answer(emulator.debit_notes(*_paging(request, "maxItems")))

    async def debit_note(request: Request) -> Response:
        for note in emulator.debit_notes(0.0, None):
            if note["debitNoteId"] == request.path_params["id"]:
                return json_answer(note)
        return _bad_request(None, 404)

    async def not_implemented(_request: Request) -> Response:
        return _bad_request(None, 501)

    async def invoices(request: Request) -> Response:
        return json_answer(emulator.invoices(*_paging(request, "maxItems")))

    def ended(request: Request) -> Activity | None:
        found = emulator.find(lambda activity: _uuid("invoice", activity.number), request.path_params["id"])
        return found if found and found.end <= emulator.economy.now else None

    async def invoice(request: Request) -> Response:
        found = ended(request)
        return json_answer(emulator.invoice(found)) if found else _bad_request(None, 404)

    async def invoice_payments(request: Request) -> Response:
        found = ended(request)
        if found is None:
            return _bad_request(None, 404)
        paid = found.accepted and found.paid_at <= emulator.economy.now
        return json_answer([emulator.payment(found)] if paid else [])

    async def payments(request: Request) -> Response:
        after, limit = _paging(request, "maxEvents")
        # A long poll: without `timeout` it waits five seconds for the next payment.
        patience = float(request.query_params.get("timeout") or 5.0)
        found = emulator.payments(after, limit)
        waited = 0.0
        while not found and waited < patience:
            pause = min(0.25, patience - waited)
            await asyncio.sleep(pause)
            waited += pause
            found = emulator.payments(after, limit)
        return json_answer(found)

    async def payment_status(_request: Request) -> Response:
        return json_answer([])

    async def accounts(_request: Request) -> Response:
        account = {"platform": PLATFORM, "address": PROVIDER, "driver": "erc20", "network": "polygon"}
        return json_answer([{**account, "token": "GLM", "send": False, "receive": True}])

    async def offers(_request: Request) -> Response:
        return json_answer(emulator.offers())

    def state(activity: Activity) -> str:
        return "Terminated" if activity.end <= emulator.economy.now else "Approved"

    async def agreements(request: Request) -> Response:
        wanted = request.query_params.get("state")
        after = request.query_params.get("afterDate")
        before = request.query_params.get("beforeDate")
        since = parse_time(after) if after else 0.0
        until = parse_time(before) if before else float("inf")
        found = [
            {
                "id": activity.agreement_id,
                "timestamp": rfc3339_millis(activity.begin),
                "approvedDate": rfc3339_millis(activity.begin + 3),
                "role": "Provider",
            }
            # Only the last activity can still be in force: the many before it need not be walked through.
            for activity in emulator.activities(emulator.economy.now - 1 if wanted == "Approved" else int(since))
            if (not wanted or state(activity) == wanted) and since < activity.begin < until
        ]
        return json_answer(found)

    async def agreement(request: Request) -> Response:
        found = emulator.find(lambda activity: activity.agreement_id, request.path_params["id"])
        if found is None:
            return _bad_request(None, 404)
        offers = emulator.offers()
        return json_answer(
            {
                "agreementId": found.agreement_id,
                "demand": {
                    "properties": {"golem.srv.comp.expiration": found.end * 1000},
                    "constraints": "(golem.runtime.name=vm)",
                    "demandId": hexadecimal(0, "demand", found.number, 64),
                    "requestorId": found.requestor,
                    "timestamp": rfc3339_millis(found.begin),
                },
                "offer": offers[0] if offers else None,
                "validTo": rfc3339_millis(found.end + 1800),
                "approvedDate": rfc3339_millis(found.begin + 3),
                "state": state(found),
                "timestamp": rfc3339_millis(found.begin),
            }
        )

    async def activity_ids(request: Request) -> Response:
        wanted = request.query_params.get("agreementId")
        if wanted:
            found = emulator.find(lambda activity: activity.agreement_id, wanted)
            return json_answer([found.id] if found else [])
        return json_answer([activity.id for activity in emulator.activities(0)])

    def by_id(request: Request) -> Activity | None:
        return emulator.find(lambda activity: activity.id, request.path_params["id"])

    async def activity_state(request: Request) -> Response:
        found = by_id(request)
        if found is None:
            return _bad_request(None, 404)
        ended_ = found.end <= emulator.economy.now
        return json_answer({"state": ["Terminated" if ended_ else "Ready", None]})

    async def activity_usage(request: Request) -> Response:
        found = by_id(request)
        if found is None:
            return _bad_request(None, 404)
        at = min(found.end, emulator.economy.now)
        vector = [emulator.due(found, at) / GOLEM_CPU_COEFFICIENT, float(at - found.begin)]
        return json_answer({"currentUsage": vector, "timestamp": at})

    async def activity_agreement(request: Request) -> Response:
        found = by_id(request)
        return json_answer(found.agreement_id) if found else _bad_request(None, 404)

    async def net_status(_request: Request) -> Response:
        status = {"nodeId": PROVIDER, "listenIp": "0.0.0.0:11500", "publicIp": "203.0.113.7:11500"}
        return json_answer({**status, "sessions": 31 if emulator.node.was_up else 0})

    free: dict[str, _Endpoint] = {"/version/get": version, "/metrics-api/v1/expose": metrics}
    guarded: dict[str, _Endpoint] = {
        "/me": me,
        "/healthcheck": healthcheck,
        "/payment-api/v1/debitNotes": debit_notes,
        "/payment-api/v1/debitNotes/{id}": debit_note,
        "/payment-api/v1/debitNotes/{id}/payments": not_implemented,
        "/payment-api/v1/invoices": invoices,
        "/payment-api/v1/invoices/{id}": invoice,
        "/payment-api/v1/invoices/{id}/payments": invoice_payments,
        "/payment-api/v1/payments": payments,
        "/payment-api/v1/payments/status": payment_status,
        "/payment-api/v1/providerAccounts": accounts,
        "/market-api/v1/offers": offers,
        "/market-api/v1/agreements": agreements,
        "/market-api/v1/agreements/{id}": agreement,
        "/activity-api/v1/activity": activity_ids,
        "/activity-api/v1/activity/{id}/state": activity_state,
        "/activity-api/v1/activity/{id}/usage": activity_usage,
        "/activity-api/v1/activity/{id}/agreement": activity_agreement,
        "/net-api/v2/net/status": net_status,
    }

    async def unknown(_request: Request) -> Response:
        return text_answer("", 404)

    table = [Route(path, endpoint, methods=["GET"]) for path, endpoint in free.items()]
    table += [Route(path, _guarded(endpoint), methods=["GET"]) for path, endpoint in guarded.items()]
    table.append(Route("/{rest:path}", _guarded(unknown)))
    return Router(table, redirect_slashes=False)
