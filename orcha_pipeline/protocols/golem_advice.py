"""What a Golem operator could do that Orcha cannot, from what yagna tells. No I/O."""

from collections import defaultdict
from collections.abc import Iterable
from datetime import datetime
from decimal import Decimal

from orcha_pipeline.protocols.golem_api import LOST, WORTH, DriverProblem, Invoice, NetStatus, token_of
from orcha_pipeline.protocols.golem_balances import DOUBTFUL_AFTER, is_overdue, unconfirmed_too_long

BAD_REQUESTORS = 3
_DRIVER = {
    "InsufficientGas": "{where} is short of gas{need}: pay still arrives, but cannot be sent on; send it gas",
    "InsufficientToken": "{where} is short of GLM{need}: what it owes as a requestor cannot be paid; send it GLM",
    "InvalidChainId": "the payment driver {where} is on the wrong chain; look at yagna's network settings",
    "CantSign": "yagna cannot sign for {where}; unlock its identity: yagna id unlock",
    "TxStuck": "a transaction of {where} is stuck; look at: yagna payment driver status",
    "RpcError": "the payment driver {where} cannot reach its chain; look at the connection or its RPC endpoints",
}


def driver_advice(problems: Iterable[DriverProblem]) -> list[str]:
    """A sentence for each problem of a payment driver."""
    found: list[str] = []
    for problem in problems:
        where = " ".join(filter(None, (problem.driver, problem.network, problem.address)))
        amount = problem.needed_gas_est or problem.needed_token_est
        told = _DRIVER.get(problem.kind, "the payment driver {where} reports {kind}")
        need = f" (about {amount:f} more)" if amount else ""
        found.append(told.format(where=where, need=need, kind=problem.kind))
    return found


def network_advice(status: NetStatus) -> list[str]:
    """What keeps requestors from reaching the node."""
    if status.sessions == 0:
        return ["yagna is connected to no other node: requestors cannot reach it; is UDP port 11500 open?"]
    if status.public_ip is None:
        return ["yagna has no public address and works through a relay, which is slower; forward UDP port 11500 to it"]
    return []


def document_advice(invoices: Iterable[Invoice], now: datetime) -> list[str]:
    """What is not paid as it should be, and who does not pay."""
    overdue: list[Invoice] = []
    waiting: list[Invoice] = []
    unpaid_by: dict[str, list[Invoice]] = defaultdict(list)
    worthless = 0
    for invoice in invoices:
        if token_of(invoice.payment_platform) != WORTH:
            worthless += 1
            continue
        if is_overdue(invoice, now):
            overdue.append(invoice)
        if unconfirmed_too_long(invoice, now):
            waiting.append(invoice)
        if is_overdue(invoice, now) or unconfirmed_too_long(invoice, now) or invoice.status in LOST:
            unpaid_by[invoice.recipient_id].append(invoice)
    found: list[str] = []
    if overdue:
        found.append(
            f"{_counted(overdue)} accepted but not paid by the due date; look at: yagna payment invoice status"
        )
    if waiting:
        found.append(f"{_counted(waiting)} not accepted for over {DOUBTFUL_AFTER.days} days: probably never paid")
    worst = sorted(unpaid_by.items(), key=lambda item: (-len(item[1]), item[0]))[:BAD_REQUESTORS]
    found += [
        f"requestor {requestor} has left {_counted(left)} unpaid; you can refuse its tasks: ya-provider rule"
        for requestor, left in worst
        if len(left) > 1
    ]
    if worthless:
        plural = "s" if worthless > 1 else ""
        found.append(f"{worthless} invoice{plural} in the test networks' token: worth, and counted as, nothing")
    return found


def _counted(invoices: list[Invoice]) -> str:
    total = sum((invoice.amount for invoice in invoices), Decimal(0))
    return f"{len(invoices)} invoice{'s' if len(invoices) > 1 else ''} ({total:f} {WORTH})"
