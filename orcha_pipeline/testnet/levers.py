"""The files an operator would edit on the real nodes, and what a node makes of them when it reads them.

One lever a protocol: Storj `config.yaml`, Golem `hardware.json` and `presets.json`, Streamr `default.json`. Grass has
no file: its container's CPU limit is its lever. Files are written only where none is, as a first installation would.
"""

import json
import math
import re
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar, cast

from orcha_pipeline.model import Resources
from orcha_pipeline.testnet.noise import hexadecimal
from orcha_pipeline.testnet.worlds import Terms, World

STORJ_FLOOR_BYTES = 500e9
"""`storage2.monitor.minimum-disk-space`: a node allocated less refuses to start."""
SPONSORSHIPS_AT_FULL = 20
"""Streamr sponsorships worth staking on: share 1.0."""
NO_ENVIRONMENT: Mapping[str, str] = MappingProxyType({})
GOLEM_CPU_COEFFICIENT = 0.1 / 3600.0
"""GLM a CPU second in the first preset: dear enough that not even a shock fills every thread."""
_UNITS = {"": 1, "B": 1} | {
    f"{letter}{suffix}": base**power
    for suffix, base in (("B", 1000), ("iB", 1024))
    for power, letter in enumerate("KMGTPE", start=1)
}


@dataclass(frozen=True, slots=True)
class Loaded:
    """What a node read: the share it stands for and the lever's own value. `problem`: the node cannot run with it.

    `detail` is what else the node took from its files and shows later, as JSON can hold it. `keeps`: the files leave
    share and value as they are.
    """

    share: float
    value: float
    problem: str = ""
    detail: Mapping[str, Any] = field(default_factory=dict[str, Any])
    keeps: bool = False


class Lever(ABC):
    """One node's lever. `folder` is the node's folder in the testnet's state."""

    name: ClassVar[str]
    unit: ClassVar[str]
    step: ClassVar[float]
    files: ClassVar[tuple[str, ...]]

    def __init__(self, folder: Path, terms: Terms, capacity: Resources) -> None:
        self.folder = folder
        self.terms = terms
        self.capacity = capacity

    @property
    @abstractmethod
    def at_full_share(self) -> float:
        """The lever's value at share 1.0."""

    @abstractmethod
    def text(self, value: float) -> Mapping[str, str]:
        """File name -> first content, for a lever value."""

    @abstractmethod
    def read(self, environment: Mapping[str, str] = NO_ENVIRONMENT) -> Loaded:
        """What the node makes of its files, and of its container's environment variables, now."""

    def snap(self, share: float) -> float:
        """The lever value nearest below `share`; never less than one step."""
        steps = math.floor(share * self.at_full_share / self.step + 1e-9)
        return round(max(1, steps) * self.step, 9)

    def install(self, value: float) -> None:
        """Write the files that are not there yet."""
        self.folder.mkdir(parents=True, exist_ok=True)
        for file, content in self.text(value).items():
            path = self.folder / file
            if not path.exists():
                path.write_text(content, encoding="utf-8")

    def signature(self) -> str:
        """Changes whenever a file was written."""
        marks: list[str] = []
        for file in self.files:
            try:
                status = (self.folder / file).stat()
            except FileNotFoundError:
                marks.append("-")
            else:
                marks.append(f"{status.st_mtime_ns}:{status.st_size}:{status.st_ino}")
        return "|".join(marks)

    def edited(self) -> float:
        """When a file was last written, Unix seconds of the wall clock."""
        found = [path.stat().st_mtime for file in self.files if (path := self.folder / file).exists()]
        return max(found, default=0.0)

    def load_json(self, file: str) -> Any:
        """The content of one file; `ValueError` where it is not JSON or not there."""
        try:
            return json.loads((self.folder / file).read_text(encoding="utf-8"))
        except OSError as error:
            raise ValueError(f"{file}: {error.strerror}") from error


