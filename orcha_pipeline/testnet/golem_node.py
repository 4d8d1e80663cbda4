"""The documents of a Golem provider's yagna: agreements, debit notes, invoices, payments, events, offers and metrics.

A debit note comes every 120 s of an activity; its `totalAmountDue` is what the activity has come to so far. Nothing
of this is stored: it is worked out from the books when it is asked for, always the same.
"""

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from orcha_pipeline.testnet.answers import rfc3339_millis
from orcha_pipeline.testnet.economy import Economy, Node
from orcha_pipeline.testnet.golem_books import (
    ACCEPTED_AFTER,
    NOTE_ACCEPTED_AFTER,
    PAID_WITHIN,
    REJECTED_AFTER,
    Activity,
    GolemBooks,
    activity_at,
    decimal_text,
    note_status,
    uuid,
)
from orcha_pipeline.testnet.levers import GOLEM_CPU_COEFFICIENT
from orcha_pipeline.testnet.noise import hexadecimal

PLATFORM = "erc20-polygon-glm"
NOTE_SECONDS = 120
_VECTOR = ["golem.usage.cpu_sec", "golem.usage.duration_sec"]
_DRIVER_AMOUNTS = {"InsufficientGas": ("neededGasEst", "0.002"), "InsufficientToken": ("neededTokenEst", "1.5")}
DRIVER_PROBLEMS: Mapping[str, str] = {
    "InsufficientGas": "Insufficient gas",
    "InsufficientToken": "Insufficient token",
    "InvalidChainId": "Invalid chain id",
    "CantSign": "Can't sign transaction",
    "TxStuck": "Transaction stuck",
    "RpcError": "RPC error",
}
"""Kinds of problems that a payment driver has, and the health check's words for them."""


@dataclass(slots=True)
class Counters:
    """Metrics of activities that ended up to `until`, counted from `since` on."""

    since: int
    until: int = 0
    begun: int = 0
    issued: int = 0
    accepted: int = 0
    paid: int = 0
    nano_glm: int = 0

    def add(self, activity: Activity, due: float, now: int) -> None:
        """Count what happened to one activity since the counters began."""
        self.begun += self.since <= activity.begin
        if activity.end > now:
            return
        self.issued += self.since <= activity.end
        if activity.accepted:
            self.accepted += self.since <= activity.end + ACCEPTED_AFTER <= now
            if self.since <= activity.paid_at <= now:
                self.paid += 1
                self.nano_glm += int(due * 1e9)


