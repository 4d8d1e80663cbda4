"""Answers in the shapes of the four real APIs, as fresh values: a test may change what it gets."""

import os
from pathlib import Path
from typing import Any

import pytest

US, EU = "12EayRS2V1kEsWESU9QMRseFhdxYxKicsiFmxrsLZHeLUtdps3S", "12L9ZFwhzVpuEKMUNUqkaTLGzwY9G24tbiigLiXpmZWKwmcNDDs"
OPERATOR = "0xabababababababababababababababababababab"
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


def satellites() -> dict[str, Any]:
    def audit(name: str, online: float) -> dict[str, Any]:
        return {"auditScore": 1, "suspensionScore": 0.999, "onlineScore": online, "satelliteName": name}

    return {"storageDaily": None, "audits": [audit("us1.storj.io:7777", 1), audit("eu1.storj.io:7777", 0.9731)]}


def payout() -> dict[str, Any]:
    def month(disk: float, rate: float, net: float) -> dict[str, Any]:
        return {
            "egressBandwidth": 73267420928,
            "egressBandwidthPayout": 146.55,
            "egressRepairAudit": 116853952512,
            "egressRepairAuditPayout": 116.85,
            "diskSpace": 2362997163924.5854,
            "diskSpacePayout": disk,
            "heldRate": rate,
            "payout": net,
            "held": 0,
        }

    return {
        "currentMonth": month(354.45, 25, 463.39),
        "previousMonth": month(541.76, 0, 805.16),
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


def storj_routes() -> dict[str, Any]:
    return {
        "/api/sno/": dashboard(),
        "/api/sno/satellites": satellites(),
        "/api/sno/estimated-payout": payout(),
        "/api/heldamount/paystubs/2026-10/2026-11": [paystub()],
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


def invoice(agreement: str, at: str, amount: str, status: str = "SETTLED") -> dict[str, Any]:
    return {
        "invoiceId": f"invoice-{agreement}",
        "issuerId": ME,
        "timestamp": at,
        "agreementId": agreement,
        "activityIds": [],
        "amount": amount,
        "status": status,
    }


def offer(threads: float) -> dict[str, Any]:
    properties = {"golem.inf.cpu.threads": threads, "golem.inf.mem.gib": 10.61, "golem.runtime.name": "vm"}
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
        "/payment-api/v1/invoices": [],
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


def stake() -> dict[str, Any]:
    return {
        "id": f"0xcdcd-{OPERATOR}",
        "amountWei": "60000000000000000000000",
        "earningsWei": "1234000000000000000",
        "updateTimestamp": 1795171000,
        "sponsorship": {
            "id": "0xcdcd",
            "isRunning": True,
            "totalPayoutWeiPerSec": "11574074074074074",
            "totalStakedWei": "600000000000000000000000",
            "projectedInsolvency": "1803000000",
        },
    }


def operator() -> dict[str, Any]:
    return {
        "id": OPERATOR,
        "cumulativeProfitsWei": "4100000000000000000000",
        "cumulativeOperatorsCutWei": "410000000000000000000",
        "cumulativeEarningsWei": "4510000000000000000000",
        "operatorsCutFraction": "100000000000000000",
        "slashingsCount": 0,
        "latestHeartbeatTimestamp": "1795172000",
        "stakes": [stake()],
        "flagsTargeted": [],
    }


def info() -> dict[str, Any]:
    def connection(sent: int, received: int) -> dict[str, Any]:
        return {"remotePeerDescriptor": {"nodeId": {"0": 187}}, "bytesSent": sent, "bytesReceived": received}

    return {
        "controlLayer": {"transport": {"connections": [connection(36970, 44285), connection(44508, 40511)]}},
        "contentLayer": {"streamParts": [{"id": "0x19e7/demo#0", "info": {"neighborCount": 1}}]},
    }


def day(date: int) -> dict[str, Any]:
    return {"date": str(date), "profitsWei": "90000000000000000000", "operatorsCutWei": "10000000000000000000"}


def streamr_routes() -> dict[str, Any]:
    return {"/info": info(), "/graph": {"data": {"operator": operator(), "operatorDailyBuckets": [day(1795046400)]}}}


def device(name: str, score: Any, uptime: Any) -> dict[str, Any]:
    return {"deviceId": name, "ipScore": score, "multiplier": 1.25, "aggUptime": uptime}


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
    return {
        "/activeDevices": {"result": {"data": [device("6f1c", 80, 36000), device("77aa", "50", "7200")]}},
        "/epochEarnings": {"result": {"data": {"data": [epoch("Epoch 15", 0)]}}},
    }
