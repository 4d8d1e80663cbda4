"""Orcha in a world: it knows the terms and what it earned itself, and plans as it does for real nodes.

What is forecast for the later hours comes from one of the pipeline's own forecasters, made anew each week: `linear`,
which learns in a second what the whole blend takes minutes for.
"""

from typing import Protocol

import numpy as np

from orcha_pipeline.allocation.foresight import SCENARIOS, responses
from orcha_pipeline.allocation.lookahead import Standing, confidence_of, look_ahead
from orcha_pipeline.allocation.outlook import (
    DAY,
    EDGES,
    PERIODS,
    STEPS_AN_HOUR,
    Lines,
    Outlook,
    YieldHistory,
    learn,
    period_means,
)
from orcha_pipeline.errors import ModelError, PlanError
from orcha_pipeline.forecasting.features import HORIZON
from orcha_pipeline.forecasting.linear import Linear
from orcha_pipeline.forecasting.panel import HourlySeries
from orcha_pipeline.settings import PlannerSettings
from orcha_pipeline.yardstick.simulation import NEVER, Situation
from orcha_pipeline.yardstick.world import Flags, Floats, Terms

PRIOR_CURVATURE = PlannerSettings().response_curvature
LEARN_EVERY = DAY
TRAIN_EVERY = 7 * DAY
SPOILT = 0.05
"""Part of a step that a restart may take before what the step earned is left unknown."""


class Sight(Protocol):
    """Who tells what is to come."""

    def outlook(self, history: YieldHistory) -> Outlook | None:
        """From the end of `history`; None where there is too little to tell it from."""
        ...


class Learning:
    """The pipeline's: quarter-hours learnt daily, hours weekly. `first_hour` is the history's, counted from 1970."""

    def __init__(self, first_hour: int) -> None:
        self._first_hour = first_hour
        self._lines: Lines | None = None
        self._learnt_at = self._trained_at = NEVER
        self._hourly: Linear | None = None

    def outlook(self, history: YieldHistory) -> Outlook | None:
        """As the regression sees it, the later hours by the forecaster."""
        step = len(history.yields)
        if self._lines is None or step - self._learnt_at >= LEARN_EVERY:
            self._lines, self._learnt_at = learn(history), step
        if self._lines is None:
            return None
        return self._lines.ahead(history, scenarios=SCENARIOS, later=self._later(history))

    def _later(self, history: YieldHistory) -> Floats | None:
        series = _hourly(history, self._first_hour)
        if len(history.yields) - self._trained_at >= TRAIN_EVERY:
            self._trained_at, self._hourly = len(history.yields), Linear()
            try:
                self._hourly.fit(series, horizon=HORIZON, seed=0)
            except ModelError:
                self._hourly = None
        if self._hourly is None:
            return None
        return np.array(
            [period_means(each[:, 1].tolist()) for each in self._hourly.forecast(series, horizon=HORIZON)]
        ).T


class SameAsYesterday:
    """Seasonal naive: every period as a day ago."""

    def outlook(self, history: YieldHistory) -> Outlook | None:
        """One scenario, the mean."""
        if len(history.yields) < DAY:
            return None
        paid = np.where(history.paying & np.isfinite(history.yields), history.yields, 0.0)[-DAY:]
        mean = np.add.reduceat(paid, EDGES[:-1], axis=0) / np.array(PERIODS)[:, None]
        return Outlook(mean, mean[None], mean[None])


class OrchaPolicy:
    """Learns from what it earned, looks a day ahead, and takes the first hour of it."""

    def __init__(self, terms: Terms, sight: Sight, *, confidence: float = PlannerSettings().min_confidence) -> None:
        """`confidence` is what the gate asks for that a change pays."""
        if terms.hold != STEPS_AN_HOUR:
            raise PlanError("Orcha plans in quarter-hours: step_minutes must be 15.")
        self._terms, self._sight, self._confidence = terms, sight, confidence
        nodes = len(terms.protocols)
        self.curvature: Floats = np.full(nodes, PRIOR_CURVATURE)
        self._rates: list[Floats] = []
        self._shares: list[Floats] = []
        self._paying: list[Flags] = []
        self._moved_at = np.full(nodes, NEVER)
        self._nothing = np.zeros(nodes)
        self._changed = False

    def observe(self, step: int, shares: Floats, moved: Flags, earned: Floats) -> None:
        """Keep what a full hour at these shares would have earned."""
        terms = self._terms
        before = np.nan_to_num(self._rates[-1], nan=0.0) if self._rates else np.zeros(len(shares))
        lost = np.where(moved, terms.restart_hours, 0.0)
        spoilt = lost > SPOILT * terms.step_hours
        paying = earned != 0.0
        rates = np.where(paying & ~spoilt, (earned + lost * before) / terms.step_hours, np.nan)
        self._rates.append(rates)
        self._shares.append(shares.copy())
        self._paying.append(paying)
        self._moved_at = np.where(moved, step, self._moved_at)
        self._changed |= bool(moved.any())

    def propose(self, now: Situation) -> Floats | None:
        """Today's shares stay where there is no outlook or no plan."""
        rates, shares = np.array(self._rates), np.array(self._shares)
        if self._changed and now.step % STEPS_AN_HOUR == 0:
            self.curvature = np.array([each.curvature for each in responses(rates, shares, prior=PRIOR_CURVATURE)])
        with np.errstate(divide="ignore", invalid="ignore"):
            yields = rates / shares**self.curvature
        outlook = self._sight.outlook(YieldHistory(yields, np.array(self._paying)))
        if outlook is None:
            return None
        terms = self._terms
        standing = Standing(
            shares=now.shares,
            rests=np.where(now.cooled, self._moved_at + terms.cooldown - now.step, 0),
            cooldowns=terms.cooldown,
            restart_hours=terms.restart_hours,
            costs=self._nothing,
            charge=self._nothing,
        )
        known = _known(outlook)
        try:
            ahead = look_ahead(terms.site, standing, known, self.curvature, confidence=self._confidence)
        except PlanError:
            return None
        if not ahead.moved.any() or confidence_of(ahead.gains(known)) < self._confidence:
            return None
        return ahead.shares


def _known(outlook: Outlook) -> Outlook:
    """A protocol that never paid is expected to go on so."""
    return Outlook(*(np.nan_to_num(each, nan=0.0) for each in (outlook.mean, outlook.scenarios, outlook.likely)))


def _hourly(history: YieldHistory, first_hour: int) -> list[HourlySeries]:
    """Each node's yields by hours that end now; an hour is known where a step of it is."""
    spare = len(history.yields) % STEPS_AN_HOUR
    known = (history.paying & np.isfinite(history.yields))[spare:]
    shape = (-1, STEPS_AN_HOUR, known.shape[1])
    total = np.where(known, history.yields[spare:], 0.0).reshape(shape).sum(axis=1)
    count = known.reshape(shape).sum(axis=1)
    hours = np.where(count > 0, total / np.maximum(count, 1), np.nan)
    return [
        HourlySeries(str(node), first_hour, np.ascontiguousarray(hours[:, node]), None)
        for node in range(hours.shape[1])
    ]
