"""The policies by name, and playing them in a world."""

from collections.abc import Callable, Mapping, Sequence

from orcha_pipeline.errors import PlanError
from orcha_pipeline.forecasting.panel import Tell, say_nothing
from orcha_pipeline.yardstick.baselines import Equal, Greedy, Myopic, Static
from orcha_pipeline.yardstick.orcha_policy import Learning, OrchaPolicy, SameAsYesterday
from orcha_pipeline.yardstick.simulation import Outcome, Policy, simulate
from orcha_pipeline.yardstick.world import PlayedWorld, Terms

BASELINES: Mapping[str, Callable[[PlayedWorld], Policy]] = {
    "equal": Equal,
    "static": Static,
    "greedy": Greedy,
    "myopic": Myopic,
    "hysteresis-5": lambda world: Myopic(world, hysteresis=0.05),
}
"""Those that plan on what is, not on what will be: shown the whole world, they use terms, history and last step."""
OWN: Mapping[str, Callable[[Terms], Policy]] = {
    "naive-mpc": lambda terms: OrchaPolicy(terms, SameAsYesterday()),
    "orcha": lambda terms: OrchaPolicy(terms, Learning(terms.first_hour)),
}
"""They are shown the terms, and see what they earn."""
POLICIES = (*BASELINES, *OWN)


def chosen_policies(text: str | None) -> tuple[str, ...]:
    """The policies named in a list with commas; all of them without one. Raises `PlanError` for an unknown name."""
    if text is None:
        return POLICIES
    names = tuple(dict.fromkeys(name.strip() for name in text.split(",") if name.strip()))
    unknown = [name for name in names if name not in POLICIES]
    if unknown or not names:
        what = f"{', '.join(unknown)} is no policy" if unknown else "no policy is named"
        raise PlanError(f"{what}. There are {', '.join(POLICIES)}.")
    return names


def play(world: PlayedWorld, names: Sequence[str], *, tell: Tell = say_nothing) -> dict[str, Outcome]:
    """What each of these policies comes to in the world."""
    outcomes: dict[str, Outcome] = {}
    for name in names:
        favoured = name in BASELINES
        policy = BASELINES[name](world) if favoured else OWN[name](world.terms)
        outcomes[name] = simulate(
            world, policy, favoured=favoured, tell=lambda line, name=name: tell(f"{name}: {line}")
        )
    return outcomes
