"""The Golem provider agent's settings, changed through its own command line where its files are out of reach."""

import subprocess
from collections.abc import Mapping, Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any, ClassVar, TypeVar

from pydantic import TypeAdapter

from orcha_pipeline.errors import AllocationError
from orcha_pipeline.protocols.golem_api import CPU_COUNTER, DURATION_COUNTER
from orcha_pipeline.protocols.golem_files import HardwareProfile, Preset, Profile, ProviderAgent
from orcha_pipeline.protocols.http import remaining_seconds

T = TypeVar("T")
_COMMAND_SECONDS = 20.0


class ProviderCommand(ProviderAgent):
    """`ya-provider`, or a command that runs it (`docker exec golem ya-provider`). No shell is involved."""

    _FLAGS: ClassVar[Mapping[str, str]] = {CPU_COUNTER: "CPU", DURATION_COUNTER: "Duration"}

    def __init__(self, node: str, command: Sequence[str], folder: Path | None) -> None:
        super().__init__(node, folder)
        self._command = tuple(command)

    def active_presets(self) -> tuple[str, ...]:
        """`preset active`."""
        return tuple(self._asked(list[str], "preset", "active"))

    def profile(self) -> Profile:
        """`profile list`."""
        name = self._active_profile()
        profiles = self._asked(dict[str, HardwareProfile], "profile", "list")
        if name not in profiles:
            raise AllocationError(self.node, f"`ya-provider --json profile list` does not tell of {name}")
        return profiles[name].told

    def _write_profile(self, profile: Profile) -> None:
        """`profile update` of the active profile by its name: `--all` changes nothing, and does not say so."""
        arguments = ["profile", "update", "--name", self._active_profile(), "--cpu-threads", str(profile.threads)]
        for flag, amount in (("--mem-gib", profile.memory_gib), ("--storage-gib", profile.storage_gib)):
            if amount is not None:
                arguments += [flag, repr(amount)]
        self._run(*arguments)

    def set_price(self, counter: str, coefficient: Decimal) -> None:
        """`preset update` with all three prices, for one that is left out might be taken as 0."""
        active = self.active_presets()
        priced = [preset for preset in self._presets() if preset.name in active and preset.prices(counter)]
        if not priced:
            raise AllocationError(self.node, f"no active preset has a linear price for {counter}")
        for preset in priced:
            coefficients = preset.usage_coeffs | {counter: coefficient}
            prices = {flag: coefficients.get(name, Decimal(0)) for name, flag in self._FLAGS.items()}
            prices["Init price"] = preset.initial_price
            given = [part for name, price in prices.items() for part in ("--price", f"{name}={price:f}")]
            # With --json this command fails: "json output not implemented".
            self._run("preset", "update", "--no-interactive", "--pricing", "linear", *given, "--name", preset.name)

    def _set_active(self, names: Sequence[str]) -> None:
        before = self.active_presets()
        for name in names:
            if name not in before:
                self._run("preset", "activate", name)
        for name in before:
            if name not in names:
                self._run("preset", "deactivate", name)

    def _all_presets(self) -> tuple[str, ...]:
        return tuple(preset.name for preset in self._presets())

    def _check_profile(self) -> None:
        self._active_profile()

    def _active_profile(self) -> str:
        return self._asked(str, "profile", "active")

    def _presets(self) -> list[Preset]:
        return self._asked(list[Preset], "preset", "list")

    def _asked(self, kind: type[T], *arguments: str) -> T:
        output = self._run("--json", *arguments)
        try:
            return TypeAdapter[Any](kind).validate_json(output)
        except ValueError:
            told = " ".join(arguments)
            raise AllocationError(
                self.node, f"`ya-provider --json {told}` does not give what it should, but {output[:100]!r}"
            ) from None

    def _run(self, *arguments: str) -> str:
        told = f"`ya-provider {' '.join(arguments)}`"
        seconds = min(_COMMAND_SECONDS, max(0.1, remaining_seconds()))
        try:
            done = subprocess.run(
                [*self._command, *arguments],
                stdin=subprocess.DEVNULL,
                capture_output=True,
                timeout=seconds,
                check=False,
            )
        except subprocess.TimeoutExpired:
            raise AllocationError(self.node, f"{told} has not ended within {seconds:.1f} s") from None
        except OSError as error:
            raise AllocationError(
                self.node, f"cannot run {self._command[0]} ({error.strerror}); set options.cli to ya-provider's path"
            ) from None
        if done.returncode != 0:
            lines = done.stderr.decode(errors="replace").strip().splitlines() or ["it gives no reason"]
            raise AllocationError(self.node, f"{told} failed ({done.returncode}): {lines[-1][:200]}")
        return done.stdout.decode(errors="replace")
