"""Starting a container anew with other environment variables: Docker cannot change them on one that exists.

The new container is made beside the old one, which is kept, under another name, until the new one has proven itself.
The two never run at once: they hold the same data.
"""

import logging
from collections.abc import Mapping, Sequence
from typing import Any, cast

from orcha_pipeline.controllers.docker_api import SLOW_SECONDS, DockerModel, Engine, EngineError, patiently, table
from orcha_pipeline.errors import AdapterError, AllocationError, UnsupportedError
from orcha_pipeline.protocols.levers import wait_for
from orcha_pipeline.protocols.parsing import parse

ASIDE = "-orcha-before"
"""What the old container's name gets at its end meanwhile."""
REPLACES = "orcha.replaces"
"""Label of a container made here: the id of the one that it replaces."""
STEADY_SECONDS = 5.0
"""How long a new container must run without a break before the old one is given up."""
SHORTEST_SECRET = 4
_DEFAULT_INTERVAL = 30 * 10**9
_log = logging.getLogger(__name__)


class Health(DockerModel):
    """`starting`, `healthy`, `unhealthy`, or `none`."""

    status: str


class State(DockerModel):
    """How a container stands."""

    running: bool
    status: str
    restarting: bool = False
    exit_code: int = 0
    health: Health | None = None


class _Healthcheck(DockerModel):
    """Nanoseconds; 0 is Docker's default."""

    interval: int = 0
    timeout: int = 0
    start_period: int = 0
    retries: int = 0


def changed_environment(before: Sequence[str], changes: Mapping[str, str]) -> list[str]:
    """The variables as `NAME=value`, those of `changes` replaced in place or added at the end."""
    left = dict(changes)
    changed: list[str] = []
    for line in before:
        name = line.partition("=")[0]
        changed.append(f"{name}={left.pop(name)}" if name in left else line)
    return changed + [f"{name}={value}" for name, value in left.items()]


def environment_of(container: Mapping[str, Any]) -> dict[str, str]:
    """The variables a container was created with, those of its image included."""
    pairs = (line.partition("=") for line in _lines(table(container, "Config").get("Env")))
    return {name: value for name, _, value in pairs}


def creation(
    container: Mapping[str, Any], changes: Mapping[str, str], *, image: str, version: tuple[int, int]
) -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
    """The body that creates the same container with `changes`, and the networks to connect it to afterwards.

    `container` is as inspected. What inspecting shows in another form than creating takes is turned back: links,
    volumes without a name, the networks' addresses and aliases, and names that Docker derived from the old id.
    """
    identity = str(container["Id"])
    config, host = dict(table(container, "Config")), dict(table(container, "HostConfig"))
    config["Env"] = changed_environment(_lines(config.get("Env")), changes)
    config["Image"] = image
    config["Labels"] = {**table(config, "Labels"), REPLACES: identity}
    if config.get("Hostname") == identity[:12]:
        del config["Hostname"]
    host["Links"] = [_link(link) for link in _lines(host.get("Links"))] or None
    host["Binds"], host["Mounts"] = _same_volumes(container)
    mode = str(host.get("NetworkMode", ""))
    if mode.startswith("container:"):
        # The other container's name and ports are used; naming any here is an error.
        config.pop("Hostname", None)
        config.pop("ExposedPorts", None)
    if mode == "host" or mode.startswith("container:") or mode == "none":
        return {**config, "HostConfig": host}, {}
    networks = table(table(container, "NetworkSettings"), "Networks")
    endpoints = {name: _endpoint(table(networks, name), identity, version) for name in networks}
    own = "bridge" if mode in ("", "default") else mode
    own = next((name for name in networks if table(networks, name).get("NetworkID") == own), own)
    first = {own: endpoints.pop(own)} if own in endpoints else {}
    return {**config, "HostConfig": host, "NetworkingConfig": {"EndpointsConfig": first}}, endpoints


def _link(link: str) -> str:
    """`/target:/this/alias`, as inspected, to `target:alias`."""
    target, _, alias = link.partition(":")
    return f"{target.removeprefix('/')}:{alias.rpartition('/')[2]}"


