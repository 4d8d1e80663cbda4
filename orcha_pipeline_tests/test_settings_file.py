import json
import re
import stat
from pathlib import Path

import pytest
from pydantic import BaseModel, ConfigDict, Field, SecretStr

from orcha_pipeline.errors import SettingsError
from orcha_pipeline.protocols.registry import adapter_type, protocol_names
from orcha_pipeline.settings import NodeSettings, Section, Settings
from orcha_pipeline.settings_file import load_settings, write_example
from orcha_pipeline.settings_problems import keys_of

HOST = """
[[hosts]]
name = "attic"
capacity = { cpu_threads = 8, memory_gib = 16, disk_gb = 4000, bandwidth_mbps = 250 }
"""
NODE = """
[[nodes]]
name = "storj-1"
protocol = "storj"
host = "attic"
url = "http://127.0.0.1:14002"
demand = { cpu_threads = 1, memory_gib = 2, disk_gb = 3500, bandwidth_mbps = 100 }
"""


@pytest.fixture(autouse=True)
def in_an_empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def load(text: str = "", environ: dict[str, str] | None = None, **keywords) -> Settings:
    Path("orcha.toml").write_text(text, encoding="utf-8")
    return load_settings(None, environ or {}, **keywords)


def problems(text: str = "", environ: dict[str, str] | None = None, **keywords) -> list[str]:
    """The lines of the error, each with the folder left out."""
    with pytest.raises(SettingsError) as raised:
        load(text, environ, **keywords)
    lines = str(raised.value).replace(f"{Path.cwd()}/", "").splitlines()
    assert len(lines) == 1 or lines[0] == f"{len(lines) - 1} settings cannot be used:"
    return [line.strip() for line in (lines[1:] or lines)]


# --- where values come from


def test_without_file_and_environment_the_defaults_hold(tmp_path):
    assert load_settings(None, {}) == Settings(home=tmp_path / ".orcha")


def test_the_file_is_the_argument_before_the_variable_before_the_working_folder(tmp_path):
    for number, name in enumerate(["orcha.toml", "variable.toml", "argument.toml"], start=1):
        (tmp_path / name).write_text(f"[planner]\nmax_changes_per_hour = {number}")
    by_variable = {"ORCHA_CONFIG": "variable.toml"}
    assert load_settings(None, {}).planner.max_changes_per_hour == 1
    assert load_settings(None, by_variable).planner.max_changes_per_hour == 2
    assert load_settings(Path("argument.toml"), by_variable).planner.max_changes_per_hour == 3


def test_the_environment_wins_over_the_file_key_by_key():
    settings = load(
        "[planner]\nhold_minutes = 20\nmin_gain_percent = 5\n[prices.pinned]\nstorj = 0.2\ngolem = 0.3",
        {
            "ORCHA_PLANNER__HOLD_MINUTES": "30",
            "ORCHA_PRICES__PINNED__STORJ": "0.4",
            "ORCHA_PRICES__API_KEY": "12345",
            "ORCHA_SERVICES": '{"mlflow_port": 6000}',
            "ORCHA_FORECAST__SEED": "",
        },
    )
    assert (settings.planner.hold_minutes, settings.planner.min_gain_percent) == (30, 5)
    assert settings.prices.pinned == {"storj": 0.4, "golem": 0.3}
    assert settings.prices.api_key == SecretStr("12345")
    assert settings.services.mlflow_port == 6000
    assert settings.forecast.seed == 7


def test_nodes_can_be_given_as_json():
    node = {"name": "n", "protocol": "p", "host": "attic", "url": "http://a", "token_env": "ORCHA_NODE__TOKEN"}
    node["demand"] = {"cpu_threads": 1, "memory_gib": 1, "disk_gb": 1, "bandwidth_mbps": 1}
    settings = load(HOST + NODE, {"ORCHA_NODES": json.dumps([node]), "ORCHA_NODE__TOKEN": "is not a setting"})
    assert [node.name for node in settings.nodes] == ["n"]


def test_settings_made_in_code_do_not_hear_the_environment(monkeypatch):
    monkeypatch.setenv("ORCHA_PLANNER__HOLD_MINUTES", "30")
    assert Settings().planner.hold_minutes == 60


