import json
import socket
from collections.abc import Iterator

import httpx
import pytest
import respx

from orcha_pipeline.dagster_api import DagsterApi, code_server_answers
from orcha_pipeline.errors import SupervisionError

URL = "http://dagster.test"


@pytest.fixture
def door() -> Iterator[respx.Route]:
    with respx.mock:
        yield respx.post(f"{URL}/graphql")


@pytest.fixture
def api() -> Iterator[DagsterApi]:
    api = DagsterApi(URL)
    yield api
    api.close()


def data(**fields):
    return httpx.Response(200, json={"data": fields})


def asked(route, call=-1):
    return json.loads(route.calls[call].request.content)["variables"]


def events(*found, cursor=None, more=False):
    return data(logsForRun={"cursor": cursor, "hasMore": more, "events": list(found)})


def step_failure(*messages):
    chain = [{"error": {"message": message}} for message in messages[1:]]
    error = {"message": messages[0], "errorChain": chain}
    return {"__typename": "ExecutionStepFailureEvent", "stepKey": "ingest", "error": error}


OTHER = {"__typename": "MessageEvent"}
CHECK = {
    "__typename": "AssetCheckEvaluationEvent",
    "evaluation": {"checkName": "capacity_kept", "success": False, "description": "17 of 16 cpu_threads"},
}
RUN_FAILURE = {"__typename": "RunFailureEvent", "message": "Execution of run failed."}


def test_a_run_is_started_with_its_tags_and_configuration(api, door):
    door.return_value = data(launchRun={"__typename": "LaunchRunSuccess", "run": {"runId": "r-1"}})
    assert api.launch("cycle", tags={"dagster/partition": "p"}, ops={"features": {"hours": 3}}) == "r-1"
    params = asked(door)["params"]
    assert params["selector"] == {
        "repositoryLocationName": "orcha",
        "repositoryName": "__repository__",
        "jobName": "cycle",
    }
    assert params["runConfigData"] == {"ops": {"features": {"config": {"hours": 3}}}}
    assert params["executionMetadata"] == {"tags": [{"key": "dagster/partition", "value": "p"}]}


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        ({"__typename": "RunConfigValidationInvalid", "errors": [{"message": "no such op"}]}, "no such op"),
        ({"__typename": "PythonError", "message": "the code server is away"}, "the code server is away"),
        ({"__typename": "InvalidStepError"}, "InvalidStepError"),
    ],
)
def test_a_run_that_is_not_started_says_why(api, door, answer, told):
    door.return_value = data(launchRun=answer)
    with pytest.raises(SupervisionError, match=f"did not start cycle: {told}"):
        api.launch("cycle")


@pytest.mark.parametrize(
    ("trouble", "told"),
    [
        (httpx.ConnectError("refused"), "refused"),
        (httpx.ReadTimeout(""), "ReadTimeout"),
        (httpx.Response(503, text="busy"), "503"),
        (httpx.Response(200, json={"errors": [{"message": "Cannot query field"}]}), "Cannot query field"),
    ],
)
def test_a_webserver_in_trouble_is_an_error_for_people(api, door, trouble, told):
    if isinstance(trouble, Exception):
        door.side_effect = trouble
    else:
        door.return_value = trouble
    with pytest.raises(SupervisionError, match=told):
        api.run_status("r-1")


def test_the_status_of_a_run_is_told_and_an_unknown_run_is_an_error(api, door):
    door.return_value = data(runOrError={"__typename": "Run", "status": "STARTED"})
    assert api.run_status("r-1") == "STARTED"
    assert asked(door) == {"id": "r-1"}
    door.return_value = data(runOrError={"__typename": "RunNotFoundError", "message": "not found"})
    with pytest.raises(SupervisionError, match="knows no run r-2: not found"):
        api.run_status("r-2")


def test_why_a_run_failed_is_looked_for_on_every_page(api, door):
    door.side_effect = [
        events(OTHER, cursor="c-1", more=True),
        events(RUN_FAILURE, cursor="c-2", more=True),
        events(step_failure("Error occurred while executing op", "in between", " node away\n"), cursor="c-3"),
    ]
    assert api.why_failed("r-1") == "ingest: node away"
    assert [asked(door, call)["cursor"] for call in range(3)] == [None, "c-1", "c-2"]


@pytest.mark.parametrize(
    ("found", "told"),
    [
        ([RUN_FAILURE, CHECK, step_failure("outermost")], "ingest: outermost"),
        ([RUN_FAILURE, CHECK], "check capacity_kept: 17 of 16 cpu_threads"),
        (
            [OTHER, {**CHECK, "evaluation": {**CHECK["evaluation"], "success": True}}, RUN_FAILURE],
            RUN_FAILURE["message"],
        ),
        ([], "no reason recorded"),
    ],
)
def test_the_failed_step_is_the_reason_then_the_check_then_what_the_run_says(api, door, found, told):
    door.return_value = events(*found)
    assert api.why_failed("r-1") == told


def entry(name="orcha", status="LOADED", error=None):
    return {"name": name, "loadStatus": status, "locationOrLoadError": error}


@pytest.mark.parametrize(
    ("entries", "told"),
    [
        ([], ""),
        ([entry(status="LOADING")], ""),
        ([entry(name="another", error={"__typename": "PythonError", "message": "not ours"})], ""),
        ([entry(error={"__typename": "PythonError", "message": "no module x"})], "no module x"),
        ([entry(error={"__typename": "RepositoryLocation"})], None),
    ],
)
def test_whether_the_project_is_loaded(api, door, entries, told):
    door.return_value = data(workspaceOrError={"__typename": "Workspace", "locationEntries": entries})
    assert api.load_error() == told


def test_the_heartbeats_of_the_daemons_that_must_run_are_told(api, door):
    daemons = [
        {"daemonType": "SCHEDULER", "required": True, "lastHeartbeatTime": 1700000000.5},
        {"daemonType": "SENSOR", "required": True, "lastHeartbeatTime": None},
        {"daemonType": "BACKFILL", "required": False, "lastHeartbeatTime": None},
    ]
    door.return_value = data(instance={"daemonHealth": {"allDaemonStatuses": daemons}})
    assert api.heartbeats() == {"SCHEDULER": 1700000000.5, "SENSOR": None}


@pytest.mark.parametrize(
    ("runs", "seconds"),
    [([], None), ([{"startTime": 100.0, "endTime": 104.5}], 4.5), ([{"startTime": None, "endTime": 104.5}], None)],
)
def test_how_long_the_last_run_took_is_told_where_it_began(api, door, runs, seconds):
    door.return_value = data(runsOrError={"results": runs})
    assert api.last_run_seconds("cycle") == seconds
    assert asked(door) == {"job": "cycle"}


def test_a_code_server_that_is_away_does_not_answer():
    with socket.socket() as probe:  # bound, and nobody listens
        probe.bind(("127.0.0.1", 0))
        assert code_server_answers(probe.getsockname()[1]) is False
