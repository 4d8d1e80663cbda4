"""Answers in the shapes of the four real APIs, as fresh values: a test may change what it gets."""

import os
from pathlib import Path
from typing import Any

import pytest

US, EU = "12EayRS2V1kEsWESU9QMRseFhdxYxKicsiFmxrsLZHeLUtdps3S", "12L9ZFwhzVpuEKMUNUqkaTLGzwY9G24tbiigLiXpmZWKwmcNDDs"
OPERATOR = "0xabababababababababababababababababababab"
WALLET = "0x1563156315631563156315631563156315631563"
ME = "0x9f5b6832e221585266836271a5023b6745aa9409"


def recorded_storj() -> Path:
    shared = os.environ.get("ORCHA_SHARED_DATA")
    folder = Path(shared) if shared else Path(__file__).parents[2].parent / "shared" / "data"
    if not (folder / "storj_recorded").is_dir():
        pytest.skip(f"no recorded Storj answers under {folder} (ORCHA_SHARED_DATA names another folder)")
    return folder / "storj_recorded"


def dashboard() -> dict[str, Any]:
    return {
        "nodeID": "1Xf5b3xHn1ajoNRpJJJd3RebWUgZ58BVqNxKPAH2g1snSAEyNt",
        "satellites": [
            {"id": US, "url": "us1.storj.io:7777", "disqualified": None, "suspended": None, "vettedAt": None},
            {"id": EU, "url": "eu1.storj.io:7777", "disqualified": None, "suspended": None, "vettedAt": None},
        ],
        "diskSpace": {
            "used": 3000000000000,
            "available": 200000000000,
            "overused": 0,
            "allocated": 3200000000000,
            "trash": 1222393984,
            "reclaimable": 5368709120,
        },
        "bandwidth": {"used": 305697241088, "available": 0},
        "lastPinged": "2026-11-20T11:49:28.978591239Z",
        "version": "1.162.3",
        "upToDate": True,
        "startedAt": "2026-11-01T22:37:58.063506335Z",
        "quicStatus": "OK",
    }


def bandwidth_day(date: str, *, usage: int, repair: int = 0, audit: int = 0, ingress: int = 0) -> dict[str, Any]:
    return {
        "egress": {"repair": repair, "audit": audit, "usage": usage},
        "ingress": {"repair": 0, "usage": ingress},
        "delete": 0,
        "intervalStart": f"{date}T00:00:00Z",
    }


def storage_day(date: str, level: float, hours: float = 24.0, *, calculated: bool = False) -> dict[str, Any]:
    return {
        "atRestTotal": 0 if calculated else level * hours,
        "atRestTotalBytes": level,
        "intervalInHours": hours,
        "intervalStart": f"{date}T00:00:00Z",
        "calculated": calculated,
    }


def satellites() -> dict[str, Any]:
    def audit(name: str, online: float) -> dict[str, Any]:
        return {"auditScore": 1, "suspensionScore": 0.999, "onlineScore": online, "satelliteName": name}

    return {
        "storageDaily": None,
        "bandwidthDaily": [
            bandwidth_day("2026-11-19", usage=7_000_000_000),
            bandwidth_day("2026-11-20", usage=2_000_000_000, repair=300_000_000, audit=1_000_000, ingress=90_000_000),
        ],
        "audits": [audit("us1.storj.io:7777", 1), audit("eu1.storj.io:7777", 0.9731)],
    }


def satellite_month(name: str, joined: str) -> dict[str, Any]:
    return {
        "id": name,
        "storageDaily": [
            storage_day("2026-11-18", 1_400_000_000_000),
            storage_day("2026-11-19", 1_440_000_000_000, 12),
            storage_day("2026-11-20", 1_440_000_000_000, 12, calculated=True),
        ],
        "bandwidthDaily": [
            bandwidth_day("2026-11-19", usage=70_000_000_000, repair=10_000_000_000, audit=20_000_000),
            bandwidth_day("2026-11-20", usage=5_000_000_000, repair=1_000_000_000, audit=80_000_000),
        ],
        "storageSummary": 50_880_000_000_000,
        "audits": {"auditScore": 1, "suspensionScore": 1, "onlineScore": 1, "satelliteName": "us1.storj.io:7777"},
        "priceModel": {"EgressBandwidth": 200, "RepairBandwidth": 1000, "AuditBandwidth": 250, "DiskSpace": 149},
        "nodeJoinedAt": joined,
    }