@pytest.mark.parametrize("home", ["data", "./data", "{cwd}/etc/data"])
def test_relative_paths_start_from_the_folder_of_the_file(tmp_path, home):
    (tmp_path / "etc").mkdir()
    file = tmp_path / "etc" / "orcha.toml"
    file.write_text(f'home = "{home.format(cwd=tmp_path)}"\n[testnet]\nworld = "w"\nprices = "p.csv"')
    settings = load_settings(Path("etc/orcha.toml"), {})
    assert settings.home == tmp_path / "etc" / "data"
    assert (settings.testnet.world, settings.testnet.prices) == (tmp_path / "etc" / "w", tmp_path / "etc" / "p.csv")


def test_relative_paths_start_from_the_working_folder_without_a_file(tmp_path):
    assert load_settings(None, {"ORCHA_HOME": "data"}).home == tmp_path / "data"


def test_a_tilde_is_the_home_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", "/somewhere")
    assert load('home = "~/data"').home == Path("/somewhere/data")
    assert problems('home = "~nobody-here/data"') == ["~nobody-here/data: there is no such user; write the folder out"]


# --- files that are no settings files


def test_a_named_file_that_is_missing_is_told_with_who_named_it(tmp_path):
    with pytest.raises(SettingsError, match=r"/no\.toml: there is no such settings file; name another"):
        load_settings(Path("no.toml"), {})
    with pytest.raises(SettingsError, match=r"/no\.toml: there is no such settings file \(ORCHA_CONFIG names it\)"):
        load_settings(None, {"ORCHA_CONFIG": "no.toml"})


def test_a_folder_or_foreign_bytes_are_told(tmp_path):
    with pytest.raises(SettingsError, match="cannot be read: Is a directory"):
        load_settings(tmp_path, {})
    (tmp_path / "latin.toml").write_bytes(b'# \xe4\nhome = "x"')
    with pytest.raises(SettingsError, match=r"latin\.toml is not UTF-8 text \(byte 3\); save it as UTF-8"):
        load_settings(Path("latin.toml"), {})


def test_a_byte_order_mark_does_no_harm():
    assert load("\ufeff[planner]\nhold_minutes = 5").planner.hold_minutes == 5


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("[planner]\nhold_minutes = ten", "orcha.toml:2:16: this is not TOML: Invalid value; text stands in quotes,"),
        ("[planner]\n[planner]", "orcha.toml:2:9: this is not TOML: Cannot declare ('planner',) twice"),
        ('home = "x\n', "orcha.toml:1:10: this is not TOML: Illegal character"),
        ("home =", "orcha.toml:1"),
    ],
)
def test_broken_toml_is_told_with_line_and_column(text, expected):
    assert problems(text)[0].startswith(expected)


