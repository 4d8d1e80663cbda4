"""Applications with faults, drawn by a seed: none is lost. `make bench-faults` plays thousands."""

from orcha_pipeline.model import ApplicationStatus
from orcha_pipeline_tests.bench.faults import Fault, play

RUNS = 6 * len(Fault)


def test_no_application_is_lost_whatever_goes_wrong(tmp_path):
    rig = play(tmp_path, runs=RUNS, seed=7)
    assert sum(rig.counts.values()) == RUNS
    assert {fault for fault, _ in rig.counts} == set(Fault)
    assert rig.counts[Fault.NONE, ApplicationStatus.APPLIED] == RUNS // len(Fault)
    for fault in (Fault.REFUSES, Fault.ANSWERS_WRONG, Fault.LOSES_ANSWER, Fault.STUCK):
        assert rig.counts[fault, ApplicationStatus.ROLLED_BACK] == RUNS // len(Fault)
    assert rig.recovered > 0