def payout() -> dict[str, Any]:
    def month(disk: float, rate: float, held: float, net: float) -> dict[str, Any]:
        return {
            "egressBandwidth": 73267420928,
            "egressBandwidthPayout": 146.55,
            "egressRepairAudit": 116853952512,
            "egressRepairAuditPayout": 116.85,
            "diskSpace": 2362997163924.5854,
            "diskSpacePayout": disk,
            "heldRate": rate,
            "payout": net,
            "held": held,
        }

    return {
        "currentMonth": month(354.45, 25, 154.4625, 463.39),
        "previousMonth": month(541.76, 0, 0, 805.16),
        "currentMonthExpectations": 831,
    }


def paystub() -> dict[str, Any]:
    return {
        "satelliteId": US,
        "period": "2026-10",
        "created": "2026-11-07T11:02:11.3Z",
        "usageAtRest": 1204884000000.12,
        "compAtRest": 1795277,
        "compGet": 102400,
        "compPut": 0,
        "compGetRepair": 44000,
        "compPutRepair": 0,
        "compGetAudit": 60,
        "surgePercent": 0,
        "held": 500000,
        "owed": 1441737,
        "disposed": 0,
        "paid": 1441737,
        "distributed": 1441737,
    }


def held_history() -> list[dict[str, Any]]:
    def satellite(name: str, url: str, held: int, disposed: int) -> dict[str, Any]:
        return {
            "satelliteID": name,
            "satelliteName": url,
            "holdForFirstPeriod": held,
            "holdForSecondPeriod": 0,
            "holdForThirdPeriod": 0,
            "totalHeld": held,
            "totalDisposed": disposed,
            "joinedAt": "2021-01-07T01:55:00Z",
        }

    return [satellite(US, "us1.storj.io:7777", 4_000_000, 2_000_000), satellite(EU, "eu1.storj.io:7777", 750_000, 0)]


def notice(kind: int, created: str, *, read: str | None = None, title: str = "Your node") -> dict[str, Any]:
    return {
        "id": "2e3f0c1e-7f0e-4a3b-9b57-2f0d4e1c9a11",
        "senderId": US,
        "type": kind,
        "title": title,
        "message": "told at length",
        "readAt": read,
        "createdAt": created,
    }


def notices(*found: dict[str, Any]) -> dict[str, Any]:
    page = {"notifications": list(found) or None, "offset": 0, "limit": 20, "currentPage": 1, "pageCount": 1}
    return {"page": page, "unreadCount": len(found), "totalCount": len(found)}


def storj_routes() -> dict[str, Any]:
    return {
        "/api/sno/": dashboard(),
        "/api/sno/satellites": satellites(),
        f"/api/sno/satellite/{US}": satellite_month(US, "2021-01-07T01:54:43.576738Z"),
        f"/api/sno/satellite/{EU}": satellite_month(EU, "2026-07-30T00:00:00Z"),
        "/api/sno/estimated-payout": payout(),
        "/api/heldamount/paystubs/2026-10/2026-11": [paystub()],
        "/api/heldamount/paystubs/2019-01/2026-11": [paystub()],
        "/api/heldamount/held-history": held_history(),
        "/api/heldamount/payout-history/2026-10": [{"satelliteID": US, "receipt": "zksync-era:0x9f", "paid": 1441737}],
        "/api/notifications/list": notices(notice(0, "2026-11-19T00:00:00Z", title="Welcome")),
    }


def note(activity: str, number: int, at: str, total: str, **changes: Any) -> dict[str, Any]:
    return {
        "debitNoteId": f"{activity}-{number}",
        "issuerId": ME,
        "recipientId": "0xe5e94b0634ebe16fe961183180a5280764b2b7b2",
        "paymentPlatform": "erc20-polygon-glm",
        "previousDebitNoteId": f"{activity}-{number - 1}" if number else None,
        "timestamp": at,
        "agreementId": f"agreement-{activity}",
        "activityId": activity,
        "totalAmountDue": total,
        "usageCounterVector": [412.5, 120.02],
        "paymentDueDate": None,
        "status": "ACCEPTED",
    } | changes


