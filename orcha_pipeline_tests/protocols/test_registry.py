import subprocess
import sys
from importlib.metadata import EntryPoint

import pytest

from orcha_pipeline.clock import FixedClock
from orcha_pipeline.controllers.docker import DockerController
from orcha_pipeline.controllers.none import NoController
from orcha_pipeline.errors import SettingsError
from orcha_pipeline.protocols import registry
from orcha_pipeline.protocols.storj import StorjAdapter
from orcha_pipeline_tests.protocols.answers import OPERATOR
from orcha_pipeline_tests.protocols.fakes import NOW, Script, settings

HERE = "orcha_pipeline_tests.protocols.test_registry"


class Mesh(StorjAdapter):
    protocol = "mesh"
    asked_elsewhere = True


class Impostor(StorjAdapter):
    protocol = "other"


@pytest.fixture
def plug_ins(monkeypatch):
    """Install entry points for the test: (name, value) pairs."""

    def install(*points):
        found = [EntryPoint(name=name, value=value, group=registry.GROUP) for name, value in points]
        monkeypatch.setattr(registry, "entry_points", lambda group: found if group == registry.GROUP else [])
        registry._plug_ins.cache_clear()

    yield install
    monkeypatch.undo()
    registry._plug_ins.cache_clear()


def test_the_four_protocols_are_built_in_and_say_what_they_earn():
    assert registry.protocol_names()[:4] == ("storj", "golem", "streamr", "grass")
    units = {name: registry.adapter_type(name).native_unit for name in registry.protocol_names()[:4]}
    assert units == {"storj": "USD", "golem": "GLM", "streamr": "DATA", "grass": "GRASS_POINT"}
    tokens = {name: registry.adapter_type(name).token for name in registry.protocol_names()[:4]}
    assert tokens == {"storj": None, "golem": "golem", "streamr": "streamr", "grass": "grass"}


@pytest.mark.parametrize("protocol", ["storj", "golem", "streamr", "grass"])
def test_each_node_gets_its_adapter_without_a_connection(protocol):
    options = {"subgraph_url": "http://127.0.0.1:1/", "operator": OPERATOR} if protocol == "streamr" else {}
    script = Script({})
    adapter = registry.make_adapter(settings(protocol, options=options), FixedClock(NOW), script)
    assert (adapter.protocol, adapter.node) == (protocol, f"{protocol}-1")
    assert isinstance(adapter.controller, NoController)
    assert adapter.tokens_per_native == (None if protocol == "grass" else 1)
    adapter.close()
    assert script.requests == []


def test_the_controller_is_the_one_configured():
    controller = {"kind": "docker", "url": "http://127.0.0.1:1/docker", "container": "storagenode"}
    adapter = registry.make_adapter(settings("storj", controller=controller), FixedClock(NOW), Script({}))
    assert isinstance(adapter.controller, DockerController)


def test_an_unknown_protocol_names_the_node_and_those_there_are():
    with pytest.raises(SettingsError, match=r"'helium-1': unknown protocol 'helium'; known are storj, golem"):
        registry.make_adapter(settings("helium"), FixedClock(NOW))


def test_a_plug_in_adds_its_protocol(plug_ins):
    plug_ins(("mesh", f"{HERE}:Mesh"))
    assert registry.protocol_names() == ("storj", "golem", "streamr", "grass", "mesh")
    assert isinstance(registry.make_adapter(settings("mesh"), FixedClock(NOW), Script({})), Mesh)


def test_of_which_protocols_a_cloud_is_asked_they_say_themselves(plug_ins):
    plug_ins(("mesh", f"{HERE}:Mesh"))
    asked = {name: registry.asked_elsewhere(name) for name in ("storj", "golem", "streamr", "grass", "mesh", "none")}
    assert [name for name, elsewhere in asked.items() if elsewhere] == ["grass", "mesh"]


def test_a_broken_plug_in_is_told_by_name_and_the_rest_load(plug_ins):
    plug_ins(
        ("broken", "no_such_package:Adapter"),
        ("mesh", f"{HERE}:Mesh"),
        ("impostor", f"{HERE}:Impostor"),
        ("storj", f"{HERE}:Mesh"),
        ("text", "sys:version"),
    )
    assert registry.protocol_names() == ("storj", "golem", "streamr", "grass", "mesh")
    problems = registry.plug_in_problems()
    assert "no_such_package" in problems["broken"]
    assert "'other'" in problems["impostor"]
    assert "taken" in problems["storj"]
    assert "no subclass" in problems["text"]
    assert registry.adapter_type("storj") is StorjAdapter
    with pytest.raises(SettingsError, match=r"'broken-1': the plug-in of protocol 'broken' cannot be used"):
        registry.make_adapter(settings("broken"), FixedClock(NOW))


def test_importing_the_registry_loads_no_adapter_and_nothing_heavy():
    code = (
        "import sys, orcha_pipeline.protocols.registry as r; r.protocol_names();"
        "heavy = ('duckdb', 'pandas', 'numpy', 'tensorflow', 'dagster', 'orcha_pipeline.protocols.storj');"
        "print([m for m in heavy if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
