"""From a node's settings to its host controller."""

import httpx

from orcha_pipeline.controllers.base import Controller
from orcha_pipeline.controllers.cgroup import CgroupController
from orcha_pipeline.controllers.docker import DockerController
from orcha_pipeline.controllers.none import NoController
from orcha_pipeline.controllers.shaped import ShapedController
from orcha_pipeline.controllers.systemd import SystemdController
from orcha_pipeline.controllers.tc import Interface
from orcha_pipeline.settings import NodeSettings


def make_controller(settings: NodeSettings, transport: httpx.BaseTransport | None = None) -> Controller:
    """The controller that `[nodes.controller]` asks for; connects to nothing. Raises `SettingsError`.

    `transport` replaces the network.
    """
    device = settings.controller.interface
    interface = Interface(settings.name, device) if device else None
    processes = _processes(settings, transport)
    return ShapedController(settings.name, processes, interface) if interface else processes


def _processes(settings: NodeSettings, transport: httpx.BaseTransport | None) -> Controller:
    node, given = settings.name, settings.controller
    match given.kind:
        case "docker":
            return DockerController(node, url=given.url, container=given.container, transport=transport)
        case "systemd":
            return SystemdController(node, unit=given.unit, user_manager=given.user_manager)
        case "cgroup":
            return CgroupController(node, group=given.cgroup, restart_command=given.restart_command)
        case "none":
            return NoController(node)
