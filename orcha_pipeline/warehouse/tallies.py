"""What was decided and carried out since the warehouse was made, counted."""

from collections.abc import Mapping
from dataclasses import dataclass

from orcha_pipeline.model import ApplicationStatus, Verdict
from orcha_pipeline.warehouse.decisions import Connection, records


@dataclass(frozen=True, slots=True, kw_only=True)
class Tallies:
    """How many rows there are, by what they came to."""

    decisions: Mapping[str, int]
    """By verdict."""
    applications: Mapping[str, int]
    """By status."""


def tallies(connection: Connection) -> Tallies:
    """Count all decisions and applications; what never happened is there with 0."""
    decided = records(connection, "SELECT verdict AS kind, count(*) AS count FROM decisions GROUP BY verdict")
    applied = records(connection, "SELECT status AS kind, count(*) AS count FROM applications GROUP BY status")
    return Tallies(
        decisions=dict.fromkeys(map(str, Verdict), 0) | {row["kind"]: row["count"] for row in decided},
        applications=dict.fromkeys(map(str, ApplicationStatus), 0) | {row["kind"]: row["count"] for row in applied},
    )
