"""What must hold after every fault: doctor finds nothing broken, the nodes stand where the record says, all fits."""

from orcha_pipeline.doctor import examine
from orcha_pipeline.nodes_check import Status
from orcha_pipeline.testnet.golem import APP_KEY
from orcha_pipeline_tests.integration.conftest import Rig

ELSEWHERE = "it was changed by someone else"
"""What doctor says of a node that does not stand where it was left."""


def expect_sound(rig: Rig, *, printed: str = "") -> None:
    """After a fault has passed and a cycle has run; `printed` is what was told meanwhile, in which no secret may be."""
    found = [finding for finding in examine(rig.installation) if finding.part != "disk"]
    broken = [each.text for each in found if each.status is Status.BROKEN or ELSEWHERE in each.text]
    assert broken == []
    expect_within_capacity(rig)
    assert APP_KEY not in printed


def expect_within_capacity(rig: Rig) -> None:
    """What the nodes really have fits their host."""
    for name, used in rig.use({node: state["share"] for node, state in rig.truth().items()}).items():
        assert used <= rig.capacity[name] * (1 + 1e-9), name


def counts(rig: Rig) -> dict[str, int]:
    """Table -> rows, of the whole warehouse."""
    with rig.warehouse.read() as connection:
        tables = [name for (name,) in connection.execute("SELECT table_name FROM duckdb_tables()").fetchall()]
        return {table: connection.table(table).count("*").fetchall()[0][0] for table in tables}