# --- values that cannot be used


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("[planner]\nhold_mintes = 3", '2:1: planner.hold_mintes is not a setting; did you mean "hold_minutes"?'),
        ("[forecast]\nhold_minutes = 3", "2:1: forecast.hold_minutes is not a setting here; it belongs in [planner]"),
        ("max_share = 1", "1:1: max_share is not a setting here; it belongs in [[nodes]]"),
        ("[planer]\n", '1:2: planer is not a setting; did you mean "planner"?'),
        ("planner.zzz = 3", "1:9: planner.zzz is not a setting; known are: exploration, held_risk, hold_minutes, "),
        ("[planner]\npreset = 'bald'", 'planner.preset is "bald"; did you mean "bold"?'),
        ("[planner]\npreset = 3", "planner.preset is 3; known are: balanced, bold, cautious, strict"),
        ("[forecast]\nseed = '7'", '2:1: forecast.seed is "7"; seed is a number, without quotes: 7'),
        ("[forecast]\nseed = 7.5", "2:1: forecast.seed is 7.5; it must be a whole number"),
        ("[forecast]\nseed = true", "2:1: forecast.seed is true; seed is a number"),
        ("[planner]\nhold_minutes = '1 h'", '"1 h"; hold_minutes is a number of minutes: 60'),
        ("[planner]\nhold_minutes = 'soon'", '"soon"; hold_minutes is a number of minutes'),
        ("[planner]\nhold_minutes = 1979-05-27", "is a date or time; hold_minutes is a number of minutes"),
        ("[planner]\nmin_gain_percent = '2 %'", '"2 %"; min_gain_percent is a number of per cent: 2'),
        ("[planner]\nmin_confidence = 60", "is 60; it must be at most 1, a part of 1: 0.6"),
        ("[planner]\nhorizon_hours = 24", "2:1: planner.horizon_hours is not a setting; "),
        ("[planner]\nexploration = 5", "planner.exploration is 5; it must be at most 0.05"),
        ("[planner]\nheld_risk = 1.5", "planner.held_risk is 1.5; it must be at most 1"),
        ("[planner]\npower_usd_per_kwh = '30 ct'", "power_usd_per_kwh is a number of US dollars for a kilowatt-hour"),
        ("[forecast]\ncandidates = 'lstm'", 'candidates is "lstm"; it must be a list, in square brackets'),
        ("[planner]\nhold_minutes = -1", "planner.hold_minutes is -1; it must be at least 0"),
        ("[planner]\nhold_minutes = inf", "planner.hold_minutes is inf; it must be a finite number"),
        ("planner = 3", "1:1: planner is a number; it must be a table"),
        ("home = 3", "1:1: home is 3; it must be a path, in quotes"),
        ("cycle_cron = 15", "1:1: cycle_cron is 15; it must be text, in quotes"),
        ("cycle_cron = '15 minutes'", '1:1: cycle_cron is "15 minutes"; it must be a cron expression of five fields'),
        ("[prices]\npinned = { storj = 0 }", "2:12: prices.pinned.storj is 0; it must be more than 0"),
        ("[prices]\npinned = { storj = true }", "prices.pinned.storj is true; a number, not true or false"),
        ("[prices]\nurl = 'api.coingecko.com'", 'no address; write "http://api.coingecko.com"'),
        ("[services]\nmlflow_port = 70000", "services.mlflow_port is 70000; it must be at most 65535"),
        ("[hosts]\nname = 'attic'", "1:2: hosts is a table; each of them is a table of its own, under [[hosts]]"),
    ],
)
def test_a_value_that_cannot_be_used_is_told_with_its_place_and_remedy(text, expected):
    (problem,) = problems(text)
    assert problem.startswith("orcha.toml:")
    assert expected in problem


@pytest.mark.parametrize(
    ("key", "given", "remedy"),
    [
        ("disk_gb", "4 TB", "disk_gb is a number of gigabytes: 4000"),
        ("disk_gb", "4T", "disk_gb is a number of gigabytes: 4000"),
        ("disk_gb", "1 TiB", "disk_gb is a number of gigabytes: 1099.511628"),
        ("memory_gib", "512 MiB", "memory_gib is a number of gibibytes: 0.5"),
        ("bandwidth_mbps", "1 Gbit/s", "bandwidth_mbps is a number of megabits per second: 1000"),
        ("bandwidth_mbps", "10 MB/s", "bandwidth_mbps is a number of megabits per second: 80"),
        ("cpu_threads", "4 cores", "cpu_threads is a number of hardware threads: 4"),
        ("cpu_threads", "four", "cpu_threads is a number of hardware threads"),
    ],
)
def test_an_amount_written_with_its_unit_gets_the_number_to_write(key, given, remedy):
    text = re.sub(rf"{key} = \d+", f'{key} = "{given}"', HOST)
    column = text.splitlines()[3].index(key) + 1
    assert problems(text) == [f'orcha.toml:4:{column}: hosts[0].capacity.{key} is "{given}"; {remedy}']


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (("attic", "atic"), 'orcha.toml:9:1: nodes[0].host is "atic", no host; did you mean "attic"?'),
        (("storj-1", "Storj 1"),
         'is "Storj 1"; a name has lower-case letters, digits, - and _ only, up to 63, such as "storj-1"'),
        (('protocol = "storj"\n', ""), "orcha.toml:6:3: nodes[0].protocol is missing; add protocol = ..."),
        (("disk_gb = 3500, ", ""),
         "orcha.toml:11:1: nodes[0].demand.disk_gb is missing; add disk_gb = its number of gigabytes"),
        (("3500", "9000"), 'orcha.toml:11:45: nodes[0].demand.disk_gb is 9000, more than the 4000 of host "attic"; '),
        (("http://127.0.0.1:14002", "127.0.0.1:14002"),
         'is "127.0.0.1:14002", no address; write "http://127.0.0.1:14002"'),
        (("http://127.0.0.1:14002", "localhost:14002"), 'write "http://localhost:14002"'),
        (("http://127.0.0.1:14002", "ftp://x"), 'is "ftp://x", no address; it must begin with http:// or https://'),
        (("http://127.0.0.1:14002", "http://x:99999"), "no address"),
        (("demand", "min_share = 0.9\nmax_share = 0.5\ndemand"),
         "orcha.toml:11:1: nodes[0].min_share is 0.9, above its max_share 0.5; "),
        (("demand", "max_share = 50\ndemand"), "nodes[0].max_share is 50; it must be at most 1, a part of 1: 0.5"),
        (("demand", "controller = {kind = 'doker'}\ndemand"), 'controller.kind is "doker"; did you mean "docker"?'),
        (("demand", "controller = {kind = 'docker'}\ndemand"),
         "nodes[0].controller is of kind docker without a container"),
        (("demand", "simulated = 'yes'\ndemand"), 'simulated is "yes"; it must be true or false, without quotes'),
        (("demand", "timeout_seconds = 0\ndemand"), "nodes[0].timeout_seconds is 0; it must be more than 0"),
    ],
)  # fmt: skip
def test_a_node_that_cannot_be_used_is_told_with_its_place_and_remedy(change, expected):
    (problem,) = problems(HOST + NODE.replace(*change))
    assert expected in problem


