"""`orcha alerts` as a person uses it."""

import json

import pytest
import tomlkit

from orcha_pipeline.warehouse import freezes
from orcha_pipeline.warehouse.connection import Warehouse
from orcha_pipeline_tests.anomalies.alerts.build import SLOT, Rig, an_alert, away, dropped
from orcha_pipeline_tests.anomalies.alerts.servers import SECRET
from orcha_pipeline_tests.ports import free_port
from orcha_pipeline_tests.rig import NOW

HOST = {
    "name": "box",
    "capacity": {"cpu_threads": 16, "memory_gib": 64, "disk_gb": 100, "bandwidth_mbps": 100},
}
NODE = {
    "name": "a",
    "protocol": "grass",
    "host": "box",
    "url": "http://127.0.0.1:9",
    "token": "x" * 8,
    "demand": {"cpu_threads": 1, "memory_gib": 1, "disk_gb": 1, "bandwidth_mbps": 1},
}


def configure(folder, *channels):
    settings = {"hosts": [HOST], "nodes": [NODE], "alerts": {"channels": list(channels)}}
    (folder / "orcha.toml").write_text(tomlkit.dumps(settings))


@pytest.fixture
def home(tmp_path):
    configure(tmp_path)
    return tmp_path / ".orcha"


def alerts(home):
    with Warehouse(home / "warehouse.duckdb").read() as connection:
        return connection.execute("SELECT alert_id, acknowledged_by, resolved_why FROM alerts ORDER BY kind").fetchall()


def test_open_alerts_are_listed_with_those_they_stand_for(orcha, home):
    Rig(home).cycle(away("a"), away("b"))
    code, out, _ = orcha("alerts")
    assert code == 0
    lines = [line for line in out.splitlines() if "unreachable" in line]
    assert "host-unreachable" in lines[0]
    assert all(line.lstrip().startswith("└") for line in lines[1:])
    assert len(lines) == 3
    assert orcha("alerts", "list")[1] == out


def test_what_stands_under_one_that_stands_under_another_is_listed_too(orcha, home):
    rig = Rig(home)
    rig.cycle(away("a"), dropped("a"))
    rig.cycle(away("a"), away("b"), after=SLOT)
    lines = [line for line in orcha("alerts")[1].splitlines() if " since " in line]
    assert [line.find("└") for line in lines if "node-unreachable" in line] == [0, 0]
    (nested,) = [line for line in lines if "earnings-drop a" in line]
    assert nested.startswith("  └ ")


def test_as_json_they_have_all_there_is_to_know(orcha, home):
    Rig(home).cycle(away("a"))
    code, out, _ = orcha("alerts", "list", "--json")
    told = json.loads(out)
    (found,) = told["alerts"]
    assert (code, told["version"], told["simulated"]) == (0, 1, False)
    assert (found["rule"], found["subject"], found["host"], found["scope"]) == ("node-unreachable", "a", "box", "node")
    assert (found["raised_at"], found["resolved_at"], found["group"]) == ("2026-03-05T12:05:00Z", None, None)
    assert found["evidence"]["docs"] == "docs/alerts.md#node-unreachable"


def test_without_alerts_it_says_so_and_without_a_warehouse_what_to_do(orcha, home):
    code, _, err = orcha("alerts")
    assert (code, "Start Orcha once with `orcha up`" in err) == (1, True)
    Warehouse(home / "warehouse.duckdb").migrate()
    assert orcha("alerts")[1] == "No alert is open.\n"
    assert orcha("alerts", "list", "--all")[1] == "No alert in the last week.\n"


def test_an_alert_is_acknowledged_once_by_how_its_id_begins(orcha, home):
    Rig(home).cycle(away("a"))
    ((alert_id, *_),) = alerts(home)
    code, out, _ = orcha("alerts", "ack", alert_id[:6], "--by", "ada")
    assert code == 0
    assert out.startswith(f"Alert {alert_id[:8]}, node-unreachable of a (box), is acknowledged")
    assert alerts(home) == [(alert_id, "ada", None)]
    assert "is acknowledged since" in orcha("alerts", "ack", alert_id, "--by", "bob")[1]
    assert alerts(home) == [(alert_id, "ada", None)]
    assert "acknowledged by ada" in orcha("alerts")[1]


def test_an_alert_is_resolved_by_hand_and_then_no_more(orcha, home):
    Rig(home).cycle(away("a"))
    ((alert_id, *_),) = alerts(home)
    code, out, _ = orcha("alerts", "resolve", alert_id, "--by", "ada")
    assert (code, "If its cause still stands, it is raised anew" in out) == (0, True)
    assert alerts(home) == [(alert_id, None, "resolved by ada")]
    code, _, err = orcha("alerts", "ack", alert_id)
    assert (code, "was resolved at" in err) == (1, True)


