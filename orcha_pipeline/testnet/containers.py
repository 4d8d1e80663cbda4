"""What Docker knows of the testnet's containers, and what it does with them, in its own words.

A node lives in the container that holds its data; that may be replaced by another, but only one of them can run. The
refusals are those of Docker 20.10, as a real one gave them.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, cast

from orcha_pipeline.testnet.answers import rfc3339_millis
from orcha_pipeline.testnet.economy import Economy, Node
from orcha_pipeline.testnet.noise import hexadecimal

CONTAINERS = ("storj", "streamr", "grass")
IMAGES = {"storj": "storjlabs/storagenode:latest", "streamr": "streamr/node:v103", "grass": "grass-desktop:latest"}
NETWORKS = ("bridge", "host", "none")
_HOMES = {"storj": "/app/config", "streamr": "/home/streamr/.streamr/config", "grass": "/data"}
_ZERO_TIME = "0001-01-01T00:00:00Z"
_NAME = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.-]+")
_NUMBERS = ("NanoCpus", "CpuPeriod", "CpuQuota", "Memory", "MemorySwap")
_DEFAULT_PERIOD = 100_000


class DockerError(Exception):
    """An answer with a status and Docker's `message`."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


@dataclass(slots=True)
class Container:
    """One container. `node` is whose data it holds; None where it holds nobody's, so that it cannot run."""

    id: str
    name: str
    node: Node | None
    image: str
    created_at: int
    config: dict[str, Any]
    host: dict[str, Any]
    networks: dict[str, dict[str, Any]]
    state: dict[str, Any] = field(default_factory=dict[str, Any])
    """How it stood when it last ran; empty where it never did."""

    @property
    def environment(self) -> dict[str, str]:
        """The variables its process gets."""
        return {name: value for name, _, value in (line.partition("=") for line in self.config["Env"])}

    @property
    def binds(self) -> list[str]:
        """Directories of the host that it sees, as `from:to`."""
        return list(self.host["Binds"] or [])

    @property
    def granted_nano_cpus(self) -> int:
        """What the kernel grants it: a quota, which may be none at all, comes before NanoCpus. 0 is everything."""
        quota: int = self.host["CpuQuota"]
        if quota:
            return max(0, quota) * 1_000_000_000 // (self.host["CpuPeriod"] or _DEFAULT_PERIOD)
        return self.host["NanoCpus"]


