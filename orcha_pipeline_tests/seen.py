"""What a look finds where all is well, for the tests of those who tell it."""

from dataclasses import replace
from datetime import timedelta
from typing import Any

from orcha_pipeline.lookout import Sight
from orcha_pipeline.status import Clockwork, Vitals
from orcha_pipeline.warehouse.tallies import Tallies
from orcha_pipeline.warehouse.vital_signs import Uptime
from orcha_pipeline_tests.rig import NOW


def a_sight(**changes: Any) -> Sight:
    """All is well; `changes` are fields of its vitals."""
    minutes = timedelta(minutes=1)
    vitals = Vitals(
        now=NOW,
        simulated=True,
        problems=(),
        decided={"box": NOW - 5 * minutes},
        read={"a": NOW - 5 * minutes, "b": NOW - 6 * minutes},
        uptime={
            "24h": Uptime(since=NOW - timedelta(hours=24), decided=95, slots=96),
            "7d": Uptime(since=NOW, decided=0, slots=0),
        },
        clockwork=(
            Clockwork(name="every_15_minutes", running=True, last_tick=NOW - 5 * minutes, last_result="success"),
            Clockwork(name="apply_approved", running=False, last_tick=None, last_result=None),
        ),
        cycle_seconds=4.25,
        pause="",
        alerts={"critical": 2},
        free_gib=12.5,
    )
    counted = Tallies(decisions={"hold": 90, "reallocate": 6}, applications={"applied": 5, "rolled_back": 1})
    return Sight(vitals=replace(vitals, **changes), tallies=counted)