def test_a_node_without_any_host_is_told_what_to_add():
    (problem,) = problems(NODE)
    assert problem.endswith('nodes[0].host is "attic", no host; add a [[hosts]] table of that name')


def test_a_name_given_twice_is_told_where_the_second_stands():
    assert problems(HOST + HOST + NODE + NODE) == [
        'orcha.toml:7:1: hosts[1].name is "attic", taken already; give it another',
        'orcha.toml:18:1: nodes[1].name is "storj-1", taken already; give it another',
    ]


def test_minimum_shares_that_no_plan_can_meet_are_told():
    half = NODE.replace("demand", "min_share = 0.6\ndemand")
    (problem,) = problems(HOST + half + half.replace("storj-1", "storj-2"))
    assert problem.startswith(
        'orcha.toml:19:1: nodes[1].min_share: the min_share of all nodes of host "attic" together need 4200 disk_gb, '
        "more than its 4000"
    )
    load(HOST + half + half.replace("storj-1", "storj-2").replace("0.6", "0.5"))


def test_a_pin_counts_with_the_minimum_shares():
    pinned = NODE.replace("demand", "pin = 0.6\ndemand")
    (problem,) = problems(HOST + pinned + pinned.replace("storj-1", "storj-2"))
    assert 'nodes[1].pin: the min_share or pin of all nodes of host "attic" together need 4200 disk_gb' in problem


# --- schedules and limits


EVENINGS = """
[[hosts.schedules]]
from = "18:00"
until = "23:00"
timezone = "Europe/Berlin"
bandwidth_mbps = 125
"""
NIGHTS = """
[[nodes.schedules]]
from = "23:00"
until = "06:00"
days = ["sat", "sun"]
max_share = 0.5
"""
LIMIT = """
[[limits]]
name = "one-address"
nodes = ["storj-1", "storj-2"]
shares = 1.0
"""
TWO = NODE + NODE.replace("storj-1", "storj-2")


def test_schedules_and_limits_are_read():
    settings = load(HOST + EVENINGS + NODE + NIGHTS + NODE.replace("storj-1", "storj-2") + LIMIT)
    assert settings.hosts[0].schedules[0].amounts == {"bandwidth_mbps": 125}
    assert str(settings.hosts[0].schedules[0].when) == "18:00 to 23:00 (Europe/Berlin)"
    assert str(settings.nodes[0].schedules[0].when) == "sat, sun 23:00 to 06:00 (UTC)"
    assert settings.nodes[0].schedules[0].max_share == 0.5
    assert settings.nodes[1].schedules == ()
    assert (settings.limits[0].nodes, settings.limits[0].shares) == (("storj-1", "storj-2"), 1.0)


