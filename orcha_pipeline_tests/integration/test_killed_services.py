"""The daemon, the code server or everything is killed in the midst of an application that they carry out.

One boundary a victim; `make bench-service-faults` takes them all.
"""

import pytest

from orcha_pipeline_tests.bench.service_faults import service_faults
from orcha_pipeline_tests.integration.watched_definitions import Victim

pytestmark = [pytest.mark.integration, pytest.mark.slow, pytest.mark.timeout(900)]

BOUNDARIES = {Victim.DAEMON: 4, Victim.CODE_SERVER: 5, Victim.TREE: 8}
"""Before the first move, after it, and before what came of it is written a second time."""


def test_whatever_is_killed_the_application_is_brought_to_its_end_once(tmp_path):
    with service_faults(tmp_path, seed=3) as rig:
        for victim, boundary in BOUNDARIES.items():
            assert rig.play_victim(victim, boundary), f"{victim} was not killed"
    assert rig.killed == len(BOUNDARIES)
    assert {victim for victim, _ in rig.victims} == set(BOUNDARIES)