def _same_volumes(container: Mapping[str, Any]) -> tuple[list[str] | None, list[dict[str, Any]] | None]:
    """The binds and mounts, with volumes that were made without a name by theirs: else the new one got empty ones."""
    host = table(container, "HostConfig")
    binds, mounts = _lines(host.get("Binds")), _tables(host.get("Mounts"))
    volumes = {
        str(mount["Destination"]): mount
        for mount in _tables(container.get("Mounts"))
        if mount.get("Type") == "volume" and mount.get("Name") and mount.get("Destination")
    }
    for bind in binds:
        volumes.pop(bind.split(":")[1] if ":" in bind else bind, None)
    named: list[dict[str, Any]] = []
    for mount in mounts:
        volume = volumes.pop(str(mount.get("Target")), None)
        named.append({**mount, "Source": volume["Name"]} if volume and not mount.get("Source") else mount)
    binds += [
        f"{volume['Name']}:{destination}" + ("" if volume.get("RW", True) else ":ro")
        for destination, volume in volumes.items()
    ]
    return binds or None, named or None


def _endpoint(endpoint: dict[str, Any], identity: str, version: tuple[int, int]) -> dict[str, Any]:
    kept = {name: endpoint[name] for name in ("IPAMConfig", "Links", "DriverOpts") if endpoint.get(name)}
    if aliases := [alias for alias in _lines(endpoint.get("Aliases")) if alias != identity[:12]]:
        kept["Aliases"] = aliases
    # Before 1.44 an address set by hand stands in Config, and here only what Docker chose.
    if version >= (1, 44) and endpoint.get("MacAddress"):
        kept["MacAddress"] = endpoint["MacAddress"]
    return kept


def _lines(value: Any) -> list[str]:
    return [item for item in cast("list[Any]", value) if isinstance(item, str)] if isinstance(value, list) else []


def _tables(value: Any) -> list[dict[str, Any]]:
    found = cast("list[Any]", value) if isinstance(value, list) else []
    return [cast("dict[str, Any]", item) for item in found if isinstance(item, dict)]