def test_limits_can_be_given_as_json_and_times_as_toml_has_them():
    limit = {"name": "uplink", "nodes": ["storj-1", "storj-2"], "bandwidth_mbps": 120}
    nights = NIGHTS.replace('"23:00"', "23:00:00").replace('"06:00"', '"24:00"')
    settings = load(HOST + TWO + nights, {"ORCHA_LIMITS": json.dumps([limit])})
    assert settings.limits[0].amounts == {"bandwidth_mbps": 120}
    assert str(settings.nodes[1].schedules[0].when) == "sat, sun 23:00 to 00:00 (UTC)"


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (('"18:00"', '"6 pm"'),
         'orcha.toml:7:1: hosts[0].schedules[0].from is "6 pm"; a time of day in quotes, hours and minutes, such as "'),
        (('"18:00"', '"24:00"'), 'from is "24:00"; a time of day in quotes'),
        (('"18:00"', "18"), "from is 18; a time of day in quotes"),
        (('from = "18:00"\n', ""), "orcha.toml:6:9: hosts[0].schedules[0].from is missing; add from = ..."),
        (("until =", 'frm = "x"\nuntil ='), 'hosts[0].schedules[0].frm is not a setting; did you mean "from"?'),
        (("until =", 'begin = "18:00"\nuntil ='), "hosts[0].schedules[0].begin is not a setting; known are: "),
        (("Europe/Berlin", "Europe/Berln"),
         'timezone is "Europe/Berln"; no time zone of the IANA database; did you mean "Europe/Berlin"?'),
        (("Europe/Berlin", "../etc"), 'no time zone of the IANA database; such as "Europe/Berlin" or "UTC"'),
        (("Europe/Berlin", "Europe"), "no time zone of the IANA database"),
        (("bandwidth_mbps = 125", ""),
         "orcha.toml:6:9: hosts[0].schedules[0] changes nothing; give it one of cpu_threads, memory_gib, disk_gb, "),
        (("bandwidth_mbps = 125", "bandwidth_mbps = 300"),
         "orcha.toml:10:1: hosts[0].schedules[0].bandwidth_mbps is 300, more than the host's 250; "),
        (("bandwidth_mbps = 125", "bandwidth_mbps = '1 Gbit'"),
         "bandwidth_mbps is a number of megabits per second: 1000"),
        (("bandwidth_mbps = 125", "max_share = 0.5"),
         "hosts[0].schedules[0].max_share is not a setting here; it belongs in [[nodes]] or [[nodes.schedules]]"),
        (("[[hosts.schedules]]", "[hosts.schedules]"),
         "hosts[0].schedules is a table; each of them is a table of its own, under [[hosts.schedules]]"),
        (("bandwidth_mbps = 125", "days = []\nbandwidth_mbps = 125"),
         "hosts[0].schedules[0].days names no day; name some, or leave it out for every day"),
        (("bandwidth_mbps = 125", "days = 'mon'\nbandwidth_mbps = 125"),
         'hosts[0].schedules[0].days is "mon"; it must be a list, in square brackets'),
        (("bandwidth_mbps = 125", "days = ['monday']\nbandwidth_mbps = 125"),
         'hosts[0].schedules[0].days[0] is "monday"; known are: fri, mon,'),
    ],
)  # fmt: skip
def test_a_hosts_schedule_that_cannot_be_used_is_told(change, expected):
    changed = (HOST + EVENINGS + NODE).replace(*change)
    assert changed != HOST + EVENINGS + NODE
    (problem,) = problems(changed)
    assert expected in problem


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (("max_share = 0.5", ""), "nodes[0].schedules[0] changes nothing; give it a min_share, a max_share or a pin"),
        (("max_share = 0.5", "max_share = 0"),
         "nodes[0].schedules[0].max_share is 0, below the node's min_share 0.05, beyond which it is never taken; low"),
        (("max_share = 0.5", "max_share = 0.3\nmin_share = 0.4"),
         "nodes[0].schedules[0].min_share is 0.4, above its max_share 0.3; lower the one or raise the other"),
        (("max_share = 0.5", "pin = '40 %'"), "pin is a number of parts of 1: 0.4"),
        (("demand", "pin = 0.9\nmax_share = 0.8\ndemand"),
         "orcha.toml:11:1: nodes[0].pin is 0.9, above the node's max_share 0.8, beyond which it is never taken; "),
        (("demand", "pin = 0.01\ndemand"), "nodes[0].pin is 0.01, below the node's min_share 0.05, "),
        (("demand", "power_watts = '1 kW'\ndemand"), "power_watts is a number of watts: 1000"),
        (("demand", "frozen = 1\ndemand"), "nodes[0].frozen is 1; it must be true or false, without quotes"),
    ],
)  # fmt: skip
def test_a_nodes_pin_or_schedule_that_cannot_be_used_is_told(change, expected):
    (problem,) = problems(HOST + (NODE + NIGHTS).replace(*change))
    assert expected in problem


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (('"storj-2"]', '"storj-3"]'), 'orcha.toml:22:21: limits[0].nodes[1] is "storj-3", no node; did you mean "st'),
        (('"storj-2"]', '"storj-1"]'), 'limits[0].nodes[1] is "storj-1", named already; name each node once'),
        ((', "storj-2"]', "]"), "limits[0].nodes names 1; name at least 2 (for one, "),
        (("shares = 1.0", ""), "limits[0] limits neither shares nor an amount of cpu_threads, memory_gib, disk_gb, "),
        (("shares = 1.0", "shares = 1\ndisk_gb = 4000"), "limits[0] limits both shares and an amount of cpu_threads, "),
        (("shares = 1.0", "shares = 0.05"),
         "limits[0].shares is 0.05, less than the 0.1 that the min_share and pin of its nodes need together; "),
        (("shares = 1.0", "disk_gb = 300"), "limits[0].disk_gb is 300, less than the 350 that the min_share and pin "),
        (("one-address", "One address"), 'up to 63, such as "one-address"'),
        (("shares = 1.0", f"shares = 1.0\n{LIMIT}"), 'limits[1].name is "one-address", taken already; give it another'),
        (("shares = 1.0", "share = 1.0"), 'limits[0].share is not a setting; did you mean "shares"?'),
    ],
)  # fmt: skip
def test_a_limit_that_cannot_be_used_is_told(change, expected):
    (problem,) = problems(HOST + TWO + LIMIT.replace(*change))
    assert expected in problem


