"""Starting and following runs through the webserver's GraphQL API, so that every run shows in the Dagster UI."""

from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx

from orcha_pipeline.errors import SupervisionError
from orcha_pipeline.model import hour_of

_LAUNCH = """
mutation Launch($params: ExecutionParams!) {
  launchRun(executionParams: $params) {
    __typename
    ... on LaunchRunSuccess { run { runId } }
    ... on RunConfigValidationInvalid { errors { message } }
    ... on Error { message }
  }
}
"""
_FOLLOW = """
query Follow($id: ID!) {
  runOrError(runId: $id) {
    __typename
    ... on Run { status }
    ... on Error { message }
  }
}
"""
_FAILURES = """
query Failures($id: ID!, $cursor: String) {
  logsForRun(runId: $id, afterCursor: $cursor) {
    ... on EventConnection {
      cursor
      hasMore
      events {
        __typename
        ... on ExecutionStepFailureEvent { stepKey error { message errorChain { error { message } } } }
        ... on RunFailureEvent { message }
        ... on AssetCheckEvaluationEvent { evaluation { checkName success description } }
      }
    }
  }
}
"""
_LOCATION = """
query Location {
  workspaceOrError {
    __typename
    ... on Workspace {
      locationEntries { name loadStatus locationOrLoadError { __typename ... on PythonError { message } } }
    }
  }
}
"""
_CLOCKWORK = """
query Clockwork($repository: RepositorySelector!) {
  repositoryOrError(repositorySelector: $repository) {
    __typename
    ... on Repository {
      schedules { name scheduleState { status ticks(limit: 1) { timestamp status } } }
      sensors { name sensorState { status ticks(limit: 1) { timestamp status } } }
    }
    ... on Error { message }
  }
}
"""
_HEARTBEATS = """
query Heartbeats {
  instance { daemonHealth { allDaemonStatuses { daemonType required lastHeartbeatTime } } }
}
"""
_LAST_RUN = """
query LastRun($job: String!) {
  runsOrError(filter: {pipelineName: $job, statuses: [SUCCESS, FAILURE]}, limit: 1) {
    ... on Runs { results { startTime endTime } }
  }
}
"""
LOCATION_NAME = "orcha"
REPOSITORY_NAME = "__repository__"
ENDED = frozenset({"SUCCESS", "FAILURE", "CANCELED"})


def partition_key(moment: datetime) -> str:
    """Dagster's key of the hourly partition `moment` lies in."""
    return hour_of(moment).strftime("%Y-%m-%d-%H:%M")


def prepare_instance(dagster_home: Path) -> None:
    """Make the instance's databases, before several processes would do so at the same moment and collide."""
    import dagster as dg

    with dg.DagsterInstance.from_config(str(dagster_home)) as instance:
        instance.get_runs_count()
        instance.get_latest_materialization_event(dg.AssetKey(LOCATION_NAME))
        instance.all_instigator_state()


def code_server_answers(port: int) -> bool:
    """Whether the code server on 127.0.0.1:`port` answers, and the process behind it that holds the project."""
    from dagster._core.errors import DagsterUserCodeUnreachableError
    from dagster._grpc.client import DagsterGrpcClient

    try:
        # Passed on to the process with the project: gRPC's own health check is answered by the one before it alone.
        DagsterGrpcClient(host="127.0.0.1", port=port).get_server_id(timeout=10)
    except DagsterUserCodeUnreachableError:
        return False
    return True


