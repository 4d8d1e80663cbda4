"""The adapter changes the provider by its command line, played by a script that keeps its state in files."""

import json
import sys
import textwrap

import pytest

from orcha_pipeline.clock import FixedClock
from orcha_pipeline.errors import AllocationError
from orcha_pipeline.protocols.golem import GolemAdapter
from orcha_pipeline.protocols.http import time_budget
from orcha_pipeline_tests.protocols.answers import golem_routes, offer
from orcha_pipeline_tests.protocols.fakes import NOW, FakeController, Script, no_waiting, settings

# As ya-provider is: `--json` goes before the command and fails on updates, `profile update --all` changes nothing.
PROVIDER = """
import json, pathlib, sys
state = pathlib.Path(sys.argv[1])
arguments = sys.argv[2:]
with (state / "calls").open("a") as calls:
    calls.write(json.dumps(arguments) + "\\n")
spoilt = state / "spoilt.json"
if spoilt.exists():
    how = json.loads(spoilt.read_text())
    if how["when"] in " ".join(arguments):
        sys.stdout.write(how.get("out", ""))
        sys.stderr.write(how.get("err", ""))
        sys.exit(how.get("code", 0))
asked = arguments[:1] == ["--json"]
arguments = arguments[asked:]
file = state / "provider.json"
content = json.loads(file.read_text())
options = dict(zip(arguments[2::2], arguments[3::2])) if arguments[1:2] == ["update"] else {}
if arguments[:2] == ["profile", "active"]:
    print(json.dumps(content["profile"]))
elif arguments[:2] == ["profile", "list"]:
    size = content["size"]
    profile = {"cpu_threads": content["threads"], "mem_gib": float(size["--mem-gib"])}
    print(json.dumps({content["profile"]: profile | {"storage_gib": float(size["--storage-gib"])}}))
elif arguments[:2] == ["preset", "active"]:
    print(json.dumps(content["active"]))
elif arguments[:2] == ["preset", "list"]:
    print(json.dumps(content["presets"]))
elif asked:
    sys.exit("Error: json output not implemented")
elif arguments[:2] == ["profile", "update"]:
    if options.get("--name") == content["profile"]:
        content["threads"], content["size"] = int(options["--cpu-threads"]), options
elif arguments[:2] == ["preset", "update"]:
    rest = arguments[3:]
    pairs = list(zip(rest[::2], rest[1::2]))
    prices = dict(value.split("=") for flag, value in pairs if flag == "--price")
    for preset in content["presets"]:
        if ("--name", preset["name"]) in pairs:
            preset["usage-coeffs"] = {
                "golem.usage.cpu_sec": float(prices.get("CPU", 0)),
                "golem.usage.duration_sec": float(prices.get("Duration", 0)),
            }
            preset["initial-price"] = float(prices.get("Init price", 0))
elif arguments[:2] == ["preset", "deactivate"]:
    content["active"].remove(arguments[2])
elif arguments[:2] == ["preset", "activate"]:
    content["active"].append(arguments[2])
else:
    sys.exit("error: unexpected arguments")
file.write_text(json.dumps(content))
"""


class Provider:
    """The command, its state, and the routes of a yagna that publishes what it says."""

    def __init__(self, folder):
        self.folder = folder
        self.file = folder / "provider.json"
        preset = {
            "exeunit-name": "vm",
            "pricing-model": "linear",
            "initial-price": 0.25,
            "usage-coeffs": {"golem.usage.cpu_sec": 6.9e-6, "golem.usage.duration_sec": 1.4e-6},
        }
        presets = [{"name": name, **preset} for name in ("vm", "wasmtime")]
        size = {"--name": "mine", "--cpu-threads": "3", "--mem-gib": "10.9375", "--storage-gib": "73.57"}
        self.state = {
            "profile": "mine",
            "threads": 3,
            "size": size,
            "active": ["vm", "wasmtime"],
            "presets": presets,
        }
        (folder / "ya-provider.py").write_text(textwrap.dedent(PROVIDER))
        self.cli = [sys.executable, str(folder / "ya-provider.py"), str(folder)]

    @property
    def state(self):
        return json.loads(self.file.read_text())

    @state.setter
    def state(self, content):
        self.file.write_text(json.dumps(content))

    @property
    def calls(self):
        return [json.loads(line) for line in (self.folder / "calls").read_text().splitlines()]

    def spoil(self, when, **how):
        (self.folder / "spoilt.json").write_text(json.dumps({"when": when, **how}))

    def offers(self, _request):
        now = self.state
        active = [preset for preset in now["presets"] if preset["name"] in now["active"]]
        return [offer(now["threads"], *preset["usage-coeffs"].values()) for preset in active]

    def adapter(self, **changes):
        options = {"cli": self.cli} | changes.pop("options", {})
        return GolemAdapter(
            settings("golem", options=options, **changes),
            controller=FakeController(),
            clock=FixedClock(NOW),
            transport=Script(golem_routes() | {"/market-api/v1/offers": self.offers}),
        )