class StorjLever(Lever):
    """Disk allocated, in TB (decimal), read when the node starts."""

    name = "storage.allocated-disk-space"
    unit = "TB"
    step = 0.01
    files = ("config.yaml",)

    @property
    def at_full_share(self) -> float:
        """The lever's value at share 1.0."""
        return self.terms.demand.disk_gb / 1000.0

    def text(self, value: float) -> Mapping[str, str]:
        """File name -> first content."""
        return {
            "config.yaml": (
                "# how frequently bandwidth usage rollups are calculated\n"
                "# bandwidth.interval: 1h0m0s\n\n"
                "# server address of the api gateway and frontend app\n"
                "console.address: 127.0.0.1:14002\n\n"
                "# the public address of the node, useful for nodes behind NAT\n"
                "contact.external-address: 203.0.113.7:28967\n\n"
                "# total allocated disk space in bytes\n"
                f"storage.allocated-disk-space: {value:.2f} TB\n\n"
                "# how much disk space a node at minimum has to advertise\n"
                "# storage2.monitor.minimum-disk-space: 500.00 GB\n"
            )
        }

    def read(self, environment: Mapping[str, str] = NO_ENVIRONMENT) -> Loaded:
        """What the node makes of its file now. Without the key it is the default, 1 TB.

        `STORAGE` comes first, for the official image hands it to the node as a flag; then the node's own variable.
        """
        try:
            content = (self.folder / "config.yaml").read_text(encoding="utf-8")
        except OSError as error:
            return Loaded(0.0, 0.0, f"Failed to load configuration: {error.strerror}")
        written = "1.00 TB"
        for line in content.splitlines():
            if not line.strip() or line.lstrip().startswith("#"):
                continue
            key, colon, rest = line.partition(":")
            if not colon:
                return Loaded(0.0, 0.0, "Failed to load configuration: yaml: could not find expected ':'")
            if key.strip() == self.name:
                written = rest.split("#")[0].strip().strip("\"'")
        written = environment.get("STORAGE") or environment.get("STORJ_STORAGE_ALLOCATED_DISK_SPACE") or written
        size = memory_size(written)
        if size is None:
            return Loaded(0.0, 0.0, f"invalid argument {written!r} for --{self.name}")
        value = size / 1e12
        if size < STORJ_FLOOR_BYTES:
            return Loaded(0.0, value, "piecestore monitor: disk space requirement not met")
        return Loaded(min(size, self.capacity.disk_gb * 1e9) / 1e12 / self.at_full_share, value)


def memory_size(text: str) -> float | None:
    """Bytes of a Storj size such as `2.00 TB`, `500GB` or `1TiB`; None where it is none."""
    match = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?)\s*([KMGTPE]?i?B?)", text, flags=re.IGNORECASE)
    if match is None:
        return None
    wanted = match.group(2).upper().replace("I", "i")
    unit = wanted if wanted.endswith("B") or not wanted else f"{wanted}B"
    return float(match.group(1)) * _UNITS[unit] if unit in _UNITS else None


class GolemLever(Lever):
    """Threads of the active hardware profile; no active preset means no offers at all. Watched, not restarted."""

    name = "cpu_threads"
    unit = "threads"
    step = 1.0
    files = ("hardware.json", "presets.json")

    @property
    def at_full_share(self) -> float:
        """The lever's value at share 1.0."""
        return self.terms.demand.cpu_threads

    def text(self, value: float) -> Mapping[str, str]:
        """File name -> first content."""
        share = value / self.at_full_share
        demand = self.terms.demand
        profile = {
            "cpu_threads": int(value),
            "mem_gib": round(demand.memory_gib * share, 4),
            "storage_gib": round(demand.disk_gb * share * 1e9 / 1024**3, 4),
        }
        preset = {
            "name": "vm",
            "exeunit-name": "vm",
            "pricing-model": "linear",
            "initial-price": 0.0,
            "usage-coeffs": {"golem.usage.cpu_sec": GOLEM_CPU_COEFFICIENT, "golem.usage.duration_sec": 0.0},
        }
        return {
            "hardware.json": json.dumps({"active": "default", "profiles": {"default": profile}}, indent=2),
            "presets.json": json.dumps({"ver": "V1", "active": ["vm"], "presets": [preset]}, indent=2),
        }

    def read(self, environment: Mapping[str, str] = NO_ENVIRONMENT) -> Loaded:
        """What the provider makes of its files now, clamped to the host as ya-provider silently does."""
        del environment
        try:
            hardware, presets = self.load_json("hardware.json"), self.load_json("presets.json")
            active = hardware["profiles"][hardware["active"]]
            threads, memory, storage = active["cpu_threads"], active["mem_gib"], active["storage_gib"]
            by_name: dict[str, Mapping[str, Any]] = {preset["name"]: preset for preset in presets["presets"]}
            chosen = [by_name[name] for name in presets["active"]]
        except (KeyError, TypeError, IndexError, ValueError) as error:
            return Loaded(0.0, 0.0, f"hardware.json or presets.json cannot be used: {error}")
        if not isinstance(threads, int) or isinstance(threads, bool) or threads < 0:
            return Loaded(0.0, 0.0, f"cpu_threads: invalid type {threads!r}, expected u64")
        if not all(isinstance(amount, int | float) for amount in (memory, storage)):
            return Loaded(0.0, 0.0, "mem_gib and storage_gib must be numbers")
        threads = max(1, min(threads, int(self.capacity.cpu_threads)))
        disk_gib = self.capacity.disk_gb * 1e9 / 1024**3
        detail = {
            "mem_gib": max(0.1, min(float(memory), self.capacity.memory_gib)),
            "storage_gib": max(0.1, min(float(storage), disk_gib)),
            "presets": chosen,
        }
        return Loaded(threads / self.at_full_share if chosen else 0.0, float(threads), detail=detail)


