"""Where a storage node's allocation is set: lines of its config.yaml and variables of its container. Pure."""

import math
import re
from collections.abc import Mapping

ALLOCATION = "storage.allocated-disk-space"
FLOOR_GB = 500.0
"""What `storage2.monitor.minimum-disk-space` is where nobody changed it: below it the node refuses to start."""
STORAGE = "STORAGE"
"""The official image hands this variable to the node as a flag, which comes before the node's own variable."""
_GB = 1e9
_MINIMUM = "storage2.monitor.minimum-disk-space"
_DEDICATED = "storage2.monitor.dedicated-disk"
_SIZE = re.compile(r"([0-9]{1,18}(?:\.[0-9]{1,18})?)[ \t]*([KMGTPE]?)(I?)B?", re.IGNORECASE)
_ALLOCATION_LINE = re.compile(
    rf"^(?P<key>{re.escape(ALLOCATION)}[ \t]*:)(?P<value>[ \t]*[^#\r\n]*?)(?P<remark>[ \t]+#[^\r\n]*)?"
    r"(?P<end>[ \t]*\r?)$",
    re.MULTILINE,
)


class ConfigError(ValueError):
    """config.yaml cannot carry the change; the text says why and what to do, as the end of a sentence."""


def own_variable(key: str) -> str:
    """The node's own environment variable for a key of config.yaml."""
    return "STORJ_" + re.sub(r"[^a-z0-9]", "_", key).upper()


def ruling_variable(environment: Mapping[str, str]) -> str | None:
    """The variable that sets the allocation, whatever config.yaml says; None where the file rules."""
    return next((name for name in (STORAGE, own_variable(ALLOCATION)) if environment.get(name)), None)


def size_text(gigabytes: float) -> str:
    """A size as the node reads it, such as `2500GB`."""
    return f"{gigabytes:.3f}".rstrip("0").rstrip(".") + "GB"


def size_gb(text: str) -> float | None:
    """A size such as `2.00 TB` or `1TiB` in GB (1e9 bytes); None where it is none."""
    found = _SIZE.fullmatch(text.strip().strip("\"'"))
    if found is None:
        return None
    power = "KMGTPE".find(found[2].upper()) + 1 if found[2] else 0
    return float(found[1]) * (1024 if found[3] else 1000) ** power / _GB


def allocation_written(text: str) -> str | None:
    """The allocation that config.yaml asks for, as it stands there; None where it has no such line."""
    found = _ALLOCATION_LINE.search(text)
    return found["value"].strip() if found else None


def with_allocation(text: str, gigabytes: float) -> str:
    """config.yaml with another allocation: only that key's line changes, a remark behind it stays."""
    amount = size_text(gigabytes)
    changed, found = _ALLOCATION_LINE.subn(
        lambda line: f"{line['key']} {amount}{line['remark'] or ''}{line['end']}", text
    )
    if found > 1:
        raise ConfigError(f"holds {ALLOCATION} twice; remove one")
    if found:
        return changed
    if re.search(r"^storage\s*:", text, re.MULTILINE):
        raise ConfigError(f"nests its keys; write {ALLOCATION} on a line of its own")
    newline = "\r\n" if "\r\n" in text else "\n"
    gap = "" if not text or text.endswith("\n") else newline
    return f"{text}{gap}{ALLOCATION}: {amount}{newline}"


def floor_gb(text: str, environment: Mapping[str, str]) -> float:
    """The least allocation that the node starts with, GB.

    A line that is commented out shows the default of the node that wrote it, or what somebody tried: it may raise the
    floor, never lower it.
    """
    written = environment.get(own_variable(_MINIMUM)) or _value(_MINIMUM, text)
    minimum = size_gb(written) if written else None
    if written and (minimum is None or not math.isfinite(minimum)):
        raise ConfigError(f"sets {_MINIMUM} to something that is no size such as 500GB")
    if minimum is not None:
        return minimum
    shown = _value(f"#[ \t]*{re.escape(_MINIMUM)}", text, plain=False)
    return max(FLOOR_GB, size_gb(shown) or 0.0) if shown else FLOOR_GB


def dedicated(text: str, environment: Mapping[str, str]) -> str:
    """Why the allocation is ignored: the key that gives the node a disk of its own; empty where it has none."""
    written = environment.get(own_variable(_DEDICATED)) or _value(_DEDICATED, text) or ""
    return _DEDICATED if written.lower() in {"true", "t", "1", "yes", "on"} else ""


def _value(key: str, text: str, *, plain: bool = True) -> str | None:
    found = re.search(rf"^{re.escape(key) if plain else key}[ \t]*:([^#\r\n]*)", text, re.MULTILINE)
    return (found[1].strip().strip("\"'") or None) if found else None
