"""The node's JSON config: its autostaker, switched off by taking the plugin out, its settings kept beside the file.

The node's schema is strict, so nothing of Orcha's is ever written into the config. It holds the node's private key:
its content is never shown.
"""

import json
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, cast

from orcha_pipeline.errors import AllocationError
from orcha_pipeline.protocols.config_files import read_config, replace_config

ASIDE = "orcha-autostaker.json"
"""Beside the config: the settings of an autostaker that was switched off, to go back to."""


def _object(value: Any) -> dict[str, Any] | None:
    return cast("dict[str, Any]", value) if isinstance(value, dict) else None


def _parsed(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def _written(content: Any) -> str:
    return json.dumps(content, indent=2, ensure_ascii=False) + "\n"


@dataclass(frozen=True, slots=True)
class NodeConfig:
    """A config as it was read."""

    file: Path
    changed_at: datetime
    text: str
    content: dict[str, Any]
    plugins: dict[str, Any]

    @property
    def autostaker(self) -> dict[str, Any] | None:
        """The plugin's settings; None where it is off."""
        return _object(self.plugins.get("autostaker"))

    @property
    def count(self) -> int | None:
        """`maxSponsorshipCount` of a running autostaker; None where it sets none."""
        count: Any = (self.autostaker or {}).get("maxSponsorshipCount")
        return None if isinstance(count, bool) or not isinstance(count, int) or count < 0 else count

    @property
    def operators(self) -> set[str]:
        """Lower-case addresses of the operator contracts that the plugins work for."""
        named = [
            (_object(self.plugins.get(p)) or {}).get("operatorContractAddress") for p in ("operator", "autostaker")
        ]
        return {address.lower() for address in named if isinstance(address, str)}

    @property
    def asks_for_key(self) -> bool:
        """Whether the node's HTTP API wants a key."""
        return bool((_object(self.content.get("apiAuthentication")) or {}).get("keys"))

    def with_count(self, count: int) -> str:
        """The file's text with this `maxSponsorshipCount`, all else as it is."""
        return self.with_autostaker({**(self.autostaker or {}), "maxSponsorshipCount": count})

    def with_autostaker(self, settings: dict[str, Any] | None) -> str:
        """The file's text with the plugin on by these settings, or off."""
        plugins = {
            name: plugin for name, plugin in self.plugins.items() if name != "autostaker" or settings is not None
        }
        if settings is not None:
            plugins["autostaker"] = settings
        return _written({**self.content, "plugins": plugins})


def read_node_config(node: str, file: Path) -> NodeConfig:
    """The config; `AllocationError` where it cannot be read or is no JSON object with plugins."""
    text = read_config(node, file)
    content = _object(_parsed(text))
    plugins = _object((content or {}).get("plugins"))
    if content is None or plugins is None:
        raise AllocationError(node, f"{file} is no node's config: it must be a JSON object with plugins")
    try:
        changed_at = datetime.fromtimestamp(file.stat().st_mtime, UTC)
    except OSError as error:
        raise AllocationError(node, f"cannot read {file}: {error.strerror}") from None
    return NodeConfig(file, changed_at, text, content, plugins)


def _aside(file: Path) -> Path:
    return file.with_name(ASIDE)


def kept_settings(file: Path) -> dict[str, Any] | None:
    """The autostaker settings kept aside; None where there are none that can be used."""
    try:
        return _object(_parsed(_aside(file).read_text(encoding="utf-8")))
    except (OSError, UnicodeDecodeError):
        return None


def keep_settings(node: str, file: Path, settings: dict[str, Any]) -> None:
    """Put the settings beside the config, whole or not at all."""
    aside = _aside(file)
    try:
        aside.touch(mode=0o600)
    except OSError as error:
        raise AllocationError(node, f"cannot write {aside}: {error.strerror}") from None
    replace_config(node, aside, _written(settings))


def forget_settings(node: str, file: Path) -> None:
    """Take away what is kept aside."""
    try:
        _aside(file).unlink(missing_ok=True)
    except OSError as error:
        raise AllocationError(node, f"cannot remove {_aside(file)}: {error.strerror}") from None