def invoice(agreement: str, at: str, amount: str, status: str = "SETTLED", **changes: Any) -> dict[str, Any]:
    return {
        "invoiceId": f"invoice-{agreement}",
        "issuerId": ME,
        "recipientId": "0xe5e94b0634ebe16fe961183180a5280764b2b7b2",
        "paymentPlatform": "erc20-polygon-glm",
        "timestamp": at,
        "agreementId": agreement,
        "activityIds": [],
        "amount": amount,
        "paymentDueDate": "2026-11-21T00:00:00Z",
        "status": status,
    } | changes


def payment(number: int, at: str, agreement: str, amount: str, **changes: Any) -> dict[str, Any]:
    return {
        "paymentId": f"d2-{number}",
        "payerId": "0xe5e94b0634ebe16fe961183180a5280764b2b7b2",
        "payeeId": ME,
        "paymentPlatform": "erc20-polygon-glm",
        "amount": amount,
        "timestamp": at,
        "agreementPayments": [{"agreementId": agreement, "amount": amount}],
        "activityPayments": [],
        "details": "0x71",
    } | changes


def offer(threads: float, *coefficients: float) -> dict[str, Any]:
    properties = {
        "golem.com.pricing.model": "linear",
        "golem.com.pricing.model.linear.coeffs": [*(coefficients or (0.0000277, 0.0000013)), 0.0],
        "golem.com.usage.vector": ["golem.usage.cpu_sec", "golem.usage.duration_sec"],
        "golem.inf.cpu.threads": threads,
        "golem.inf.mem.gib": 10.61,
        "golem.runtime.name": "vm",
    }
    return {"offerId": "a1-b2", "providerId": ME, "timestamp": "2026-08-20T09:00:00Z", "properties": properties}


def golem_routes() -> dict[str, Any]:
    return {
        "/me": {"identity": ME.upper().replace("0X", "0x"), "name": "golem-cli", "role": "manager"},
        "/healthcheck": {"status": "ok"},
        "/version/get": {"current": {"version": "0.17.6", "name": "v0.17.6", "seen": True}, "pending": None},
        "/market-api/v1/offers": [offer(5)],
        "/payment-api/v1/debitNotes": [
            note("a", 3, "2026-11-20T10:58:00Z", "0.100"),
            note("a", 4, "2026-11-20T11:20:00Z", "0.130"),
            note("a", 5, "2026-11-20T11:40:00Z", "0.1500000000000000001"),
        ],
        "/payment-api/v1/invoices": [invoice("7f00", "2026-11-19T10:00:00Z", "0.7", "ACCEPTED")],
        "/payment-api/v1/payments": [payment(1, "2026-11-20T11:30:00Z", "7f01", "0.25")],
        "/payment-api/v1/payments/status": [
            {
                "kind": "InsufficientGas",
                "driver": "erc20",
                "network": "polygon",
                "address": ME,
                "neededGasEst": "0.002",
            }
        ],
        "/payment-api/v1/providerAccounts": [
            {
                "platform": "erc20-polygon-glm",
                "address": ME,
                "driver": "erc20",
                "network": "polygon",
                "token": "GLM",
                "send": False,
                "receive": True,
            }
        ],
        "/net-api/v2/net/status": {
            "nodeId": ME,
            "listenIp": "0.0.0.0:11500",
            "publicIp": "203.0.113.7:11500",
            "sessions": 31,
        },
        "/market-api/v1/agreements/7f31": {
            "agreementId": "7f31",
            "state": "Approved",
            "offer": {"properties": {"golem.com.usage.vector": ["golem.usage.duration_sec", "golem.usage.cpu_sec"]}},
        },
        "/activity-api/v1/activity/a/usage": {"currentUsage": [120.02, 412.5], "timestamp": 1787220120},
        "/market-api/v1/agreements": [
            {
                "id": "7f31",
                "timestamp": "2026-08-20T10:00:00Z",
                "approvedDate": "2026-08-20T10:00:03Z",
                "role": "Provider",
            }
        ],
        "/activity-api/v1/activity": ["a"],
        "/activity-api/v1/activity/a/state": {"state": ["Ready", None]},
    }


def sponsorship(name: str = "0xcdcd", stream: str = "0x19e7/demo") -> dict[str, Any]:
    return {
        "id": name,
        "isRunning": True,
        "totalPayoutWeiPerSec": "11574074074074074",
        "totalStakedWei": "600000000000000000000000",
        "projectedInsolvency": "1803000000",
        "operatorCount": 10,
        "maxOperators": None,
        "stream": {"id": stream},
    }