def test_a_limit_without_any_node_is_told_what_to_add():
    assert [line.partition("; ")[2] for line in problems(LIMIT)] == ["add a [[nodes]] table of that name"] * 2


def test_minimum_shares_that_fit_but_for_some_hours_of_the_week_are_told_with_their_time():
    evenings = EVENINGS.replace("bandwidth_mbps = 125", 'days = ["fri"]\nbandwidth_mbps = 9')
    (problem,) = problems(HOST + evenings + TWO)
    assert problem.endswith(
        'hosts[0].schedules: on a Friday at 17:00 UTC all nodes of host "attic" together need 10 bandwidth_mbps, more '
        "than the 9 it has then; lower a min_share or pin, or give it more"
    )
    nights = NIGHTS.replace("max_share = 0.5", "min_share = 0.6")
    (problem,) = problems(HOST + NODE + nights + NODE.replace("storj-1", "storj-2") + nights)
    assert 'nodes[1].schedules: on a Saturday at 23:00 UTC all nodes of host "attic" together need 4200 disk' in problem
    load(HOST + NODE + nights + NODE.replace("storj-1", "storj-2") + nights.replace("sat", "mon").replace("sun", "tue"))


def test_a_port_given_twice_is_told_at_both_places():
    assert problems("[services]\nmlflow_port = 8414") == [
        "orcha.toml: testnet.port is 8414, as is services.mlflow_port; give each its own port",
        "orcha.toml:2:1: services.mlflow_port is 8414, as is testnet.port; give each its own port",
    ]


def test_all_problems_are_told_at_once_in_the_order_of_the_file():
    found = problems("[planner]\nhold_minutes = 'x'\nhorizon = 3\n[forecast]\nseed = ''\n", {"ORCHA_PLANER": "{}"})
    assert [re.match(r"orcha.toml:\d+|environment variable \w+", line).group() for line in found] == [
        "environment variable ORCHA_PLANER", "orcha.toml:2", "orcha.toml:3", "orcha.toml:5",
    ]  # fmt: skip