def test_what_nobody_would_raise_again_is_not_resolved_by_hand(orcha, home):
    rig = Rig(home)
    with rig.warehouse.write() as connection:
        freezes.freeze(connection, application_id="x", stuck={"a": "set its limit to 50 by hand"}, at=NOW)
    ((alert_id, *_),) = alerts(home)
    code, _, err = orcha("alerts", "resolve", alert_id)
    assert (code, "then `orcha unfreeze a`, which ends it" in " ".join(err.split())) == (1, True)
    assert rig.open() == ["rollback_failed a"]
    assert orcha("unfreeze", "a")[0] == 0
    assert rig.open() == []


@pytest.mark.parametrize(
    ("beginning", "told"),
    [
        ("abc", "is too short"),
        ("zzzz", "There is no alert whose id begins with 'zzzz'"),
        ("same", "More than one alert"),
    ],
)
def test_an_id_that_tells_no_alert_is_refused_with_the_remedy(orcha, home, beginning, told):
    warehouse = Warehouse(home / "warehouse.duckdb")
    warehouse.migrate()
    from orcha_pipeline.warehouse.alert_rows import write_alerts

    with warehouse.write() as connection:
        write_alerts(connection, [an_alert("same-1"), an_alert("same-2", subject="b")])
    for command in ("ack", "resolve"):
        code, _, err = orcha("alerts", command, beginning)
        assert (code, told in err) == (1, True)


def test_options_before_the_subcommand_are_refused(orcha, home):
    code, _, err = orcha("alerts", "--all", "list")
    assert (code, "give options behind `list`" in err) == (2, True)


# --- trying the channels


@pytest.mark.integration
def test_a_test_message_goes_through_every_channel_and_tells_which_fail(orcha, tmp_path, mailbox, hook):
    dead = f"json://127.0.0.1:{free_port()}/{SECRET}"
    configure(
        tmp_path,
        {"name": "mail", "url": mailbox.url},
        {"name": "hook", "url": hook.url, "escalation": True},
        {"name": "dead", "url": dead},
        {"name": "odd", "url": f"nothing://{SECRET}"},
        {"name": "unset", "url_env": "ORCHA_NOBODY_SET_THIS"},
    )
    code, out, err = orcha("alerts", "test")
    assert code == 1
    assert out.splitlines() == [
        "✓ mail (mailto): took the message",
        "✓ hook (json): took the message",
        "✗ dead (json): the connection was refused",
        "✗ odd (nothing): Apprise does not understand its address (see https://appriseit.com)",
        "✗ unset: the environment variable ORCHA_NOBODY_SET_THIS is not set",
    ]
    assert mailbox.subjects == ["[Orcha] test of mail"]
    assert "alerts will come, of severity info and graver" in mailbox.text()
    assert "what nobody acknowledged in time will come" in hook.posts[0]["message"]
    assert SECRET not in out + err
    code, out, _ = orcha("alerts", "test", "mail")
    assert (code, out) == (0, "✓ mail (mailto): took the message\n")


def test_a_channel_that_is_not_there_is_told_with_those_that_are(orcha, tmp_path, home):
    code, _, err = orcha("alerts", "test")
    assert (code, "No channel is configured" in err) == (1, True)
    configure(tmp_path, {"name": "mail", "url": f"json://{SECRET}"})
    code, _, err = orcha("alerts", "test", "phone")
    assert (code, "There is no channel 'phone'. Configured are: mail." in err) == (1, True)


@pytest.mark.parametrize(
    "change",
    [
        {"url": SECRET},
        {"url": f"tgram://{SECRET}", "url_env": "X"},
        {"url_env": f"tgram://{SECRET}"},
        {"name": f"tgram://{SECRET}/1", "url": "json://x"},
        {"min_severity": f"tgram://{SECRET}/1", "url": "json://x"},
        {"url": [f"tgram://{SECRET}"]},
        {"token": f"tgram://{SECRET}"},
        {},
    ],
)
def test_an_address_in_the_wrong_place_is_refused_and_not_repeated(orcha, tmp_path, change):
    configure(tmp_path, {"name": "mail"} | change)
    code, out, err = orcha("alerts")
    assert code == 1
    assert "alerts.channels[0]" in err
    assert SECRET not in out + err
    assert SECRET.lower()[:10] not in (out + err).lower()
