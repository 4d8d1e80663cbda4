"""A world as arrays: what it pays at every step, and what of it a policy may know."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from orcha_pipeline.allocation.programs import Site
from orcha_pipeline.errors import SettingsError
from orcha_pipeline.model import RESOURCES
from orcha_pipeline.testnet.world_folder import WorldFolder, read_steps, read_terms

Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """What every policy may know of a world of P protocols before it begins; (P,) each, but for `demand` (4, P).

    Resources are in the order of `model.RESOURCES`. `cooldown` and `hold` are in steps, `restart_hours` in hours;
    `first_hour` counts from 1970.
    """

    protocols: tuple[str, ...]
    first_hour: int
    step_hours: float
    capacity: Floats
    demand: Floats
    least: Floats
    most: Floats
    restart_hours: Floats
    cooldown: NDArray[np.int64]

    @property
    def hold(self) -> int:
        """Steps that a host rests after a change: an hour."""
        return round(1 / self.step_hours)

    @property
    def day(self) -> int:
        """Steps of a day."""
        return 24 * self.hold

    @property
    def site(self) -> Site:
        """Capacity, demand and bounds, as the planner takes them."""
        return Site(capacity=self.capacity, demand=self.demand, least=self.least, most=self.most)

    def fits(self, shares: Floats) -> bool:
        """Whether shares (P,) keep every capacity, but for the rounding of a sum."""
        return self.site.fits(shares)


@dataclass(frozen=True, slots=True, kw_only=True)
class PlayedWorld:
    """A world of T steps. `yields` (T, P) are USD an hour at share 1.0, `available` (T, P) where they are paid at all.

    The first `history` steps are there to learn from. `curvature` (P,): what no policy is told.
    """

    name: str
    terms: Terms
    history: int
    curvature: Floats
    yields: Floats
    available: Flags

    @property
    def paid(self) -> Floats:
        """(T, P) USD an hour at share 1.0, nothing where a protocol is away."""
        return np.where(self.available, self.yields, 0.0)


def load_world(folder: Path) -> PlayedWorld:
    """The world in `folder`. Raises `SettingsError` where a file is wrong, or leaves nothing to learn from or score."""
    return world_of(read_steps(folder, read_terms(folder)), folder)


def world_of(found: WorldFolder, folder: Path) -> PlayedWorld:
    """A world that was read from `folder` as arrays."""
    terms, each = found.terms, list(found.terms.protocols.values())
    step_hours = terms.step_minutes / 60
    steps = len(next(iter(found.usd.values())))
    history = round(terms.history_days * 24 / step_hours)
    if not 0 < history < steps:
        raise SettingsError(
            f"{folder / 'world.toml'}: history_days is {terms.history_days:g}, of {steps * step_hours / 24:g} days in "
            "yields.csv. Give it some days to learn from, and leave some to be scored."
        )
    limits = terms.capacity.as_dict()
    world = PlayedWorld(
        name=terms.name,
        terms=Terms(
            protocols=tuple(terms.protocols),
            first_hour=found.first // 3600,
            step_hours=step_hours,
            capacity=np.array([limits[name] for name in RESOURCES]),
            demand=np.array([[one.demand.as_dict()[name] for one in each] for name in RESOURCES]),
            least=np.array([one.min_share for one in each]),
            most=np.array([one.max_share for one in each]),
            restart_hours=np.array([one.restart_seconds / 3600 for one in each]),
            cooldown=np.array([round(one.cooldown_hours / step_hours) for one in each], dtype=np.int64),
        ),
        history=history,
        curvature=np.array([one.curvature for one in each]),
        yields=np.array([found.usd[name] for name in terms.protocols]).T,
        available=np.array([found.available[name] for name in terms.protocols]).T,
    )
    if not world.terms.fits(world.terms.least):
        raise SettingsError(f"{folder / 'world.toml'}: the min_share of all protocols together exceeds the capacity.")
    return world