class GolemNode:
    """Answers of the yagna daemon, from the economy's state."""

    def __init__(self, economy: Economy, node: Node, books: GolemBooks) -> None:
        self.economy = economy
        self.node = node
        self.books = books
        self.provider = "0x" + hexadecimal(0, f"provider/{node.name}", 0, 40)
        self._settled = Counters(since=0)

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
            "issuerId": self.provider,
            "recipientId": activity.requestor,
            "payeeAddr": self.provider,
            "payerAddr": activity.requestor,
            "paymentPlatform": PLATFORM,
        }

    def debit_notes(self, after: float, limit: int | None) -> list[dict[str, Any]]:
        """Notes dated after `after`, oldest first."""
        notes: list[dict[str, Any]] = []
        for _, note in self._notes(after):
            notes.append(note)
            if limit is not None and len(notes) >= limit:
                break
        return notes

    def _notes(self, after: float) -> Iterator[tuple[int, dict[str, Any]]]:
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
                        yield at, self._note(activity, note, previous, at, due)
                    known, previous = due, note

    def _note_id(self, activity: Activity, number: int) -> str:
        return uuid("note", activity.number * 1000 + number)

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
            "status": note_status(self.economy.now - at),
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
        return {
            "invoiceId": uuid("invoice", activity.number),
            **self._parties(activity),
            "timestamp": rfc3339_millis(activity.end),
            "agreementId": activity.agreement_id,
            "activityIds": [activity.id],
            "amount": decimal_text(self.due(activity, activity.end)),
            "paymentDueDate": rfc3339_millis(activity.due_at),
            "status": activity.status(self.economy.now),
        }

    def payments(self, after: float, limit: int | None) -> list[dict[str, Any]]:
        """Payments dated after `after`, oldest first."""
        paid = [
            activity
            for activity in self.activities(int(after) - PAID_WITHIN)
            if activity.accepted and after < activity.paid_at <= self.economy.now
        ]
        paid.sort(key=lambda activity: activity.paid_at)
        return [self.payment(activity) for activity in paid[:limit]]

    def payment(self, activity: Activity) -> dict[str, Any]:
        """The payment of an invoice."""
        amount = decimal_text(self.due(activity, activity.end))
        return {
            "paymentId": uuid("payment", activity.number),
            "payerId": activity.requestor,
            "payeeId": self.provider,
            "payerAddr": activity.requestor,
            "payeeAddr": self.provider,
            "paymentPlatform": PLATFORM,
            "amount": amount,
            "timestamp": rfc3339_millis(activity.paid_at),
            "agreementPayments": [{"agreementId": activity.agreement_id, "amount": amount}],
            "activityPayments": [],
            "details": "0x" + hexadecimal(0, "transaction", activity.number, 64),
        }

    def totals(self, activity: Activity) -> dict[str, Any]:
        """What `payAgreements` and `payActivities` say of an activity's money."""
        now = self.economy.now
        due = decimal_text(self.due(activity, now))
        accepted = due if activity.end <= now and activity.accepted_part(now) else "0"
        paid = due if activity.accepted and activity.paid_at <= now else "0"
        return {
            "ownerId": self.provider,
            "role": "P",
            "totalAmountDue": due,
            "totalAmountAccepted": accepted,
            "totalAmountScheduled": "0",
            "totalAmountPaid": paid,
            "createdTs": rfc3339_millis(activity.begin),
            "updatedTs": rfc3339_millis(min(activity.end, now)),
        }

    def pay_agreement(self, activity: Activity) -> dict[str, Any]:
        """An item of `payAgreements`."""
        parties = self._parties(activity)
        return {
            "id": activity.agreement_id,
            "peerId": activity.requestor,
            **{name: parties[name] for name in ("payeeAddr", "payerAddr", "paymentPlatform")},
            "appSessionId": None,
            **self.totals(activity),
        }

    def pay_activity(self, activity: Activity) -> dict[str, Any]:
        """An item of `payActivities`."""
        return {"id": activity.id, "agreementId": activity.agreement_id, **self.totals(activity)}

    # ------------------------------------------------------------ events

    def invoice_events(self, after: float, limit: int | None, kinds: Collection[str] | None) -> list[dict[str, Any]]:
        """What happened to invoices after `after`, oldest first; `kinds` None: all."""
        events: list[tuple[int, dict[str, Any]]] = []
        for activity in self.activities(int(after) - PAID_WITHIN):
            happened = {activity.end + ACCEPTED_AFTER: "InvoiceAcceptedEvent", activity.paid_at: "InvoiceSettledEvent"}
            if not activity.accepted:
                rejected = activity.status(activity.end + REJECTED_AFTER) == "REJECTED"
                happened = {activity.end + REJECTED_AFTER: "InvoiceRejectedEvent"} if rejected else {}
            for at, kind in happened.items():
                event: dict[str, Any] = {"invoiceId": uuid("invoice", activity.number)}
                event |= {"eventDate": rfc3339_millis(at), "eventType": kind}
                if kind == "InvoiceRejectedEvent":
                    event["rejection"] = {"rejectionReason": "BAD_SERVICE", "totalAmountAccepted": "0", "message": None}
                events.append((at, event))
        return self._happened(events, after, limit, kinds)

    def debit_note_events(self, after: float, limit: int | None, kinds: Collection[str] | None) -> list[dict[str, Any]]:
        """What happened to debit notes after `after`, oldest first; `kinds` None: all."""
        events: list[tuple[int, dict[str, Any]]] = []
        for at, note in self._notes(max(0.0, after - NOTE_ACCEPTED_AFTER)):
            moment = at + NOTE_ACCEPTED_AFTER
            event = {"debitNoteId": note["debitNoteId"], "eventDate": rfc3339_millis(moment)}
            events.append((moment, {**event, "eventType": "DebitNoteAcceptedEvent"}))
        return self._happened(events, after, limit, kinds)

    def agreement_events(self, after: float, limit: int | None) -> list[dict[str, Any]]:
        """Agreements that were made and ended after `after`, oldest first."""
        events: list[tuple[int, dict[str, Any]]] = []
        for activity in self.activities(int(after) - 1):
            for at, kind in ((activity.begin + 3, "Approved"), (activity.end, "Terminated")):
                event: dict[str, Any] = {"agreementId": activity.agreement_id, "eventDate": rfc3339_millis(at)}
                event["eventType"] = f"Agreement{kind}Event"
                if kind == "Terminated":
                    event |= {"terminator": "Requestor", "reason": self.reason()}
                events.append((at, event))
        return self._happened(events, after, limit, None)

    def _happened(
        self,
        events: list[tuple[int, dict[str, Any]]],
        after: float,
        limit: int | None,
        kinds: Collection[str] | None,
    ) -> list[dict[str, Any]]:
        wanted = [
            (at, event)
            for at, event in events
            if after < at <= self.economy.now and (kinds is None or event["eventType"] in kinds)
        ]
        wanted.sort(key=lambda item: item[0])
        return [event for _, event in wanted[:limit]]

    @staticmethod
    def reason() -> dict[str, Any]:
        """Why an agreement was ended."""
        return {"message": "Success", "golem.requestor.code": "Success"}

    def running(self) -> Activity | None:
        """The activity that runs now; never more than one."""
        for activity in self.activities(self.economy.now - 1):
            if activity.end > self.economy.now:
                return activity
        return None

    def usage(self, activity: Activity, at: int) -> list[float]:
        """CPU seconds and seconds, in the order of the agreement's vector."""
        at = min(activity.end, at)
        return [self.due(activity, at) / GOLEM_CPU_COEFFICIENT, float(at - activity.begin)]

    def monitor(self) -> dict[str, Any]:
        """One event of the stream of live tasks."""
        now, running = self.economy.now, self.running()
        tasks: list[dict[str, Any]] = []
        if running is not None:
            usage = dict(zip(_VECTOR, self.usage(running, now), strict=True))
            task = {"id": running.id, "state": "Ready", "usage": usage, "exeUnit": "vm"}
            tasks.append({**task, "agreementId": running.agreement_id})
        return {"ts": rfc3339_millis(now), "activities": tasks}

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
        size = {"threads": int(self.node.lever_value), **self.node.detail}
        return [self._offer(preset, published, size) for preset in self.node.detail["presets"]]

    def agreed_offer(self, activity: Activity) -> dict[str, Any]:
        """The offer as it was when the agreement was made: with the size of then, and the prices it is paid by."""
        share = self.books.threads(activity.begin) / self.economy.levers[self.node.name].at_full_share
        demand = self.economy.world.protocols[self.node.protocol].demand
        size = {
            "threads": self.books.threads(activity.begin),
            "mem_gib": demand.memory_gib * share,
            "storage_gib": demand.disk_gb * share * 1e9 / 1024**3,
        }
        preset = {"name": "vm", "usage-coeffs": dict(zip(_VECTOR, (GOLEM_CPU_COEFFICIENT, 0.0), strict=True))}
        return self._offer(preset, activity.begin, size)

    def _offer(self, preset: Mapping[str, Any], published: int, size: Mapping[str, Any]) -> dict[str, Any]:
        coefficients: Mapping[str, float] = preset.get("usage-coeffs", {})
        usage = list(coefficients)
        return {
            "properties": {
                f"golem.com.payment.platform.{PLATFORM}.address": self.provider,
                "golem.com.pricing.model": preset.get("pricing-model", "linear"),
                "golem.com.pricing.model.linear.coeffs": [*coefficients.values(), preset.get("initial-price", 0.0)],
                "golem.com.scheme": "payu",
                "golem.com.scheme.payu.debit-note.interval-sec?": NOTE_SECONDS,
                "golem.com.usage.vector": usage,
                "golem.inf.cpu.architecture": "x86_64",
                "golem.inf.cpu.cores": max(1, size["threads"] // 2),
                "golem.inf.cpu.threads": size["threads"],
                "golem.inf.mem.gib": size["mem_gib"],
                "golem.inf.storage.gib": size["storage_gib"],
                "golem.node.debug.subnet": "public",
                "golem.node.id.name": "orcha-testnet",
                "golem.runtime.name": preset.get("exeunit-name", "vm"),
                "golem.runtime.version": "0.5.3",
            },
            "constraints": "(&(golem.srv.comp.expiration>0)(golem.node.debug.subnet=public))",
            "offerId": hexadecimal(0, f"offer/{self.node.signature}/{preset['name']}", published, 64),
            "providerId": self.provider,
            "timestamp": rfc3339_millis(published),
        }

    # ------------------------------------------------------------ metrics

    def metrics(self) -> dict[str, float]:
        """Name with labels -> value; money in nano-GLM. Everything is counted since yagna started."""
        begun = self.books.condition.restarted_at
        since = self.economy.start if begun is None else begun
        if self._settled.since != since:
            self._settled = Counters(since=since)
        counters = replace(self._settled)
        for activity in self.activities(max(self.books.since, since - PAID_WITHIN, counters.until)):
            if activity.begin < counters.until:
                continue
            due = self.due(activity, activity.end)
            counters.add(activity, due, self.economy.now)
            if activity.end + PAID_WITHIN <= self.economy.now:
                # Nothing about it can change any more, so that later readings need not go through it again.
                self._settled.add(activity, due, self.economy.now)
                self._settled.until = activity.end
        return {
            f'payment_amount_received{{platform="{PLATFORM}"}}': counters.nano_glm,
            f'payment_amount_sent{{platform="{PLATFORM}"}}': 0,
            "payment_invoices_provider_issued": counters.issued,
            "payment_invoices_provider_sent": counters.issued,
            "payment_invoices_provider_accepted": counters.accepted,
            "payment_invoices_provider_paid": counters.paid,
            "activity_provider_created": counters.begun,
            "activity_provider_destroyed": counters.issued,
            "market_agreements_provider_approved": counters.begun,
            "market_agreements_provider_terminated": counters.issued,
            'market_agreements_provider_terminated_reason{reason="Success"}': counters.issued,
            "market_offers_subscribed": len(self.offers()),
            "net_public_addresses": int(self.books.condition.public),
        }

    # ------------------------------------------------------------ the daemon

    def health_problem(self) -> dict[str, Any] | None:
        """The health check's answer where something is wrong; None: well."""
        condition = self.books.condition
        if condition.driver:
            words = [DRIVER_PROBLEMS[kind] for kind in condition.driver]
            return self._payment_problem(words)
        wrong = condition.healthcheck or ("" if self.node.was_up else "market-bcast-timeout")
        match wrong:
            case "payment-driver-errors":
                return self._payment_problem(["Insufficient gas"])
            case "market-bcast-timeout":
                kind = f"/healthcheck/{wrong}"
                age = max(181, self.economy.now - self.node.seen_at)
                detail = "Last received market broadcast is too old"
                return {
                    "type": kind,
                    "detail": detail,
                    "instance": kind,
                    "step": "market-check",
                    "lastBcastAgeSecs": age,
                }
            case "internal-error":
                instance = f"/healthcheck/{wrong}/internal-timeout"
                return {"type": f"/healthcheck/{wrong}", "instance": instance, "step": "relay-check"}
            case _:
                return None

    @staticmethod
    def _payment_problem(words: list[str]) -> dict[str, Any]:
        kind = "/healthcheck/payment-driver-errors"
        detail = (
            "One on more issues blocking the operation of payments have been detected. "
            "Run `yagna payment driver status` to diagnose"
        )
        return {"type": kind, "detail": detail, "instance": kind, "step": "payments-check", "problems": words}

    def driver_status(self) -> list[dict[str, Any]]:
        """`payments/status`: empty when fine."""
        found: list[dict[str, Any]] = []
        for kind in self.books.condition.driver:
            problem: dict[str, Any] = {"kind": kind, "driver": "erc20"}
            problem |= {"chainId": 80002} if kind == "InvalidChainId" else {"network": "polygon"}
            if kind in ("InsufficientGas", "InsufficientToken", "CantSign", "TxStuck"):
                problem["address"] = self.provider
            if kind in _DRIVER_AMOUNTS:
                name, amount = _DRIVER_AMOUNTS[kind]
                problem[name] = amount
            found.append(problem)
        return found

    def net_status(self) -> dict[str, Any]:
        """Who the daemon is connected to."""
        public = "203.0.113.7:11500" if self.books.condition.public else None
        sessions = 31 if self.node.was_up else 0
        return {"nodeId": self.provider, "listenIp": "0.0.0.0:11500", "publicIp": public, "sessions": sessions}
