"""The Golem provider agent's hardware profile and presets, and how they are changed in its files.

The agent watches `hardware.json` and `presets.json` and publishes changed offers by itself; a running task keeps
what it was given. Which presets Orcha deactivated is kept beside them, in `orcha-active-presets.json`, and the profile
that it last changed in `orcha-last-profile.json`: set back, it has the operator's own memory and storage again.
"""

import json
import os
from abc import ABC, abstractmethod
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError

from orcha_pipeline.errors import AllocationError
from orcha_pipeline.protocols.config_files import read_config, replace_config

SMALLEST_GIB = 0.1
"""The agent raises a profile's memory and storage to this."""
_NO_MEMORY = "options.data_dir is not set: deactivated presets could not be remembered"


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """A hardware profile's resources; None is unknown, or leaves one as it is."""

    threads: int
    memory_gib: float | None
    storage_gib: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentState:
    """What may be changed from here. The reasons are empty where nothing stands in the way."""

    active: tuple[str, ...] = ()
    """Active presets; none where `no_presets` says why they are not known."""
    deactivated: tuple[str, ...] = ()
    """Presets that Orcha deactivated."""
    no_profile: str = ""
    no_presets: str = ""
    no_memory: str = ""
    """Why what is deactivated could not be remembered."""

    @property
    def can_pause(self) -> bool:
        """Whether presets can be deactivated such that the same ones can be activated again."""
        return not self.no_presets and not self.no_memory

    @property
    def paused(self) -> bool:
        """Orcha has deactivated all presets."""
        return not self.no_presets and not self.active and bool(self.deactivated)

    @property
    def switched_off(self) -> bool:
        """Somebody else has deactivated all presets."""
        return not self.no_presets and not self.active and not self.deactivated


class ProviderAgent(ABC):
    """The agent's settings. Methods raise `AllocationError`."""

    def __init__(self, node: str, folder: Path | None) -> None:
        """`folder`: where deactivated presets are remembered."""
        self.node = node
        self._folder = folder

    @abstractmethod
    def active_presets(self) -> tuple[str, ...]:
        """Names of the presets that offers are published for."""

    @abstractmethod
    def profile(self) -> Profile:
        """The active hardware profile."""

    @abstractmethod
    def _write_profile(self, profile: Profile) -> None:
        """Change the active hardware profile."""

    @abstractmethod
    def set_price(self, counter: str, coefficient: Decimal) -> None:
        """Set what one unit of `counter` costs (GLM) in all active presets."""

    @abstractmethod
    def _set_active(self, names: Sequence[str]) -> None:
        """Make exactly these presets active."""

    @abstractmethod
    def _all_presets(self) -> tuple[str, ...]:
        """Names of all presets."""

    @abstractmethod
    def _check_profile(self) -> None:
        """Raise where the profile could not be changed."""

    def state(self) -> AgentState:
        """What may be changed, and the presets, as they stand."""
        reasons: dict[str, str] = {}
        active: tuple[str, ...] = ()
        deactivated: tuple[str, ...] = ()
        try:
            self._check_profile()
        except AllocationError as error:
            reasons["no_profile"] = error.message
        try:
            active = self.active_presets()
        except AllocationError as error:
            reasons["no_presets"] = error.message
        if self._folder is None:
            reasons["no_memory"] = _NO_MEMORY
        else:
            reasons["no_memory"] = why_not_writable(self._folder)
            deactivated = self._remembered(self._memory_file())
        return AgentState(active=active, deactivated=deactivated, **reasons)

    def set_profile(self, profile: Profile) -> None:
        """Change the active hardware profile; back to the one before the last change as it was, whatever its parts.

        What is there now is remembered before anything is changed, where there is a folder for it.
        """
        if self._folder is not None:
            present, before = self.profile(), self._last_profile()
            for known in (before, present):
                if known is not None and known.threads == profile.threads:
                    profile = known
            if profile != present:
                self._remember(self._folder / "orcha-last-profile.json", asdict(present))
        # Also where it is there already: a provider that missed the last change to its file sees this one.
        self._write_profile(profile)

    def _last_profile(self) -> Profile | None:
        """The profile before the last change; None where none is known."""
        if self._folder is None:
            return None
        try:
            return TypeAdapter(Profile).validate_json((self._folder / "orcha-last-profile.json").read_bytes())
        except (OSError, ValidationError):
            return None

    def _remember(self, file: Path, content: Any) -> None:
        try:
            file.touch(mode=0o600)
        except OSError as error:
            raise AllocationError(self.node, f"cannot write {file}: {error.strerror}") from None
        replace_config(self.node, file, json.dumps(content, indent=2) + "\n")

    def pause(self) -> None:
        """Deactivate all presets: offers vanish, a running task goes on. They are remembered before anything else."""
        active = self.active_presets()
        if not active:
            return
        self._remember(self._memory_file(), {"deactivated": active})
        try:
            self._set_active(())
        except AllocationError:
            # Some may be deactivated by now. Nobody would know of them later, for others are still active.
            with suppress(AllocationError):
                self._set_active(active)
            raise

    def resume(self) -> None:
        """Activate again what `pause` deactivated, as far as it is still there; nothing where a preset is active."""
        if not self.active_presets():
            known = self._all_presets()
            names = [name for name in self._remembered(self._memory_file()) if name in known]
            if not names:
                raise AllocationError(
                    self.node,
                    "no preset is active, nor known to have been; activate one: ya-provider preset activate NAME",
                )
            self._set_active(names)
        if self._folder is not None:
            # Once a preset is active, what was remembered is of the past: a later pause is another one.
            self._memory_file().unlink(missing_ok=True)

    def _memory_file(self) -> Path:
        if self._folder is None:
            raise AllocationError(self.node, _NO_MEMORY)
        return self._folder / "orcha-active-presets.json"

    @staticmethod
    def _remembered(file: Path) -> tuple[str, ...]:
        """What `pause` has deactivated; nothing where it has not, or was cut off before it did."""
        try:
            return tuple(_Memory.model_validate_json(file.read_bytes()).deactivated)
        except (OSError, ValidationError):
            return ()