class DockerEngine:
    """One host's engine: its containers, over the economy's nodes."""

    def __init__(self, economy: Economy) -> None:
        self.economy = economy
        self.containers: dict[str, Container] = {}
        self.homes: dict[str, str] = {}
        """Node -> the container it lives in."""
        self._made = 0
        for node in economy.nodes.values():
            if node.protocol in CONTAINERS:
                self._install(node)

    def _install(self, node: Node) -> None:
        """The container that the operator once ran."""
        environment = [f"{name}={value}" for name, value in node.environment.items()]
        found = Container(
            id=hexadecimal(0, f"container/{node.name}", 0, 64),
            name=node.name,
            node=node,
            image=self.image_id(IMAGES[node.protocol]),
            created_at=self.economy.start,
            config={"Image": IMAGES[node.protocol], "Env": environment, "Labels": {}, "Cmd": None},
            host={
                "NanoCpus": node.nano_cpus,
                "CpuShares": 0,
                "CpuPeriod": 0,
                "CpuQuota": 0,
                "Memory": node.memory,
                "MemorySwap": node.memory_swap or 2 * node.memory,
                "MemoryReservation": 0,
                "PidsLimit": None,
                "NetworkMode": "bridge",
                "RestartPolicy": {"Name": "no", "MaximumRetryCount": 0},
                "AutoRemove": False,
                "Binds": [f"{self._folder(node)}:{_HOMES[node.protocol]}"],
                "Links": None,
            },
            networks={"bridge": {"IPAMConfig": None, "Aliases": None}},
        )
        found.config["Hostname"] = found.id[:12]
        self.containers[found.id] = found
        self.homes[node.name] = found.id

    def _folder(self, node: Node) -> str:
        return str(self.economy.levers[node.name].folder)

    # ------------------------------------------------------------ finding

    def find(self, wanted: str) -> Container:
        """By id, name, or the beginning of an id."""
        name = wanted.lstrip("/")
        for found in self.containers.values():
            if wanted == found.id or name == found.name:
                return found
        for found in self.containers.values():
            if len(wanted) >= 4 and found.id.startswith(wanted):
                return found
        raise DockerError(404, f"No such container: {wanted}")

    @staticmethod
    def image_id(image: str) -> str:
        """What an image's name stands for."""
        return "sha256:" + hexadecimal(0, f"image/{image}", 0, 64)

    def image(self, wanted: str) -> dict[str, Any]:
        """`/images/{name}/json`, by name or id."""
        for name in IMAGES.values():
            if wanted in (name, self.image_id(name), name.removesuffix(":latest")):
                return {"Id": self.image_id(name), "RepoTags": [name], "RepoDigests": [], "Os": "linux"}
        raise DockerError(404, f"No such image: {wanted}" + ("" if ":" in wanted else ":latest"))

    def home(self, container: Container) -> Node | None:
        """The node, where this container is the one that it lives in."""
        node = container.node
        return node if node is not None and self.homes.get(node.name) == container.id else None

    def running(self, container: Container) -> bool:
        """Whether its process runs."""
        node = self.home(container)
        return node is not None and node.running

    def status(self, container: Container) -> str:
        """Docker's word for the state."""
        node = self.home(container)
        if node is None:
            return "exited" if container.state else "created"
        if not node.running:
            return "exited"
        return "paused" if node.paused else "running"

    # ------------------------------------------------------------ showing

    def listing(self, *, everything: bool, filters: dict[str, Any]) -> list[dict[str, Any]]:
        """`/containers/json`. Filters of one kind are alternatives, those of different kinds all hold."""
        names, states, labels = (list(filters.get(kind, [])) for kind in ("name", "status", "label"))
        ids: list[str] = list(filters.get("id", []))
        return [
            {
                "Id": found.id,
                "Names": [f"/{found.name}"],
                "Image": found.config["Image"],
                "ImageID": found.image,
                "Command": "/entrypoint",
                "Created": found.created_at,
                "State": self.status(found),
                "Status": "Up" if self.running(found) else f"Exited ({self._state(found)['ExitCode']})",
                "Labels": found.config["Labels"],
            }
            for found in self.containers.values()
            if (everything or states or self.running(found))
            and (not names or any(re.search(name, found.name) for name in names))
            and (not ids or any(found.id.startswith(one) for one in ids))
            and (not states or self.status(found) in states)
            and all(_labelled(found.config["Labels"], label) for label in labels)
        ]

    def _state(self, container: Container) -> dict[str, Any]:
        node = self.home(container)
        if node is None:
            never = {"ExitCode": 0, "Error": "", "StartedAt": _ZERO_TIME, "FinishedAt": _ZERO_TIME}
            return {**never, **container.state}
        return {
            "ExitCode": node.exit_code,
            "Error": node.log,
            "StartedAt": rfc3339_millis(node.started_at),
            "FinishedAt": rfc3339_millis(node.finished_at) if node.finished_at else _ZERO_TIME,
        }

    def inspect(self, container: Container) -> dict[str, Any]:
        """`/containers/{id}/json`."""
        running = self.running(container)
        binds = [bind.split(":") for bind in container.binds]
        return {
            "Id": container.id,
            "Created": rfc3339_millis(container.created_at),
            "Name": f"/{container.name}",
            "Image": container.image,
            "RestartCount": 0,
            "State": {
                "Status": self.status(container),
                "Running": running,
                "Paused": self.status(container) == "paused",
                "Restarting": False,
                "OOMKilled": False,
                "Dead": False,
                "Pid": 4242 if running else 0,
                **self._state(container),
            },
            "HostConfig": container.host,
            "Mounts": [
                {"Type": "bind", "Source": bind[0], "Destination": bind[1], "Mode": "", "RW": bind[2:] != ["ro"]}
                for bind in binds
            ],
            "Config": container.config,
            "NetworkSettings": {"Networks": container.networks},
        }

    def info(self) -> dict[str, Any]:
        """`/info`, what is asked for of it."""
        host = self.economy.world.capacity
        return {
            "ID": hexadecimal(0, f"engine/{self.economy.number}", 0, 32),
            "Containers": len(self.containers),
            "NCPU": int(host.cpu_threads),
            "MemTotal": int(host.memory_gib * 1024**3),
            "ServerVersion": "24.0.7",
        }

    def statistics(self, container: Container) -> dict[str, Any]:
        """One reading. Without a second one `precpu_stats` is empty: whoever wants a rate must take two."""
        host = self.economy.world.capacity
        idle = {
            "cpu_usage": {"total_usage": 0, "usage_in_kernelmode": 0, "usage_in_usermode": 0},
            "throttling_data": {"periods": 0, "throttled_periods": 0, "throttled_time": 0},
        }
        answer: dict[str, Any] = {
            "id": container.id,
            "name": f"/{container.name}",
            "read": _ZERO_TIME,
            "preread": _ZERO_TIME,
            "precpu_stats": idle,
            "cpu_stats": idle,
            "memory_stats": {},
            "blkio_stats": {"io_service_bytes_recursive": None},
        }
        node = self.home(container)
        if node is None or not node.running:
            return answer
        now = self.economy.now
        total = int(node.cpu_seconds * 1e9)
        used = int(0.6 * node.effective * self.economy.world.protocols[node.protocol].demand.memory_gib * 1024**3)
        answer["read"] = rfc3339_millis(now)
        answer["cpu_stats"] = {
            "cpu_usage": {
                "total_usage": total,
                "usage_in_kernelmode": total // 5,
                "usage_in_usermode": total - total // 5,
            },
            "system_cpu_usage": int((now - self.economy.start) * host.cpu_threads * 1e9),
            "online_cpus": int(host.cpu_threads),
            "throttling_data": {"periods": 0, "throttled_periods": 0, "throttled_time": 0},
        }
        answer["memory_stats"] = {
            "usage": used,
            "limit": container.host["Memory"] or int(host.memory_gib * 1024**3),
            "stats": {"inactive_file": used // 8},
        }
        if container.host["NetworkMode"] != "host":
            answer["networks"] = {"eth0": {"rx_bytes": int(node.rx_bytes), "tx_bytes": int(node.tx_bytes)}}
        return answer

    # ------------------------------------------------------------ changing

    def update(self, container: Container, wanted: dict[str, Any]) -> None:
        """Change limits or the restart policy, all or none."""
        if container.node is not None and container.node.name in self.economy.stuck:
            raise DockerError(500, f"{_cannot(container)}failed to write cpu.max: device or resource busy")
        for key in _NUMBERS:
            value: Any = wanted.get(key, 0)
            if not isinstance(value, int) or isinstance(value, bool):
                kind = "string" if isinstance(value, str) else "number"
                message = f"json: cannot unmarshal {kind} into Go struct field UpdateConfig.{key} of type int64"
                raise DockerError(400, message)
        asked: dict[str, int] = {key: wanted.get(key, 0) for key in _NUMBERS}
        self._check_limits(asked)
        _check_against(container, asked)
        policy: dict[str, Any] = wanted.get("RestartPolicy") or {}
        if policy.get("Name") and container.host["AutoRemove"]:
            raise DockerError(
                409, f"{_cannot(container)}Restart policy cannot be updated because AutoRemove is enabled"
            )
        # As in the engine, 0 means "leave it": a limit can be changed but not taken away.
        container.host.update({key: value for key, value in asked.items() if value})
        if policy.get("Name"):
            container.host["RestartPolicy"] = {"Name": policy["Name"], "MaximumRetryCount": 0}
        if node := self.home(container):
            self._grant(container, node)

    def _grant(self, container: Container, node: Node) -> None:
        node.memory, node.memory_swap = container.host["Memory"], container.host["MemorySwap"]
        self.economy.limit_cpu(node, container.granted_nano_cpus)

    def _check_limits(self, asked: Mapping[str, int]) -> None:
        """Refuse what no container can have."""
        nano, memory, swap = asked["NanoCpus"], asked["Memory"], asked["MemorySwap"]
        for key, words in (("CpuPeriod", "CPU Period"), ("CpuQuota", "CPU Quota")):
            if nano > 0 and asked[key] > 0:
                raise DockerError(400, f"Conflicting options: Nano CPUs and {words} cannot both be set")
        threads = int(self.economy.world.capacity.cpu_threads)
        if nano and not 0.01 <= nano / 1e9 <= threads:
            message = f"Range of CPUs is from 0.01 to {threads}.00, as there are only {threads} CPUs available"
            raise DockerError(400, message)
        if 0 < asked["CpuQuota"] < 1000:
            raise DockerError(400, "CPU cfs quota can not be less than 1ms (i.e. 1000)")
        if memory and memory < 6 * 1024**2:
            raise DockerError(400, "Minimum memory limit allowed is 6MB")
        if memory > 0 and 0 < swap < memory:
            raise DockerError(400, "Minimum memoryswap limit should be larger than memory limit, see usage")

    def create(self, name: str, body: Mapping[str, Any]) -> Container:
        """`/containers/create`; it is not started."""
        self._check_name(name)
        image = self.image(str(body.get("Image", "")))
        environment: list[str] = list(body.get("Env") or [])
        if wrong := next((line for line in environment if line.startswith("=")), None):
            raise DockerError(400, f"invalid environment variable: {wrong}")
        host: dict[str, Any] = dict(body.get("HostConfig") or {})
        numbers: dict[str, int] = {key: host.get(key) or 0 for key in _NUMBERS}
        self._check_limits(numbers)
        networking: dict[str, Any] = body.get("NetworkingConfig") or {}
        endpoints: dict[str, Any] = networking.get("EndpointsConfig") or {}
        if len(endpoints) > 1:
            names = ", ".join(endpoints)
            raise DockerError(400, f"Container cannot be connected to network endpoints: {names}")
        self._made += 1
        identity = hexadecimal(self._made, f"container/{name}", self.economy.now, 64)
        config = {key: value for key, value in body.items() if key not in ("HostConfig", "NetworkingConfig")}
        binds: list[str] = list(host.get("Binds") or [])
        made = Container(
            id=identity,
            name=name,
            node=next((node for node in self.economy.nodes.values() if self._holds(binds, node)), None),
            image=image["Id"],
            created_at=self.economy.now,
            config={"Hostname": identity[:12], **config, "Env": environment, "Labels": body.get("Labels") or {}},
            host={
                "NetworkMode": "default",
                "RestartPolicy": {"Name": "no", "MaximumRetryCount": 0},
                "AutoRemove": False,
                **host,
                **numbers,
                "Binds": binds,
            },
            networks={},
        )
        if made.host["Memory"] and not made.host["MemorySwap"]:
            made.host["MemorySwap"] = 2 * made.host["Memory"]
        own = "bridge" if made.host["NetworkMode"] in ("", "default") else str(made.host["NetworkMode"])
        self.connect(own, made, endpoints.get(own) or {})
        self.containers[identity] = made
        return made

    def _holds(self, binds: list[str], node: Node) -> bool:
        return node.protocol in CONTAINERS and any(bind.split(":")[0] == self._folder(node) for bind in binds)

    def _check_name(self, name: str) -> None:
        if _NAME.fullmatch(name) is None:
            raise DockerError(400, f"Invalid container name ({name}), only [a-zA-Z0-9][a-zA-Z0-9_.-] are allowed")
        for other in self.containers.values():
            if other.name == name:
                raise DockerError(
                    409,
                    f'Conflict. The container name "/{name}" is already in use by container "{other.id}". You have to '
                    "remove (or rename) that container to be able to reuse that name.",
                )

    def connect(self, network: str, container: Container, endpoint: Mapping[str, Any]) -> None:
        """Give it one more network."""
        if network not in NETWORKS:
            raise DockerError(404, f"network {network} not found")
        if network in container.networks:
            raise DockerError(403, f"endpoint with name {container.name} already exists in network {network}")
        container.networks[network] = {"IPAMConfig": None, "Aliases": None, **endpoint}

    def rename(self, container: Container, name: str) -> None:
        """`/containers/{id}/rename`."""
        try:
            self._check_name(name)
        except DockerError as error:
            raise DockerError(error.status, f"Error when allocating new name: {error}") from error
        container.name = name

    def remove(self, container: Container, *, force: bool) -> None:
        """Remove it; what it holds in binds stays."""
        if self.running(container):
            if not force:
                raise DockerError(
                    409,
                    f"You cannot remove a running container {container.id}. Stop the container before attempting "
                    "removal or force remove",
                )
            self.stop(container)
        if node := self.home(container):
            del self.homes[node.name]
        self.containers.pop(container.id, None)

    def stop(self, container: Container) -> bool:
        """Whether that changed anything. One that was run with --rm is gone afterwards."""
        node = self.home(container)
        if node is None or not node.running:
            return False
        self.economy.stop_node(node)
        if container.host["AutoRemove"]:
            self.remove(container, force=False)
        return True

    def start(self, container: Container) -> bool:
        """Whether that changed anything. Two containers of one node want the same port."""
        if self.running(container):
            return False
        node = container.node
        if node is None:
            now = rfc3339_millis(self.economy.now)
            container.state = {"ExitCode": 1, "Error": "no data", "StartedAt": now, "FinishedAt": now}
            return True
        home = self.homes.get(node.name)
        if home and home != container.id:
            if node.running:
                raise DockerError(
                    500,
                    f"driver failed programming external connectivity on endpoint {container.name}: Bind for "
                    "0.0.0.0 failed: port is already allocated",
                )
            self.containers[home].state = self._state(self.containers[home])
        self.homes[node.name] = container.id
        node.environment = container.environment
        self._grant(container, node)
        self.economy.start_node(node)
        return True

    def restart(self, container: Container) -> None:
        """Stop and start, even one that was run with --rm."""
        node = self.home(container)
        if node is not None and node.name in self.economy.stuck and node.protocol == "streamr":
            # A Streamr node shows nowhere what it has loaded: that a change does not arrive must show here.
            why = "tried to kill container, but did not receive an exit event"
            raise DockerError(500, f"Cannot restart container {container.id}: {why}")
        if node is not None and node.running:
            self.economy.stop_node(node)
        self.start(container)

    def pause(self, container: Container, *, paused: bool) -> None:
        """Freeze its processes, or let them go on."""
        node = self.home(container)
        if node is None or not node.running:
            raise DockerError(409, f"Container {container.id} is not running")
        if node.paused == paused:
            raise DockerError(
                409 if paused else 500, f"Container {container.id} is {'already' if paused else 'not'} paused"
            )
        self.economy.pause_node(node, paused=paused)


def _cannot(container: Container) -> str:
    return f"Cannot update container {container.id}: "


def _check_against(container: Container, asked: Mapping[str, int]) -> None:
    """Refuse what does not go with the limits that the container has."""
    has = container.host
    for key, words in (("CpuPeriod", "CPU Period"), ("CpuQuota", "CPU Quota")):
        if asked["NanoCpus"] > 0 and has[key] > 0:
            told = f"Conflicting options: Nano CPUs cannot be updated as {words} has already been set"
            raise DockerError(409, _cannot(container) + told)
        if asked[key] > 0 and has["NanoCpus"] > 0:
            told = f"Conflicting options: {words} cannot be updated as NanoCPUs has already been set"
            raise DockerError(409, _cannot(container) + told)
    # Unlimited swap (-1) and none given (0) count as less than any memory.
    if asked["Memory"] > has["MemorySwap"] and not asked["MemorySwap"]:
        told = (
            "Memory limit should be smaller than already set memoryswap limit, update the memoryswap at the same time"
        )
        raise DockerError(409, _cannot(container) + told)


def _labelled(labels: Mapping[str, str], wanted: str) -> bool:
    name, equals, value = wanted.partition("=")
    return name in labels and (not equals or labels[name] == value)


def filters_of(text: str) -> dict[str, Any]:
    """The `filters` of a query; each kind is a list, or as older clients write it an object of trues."""
    try:
        parsed: Any = json.loads(text or "{}")
    except ValueError as error:
        raise DockerError(400, f"invalid filter: {error}") from error
    if not isinstance(parsed, dict):
        raise DockerError(400, "invalid filter")
    given = cast("dict[str, Any]", parsed)
    return {kind: list(values) for kind, values in given.items()}