class DagsterApi:
    """The webserver at `url`."""

    def __init__(self, url: str, *, timeout: float = 60.0) -> None:
        # On this machine: a proxy that the environment names is not asked for the way there.
        self._client = httpx.Client(base_url=url, timeout=timeout, trust_env=False)

    def close(self) -> None:
        """Close the connection."""
        self._client.close()

    def _ask(self, query: str, variables: Mapping[str, Any] | None = None) -> dict[str, Any]:
        try:
            answer = self._client.post("/graphql", json={"query": query, "variables": dict(variables or {})})
            answer.raise_for_status()
        except httpx.HTTPError as error:
            why = str(error) or type(error).__name__
            raise SupervisionError(
                f"The Dagster webserver at {self._client.base_url} failed to answer: {why}. "
                "Its log is logs/webserver.log in the data folder."
            ) from error
        body: dict[str, Any] = answer.json()
        if body.get("errors"):
            raise SupervisionError(f"Dagster refused a question: {body['errors'][0].get('message')}")
        data: dict[str, Any] = body["data"]
        return data

    def load_error(self) -> str | None:
        """None once the project is loaded; "" while it loads; else why it cannot be."""
        found = self._ask(_LOCATION)["workspaceOrError"]
        entries: list[dict[str, Any]] = [e for e in found.get("locationEntries", []) if e["name"] == LOCATION_NAME]
        if not entries or entries[0]["loadStatus"] != "LOADED" or entries[0]["locationOrLoadError"] is None:
            return ""
        what = entries[0]["locationOrLoadError"]
        return str(what["message"]) if what["__typename"] == "PythonError" else None

    def launch(
        self, job: str, *, tags: Mapping[str, str] | None = None, ops: Mapping[str, Mapping[str, Any]] | None = None
    ) -> str:
        """Start a run of `job`; `ops` is configuration by op. Returns the run's id."""
        params = {
            "selector": {
                "repositoryLocationName": LOCATION_NAME,
                "repositoryName": REPOSITORY_NAME,
                "jobName": job,
            },
            "runConfigData": {"ops": {name: {"config": dict(config)} for name, config in (ops or {}).items()}},
            "executionMetadata": {"tags": [{"key": key, "value": value} for key, value in (tags or {}).items()]},
        }
        found = self._ask(_LAUNCH, {"params": params})["launchRun"]
        if found["__typename"] != "LaunchRunSuccess":
            errors: list[dict[str, Any]] = found.get("errors") or [found]
            raise SupervisionError(f"Dagster did not start {job}: {errors[0].get('message', found['__typename'])}")
        return str(found["run"]["runId"])

    def clockwork(self) -> list[tuple[str, bool, datetime | None, str | None]]:
        """Name, whether it is on, time and result of the last tick (None before the first), a schedule or sensor."""
        selector = {"repositoryLocationName": LOCATION_NAME, "repositoryName": REPOSITORY_NAME}
        found = self._ask(_CLOCKWORK, {"repository": selector})["repositoryOrError"]
        if found["__typename"] != "Repository":
            raise SupervisionError(f"Dagster has not loaded the project: {found.get('message')}")
        states: list[tuple[str, dict[str, Any]]] = [
            *((each["name"], each["scheduleState"]) for each in found["schedules"]),
            *((each["name"], each["sensorState"]) for each in found["sensors"]),
        ]
        told: list[tuple[str, bool, datetime | None, str | None]] = []
        for name, state in states:
            ticks: list[dict[str, Any]] = state["ticks"]
            tick = ticks[0] if ticks else None
            at = datetime.fromtimestamp(float(tick["timestamp"]), UTC) if tick else None
            told.append((name, state["status"] == "RUNNING", at, str(tick["status"]).lower() if tick else None))
        return told

    def heartbeats(self) -> dict[str, float | None]:
        """Daemon -> when it last beat (seconds since 1970; None: never), of those that must run."""
        found: list[dict[str, Any]] = self._ask(_HEARTBEATS)["instance"]["daemonHealth"]["allDaemonStatuses"]
        return {each["daemonType"]: each["lastHeartbeatTime"] for each in found if each["required"]}

    def last_run_seconds(self, job: str) -> float | None:
        """How long the last run of `job` took that ended, well or not; None before the first."""
        runs: list[dict[str, Any]] = self._ask(_LAST_RUN, {"job": job})["runsOrError"].get("results", [])
        if not runs or runs[0]["startTime"] is None or runs[0]["endTime"] is None:
            return None
        return float(runs[0]["endTime"]) - float(runs[0]["startTime"])

    def run_status(self, run_id: str) -> str:
        """The run's status now. Asks for no more: steps and events of a long run take seconds to collect."""
        found = self._ask(_FOLLOW, {"id": run_id})["runOrError"]
        if found["__typename"] != "Run":
            raise SupervisionError(f"Dagster knows no run {run_id}: {found.get('message')}")
        return str(found["status"])

    def why_failed(self, run_id: str) -> str:
        """The innermost error of the run's failed step, or the check that stopped it."""
        events: list[dict[str, Any]] = []
        cursor: str | None = None
        while True:
            page = self._ask(_FAILURES, {"id": run_id, "cursor": cursor})["logsForRun"]
            events += page.get("events", [])
            if not page.get("hasMore"):
                break
            cursor = page["cursor"]
        for event in events:
            if event["__typename"] == "ExecutionStepFailureEvent" and event["error"]:
                chain: list[dict[str, Any]] = event["error"]["errorChain"]
                innermost = chain[-1]["error"] if chain else event["error"]
                return f"{event['stepKey']}: {innermost['message'].strip()}"
        for event in events:
            if event["__typename"] == "AssetCheckEvaluationEvent" and not event["evaluation"]["success"]:
                return f"check {event['evaluation']['checkName']}: {event['evaluation']['description']}"
        return next((str(e["message"]) for e in events if e["__typename"] == "RunFailureEvent"), "no reason recorded")
