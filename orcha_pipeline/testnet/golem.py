"""A Golem provider's yagna REST API over HTTP: app-keys, paging, long polls, streams and errors as yagna has them."""

import asyncio
import json
from collections.abc import AsyncGenerator, Callable
from functools import wraps
from typing import Any

from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route, Router

from orcha_pipeline.testnet.answers import json_answer, parse_time, query_int, rfc3339_millis, text_answer
from orcha_pipeline.testnet.golem_books import Activity, GolemBooks, uuid
from orcha_pipeline.testnet.golem_node import DRIVER_PROBLEMS, PLATFORM, GolemNode
from orcha_pipeline.testnet.noise import hexadecimal

__all__ = ["APP_KEY", "GolemBooks", "GolemNode", "routes"]

APP_KEY = "testnet-app-key"
LONG_POLL_SECONDS = 5.0
POLL_EVERY_SECONDS = 0.25
MONITOR_EVERY_SECONDS = 1.0
FREE = ("/version/get", "/metrics-api", "/dashboard")
"""What needs no app-key begins so."""
HEALTH_PROBLEMS = ("payment-driver-errors", "market-bcast-timeout", "internal-error")


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


def _stand_still() -> None:
    """Time passes between requests only."""


def routes(emulator: GolemNode, *, catch_up: Callable[[], None] = _stand_still) -> Router:  # noqa: C901, PLR0915 - one short function for each address of the API
    """Yagna's addresses, relative to the node's base address.

    `catch_up` lets the time pass that has passed elsewhere while an answer waits (long polls, streams).
    """

    async def me(_request: Request) -> Response:
        return json_answer({"identity": emulator.provider, "name": "golem-cli", "role": "manager"})

    async def version(_request: Request) -> Response:
        current = {"version": "0.17.6", "name": "v0.17.6", "seen": True, "releaseTs": "2026-02-01T14:23:48"}
        return json_answer({"current": current, "pending": None})

    async def healthcheck(_request: Request) -> Response:
        problem = emulator.health_problem()
        if problem is None:
            return json_answer({"status": "ok"})
        answer = json_answer(problem, 500)
        answer.headers["content-type"] = "application/problem+json"
        return answer

    def exposed(request: Request) -> Response:
        wanted: str = request.path_params.get("prefixes", "")
        prefixes = tuple(prefix for prefix in wanted.split(",") if prefix)
        lines = [
            f"{name} {value}\n"
            for name, value in sorted(emulator.metrics().items())
            if not prefixes or name.startswith(prefixes)
        ]
        return text_answer("".join(lines))

    async def metrics(request: Request) -> Response:
        return exposed(request)

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
        found = emulator.find(lambda activity: uuid("invoice", activity.number), request.path_params["id"])
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

    async def patient(request: Request, read: Callable[[float, int | None], list[dict[str, Any]]]) -> Response:
        """A long poll: without `timeout` it waits five seconds for news. The wait is real, whatever the clock does."""
        after, limit = _paging(request, "maxEvents")
        patience = float(request.query_params.get("timeout") or LONG_POLL_SECONDS)
        found = read(after, limit)
        waited = 0.0
        while not found and waited < patience:
            pause = min(POLL_EVERY_SECONDS, patience - waited)
            await asyncio.sleep(pause)
            waited += pause
            catch_up()
            found = read(after, limit)
        return json_answer(found)

    async def payments(request: Request) -> Response:
        wanted = [request.query_params.get(name) for name in ("driver", "network")]
        if any(name and name not in PLATFORM.split("-") for name in wanted):
            return await patient(request, lambda _after, _limit: [])
        return await patient(request, emulator.payments)

    def kinds(request: Request) -> list[str] | None:
        """Events of the provider's side that are asked for; None: all."""
        given = request.headers.get("x-provider-events")
        return None if given is None else [kind.strip() for kind in given.split(",")]

    async def invoice_events(request: Request) -> Response:
        return await patient(request, lambda after, limit: emulator.invoice_events(after, limit, kinds(request)))

    async def debit_note_events(request: Request) -> Response:
        return await patient(request, lambda after, limit: emulator.debit_note_events(after, limit, kinds(request)))

    async def agreement_events(request: Request) -> Response:
        return await patient(request, emulator.agreement_events)

    async def payment_status(_request: Request) -> Response:
        return json_answer(emulator.driver_status())

    async def pay_agreements(request: Request) -> Response:
        after, limit = _paging(request, "maxItems")
        return json_answer([emulator.pay_agreement(a) for a in emulator.activities(int(after))][:limit])

    async def pay_activities(request: Request) -> Response:
        after, limit = _paging(request, "maxItems")
        return json_answer([emulator.pay_activity(a) for a in emulator.activities(int(after))][:limit])

    async def accounts(_request: Request) -> Response:
        account = {"platform": PLATFORM, "address": emulator.provider, "driver": "erc20", "network": "polygon"}
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
                "offer": emulator.agreed_offer(found),
                "validTo": rfc3339_millis(found.end + 1800),
                "approvedDate": rfc3339_millis(found.begin + 3),
                "state": state(found),
                "timestamp": rfc3339_millis(found.begin),
            }
        )

    async def terminate_reason(request: Request) -> Response:
        found = emulator.find(lambda activity: activity.agreement_id, request.path_params["id"])
        if found is None or state(found) != "Terminated":
            return _bad_request(None, 404)
        return json_answer(emulator.reason())

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
        return json_answer({"currentUsage": emulator.usage(found, at), "timestamp": at})

    async def activity_agreement(request: Request) -> Response:
        found = by_id(request)
        return json_answer(found.agreement_id) if found else _bad_request(None, 404)

    async def net_status(_request: Request) -> Response:
        return json_answer(emulator.net_status())

    async def monitored() -> AsyncGenerator[str]:
        told = None
        while True:
            event = emulator.monitor()
            if event != told:
                yield f"data: {json.dumps(event, separators=(',', ':'))}\r\n\r\n"
                told = event
            await asyncio.sleep(MONITOR_EVERY_SECONDS)
            catch_up()

    async def monitor(_request: Request) -> Response:
        return StreamingResponse(monitored(), media_type="text/event-stream")

    async def condition(request: Request) -> Response:
        """Not yagna's: puts the daemon into a condition, for tests and trials."""
        try:
            given: dict[str, Any] = await request.json()
        except ValueError:
            return json_answer({"error": "not JSON"}, 400)
        wanted = emulator.books.condition
        healthcheck: Any = given.get("healthcheck", wanted.healthcheck)
        driver: list[str] = given.get("driver", wanted.driver)
        if healthcheck not in (None, *HEALTH_PROBLEMS) or not set(driver) <= set(DRIVER_PROBLEMS):
            return json_answer({"error": f"healthcheck: {HEALTH_PROBLEMS}; driver: {list(DRIVER_PROBLEMS)}"}, 400)
        wanted.healthcheck, wanted.driver = healthcheck, driver
        wanted.public = bool(given.get("public", wanted.public))
        if given.get("restarted"):
            wanted.restarted_at = emulator.economy.now
        emulator.economy.altered = True
        return json_answer(given)

    free: dict[str, _Endpoint] = {
        "/version/get": version,
        "/metrics-api/v1/expose": metrics,
        "/metrics-api/v1/sorted": metrics,
        "/metrics-api/v1/filtered/{prefixes}": metrics,
    }
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
        "/payment-api/v1/invoiceEvents": invoice_events,
        "/payment-api/v1/debitNoteEvents": debit_note_events,
        "/payment-api/v1/payAgreements": pay_agreements,
        "/payment-api/v1/payActivities": pay_activities,
        "/payment-api/v1/providerAccounts": accounts,
        "/market-api/v1/offers": offers,
        "/market-api/v1/agreements": agreements,
        "/market-api/v1/agreements/{id}": agreement,
        "/market-api/v1/agreements/{id}/terminate/reason": terminate_reason,
        "/market-api/v1/agreementEvents": agreement_events,
        "/activity-api/v1/_monitor": monitor,
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
    table.append(Route("/testnet/condition", condition, methods=["POST"]))
    table += [Route(f"{prefix}{{rest:path}}", unknown) for prefix in FREE]
    table.append(Route("/{rest:path}", _guarded(unknown)))
    return Router(table, redirect_slashes=False)
