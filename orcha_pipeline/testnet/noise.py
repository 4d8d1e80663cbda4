"""Hashed noise: random-looking numbers that are pure functions of a seed, a label and a place.

Any moment can be asked for in any order and gives the same answer, so a world needs no state and no replay.
"""

import math
from functools import lru_cache
from hashlib import blake2b

_FULL = float(1 << 64)


@lru_cache(maxsize=1 << 16)
def uniform(seed: int, label: str, index: int) -> float:
    """A number in [0, 1)."""
    digest = blake2b(f"{seed}/{label}/{index}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") / _FULL


def hexadecimal(seed: int, label: str, index: int, digits: int) -> str:
    """A lower-case identifier of `digits` hexadecimal digits (at most 64)."""
    return blake2b(f"{seed}/{label}/{index}".encode(), digest_size=32).hexdigest()[:digits]


def smooth(seed: int, label: str, place: float) -> float:
    """Noise of variance about a half in [-sqrt 3, sqrt 3], smooth between the whole numbers it is fixed at."""
    left = math.floor(place)
    across = place - left
    weight = across * across * (3.0 - 2.0 * across)
    low, high = uniform(seed, label, left), uniform(seed, label, left + 1)
    return (low + (high - low) * weight - 0.5) * 2.0 * math.sqrt(3.0)


def octaves(seed: int, label: str, hours: float, periods: tuple[tuple[float, float], ...]) -> float:
    """The sum of `smooth` noise over `(period in hours, amplitude)` pairs."""
    return sum(amplitude * smooth(seed, f"{label}:{period}", hours / period) for period, amplitude in periods)