# --- the environment's own mistakes


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("ORCHA_PLANNER__HOLD_MINUTES", "ten", 'planner.hold_minutes is "ten"; hold_minutes is a number of minutes'),
        ("ORCHA_FORECAST__SEED", "1.5", 'forecast.seed is "1.5"; seed is a number, without quotes: 1.5'),
        ("ORCHA_PLANNER__HOLD_MINTES", "3", "there is no such setting; did you mean ORCHA_PLANNER__HOLD_MINUTES?"),
        ("ORCHA_PLANNER_HOLD_MINUTES", "3", "there is no such setting; did you mean ORCHA_PLANNER__HOLD_MINUTES?"),
        ("ORCHA_ABC__DEF", "3", "there is no such setting; docs/configuration.md lists those there are"),
        ("ORCHA_NODES__0__URL", "x", "one of the nodes is set in the file; all of them, as JSON, in ORCHA_NODES"),
        ("ORCHA_LIMITS__0__SHARES", "1", "one of the limits is set in the file; all of them, as JSON, in ORCHA_LIMITS"),
        ("ORCHA_PLANNER", "{", "this is not JSON at character 2; a table or list is given as JSON"),
        ("ORCHA_PLANNER", '{"hold": 3}', 'planner.hold is not a setting; '),
        ("ORCHA_NODES", "[{}]", "nodes[0].name is missing"),
    ],
)  # fmt: skip
def test_a_variable_that_cannot_be_used_is_named(name, value, expected):
    found = problems("[planner]\nmin_gain_percent = 3", {name: value})
    assert found[0].startswith(f"environment variable {name}: ")
    assert expected in found[0]


def test_variables_of_others_are_left_alone():
    # Those that `orcha up` gives to its services are among them.
    ours = {"ORCHA_MLFLOW": "/bin/mlflow", "ORCHA_MLFLOW_PORT": "5050", "ORCHA_CODE_SERVER_PORT": "3030"}
    load("", {**ours, "ORCHA_GREETING": "hello", "HOLD_MINUTES": "x"})


# --- secrets


SECRET = "s3cr3t-value"


@pytest.mark.parametrize(
    "node",
    [
        f'token = ["{SECRET}"]',
        f'tokn = "{SECRET}"',
        f'token = "{SECRET}"\ntoken_env = "NAME"',
        f'token_env = "{SECRET}"',
        f'url = "https://user:{SECRET}@host/{SECRET}?key={SECRET}"\nmin_share = 2',
        f'url = "htp://user:{SECRET}@host/{SECRET}?key={SECRET}"',
        f'token = "{SECRET}',
        f'options = "{SECRET}"',
        f'options = {{ my_key = "{SECRET}", unknown = "{SECRET}", url = "http://x/{SECRET}" }}',
    ],
)
def test_no_message_holds_a_secret(node):
    class Options(BaseModel):
        model_config = ConfigDict(extra="forbid")
        my_key: int = 0
        url: int = 0

    text = HOST + NODE.replace(
        'url = "http://127.0.0.1:14002"', node if "url =" in node else f'url = "http://a"\n{node}'
    )
    with pytest.raises(SettingsError) as raised:
        load(text, option_types={"storj": Options})
    assert SECRET not in str(raised.value)
    assert raised.value.__cause__ is None
    assert raised.value.__suppress_context__ or raised.value.__context__ is None


@pytest.mark.parametrize("name", ["ORCHA_PRICES__API_KEY", "ORCHA_NODES", "ORCHA_PRICES"])
def test_no_message_holds_a_secret_of_the_environment(name):
    (problem, *_) = problems("[planner]\nhold_minutes = -1", {name: f'{{"api_key": "{SECRET}"'})
    assert SECRET not in problem


def node(**changes) -> NodeSettings:
    values = {"name": "golem-1", "protocol": "golem", "host": "attic", "url": "http://a"}
    demand = {"cpu_threads": 1, "memory_gib": 1, "disk_gb": 1, "bandwidth_mbps": 1}
    return NodeSettings(**values, demand=demand, **changes)


# --- protocols and their options


