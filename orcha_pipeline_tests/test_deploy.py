"""What lies in deploy/: that it names what there is, and what the tools of others say of it where they are here."""

import os
import re
import shlex
import shutil
import stat
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from orcha_pipeline import settings
from orcha_pipeline.lookout import Seen
from orcha_pipeline.metrics import SEVERITIES, metrics_text
from orcha_pipeline.status import LATE_AFTER, WINDOWS
from orcha_pipeline.supervisor import STOP_SECONDS, ServiceState
from orcha_pipeline_tests.rig import NOW
from orcha_pipeline_tests.seen import a_sight

PROJECT = Path(__file__).resolve().parents[1]
DEPLOY = PROJECT / "deploy"
UNIT = DEPLOY / "systemd" / "orcha.service"
RULES = DEPLOY / "prometheus" / "rules.yaml"
PAGE_SECONDS = 5.0
"""What the health page takes to end, at most, before the services are ended."""


def health_port():
    return settings.ServiceSettings().health_port


# --- systemd


def unit():
    """Key -> values of the unit, whatever their section."""
    found = {}
    for line in UNIT.read_text().splitlines():
        if line and line[0] not in "#[":
            key, _, value = line.partition("=")
            found.setdefault(key, []).append(value)
    return found


def in_the_clone(path):
    return PROJECT / Path(path).relative_to("/opt/orcha")


def test_the_units_command_and_its_manual_exist_in_the_clone():
    (command,) = unit()["ExecStart"]
    program, *arguments = shlex.split(command)
    assert os.access(in_the_clone(program), os.X_OK)
    helped = subprocess.run([in_the_clone(program), *arguments, "--help"], capture_output=True, text=True, check=True)
    assert "Start everything" in helped.stdout
    assert in_the_clone(unit()["Documentation"][0].removeprefix("file://")).exists()


def test_the_unit_may_write_to_its_data_folder_alone_and_gives_it_to_orcha():
    (home,) = (value for value in unit()["Environment"] if value.startswith("ORCHA_HOME="))
    assert unit()["ReadWritePaths"] == [home.removeprefix("ORCHA_HOME=")]
    assert unit()["StateDirectory"] == [Path(home).name]
    assert unit()["WorkingDirectory"] == [f"/etc/{unit()['ConfigurationDirectory'][0]}"]
    assert unit()["ProtectSystem"] == ["strict"]
    assert unit()["NoNewPrivileges"] == ["true"]


def test_the_unit_leaves_orcha_the_time_it_takes_to_end():
    assert unit()["KillMode"] == ["mixed"]  # the children are Orcha's to end
    assert float(unit()["TimeoutStopSec"][0]) > STOP_SECONDS + PAGE_SECONDS


def test_systemd_finds_nothing_wrong_with_the_unit(tmp_path):
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd-analyze is not here")
    here = tmp_path / UNIT.name
    here.write_text(UNIT.read_text().replace("/opt/orcha", str(PROJECT)))
    verified = subprocess.run(["systemd-analyze", "verify", here], capture_output=True, text=True, check=False)
    assert (verified.returncode, verified.stdout + verified.stderr) == (0, "")


# --- containers


def instructions():
    """The Containerfile's instructions, lines joined."""
    text = re.sub(r"\\\n\s*", "", (DEPLOY / "Containerfile").read_text())
    return [line.split(maxsplit=1) for line in text.splitlines() if line and not line.startswith("#")]


def test_the_image_is_made_of_what_there_is_and_of_nothing_else():
    ignored = (DEPLOY / "Containerfile.dockerignore").read_text().splitlines()
    let_through = {line.removeprefix("!") for line in ignored if line.startswith("!")}
    copied = set()
    for name, rest in instructions():
        if name == "COPY" and not rest.startswith("--from"):
            copied |= set(rest.split()[:-1])
    assert copied == let_through
    assert all((PROJECT / path).exists() for path in copied)
    assert "*" in ignored


def test_the_image_has_all_that_orcha_up_asks_for_beside_its_package():
    source = (PROJECT / "orcha_pipeline" / "up.py").read_text()
    asked = set(re.findall(r'_project_file\("([^"]+)"\)', source))
    assert asked
    copied = " ".join(rest for name, rest in instructions() if name == "COPY").split()
    assert asked <= set(copied)


def test_the_image_runs_as_nobody_of_importance_and_is_asked_whether_it_lives():
    found = dict(instructions())
    assert found["USER"] == "10001:10001"
    assert found["CMD"] == '["orcha", "up"]'
    assert f"'{health_port()}'" in found["HEALTHCHECK"]
    assert "/live" in found["HEALTHCHECK"]
    version = next(rest.partition("=")[2] for name, rest in instructions() if rest.startswith("PYTHON="))
    assert version in ("3.11", "3.12")  # what the lock file was made for


def test_the_images_question_is_answered_by_the_health_page(tmp_path):
    from orcha_pipeline.health import HealthPage, serve
    from orcha_pipeline.lookout import Lookout
    from orcha_pipeline_tests.ports import free_port

    command = yaml.safe_load(dict(instructions())["HEALTHCHECK"].partition("CMD ")[2])
    idle = [0.1]
    page = HealthPage(Lookout(a_sight), services=list, idle_seconds=lambda: idle[0])
    port = free_port()
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"  # the image has a `python` on it
    env = {**os.environ, "PATH": path, "ORCHA_SERVICES__HEALTH_PORT": str(port), "no_proxy": "127.0.0.1"}
    with serve(page.app(), port):
        asked = [subprocess.run(command, env=env, capture_output=True, check=False).returncode]
        idle[0] = 10_000.0
        asked.append(subprocess.run(command, env=env, capture_output=True, check=False).returncode)
    assert asked[0] == 0
    assert asked[1] != 0


