"""Whether a new model takes the champion's place. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass

from orcha_pipeline.forecasting.artifact import Manifest, Measures
from orcha_pipeline.forecasting.selection import NAIVE
from orcha_pipeline.model import YIELD_USD

SERVED = "served"


@dataclass(frozen=True, slots=True)
class Verdict:
    """`promoted`: the challenger becomes champion. `why` has the figures, for a person."""

    promoted: bool
    why: str


def judge(manifest: Manifest, *, champion: Mapping[str, Measures] | None, champion_version: str = "") -> Verdict:
    """Promote what has a lower WAPE than seasonal naive and than the standing champion, on the same origins.

    WAPE is that of the yield's series, or of native earnings where no yield is known. `champion` holds the standing
    champion's measures by target, on the challenger's test origins; None where there is no champion.
    """
    served, naive = (manifest.candidates[name].by_target for name in (SERVED, NAIVE))
    target = YIELD_USD if YIELD_USD in served else next(iter(served), "")
    ours, theirs = served.get(target, {}).get("wape"), naive.get(target, {}).get("wape")
    if ours is None or theirs is None:
        return Verdict(promoted=False, why="too few hours to measure it on: it has beaten nobody")
    measured = f"WAPE {ours:.3f} of {target} at {manifest.origins} origins"
    if not ours < theirs:
        return Verdict(promoted=False, why=f"{measured}: no better than seasonal naive's {theirs:.3f}")
    beaten = f"better than seasonal naive's {theirs:.3f}"
    if champion is None:
        return Verdict(promoted=True, why=f"{measured}: {beaten}; there was no champion")
    standing = champion.get(target, {}).get("wape")
    if standing is None:
        return Verdict(promoted=True, why=f"{measured}: {beaten}; version {champion_version} has no answer there")
    if not ours < standing:
        return Verdict(promoted=False, why=f"{measured}: no better than champion {champion_version}'s {standing:.3f}")
    return Verdict(promoted=True, why=f"{measured}: {beaten} and than champion {champion_version}'s {standing:.3f}")