class StorjLike(BaseModel):
    model_config = ConfigDict(extra="forbid")
    config_file: Path | None = None
    restart_seconds: float = Field(default=1, gt=0)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (('"storj"', '"storje"'),
         'orcha.toml:8:1: nodes[0].protocol is "storje", not installed; did you mean "storj"?'),
        (("demand", "options = { conf_file = 'x' }\ndemand"),
         'orcha.toml:11:13: nodes[0].options.conf_file is not an option of storj; did you mean "config_file"?'),
        (("demand", "options.restart_seconds = '2 min'\ndemand"),
         'orcha.toml:11:9: nodes[0].options.restart_seconds is "2 min"; restart_seconds is a number of seconds: 120'),
        (("demand", "options.restart_seconds = -1\ndemand"), "options.restart_seconds is -1; it must be more than 0"),
    ],
)  # fmt: skip
def test_options_are_checked_by_their_protocol(change, expected):
    (problem,) = problems(HOST + NODE.replace(*change), option_types={"storj": StorjLike})
    assert problem == expected or problem.endswith(expected)


# --- the example


def all_keys() -> set[str]:
    """Every key that the file may have, outside of the nodes' options."""
    models: list[type[BaseModel]] = [Settings, Section]
    for model in models:  # grows as it goes
        models += model.__subclasses__()
    return {key for model in models for key in keys_of(model)}


OPTION_TYPES = {name: adapter_type(name).options_type for name in protocol_names()}


def uncommented(text: str) -> str:
    """What the file's own words say: a # without a space after it precedes a setting."""
    return re.sub(r"(?m)^#(?=\S)", "", text)


def test_the_example_loads_as_it_is(tmp_path):
    write_example(tmp_path / "orcha.toml")
    settings = load_settings(None, {})
    assert [host.name for host in settings.hosts] == ["attic"]
    assert {node.protocol for node in settings.nodes} <= {"storj"}


def test_the_example_loads_with_everything_in_use_and_shows_every_default(tmp_path):
    write_example(tmp_path / "orcha.toml")
    text = uncommented(Path("orcha.toml").read_text())
    settings, defaults = load(text, option_types=OPTION_TYPES), Settings()
    assert [node.protocol for node in settings.nodes] == ["storj", "golem", "streamr", "grass"]
    for section in ("cycle_cron", "planner", "forecast", "services"):
        assert getattr(settings, section) == getattr(defaults, section)
    assert settings.prices == defaults.prices
    assert settings.testnet.model_copy(update={"world": None, "prices": None}) == defaults.testnet
    assert settings.home == tmp_path / defaults.home


def test_the_example_shows_every_setting_of_the_file_but_secrets_and_marks():
    text = (Path(__file__).parents[1] / "orcha_pipeline" / "orcha.example.toml").read_text()
    shown = {key for key in all_keys() if re.search(rf"(?m)\b{key}\b(?: =|\]|\.)", text)}
    assert all_keys() - shown == {"token", "api_key", "simulated"}


@pytest.mark.parametrize("protocol", OPTION_TYPES)
def test_the_example_and_the_documentation_show_every_option(protocol, tmp_path):
    write_example(tmp_path / "orcha.toml")
    text = uncommented(Path("orcha.toml").read_text())
    (node,) = [node for node in load(text).nodes if node.protocol == protocol]
    assert set(node.options) == set(OPTION_TYPES[protocol].model_fields)
    documentation = (Path(__file__).parents[1] / "docs" / "configuration.md").read_text(encoding="utf-8")
    assert all(f"| {protocol} | `{option}` |" in documentation for option in node.options)


def test_the_example_never_overwrites_and_is_its_owners_alone(tmp_path):
    file = tmp_path / "orcha.toml"
    write_example(file)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    file.write_text("mine")
    with pytest.raises(SettingsError, match=r"orcha\.toml exists and is left as it is"):
        write_example(file)
    assert file.read_text() == "mine"


def test_an_example_that_cannot_be_written_is_told(tmp_path):
    with pytest.raises(SettingsError, match="cannot be written: No such file or directory"):
        write_example(tmp_path / "missing" / "orcha.toml")


# --- the documentation


@pytest.mark.parametrize("key", sorted(all_keys()))
def test_every_setting_is_documented(key):
    text = (Path(__file__).parents[1] / "docs" / "configuration.md").read_text(encoding="utf-8")
    assert re.search(rf"`{key}`|`\[+{key}\]+`", text)
