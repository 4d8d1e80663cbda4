"""The settings of the embedded testnet: simulated hosts with one node a protocol each, all of it on loopback."""

from pathlib import Path
from typing import Any

from pydantic import SecretStr

from orcha_pipeline.model import Resources
from orcha_pipeline.settings import ControllerSettings, HostSettings, NodeSettings, ResourceSettings, Settings
from orcha_pipeline.testnet import golem
from orcha_pipeline.testnet.addresses import docker_path, grass_device, grass_token
from orcha_pipeline.testnet.hosts import host_folder, host_name
from orcha_pipeline.testnet.levers import node_name, operator_address
from orcha_pipeline.testnet.played import read_played_terms
from orcha_pipeline.testnet.worlds import GRASS_PER_POINT, PROTOCOLS, seeded_world


def _resources(amounts: Resources) -> ResourceSettings:
    return ResourceSettings(**amounts.as_dict())


def embedded_settings(settings: Settings) -> Settings:
    """`settings` with the testnet's hosts, nodes and price source in place of whatever they name.

    Demand and bounds come from the worlds the testnet plays; its files lie under `settings.home`/testnet. Raises
    `SettingsError` where a world's description cannot be used.
    """
    testnet = settings.testnet
    base = f"http://127.0.0.1:{testnet.port}"
    state = (settings.home / "testnet").absolute()
    played = None if testnet.world is None else read_played_terms(testnet.world)
    hosts: list[HostSettings] = []
    nodes: list[NodeSettings] = []
    for number in range(1, testnet.hosts + 1):
        if played is None:
            world = seeded_world(testnet.seed + number - 1)
            capacity, terms = world.capacity, world.protocols
        else:
            capacity, terms = played.capacity, played.protocols
        name = host_name(number, testnet.hosts)
        hosts.append(HostSettings(name=name, capacity=_resources(capacity), simulated=True))
        folder = host_folder(state, number, testnet.hosts)
        docker = base + docker_path(name, testnet.hosts)
        own = _own(base, folder, number)
        for protocol in PROTOCOLS:
            node = node_name(protocol, number)
            controller = ControllerSettings(kind="docker", url=docker, container=node)
            nodes.append(
                NodeSettings(
                    name=node,
                    protocol=protocol,
                    host=name,
                    demand=_resources(terms[protocol].demand),
                    min_share=terms[protocol].min_share,
                    max_share=terms[protocol].max_share,
                    controller=ControllerSettings() if protocol == "golem" else controller,
                    simulated=True,
                    **own[protocol],
                )
            )
    return settings.model_copy(
        update={
            "hosts": tuple(hosts),
            "nodes": tuple(nodes),
            "prices": settings.prices.model_copy(update={"url": f"{base}/coingecko", "sources": ("coingecko",)}),
        }
    )


def _own(base: str, folder: Path, number: int) -> dict[str, dict[str, Any]]:
    """Protocol -> what only its node is set to."""
    storj, provider, streamr = (node_name(protocol, number) for protocol in ("storj", "golem", "streamr"))
    return {
        "storj": {
            "url": f"{base}/nodes/{storj}",
            "options": {"config_file": str(folder / storj / "config.yaml")},
        },
        "golem": {
            "url": f"{base}/nodes/{provider}",
            "token": SecretStr(golem.APP_KEY),
            "options": {"data_dir": str(folder / provider)},
        },
        "streamr": {
            "url": f"{base}/nodes/{streamr}",
            "options": {
                "subgraph_url": f"{base}/thegraph",
                "operator": operator_address(streamr),
                "config_file": str(folder / streamr / "default.json"),
            },
        },
        "grass": {
            "url": f"{base}/grass",
            "token": SecretStr(grass_token(number)),
            "options": {"device_id": grass_device(number), "grass_per_point": GRASS_PER_POINT},
        },
    }
