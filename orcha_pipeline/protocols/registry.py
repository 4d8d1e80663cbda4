"""Which protocols there are: the built-in ones, and those of installed packages.

A package adds one by an entry point in the group `orcha.protocols`: name = protocol, value = its `Adapter` class.
Modules of protocols are imported when they are used.
"""

import functools
import logging
from collections.abc import Iterable, Mapping
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from types import MappingProxyType

import httpx

from orcha_pipeline.clock import Clock
from orcha_pipeline.controllers.factory import make_controller
from orcha_pipeline.errors import SettingsError, where
from orcha_pipeline.protocols.base import Adapter
from orcha_pipeline.protocols.unusable import UnusableAdapter
from orcha_pipeline.settings import NodeSettings

GROUP = "orcha.protocols"
_BUILT_IN = {
    "storj": "orcha_pipeline.protocols.storj:StorjAdapter",
    "golem": "orcha_pipeline.protocols.golem:GolemAdapter",
    "streamr": "orcha_pipeline.protocols.streamr:StreamrAdapter",
    "grass": "orcha_pipeline.protocols.grass:GrassAdapter",
}
_log = logging.getLogger(__name__)


def protocol_names() -> tuple[str, ...]:
    """The usable protocols: built in first, then those of plug-ins by name."""
    return (*_BUILT_IN, *sorted(_plug_ins()[0]))


def plug_in_problems() -> Mapping[str, str]:
    """Protocol -> why its plug-in cannot be used. The others work regardless."""
    return _plug_ins()[1]


def adapter_type(protocol: str) -> type[Adapter]:
    """The class that speaks `protocol`; `SettingsError` where there is none."""
    if protocol in _BUILT_IN:
        module, name = _BUILT_IN[protocol].split(":")
        return getattr(import_module(module), name)
    found, problems = _plug_ins()
    if protocol in found:
        return found[protocol]
    if protocol in problems:
        raise SettingsError(f"the plug-in of protocol {protocol!r} cannot be used: {problems[protocol]}")
    raise SettingsError(
        f"unknown protocol {protocol!r}; known are {', '.join(protocol_names())}. "
        f"A package adds one by an entry point in the group {GROUP}"
    )


def make_adapter(settings: NodeSettings, clock: Clock, transport: httpx.BaseTransport | None = None) -> Adapter:
    """The adapter of a configured node, with its controller; connects to nothing. Raises `SettingsError`.

    `transport` replaces the network, the controller's too.
    """
    try:
        kind = adapter_type(settings.protocol)
    except SettingsError as error:
        raise SettingsError(f"node {settings.name!r}: {error}") from None
    controller = make_controller(settings, transport)
    try:
        return kind(settings, controller=controller, clock=clock, transport=transport)
    except SettingsError:
        controller.close()
        raise


def make_adapter_anyhow(settings: NodeSettings, clock: Clock) -> Adapter:
    """`make_adapter`, or, where the node's settings cannot be used, an adapter that says so to every question."""
    try:
        return make_adapter(settings, clock)
    except SettingsError as error:
        return UnusableAdapter(settings, clock, str(error))
    except Exception as error:  # noqa: BLE001 (a plug-in fails in any way; the other nodes must be read)
        return UnusableAdapter(settings, clock, f"the adapter cannot be made: {where(error)}")


def tokens_of(nodes: Iterable[NodeSettings]) -> tuple[str, ...]:
    """The tokens that the protocols of `nodes` are paid in, each once."""
    found: dict[str, None] = {}
    for protocol in dict.fromkeys(node.protocol for node in nodes):
        try:
            token = adapter_type(protocol).token
        except SettingsError:
            continue  # an unknown protocol is told where its node is read
        if token is not None:
            found[token] = None
    return tuple(found)


def asked_elsewhere(protocol: str) -> bool:
    """Whether a cloud is asked about nodes of this protocol, and not their host; False of one that is not known."""
    try:
        return adapter_type(protocol).asked_elsewhere
    except SettingsError:
        return False  # an unknown protocol is told where its node is read


@functools.cache
def _plug_ins() -> tuple[Mapping[str, type[Adapter]], Mapping[str, str]]:
    found: dict[str, type[Adapter]] = {}
    problems: dict[str, str] = {}
    for point in entry_points(group=GROUP):
        try:
            found[point.name] = _load(point, taken=found)
        except Exception as error:  # noqa: BLE001 (foreign code fails in any way; the other protocols must load)
            problems[point.name] = f"{point.value}: {type(error).__name__}: {error}"
            _log.warning("plug-in of protocol %s is left out: %s", point.name, problems[point.name])
    return MappingProxyType(found), MappingProxyType(problems)


def _load(point: EntryPoint, *, taken: Mapping[str, type[Adapter]]) -> type[Adapter]:
    if point.name in _BUILT_IN or point.name in taken:
        raise TypeError("the name of this protocol is taken")
    kind = point.load()
    if not (isinstance(kind, type) and issubclass(kind, Adapter)):
        raise TypeError("is no subclass of orcha_pipeline.protocols.base.Adapter")
    if kind.protocol != point.name:
        raise TypeError(f"its class says protocol {kind.protocol!r}")
    return kind