def compose():
    return yaml.safe_load((DEPLOY / "compose.yaml").read_text())


def test_the_compose_file_builds_the_image_and_keeps_its_data():
    service = compose()["services"]["orcha"]
    assert (DEPLOY / service["build"]["context"] / service["build"]["dockerfile"]).samefile(DEPLOY / "Containerfile")
    named = [volume.partition(":")[0] for each in compose()["services"].values() for volume in each["volumes"]]
    assert {name for name in named if not name.startswith(".")} == set(compose()["volumes"])
    assert all((DEPLOY / name).exists() for name in named if name.startswith("."))
    assert "data:/data" in service["volumes"]
    assert "docker.sock" not in str(service)  # only where the operator says so


def test_nothing_of_a_container_is_reached_from_outside_or_has_power_over_the_machine():
    for service in compose()["services"].values():
        assert "ports" not in service  # with the host's network all pages stay on loopback
        assert service["network_mode"] == "host"
        assert service["cap_drop"] == ["ALL"]
        assert service["read_only"] is True
        assert "privileged" not in service
    (listens,) = (each for each in compose()["services"]["prometheus"]["command"] if "listen-address" in each)
    assert "=127.0.0.1:" in listens
    assert int(compose()["services"]["orcha"]["stop_grace_period"].rstrip("s")) > STOP_SECONDS + PAGE_SECONDS


# --- Prometheus


def rules():
    return [rule for group in yaml.safe_load(RULES.read_text())["groups"] for rule in group["rules"]]


def told():
    """Name -> labels -> values of all metrics there are."""
    services = [ServiceState(name="daemon", is_up=True, restarts=0, why="", retry_in=None)]
    sight = a_sight()
    sight = replace(
        sight,
        tallies=replace(sight.tallies, applications={"rollback_failed": 0}),
        vitals=replace(sight.vitals, uptime=dict.fromkeys(WINDOWS, sight.vitals.uptime["24h"])),
    )
    found = {}
    text = metrics_text(Seen(sight=sight, age=0.0, trouble=""), services, now=NOW).decode()
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            labels = found.setdefault(sample.name, {})
            for label, value in sample.labels.items():
                labels.setdefault(label, set()).add(value)
    return found


def test_every_metric_and_label_that_a_rule_names_exists():
    metrics = told()
    named = set()
    for rule in rules():
        for name, _, matched in re.findall(r"\b(orcha_\w+|up)(\{([^}]*)\})?", rule["expr"]):
            if name == "up":
                continue
            named.add(name)
            assert name in metrics, f"{rule['alert']} asks for {name}"
            for label, value in re.findall(r'(\w+)="([^"]*)"', matched):
                assert value in metrics[name][label], f"{rule['alert']} asks for {name} of {label} {value}"
            text = " ".join(rule["annotations"].values())
            assert set(re.findall(r"\$labels\.(\w+)", text)) <= set(metrics[name])
    assert len(named) > 10


def test_the_rules_speak_of_what_the_code_calls_late():
    late = {rule["alert"]: rule["expr"] for rule in rules() if rule["alert"].endswith("Late")}
    assert late
    for expression in late.values():
        assert expression.endswith(f"> {LATE_AFTER.total_seconds():.0f}")
    assert {rule["labels"]["severity"] for rule in rules()} <= set(SEVERITIES)
    assert len({rule["alert"] for rule in rules()}) == len(rules())


def test_prometheus_scrapes_the_port_that_orcha_listens_on():
    scraped = yaml.safe_load((DEPLOY / "prometheus" / "prometheus.yaml").read_text())
    (job,) = scraped["scrape_configs"]
    assert job["static_configs"] == [{"targets": [f"127.0.0.1:{health_port()}"]}]
    assert scraped["rule_files"] == [RULES.name]
    assert f'job="{job["job_name"]}"' in RULES.read_text()


def test_promtool_finds_nothing_wrong():
    if shutil.which("promtool") is None:
        pytest.skip("promtool is not here (Debian: apt install prometheus)")
    folder = DEPLOY / "prometheus"
    for command in (
        ["promtool", "check", "config", folder / "prometheus.yaml"],
        ["promtool", "test", "rules", folder / "rules_test.yaml"],
    ):
        checked = subprocess.run(command, capture_output=True, text=True, check=False)
        assert checked.returncode == 0, checked.stdout + checked.stderr
    services = [ServiceState(name="daemon", is_up=True, restarts=0, why="", retry_in=None)]
    text = metrics_text(Seen(sight=a_sight(), age=0.0, trouble=""), services, now=NOW)
    checked = subprocess.run(["promtool", "check", "metrics"], input=text, capture_output=True, check=False)
    assert (checked.returncode, checked.stderr) == (0, b"")


# --- all of it


def test_no_file_is_executable_or_holds_a_secret():
    for path in DEPLOY.rglob("*"):
        if path.is_file():
            assert not path.stat().st_mode & stat.S_IXUSR, path
            assert not re.search(r"(?i)(password|secret|token|key)\s*[:=]\s*\S", without_comments(path)), path


def without_comments(path):
    return "\n".join(line for line in path.read_text().splitlines() if not line.lstrip().startswith("#"))


def test_the_guide_names_what_there_is():
    guide = (PROJECT / "docs" / "deploy.md").read_text()
    for path in re.findall(r"\bdeploy/[\w./-]+[\w]", guide):
        assert (PROJECT / path).exists(), path
    assert str(health_port()) in guide
