"""From a node's settings to its host controller."""

import httpx

from orcha_pipeline.controllers.base import Controller
from orcha_pipeline.controllers.docker import DockerController
from orcha_pipeline.controllers.none import NoController
from orcha_pipeline.settings import NodeSettings


def make_controller(settings: NodeSettings, transport: httpx.BaseTransport | None = None) -> Controller:
    """The controller that `[nodes.controller]` asks for; connects to nothing. Raises `SettingsError`.

    `transport` replaces the network.
    """
    if settings.controller.kind == "docker":
        return DockerController(
            settings.name, url=settings.controller.url, container=settings.controller.container, transport=transport
        )
    return NoController(settings.name)