class Recreation:
    """Replaces the container `name` on `engine`, and tidies up after a replacement that was cut short."""

    def __init__(self, engine: Engine, name: str) -> None:
        self._engine = engine
        self._node = engine.node
        self._name = name
        self._aside = name + ASIDE

    def left_over(self) -> str:
        """What to tell where the container is not there; empty unless a replacement was cut short."""
        if self._found(self._aside) is None:
            return ""
        return (
            f"its replacement was cut short: the container stands aside as {self._aside}. The next restart or "
            f"change by Orcha puts it back; by hand: docker rename {self._aside} {self._name} && "
            f"docker start {self._name}"
        )

    def recover(self) -> None:
        """Finish or undo a replacement that was cut short, as when the machine went down in the middle of it."""
        old = self._found(self._aside)
        if old is None:
            return
        new = self._made_from(str(old["Id"]))
        if new is None and self._found(self._name) is not None:
            raise AllocationError(
                self._node,
                f"both {self._name} and {self._aside} exist, and the first was not made by Orcha from the second; "
                f"remove the one that is not wanted (docker rm), its volumes stay",
            )
        if new is not None and self._state(new).running and not self._state(old).running:
            _log.warning("node %s: a replacement of %s was cut short; finished it", self._node, self._name)
            self._engine.remove(str(old["Id"]))
            return
        _log.warning("node %s: a replacement of %s was cut short; the old one is put back", self._node, self._name)
        self._put_back(old, new, grace_seconds=10)

    def replace(self, changes: Mapping[str, str], grace_seconds: int) -> None:
        """Start the container anew with `changes`. Where that fails the old one runs again, and the error says so."""
        self.recover()
        old = self._engine.inspect(self._name)
        if old.get("Name") != f"/{self._name}":
            raise UnsupportedError(
                self._node,
                f"controller.container is {self._name!r}, which is not its container's name: an id would not outlast "
                "the change",
            )
        if table(old, "HostConfig").get("AutoRemove"):
            raise UnsupportedError(
                self._node,
                f"container {self._name!r} was run with --rm: Docker deletes it when it stops, so there would be no "
                "way back; run it without --rm",
            )
        secrets = [*environment_of(old).values(), *changes.values()]
        body, networks = creation(old, changes, image=self._image(old), version=self._engine.version)
        identity, was_running = str(old["Id"]), self._state(old).running
        try:
            self._engine.rename(self._name, self._aside)
            new = self._engine.create(self._name, body)
            for network, endpoint in networks.items():
                self._engine.connect(network, new, endpoint)
            # A stopped container of policy "always" starts again with Docker, beside the new one on the same data.
            self._engine.update(identity, {"RestartPolicy": {"Name": "no"}})
            self._engine.stop(identity, grace_seconds)
            self._engine.start(new)
            self._prove(new)
        except AdapterError as error:
            why = _without(error.message, secrets)
            try:
                self._put_back(old, self._made_from(identity), grace_seconds=grace_seconds, start=was_running)
            except AdapterError as second:
                raise AllocationError(
                    self._node,
                    f"{why}; and the old container could not be put back: {_without(second.message, secrets)}. The "
                    f"next restart or change by Orcha tries again; until then see docker ps -a for {self._name} and "
                    f"{self._aside}",
                ) from None
            raise AllocationError(self._node, f"{why}; the old container {self._name!r} is back as it was") from None
        try:
            self._engine.remove(str(old["Id"]))
        except EngineError as error:
            _log.warning("node %s: %s runs anew, but the old container stays: %s", self._node, self._name, error)

    def _put_back(
        self, old: Mapping[str, Any], new: Mapping[str, Any] | None, *, grace_seconds: int, start: bool = True
    ) -> None:
        """The new one away, the old one under its name and running. Each step can be cut short and done again."""
        identity = str(old["Id"])
        policy = table(old, "HostConfig").get("RestartPolicy")
        if new is not None:
            self._engine.stop(str(new["Id"]), grace_seconds)
            # The new one holds the policy that the old one had; it goes only once that is back.
            policy = table(new, "HostConfig").get("RestartPolicy")
        if policy:
            self._engine.update(identity, {"RestartPolicy": policy})
        if new is not None:
            self._engine.remove(str(new["Id"]))
        if self._engine.inspect(identity).get("Name") != f"/{self._name}":
            self._engine.rename(identity, self._name)
        if start:
            self._engine.start(identity)

            def running() -> bool | None:
                return self._state(self._engine.inspect(identity)).running or None

            if not wait_for(patiently(running), seconds=SLOW_SECONDS):
                raise AllocationError(self._node, f"container {self._name!r} does not start again; see docker logs")

    def _image(self, old: Mapping[str, Any]) -> str:
        """The image's name, while it stands for the same image; else its id, lest the node be upgraded by the way."""
        identity, name = str(old["Image"]), str(table(old, "Config").get("Image", ""))
        return name if name and self._engine.image_id(name) == identity else identity

    def _prove(self, container: str) -> None:
        """Return once it has run for a while, and is healthy where it has a check of its own. `AllocationError`."""
        first = self._engine.inspect(container)
        check = parse(self._node, "health check", _Healthcheck, table(table(first, "Config"), "Healthcheck"))
        rounds = (check.retries or 3) + 1
        patience = (check.start_period + rounds * ((check.interval or _DEFAULT_INTERVAL) + check.timeout)) / 1e9
        if self._state(first).health is not None:
            healthy = wait_for(patiently(lambda: self._health(container)), seconds=patience + SLOW_SECONDS)
            if not healthy:
                raise AllocationError(self._node, f"the new container {self._name!r} did not become healthy in time")

        def breaks() -> bool | None:
            self._running(container)
            return None

        wait_for(patiently(breaks), seconds=STEADY_SECONDS)

    def _health(self, container: str) -> bool | None:
        state = self._running(container)
        status = state.health.status if state.health else "none"
        if status == "unhealthy":
            raise AllocationError(self._node, f"the new container {self._name!r} is unhealthy")
        return True if status in ("healthy", "none") else None

    def _running(self, container: str) -> State:
        """Its state; `AllocationError` where it does not run, or was started again by Docker after it had ended."""
        seen = self._engine.inspect(container)
        state = self._state(seen)
        if not state.running or state.restarting or seen.get("RestartCount"):
            # Once Docker has started it again, its exit code is gone.
            how = "" if state.running else f" with exit code {state.exit_code}"
            raise AllocationError(self._node, f"the new container {self._name!r} ended{how} soon after its start")
        return state

    def _made_from(self, identity: str) -> dict[str, Any] | None:
        """The container of the name, where it was made to replace that of the id."""
        found = self._found(self._name)
        return found if found and table(table(found, "Config"), "Labels").get(REPLACES) == identity else None

    def _found(self, name: str) -> dict[str, Any] | None:
        try:
            return self._engine.inspect(name)
        except EngineError as error:
            if error.status == 404:
                return None
            raise

    def _state(self, container: Mapping[str, Any]) -> State:
        return parse(self._node, "container", State, container.get("State"))


def _without(message: str, values: Sequence[str]) -> str:
    """`message` without the environment's values, any of which may be a secret."""
    for value in sorted(values, key=len, reverse=True):
        if len(value) >= SHORTEST_SECRET:
            message = message.replace(value, "***")
    return message