def stake(name: str = "0xcdcd", stream: str = "0x19e7/demo") -> dict[str, Any]:
    return {
        "id": f"{name}-{OPERATOR}",
        "amountWei": "60000000000000000000000",
        "earningsWei": "1234000000000000000",
        "updateTimestamp": 1795171000,
        "joinTimestamp": 1790000000,
        "sponsorship": sponsorship(name, stream),
    }


def operator() -> dict[str, Any]:
    return {
        "id": OPERATOR,
        "cumulativeProfitsWei": "4100000000000000000000",
        "cumulativeOperatorsCutWei": "410000000000000000000",
        "cumulativeEarningsWei": "4510000000000000000000",
        "operatorsCutFraction": "100000000000000000",
        "valueWithoutEarnings": "125000000000000000000000",
        "metadataJsonString": '{"redundancyFactor":1}',
        "slashingsCount": 0,
        "latestHeartbeatTimestamp": "1795172000",
        "nodes": [WALLET],
        "stakes": [stake()],
        "slashingEvents": [],
        "flagsTargeted": [],
    }


def info() -> dict[str, Any]:
    def connection(identity: dict[str, Any], sent: int, received: int) -> dict[str, Any]:
        return {
            "remotePeerDescriptor": {"nodeId": identity, "type": 0},
            "openedAt": 1795171000000,
            "bytesSent": sent,
            "bytesReceived": received,
        }

    buffer = {"type": "Buffer", "data": [238] * 20}
    indexed = {str(place): 187 for place in range(20)}
    connections = [connection(buffer, 36970, 44285), connection(indexed, 44508, 40511)]
    return {
        "controlLayer": {"transport": {"connections": connections, "connectionCount": 2}, "neighborCount": 2},
        "contentLayer": {"streamParts": [{"id": "0x19e7/demo#0", "info": {"neighborCount": 1}}]},
    }


def day(date: int) -> dict[str, Any]:
    return {"date": str(date), "profitsWei": "90000000000000000000", "operatorsCutWei": "10000000000000000000"}


def subgraph() -> dict[str, Any]:
    return {
        "operator": operator(),
        "operatorDailyBuckets": [day(1795046400)],
        "sponsorships": [sponsorship("0xefef", "0x19e7/other")],
        "_meta": {"block": {"number": 78123456, "timestamp": 1795174600}},
    }


def streamr_routes() -> dict[str, Any]:
    return {"/info": info(), "/graph": {"data": subgraph()}}


def device(name: str, score: Any, uptime: Any, **changes: Any) -> dict[str, Any]:
    return {
        "deviceId": name,
        "userId": "2gh63HX35H0KAPIZPKiVsbUFQn2",
        "ipAddress": "203.0.113.7",
        "ipScore": score,
        "multiplier": 1.25,
        "aggUptime": uptime,
        "lastConnectedAt": "2026-11-20T02:00:00.000Z",
    } | changes


def epoch(name: str, total: Any) -> dict[str, Any]:
    return {
        "epochName": name,
        "totalPoints": total,
        "rewardPoints": 0,
        "totalUptime": 1893600,
        "startDate": "2026-11-10T00:00:00.000Z",
        "endDate": "2026-11-24T00:00:00.000Z",
    }


def grass_routes() -> dict[str, Any]:
    here = device("6f1c", 80, 36000)
    there = device("77aa", "50", "7200", ipAddress="198.51.100.9", lastConnectedAt="2026-11-20T11:30:00.000Z")
    listed = [{k: v for k, v in d.items() if k != "aggUptime"} | {"totalUptime": 0} for d in (here, there)]
    user = {"userId": "2gh63HX35H0KAPIZPKiVsbUFQn2", "username": "u", "totalPoints": 0, "walletAddress": "9xQe"}
    scores = [{"ipAddress": "203.0.113.7", "ipScore": "80"}, {"ipAddress": "198.51.100.9", "ipScore": 50}]
    return {
        "/activeDevices": {"result": {"data": [here, there]}},
        "/epochEarnings": {"result": {"data": {"data": [epoch("Epoch 15", 0)]}}},
        "/devices": {"result": {"data": listed}},
        "/activeIps": {"result": {"data": scores}},
        "/retrieveUser": {"result": {"data": user}},
    }
