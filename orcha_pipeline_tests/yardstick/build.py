"""Small worlds for the tests of the yardstick."""

import numpy as np

from orcha_pipeline.yardstick.world import PlayedWorld, Terms


def terms(protocols=2, *, demand=None, cooldown=0, restart_hours=0.0, least=0.0, most=1.0):
    names = tuple(f"p{i}" for i in range(protocols))
    wanted = np.ones((4, protocols)) if demand is None else np.asarray(demand, dtype=float)
    return Terms(
        protocols=names,
        first_hour=480_000,
        step_hours=0.25,
        capacity=np.ones(4),
        demand=wanted,
        least=np.full(protocols, least),
        most=np.full(protocols, most),
        restart_hours=np.full(protocols, restart_hours),
        cooldown=np.broadcast_to(np.asarray(cooldown, dtype=np.int64), protocols).copy(),
    )


def world(yields, *, history=4, curvature=1.0, available=None, **of_terms):
    yields = np.asarray(yields, dtype=float)
    steps, protocols = yields.shape
    return PlayedWorld(
        name="small",
        terms=terms(protocols, **of_terms),
        history=history,
        curvature=np.broadcast_to(np.asarray(curvature, dtype=float), protocols).copy(),
        yields=yields,
        available=np.ones((steps, protocols), dtype=bool) if available is None else np.asarray(available, dtype=bool),
    )


def random_world(seed=0, *, days=3, protocols=3, **of_terms):
    rng = np.random.default_rng(seed)
    steps = days * 96
    walk = np.cumsum(rng.normal(0.0, 0.1, (steps, protocols)), axis=0)
    demand = rng.uniform(0.2, 0.9, (4, protocols))
    return world(
        np.exp(0.3 * walk) * rng.uniform(0.02, 0.06, protocols),
        history=96,
        curvature=rng.uniform(0.6, 1.0, protocols),
        available=rng.uniform(size=(steps, protocols)) > 0.03,
        demand=demand,
        **of_terms,
    )
