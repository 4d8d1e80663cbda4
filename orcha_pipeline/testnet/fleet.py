"""The settings of the embedded testnet: one simulated host with one node a protocol, all of it on loopback."""

from typing import Any

from pydantic import SecretStr

from orcha_pipeline.model import Resources
from orcha_pipeline.settings import ControllerSettings, HostSettings, NodeSettings, ResourceSettings, Settings
from orcha_pipeline.testnet import golem, grass, streamr
from orcha_pipeline.testnet.levers import node_name
from orcha_pipeline.testnet.played import read_terms
from orcha_pipeline.testnet.worlds import GRASS_PER_POINT, PROTOCOLS, seeded_world

HOST = "testnet"


def _resources(amounts: Resources) -> ResourceSettings:
    return ResourceSettings(**amounts.as_dict())


def embedded_settings(settings: Settings) -> Settings:
    """`settings` with the testnet's host, nodes and price source in place of whatever they name.

    Demand and bounds come from the world the testnet plays; its files lie under `settings.home`/testnet. Raises
    `SettingsError` where the world's description cannot be used.
    """
    base = f"http://127.0.0.1:{settings.testnet.port}"
    folder = (settings.home / "testnet").absolute()
    if settings.testnet.world is None:
        world = seeded_world(settings.testnet.seed)
        capacity, terms = world.capacity, world.protocols
    else:
        _, _, capacity, terms = read_terms(settings.testnet.world)
    own: dict[str, dict[str, Any]] = {
        "storj": {
            "url": f"{base}/nodes/{node_name('storj')}",
            "options": {"config_file": str(folder / node_name("storj") / "config.yaml")},
        },
        "golem": {
            "url": f"{base}/nodes/{node_name('golem')}",
            "token": SecretStr(golem.APP_KEY),
            "options": {"data_dir": str(folder / node_name("golem"))},
        },
        "streamr": {
            "url": f"{base}/nodes/{node_name('streamr')}",
            "options": {
                "subgraph_url": f"{base}/thegraph",
                "operator": streamr.OPERATOR,
                "config_file": str(folder / node_name("streamr") / "default.json"),
            },
        },
        "grass": {
            "url": f"{base}/grass",
            "token": SecretStr(grass.TOKEN),
            "options": {"device_id": grass.DEVICE, "grass_per_point": GRASS_PER_POINT},
        },
    }
    nodes = tuple(
        NodeSettings(
            name=node_name(protocol),
            protocol=protocol,
            host=HOST,
            demand=_resources(terms[protocol].demand),
            min_share=terms[protocol].min_share,
            max_share=terms[protocol].max_share,
            controller=ControllerSettings()
            if protocol == "golem"
            else ControllerSettings(kind="docker", url=f"{base}/docker", container=node_name(protocol)),
            simulated=True,
            **own[protocol],
        )
        for protocol in PROTOCOLS
    )
    return settings.model_copy(
        update={
            "hosts": (HostSettings(name=HOST, capacity=_resources(capacity), simulated=True),),
            "nodes": nodes,
            "prices": settings.prices.model_copy(update={"url": f"{base}/coingecko"}),
        }
    )