class ProviderFiles(ProviderAgent):
    """The files in the agent's folder, replaced as a whole as the agent itself does; what Orcha does not know stays."""

    def __init__(self, node: str, folder: Path) -> None:
        super().__init__(node, folder)
        self._hardware = folder / "hardware.json"
        self._presets = folder / "presets.json"

    def active_presets(self) -> tuple[str, ...]:
        """From presets.json."""
        return tuple(self._preset_file()[1].active)

    def profile(self) -> Profile:
        """From hardware.json."""
        _, active = self._hardware_file()
        try:
            return HardwareProfile.model_validate(active).told
        except ValidationError:
            raise AllocationError(self.node, f"{self._hardware} has a profile without cpu_threads") from None

    def _write_profile(self, profile: Profile) -> None:
        """Into hardware.json."""
        content, active = self._hardware_file()
        active["cpu_threads"] = profile.threads
        for name, amount in (("mem_gib", profile.memory_gib), ("storage_gib", profile.storage_gib)):
            if amount is not None:
                active[name] = amount
        self._write(self._hardware, content)

    def set_price(self, counter: str, coefficient: Decimal) -> None:
        """Into presets.json."""
        content, parsed = self._preset_file()
        priced = [preset for preset in parsed.presets if preset.name in parsed.active and preset.prices(counter)]
        if not priced:
            raise AllocationError(self.node, f"{self._presets}: no active preset has a linear price for {counter}")
        for raw in content["presets"]:
            if any(raw["name"] == preset.name for preset in priced):
                raw["usage-coeffs"][counter] = float(coefficient)
        self._write(self._presets, content)

    def _set_active(self, names: Sequence[str]) -> None:
        content, _ = self._preset_file()
        content["active"] = list(names)
        self._write(self._presets, content)

    def _all_presets(self) -> tuple[str, ...]:
        return tuple(preset.name for preset in self._preset_file()[1].presets)

    def _check_profile(self) -> None:
        self._hardware_file()
        if why_not := why_not_writable(self._hardware.resolve().parent):
            raise AllocationError(self.node, why_not)

    def _hardware_file(self) -> tuple[Any, dict[str, Any]]:
        """The content, and the active profile inside it."""
        text = read_config(self.node, self._hardware)
        try:
            content: Any = json.loads(text)
            active = _HardwareFile.model_validate_json(text).active
            return content, content["profiles"][active]
        except (ValueError, LookupError, RecursionError):
            raise AllocationError(
                self.node, f"{self._hardware} holds no active hardware profile; is it ya-provider's?"
            ) from None

    def _preset_file(self) -> tuple[Any, "_PresetFile"]:
        """The content, and what is understood of it."""
        text = read_config(self.node, self._presets)
        try:
            return json.loads(text), _PresetFile.model_validate_json(text)
        except (ValueError, RecursionError):
            raise AllocationError(
                self.node, f"{self._presets} does not list presets and the active ones; is it ya-provider's?"
            ) from None

    def _write(self, file: Path, content: Any) -> None:
        replace_config(self.node, file, json.dumps(content, indent=2) + "\n")


class HardwareProfile(BaseModel):
    """A profile, as its file and the command line write it."""

    cpu_threads: int
    mem_gib: float | None = None
    storage_gib: float | None = None

    @property
    def told(self) -> Profile:
        """In Orcha's words."""
        return Profile(threads=self.cpu_threads, memory_gib=self.mem_gib, storage_gib=self.storage_gib)


class _Memory(BaseModel):
    deactivated: list[str]


class Preset(BaseModel):
    """A preset, as its file and the command line write it."""

    model_config = ConfigDict(alias_generator=lambda name: name.replace("_", "-"))

    name: str
    pricing_model: str = ""
    initial_price: Decimal = Decimal(0)
    usage_coeffs: dict[str, Decimal] = {}
    """GLM for one unit of each counter. The oldest format has other names here, which are left alone."""

    def prices(self, counter: str) -> bool:
        """Whether it has a price for `counter` that can be changed."""
        return self.pricing_model == "linear" and counter in self.usage_coeffs


class _HardwareFile(BaseModel):
    active: str
    profiles: dict[str, dict[str, Any]]


class _PresetFile(BaseModel):
    active: list[str]
    presets: list[Preset]


def why_not_writable(folder: Path) -> str:
    """Empty where files in `folder` can be replaced; else the reason and the remedy."""
    if not folder.is_dir():
        return f"{folder} is not there; set options.data_dir to the provider agent's folder"
    if not os.access(folder, os.W_OK | os.X_OK):
        return f"Orcha may not write in {folder}; give its user write permission"
    return ""
