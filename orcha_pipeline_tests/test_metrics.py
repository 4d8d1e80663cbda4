"""What Prometheus reads, parsed by its own library."""

from datetime import timedelta

from prometheus_client.parser import text_string_to_metric_families

from orcha_pipeline.lookout import Seen
from orcha_pipeline.metrics import metrics_text
from orcha_pipeline.supervisor import ServiceState
from orcha_pipeline_tests.rig import NOW
from orcha_pipeline_tests.seen import a_sight

SERVICES = (
    ServiceState(name="daemon", is_up=True, restarts=0, why="", retry_in=None),
    ServiceState(name="mlflow", is_up=False, restarts=3, why="ended with exit status 1", retry_in=8.0),
)


def samples(seen, services=SERVICES):
    families = text_string_to_metric_families(metrics_text(seen, services, now=NOW).decode())
    return {(sample.name, *sample.labels.values()): sample.value for family in families for sample in family.samples}


def test_everything_there_is_to_know_has_its_sample():
    sight = a_sight(pause="by ada", frozen={"a": "x"}, acknowledged=1, channels={"mail": "x"})
    told = samples(Seen(sight=sight, age=10.0, trouble=""))
    assert told == {
        ("orcha_healthy",): 0,
        ("orcha_problems",): 1,
        ("orcha_service_up", "daemon"): 1,
        ("orcha_service_up", "mlflow"): 0,
        ("orcha_service_restarts_total", "daemon"): 0,
        ("orcha_service_restarts_total", "mlflow"): 3,
        ("orcha_vitals_age_seconds",): 10,
        ("orcha_simulated",): 1,
        ("orcha_paused",): 1,
        ("orcha_free_bytes",): 12.5 * 2**30,
        ("orcha_frozen_nodes",): 1,
        ("orcha_awaiting_approvals",): 0,
        ("orcha_uptime_ratio", "24h"): 95 / 96,
        ("orcha_decision_age_seconds", "box"): 310,
        ("orcha_reading_age_seconds", "a"): 310,
        ("orcha_reading_age_seconds", "b"): 370,
        ("orcha_open_alerts", "info"): 0,
        ("orcha_open_alerts", "warning"): 0,
        ("orcha_open_alerts", "critical"): 2,
        ("orcha_acknowledged_alerts",): 1,
        ("orcha_failing_channels",): 1,
        ("orcha_clockwork_running", "every_15_minutes"): 1,
        ("orcha_clockwork_running", "apply_approved"): 0,
        ("orcha_clockwork_tick_age_seconds", "every_15_minutes"): 300,
        ("orcha_cycle_duration_seconds",): 4.25,
        ("orcha_decisions_total", "hold"): 90,
        ("orcha_decisions_total", "reallocate"): 6,
        ("orcha_applications_total", "applied"): 5,
        ("orcha_applications_total", "rolled_back"): 1,
    }


def test_what_is_not_known_has_no_sample():
    told = samples(Seen(sight=None, age=None, trouble="The warehouse is locked."))
    assert {name for name, *_ in told} == {
        "orcha_healthy", "orcha_problems", "orcha_service_up", "orcha_service_restarts_total",
    }  # fmt: skip
    assert told["orcha_problems",] == 2
    unknown = a_sight(decided={}, read={}, clockwork=(), uptime={}, cycle_seconds=None)
    names = {name for name, *_ in samples(Seen(sight=unknown, age=0.0, trouble=""))}
    assert names.isdisjoint({"orcha_decision_age_seconds", "orcha_cycle_duration_seconds", "orcha_uptime_ratio"})


def test_where_all_is_well_it_says_so():
    told = samples(Seen(sight=a_sight(), age=0.0, trouble=""), SERVICES[:1])
    assert (told["orcha_healthy",], told["orcha_problems",]) == (1, 0)


def test_no_text_of_a_problem_stands_in_it():
    sight = a_sight(problems=("node a was never read",), now=NOW + timedelta(hours=1))
    text = metrics_text(Seen(sight=sight, age=0.0, trouble="The warehouse is locked."), SERVICES, now=NOW).decode()
    assert "locked" not in text
    assert "never read" not in text
    assert "exit status" not in text


def test_every_family_has_its_help_and_type_and_a_good_name():
    text = metrics_text(Seen(sight=a_sight(), age=0.0, trouble=""), SERVICES, now=NOW).decode()
    for family in text_string_to_metric_families(text):
        assert family.documentation
        assert family.type in ("gauge", "counter")
        assert family.name.startswith("orcha_")
        assert family.type == "counter" or not family.name.endswith("_total")
