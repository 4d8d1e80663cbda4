import dagster as dg
import pytest

from orcha_pipeline.assets.allocation import ALLOCATION_DECISION, TO_APPLY
from orcha_pipeline.automation.jobs import APPLY_ALLOCATION


@pytest.fixture
def look(defs, instance):
    """What the sensor answers, asked with a cursor."""
    repository = defs.get_repository_def()

    def evaluate(cursor=None):
        context = dg.build_sensor_context(instance=instance, repository_def=repository, cursor=cursor)
        return defs.resolve_sensor_def("apply_decision").evaluate_tick(context)

    return evaluate


@pytest.fixture
def decide(instance):
    def report(*ids, metadata=None):
        found = {TO_APPLY: dg.MetadataValue.json(list(ids))} if metadata is None else metadata
        instance.report_runless_asset_event(dg.AssetMaterialization(ALLOCATION_DECISION, metadata=found))

    return report


def test_each_decision_to_apply_gets_one_run_under_its_id(look, decide, defs):
    decide("d-1", "d-2")
    requests = look().run_requests
    assert [request.run_key for request in requests] == ["d-1", "d-2"]
    job = defs.resolve_job_def(APPLY_ALLOCATION)
    for request in requests:
        config = dg.validate_run_config(job, request.run_config)
        assert config["ops"]["allocation_application"]["config"] == {"decision_id": request.run_key}
        assert request.tags["orcha/decision"] == request.run_key


def test_a_decision_seen_before_is_asked_for_no_second_time(look, decide):
    decide("d-1")
    first = look()
    assert look(first.cursor).run_requests == []
    decide("d-2")
    assert [request.run_key for request in look(first.cursor).run_requests] == ["d-2"]


def test_of_decisions_taken_between_two_looks_only_the_latest_counts(look, decide):
    decide("d-1")
    decide("d-2")
    assert [request.run_key for request in look().run_requests] == ["d-2"]


@pytest.mark.parametrize("metadata", [None, {}])
def test_a_decision_to_hold_starts_nothing_and_says_so(look, decide, metadata):
    decide(metadata=metadata)
    found = look()
    assert found.run_requests == []
    assert "holds" in found.skip_message


def test_before_the_first_decision_nothing_is_started(look):
    assert look().run_requests == []