@pytest.fixture
def provider(tmp_path, monkeypatch):
    no_waiting(monkeypatch)
    return Provider(tmp_path)


def test_the_active_profile_is_changed_by_its_name_with_memory_and_storage_in_step(provider):
    change = provider.adapter().apply("cpu_threads", 4)
    assert (change.previous, change.read_back) == (3, 4)
    assert provider.state["size"] == {
        "--name": "mine",
        "--cpu-threads": "4",
        "--mem-gib": "8.0",
        "--storage-gib": "1862.6451",
    }


def test_what_the_operator_had_is_set_back_to_the_last_digit(provider, tmp_path):
    before = provider.state
    options = {"data_dir": str(tmp_path)}
    assert provider.adapter(options=options).apply("cpu_threads", 4).read_back == 4
    assert provider.state["size"]["--mem-gib"] == "8.0"
    # Another process, which knows nothing of this one, sets it back.
    assert provider.adapter(options=options).apply("cpu_threads", 3).read_back == 3
    assert provider.state == before


def test_no_command_has_all_or_asks_an_update_for_json(provider):
    golem = provider.adapter(options={"data_dir": str(provider.folder)}, min_share=0.0)
    golem.apply("cpu_threads", 4)
    golem.apply("cpu_price", 0.036)
    golem.apply("cpu_threads", 0)
    assert not [call for call in provider.calls if "--all" in call]
    changing = {"update", "activate", "deactivate"}
    assert not [call for call in provider.calls if call[0] == "--json" and changing & set(call)]


def test_a_price_leaves_the_other_prices_as_they_are(provider):
    provider.state = provider.state | {"active": ["vm"]}
    golem = provider.adapter()
    assert golem.apply("cpu_price", 0.036).read_back == 0.036
    vm, wasmtime = provider.state["presets"]
    assert vm["usage-coeffs"] == pytest.approx({"golem.usage.cpu_sec": 1e-5, "golem.usage.duration_sec": 1.4e-6})
    assert vm["initial-price"] == 0.25
    assert wasmtime["usage-coeffs"]["golem.usage.cpu_sec"] == 6.9e-6
    (update,) = [call for call in provider.calls if "update" in call]
    assert "e-" not in " ".join(part for part in update if part.startswith(("CPU", "Duration", "Init")))


def test_without_a_folder_to_remember_presets_in_there_is_no_way_to_zero(provider):
    lever = provider.adapter(min_share=0.0).levers()[0]
    assert (lever.writable, lever.minimum) == (True, 1)


def test_zero_threads_and_back_activate_the_same_presets(provider, tmp_path):
    golem = provider.adapter(options={"data_dir": str(tmp_path)}, min_share=0.0)
    assert golem.apply("cpu_threads", 0).read_back == 0
    assert provider.state["active"] == []
    assert golem.allocation().value == 0
    assert golem.apply("cpu_threads", 2).previous == 0
    assert provider.state["active"] == ["vm", "wasmtime"]


def test_a_deactivation_that_stops_half_way_is_put_back(provider, tmp_path):
    provider.spoil("deactivate wasmtime", err="Error: file is locked\n", code=1)
    golem = provider.adapter(options={"data_dir": str(tmp_path)}, min_share=0.0)
    with pytest.raises(AllocationError, match=r"`ya-provider preset deactivate wasmtime` failed \(1\): Error: file is"):
        golem.apply("cpu_threads", 0)
    assert sorted(provider.state["active"]) == ["vm", "wasmtime"]


@pytest.mark.parametrize("output", ["", "null", "{", '{"Ok":"mine"}', "5", "\x00"])
def test_output_that_is_not_understood_makes_the_lever_say_so(provider, output):
    provider.spoil("profile active", out=output)
    lever = provider.adapter().levers()[0]
    assert not lever.writable
    assert "`ya-provider --json profile active` does not give what it should" in lever.why_not


def test_a_command_that_is_not_there_is_told_with_the_remedy(provider):
    lever = provider.adapter(options={"cli": ["/nowhere/ya-provider"]}).levers()[0]
    assert "cannot run /nowhere/ya-provider (No such file or directory); set options.cli" in lever.why_not


def test_a_command_that_hangs_ends_with_the_time_budget(provider):
    hanging = provider.adapter(options={"cli": [sys.executable, "-c", "import time; time.sleep(60)"]})
    with time_budget(0.2):
        assert "has not ended within 0.2 s" in hanging.levers()[0].why_not
