"""Moving the champion by hand: to a version of one's choice, or back to the one before. Who and why are kept."""

from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from orcha_pipeline.errors import ModelError
from orcha_pipeline.forecasting.model_registry import CHAMPION, move_champion
from orcha_pipeline.forecasting.served_model import ServedModel, read_example
from orcha_pipeline.installation import open_installation
from orcha_pipeline.warehouse import decisions, forecast_rows
from orcha_pipeline.warehouse.connection import Warehouse
from orcha_pipeline.warehouse.decisions import Connection, ModelRow


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where an installation keeps its models: records, files below `home`, MLflow's store."""

    warehouse: Warehouse
    home: Path
    tracking_uri: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Move:
    """What a promotion or rollback came to: which version was champion (None: none) and which is now."""

    protocol: str
    before: str | None
    version: str

    def told(self) -> str:
        """For a person."""
        before = "there was none before" if self.before is None else f"before it was version {self.before}"
        return f"Version {self.version} is {self.protocol}'s champion from the next forecast on; {before}."


def open_place(config: Path | None) -> Place:
    """The place of the installation that these settings tell of."""
    installation = open_installation(config)
    settings = installation.settings
    return Place(warehouse=installation.warehouse, home=settings.home, tracking_uri=settings.mlflow_store)


def promote(place: Place, *, protocol: str, version: str, who: str, why: str) -> Move:
    """Make `version` the champion, in MLflow and for the next forecast, and keep who and why.

    Nothing is moved where the version's folder is missing or damaged. Raises ModelError.
    """
    own = _versions(place.warehouse, protocol)
    chosen = _version(own, protocol, version)
    before = next((row.version for row in own if row.champion), None)
    if before == version:
        raise ModelError(f"Version {version} is {protocol}'s champion already.")
    ServedModel.open(place.home / chosen.path)
    move_champion(protocol, version, tracking_uri=place.tracking_uri, who=who, why=why)
    with place.warehouse.write() as connection:
        decisions.set_champion(connection, protocol, version)
        forecast_rows.record_alias(
            connection, protocol=protocol, version=version, alias=CHAMPION, at=datetime.now(UTC), who=who, why=why
        )
    return Move(protocol=protocol, before=before, version=version)


def rollback(place: Place, *, protocol: str, who: str, why: str) -> Move:
    """Make the champion before the present one champion again. Raises ModelError where there was none."""
    own = _versions(place.warehouse, protocol)
    with place.warehouse.read() as connection:
        version = _champion_before(connection, protocol, next((row.version for row in own if row.champion), None))
    if version is None:
        raise ModelError(f"{protocol} has had no other champion to go back to.")
    return promote(place, protocol=protocol, version=version, who=who, why=why)


def former_champion(connection: Connection, champion: ModelRow) -> ModelRow | None:
    """The version that was champion before this one, to answer while its files cannot be used; None: there was none."""
    version = _champion_before(connection, champion.protocol, champion.version)
    rows = (row for row in decisions.models(connection) if row.protocol == champion.protocol)
    return next((row for row in rows if row.version == version), None)


def _champion_before(connection: Connection, protocol: str, present: str | None) -> str | None:
    moves = forecast_rows.alias_history(connection, protocol)
    return before_last([move.version for move in moves if move.alias == CHAMPION], present)


def check(warehouse: Warehouse, *, home: Path, protocol: str, version: str) -> int:
    """Have a version forecast again what its training logged; returns how many forecasts. Raises ModelError if not."""
    folder = home / _version(_versions(warehouse, protocol), protocol, version).path
    if not ServedModel.open(folder).reproduces():
        raise ModelError(
            f"Version {version} of {protocol} loads but no longer gives the forecasts of its training: the libraries "
            "or the machine are others than then. Train the model again."
        )
    return len(read_example(folder)[0])


def before_last(history: list[str], present: str | None) -> str | None:
    """The champion that a rollback leads to: walking back, a step that was itself a way back is undone with its step.

    After 1, 2, 3 a rollback leads to 2, and another one to 1, not to 3 again.
    """
    line: list[str] = []
    for version in history:
        line = [*line[: line.index(version)], version] if version in line else [*line, version]
    if present in line:
        line = line[: line.index(present)]
    return line[-1] if line else None


def _version(own: list[ModelRow], protocol: str, version: str) -> ModelRow:
    for row in own:
        if row.version == version:
            return row
    raise ModelError(
        f"There is no version {version} of {protocol}'s model. There are {', '.join(r.version for r in own)}."
    )


def _versions(warehouse: Warehouse, protocol: str) -> list[ModelRow]:
    with warehouse.read() as connection:
        own = [row for row in decisions.models(connection) if row.protocol == protocol]
    if not own:
        raise ModelError(f"No model of {protocol} has been trained yet.")
    return own