_STREAMR_ROOT = {"$schema", "client", "httpServer", "apiAuthentication", "plugins"}
_STREAMR_PLUGINS = {"operator", "autostaker", "info", "consoleMetrics", "http", "websocket", "mqtt"}


class StreamrLever(Lever):
    """Sponsorships the autostaker stakes on, read when the node starts."""

    name = "maxSponsorshipCount"
    unit = "sponsorships"
    step = 1.0
    files = ("default.json",)

    @property
    def at_full_share(self) -> float:
        """The lever's value at share 1.0."""
        return float(SPONSORSHIPS_AT_FULL)

    def text(self, value: float) -> Mapping[str, str]:
        """File name -> first content."""
        config = {
            "$schema": "https://schema.streamr.network/config-v3.schema.json",
            "client": {
                "metrics": False,
                "environment": "polygon",
                "network": {"controlLayer": {"websocketPortRange": {"min": 32200, "max": 32200}, "maxConnections": 80}},
            },
            "httpServer": {"port": 7171},
            "plugins": {
                "operator": {"operatorContractAddress": operator_address(self.folder.name)},
                "autostaker": {
                    "operatorContractAddress": operator_address(self.folder.name),
                    "maxSponsorshipCount": int(value),
                    "runIntervalInMs": 3600000,
                },
                "info": {},
            },
        }
        return {"default.json": json.dumps(config, indent=2)}

    def read(self, environment: Mapping[str, str] = NO_ENVIRONMENT) -> Loaded:
        """What the node makes of its file now. The schema is strict: an unknown key keeps it from starting."""
        del environment
        try:
            count = _sponsorships(self.load_json("default.json"))
        except ValueError as error:
            return Loaded(0.0, 0.0, f"Error: {error}")
        if count is None:
            return Loaded(0.0, 0.0, keeps=True)
        return Loaded(min(1.0, count / SPONSORSHIPS_AT_FULL), float(count))


def _sponsorships(config: Any) -> int | None:
    """The number a Streamr configuration stakes on, None without the plug-in that stakes.

    `ValueError` with the node's words where it is not valid.
    """
    if not isinstance(config, dict):
        raise ValueError("configuration must be object")  # noqa: TRY004 - one kind of error for every invalid file
    root = cast("dict[str, Any]", config)
    plugins: dict[str, Any] = root.get("plugins", {})
    if unknown := sorted(set(root) - _STREAMR_ROOT):
        raise ValueError(f"must NOT have additional properties: {unknown[0]}")
    if unknown := sorted(set(plugins) - _STREAMR_PLUGINS):
        raise ValueError(f"Unknown plugin: {unknown[0]}")
    if "autostaker" not in plugins:
        return None
    count: Any = plugins["autostaker"].get("maxSponsorshipCount", SPONSORSHIPS_AT_FULL)
    if not isinstance(count, int) or isinstance(count, bool) or count < 0:
        raise ValueError("/plugins/autostaker/maxSponsorshipCount must be integer")
    return count


class GrassLever(Lever):
    """No file: the container's CPU limit decides, so what the node itself reads is always everything."""

    name = "NanoCpus"
    unit = "threads"
    step = 0.01
    files = ()

    @property
    def at_full_share(self) -> float:
        """The lever's value at share 1.0."""
        return self.terms.demand.cpu_threads

    def text(self, value: float) -> Mapping[str, str]:
        """No files."""
        del value
        return {}

    def read(self, environment: Mapping[str, str] = NO_ENVIRONMENT) -> Loaded:
        """Everything: the limit is the container's."""
        del environment
        return Loaded(1.0, self.at_full_share)


LEVERS: Mapping[str, type[Lever]] = {
    "storj": StorjLever,
    "golem": GolemLever,
    "streamr": StreamrLever,
    "grass": GrassLever,
}


def node_name(protocol: str, number: int = 1) -> str:
    """Name of a protocol's node on the host of this number, from 1 on."""
    return f"{protocol}-{number}"


def operator_address(node: str) -> str:
    """The Streamr operator contract that a node of this name works for, lower case."""
    return "0x" + ("ab" * 20 if node == node_name("streamr") else hexadecimal(0, f"operator/{node}", 0, 40))


def equal_shares(world: World) -> dict[str, float]:
    """The largest equal share that fits the host, within each protocol's own bounds."""
    demands = [(terms, terms.demand.as_dict()) for terms in world.protocols.values()]
    limits = world.capacity.as_dict()

    def fits(share: float) -> bool:
        shares = [min(terms.max_share, max(terms.min_share, share)) for terms, _ in demands]
        return all(
            sum(own * demand[name] for own, (_, demand) in zip(shares, demands, strict=True)) <= limit + 1e-9
            for name, limit in limits.items()
        )

    low, high = 0.0, 1.0
    if fits(high):
        low = high
    for _ in range(50):
        middle = (low + high) / 2.0
        low, high = (middle, high) if fits(middle) else (low, middle)
    return {name: min(t.max_share, max(t.min_share, low)) for name, t in world.protocols.items()}
