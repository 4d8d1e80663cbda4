"""State kept as a JSON file that is replaced whole: a testnet that is killed leaves the old one or the new one."""

import json
import os
import tempfile
from pathlib import Path
from typing import Any

from orcha_pipeline.errors import SettingsError


def read_state(path: Path, remedy: str) -> dict[str, Any] | None:
    """What `write_state` wrote, None where there is nothing. `SettingsError` with `remedy` where it is damaged."""
    try:
        saved: Any = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise SettingsError(f"The testnet's state {path} cannot be read: {error}. {remedy}") from error
    if not isinstance(saved, dict):
        raise SettingsError(f"The testnet's state {path} cannot be read: it is no JSON object. {remedy}")
    return saved  # pyright: ignore[reportUnknownVariableType]


def write_state(path: Path, content: dict[str, Any]) -> None:
    """Write it, atomically."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=".testnet-")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            json.dump(content, file, separators=(",", ":"))
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
