"""The executor's journal, kept in the warehouse: each step is on disk before it acts and again after."""

from dataclasses import asdict

from orcha_pipeline.allocation.executor import Step
from orcha_pipeline.warehouse.connection import Warehouse
from orcha_pipeline.warehouse.decisions import record_step


class WarehouseJournal:
    """Writes each step in a transaction of its own."""

    def __init__(self, warehouse: Warehouse) -> None:
        self._warehouse = warehouse

    def step_intended(self, step: Step) -> None:
        """Write a step that is about to act."""
        self._write(step)

    def step_finished(self, step: Step) -> None:
        """Write what came of it."""
        self._write(step)

    def _write(self, step: Step) -> None:
        with self._warehouse.write() as connection:
            record_step(connection, asdict(step))
