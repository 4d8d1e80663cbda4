"""Everything an operator can set, as one typed `Settings`: keys, units, ranges and defaults.

Where the values come from (`orcha.toml`, the environment) is told and read in `settings_file`.
"""

from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any, Literal, get_args
from urllib.parse import urlsplit

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, SecretStr
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from orcha_pipeline.model import Host, Node, Resources

Name = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]{0,62}$")]
Share = Annotated[float, Field(ge=0.0, le=1.0)]
Amount = Annotated[float, Field(ge=0.0, allow_inf_nan=False)]


PriceSourceName = Literal["coingecko", "coinpaprika", "defillama", "coinbase"]
ForecastModel = Literal[
    "seasonal_naive", "seasonal_naive_168", "hour_mean", "linear", "lightgbm", "lightgbm_log1p", "mstl", "theta", "lstm"
]


MLFLOW_VIEW = "workflowType=machine_learning"
"""MLflow's pages open as those for traces and prompts, unless the address asks for those of model training."""


def mlflow_store(home: Path) -> str:
    """MLflow's store below the data folder."""
    return f"sqlite:///{(home / 'mlflow' / 'mlflow.db').resolve()}"


def _no_truth_value(value: object) -> object:
    if isinstance(value, bool):
        raise ValueError("a number, not true or false")  # noqa: TRY004 (pydantic collects ValueError alone)
    return value


# Strictness is off where text is how the value is written: paths, and prices that come from the environment.
UsdPrice = Annotated[float, BeforeValidator(_no_truth_value), Field(gt=0, allow_inf_nan=False, strict=False)]
FilePath = Annotated[Path, Field(strict=False)]


def _host_of(url: str) -> str:
    try:
        return urlsplit(url).hostname or ""
    except ValueError:
        return ""


class Section(BaseModel):
    """A table of the file. Unknown keys and wrong types are errors: a misspelt limit must not be ignored."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class ResourceSettings(Section):
    """The four resources: a host's capacity, or what a node uses at share 1.0."""

    cpu_threads: Amount
    memory_gib: Amount
    disk_gb: Amount
    bandwidth_mbps: Amount

    def to_model(self) -> Resources:
        """As the model's noun."""
        return Resources(**self.model_dump())


class HostSettings(Section):
    """A machine that carries nodes."""

    name: Name
    capacity: ResourceSettings
    simulated: bool = False

    def to_model(self) -> Host:
        """As the model's noun."""
        return Host(name=self.name, capacity=self.capacity.to_model(), simulated=self.simulated)


class ControllerSettings(Section):
    """How the host enforces a limit on this node, and how the node is restarted."""

    kind: Literal["none", "docker", "systemd", "cgroup"] = "none"
    url: str = "unix:///var/run/docker.sock"
    """`docker`: the Engine API, a unix socket or an http address."""
    container: str = ""
    """`docker`: the container's name."""
    unit: str = ""
    """`systemd`: the service, such as `streamr.service`."""
    user_manager: bool = False
    """`systemd`: the unit belongs to the user's own manager (`systemctl --user`)."""
    cgroup: str = ""
    """`cgroup`: the group of the node's processes, as in `/proc/PID/cgroup` (without a mount point)."""
    restart_command: Annotated[tuple[str, ...], Field(strict=False)] = ()
    """`cgroup`: what restarts the node, as a list of program and arguments; it is not given to a shell."""
    interface: str = ""
    """Any kind: the network device all of the node's traffic leaves by; its rate is limited with `tc`."""


class NodeSettings(Section):
    """One protocol's node on one host. `options` holds what only this protocol's adapter knows."""

    name: Name
    protocol: str
    host: str
    url: str
    demand: ResourceSettings
    min_share: Share = 0.05
    """Above 0, so that what the node would earn stays known: a node that has nothing teaches nothing."""
    max_share: Share = 1.0
    token: SecretStr | None = None
    token_env: str | None = None
    """Name of the environment variable that holds the key or token: the safer way."""
    timeout_seconds: Annotated[float, Field(gt=0, le=120)] = 10.0
    """Time budget for reading everything from this node once."""
    controller: ControllerSettings = ControllerSettings()
    options: dict[str, Any] = {}
    simulated: bool = False

    def to_model(self) -> Node:
        """As the model's noun."""
        return Node(
            name=self.name,
            protocol=self.protocol,
            host=self.host,
            demand=self.demand.to_model(),
            min_share=self.min_share,
            max_share=self.max_share,
            simulated=self.simulated,
        )


class PriceSettings(Section):
    """Where token prices come from. `pinned` overrides every source for a token (USD)."""

    sources: Annotated[tuple[PriceSourceName, ...], Field(strict=False)] = ("coingecko", "coinpaprika", "defillama")
    """Which are asked: see `asked_sources`."""
    url: str = "https://api.coingecko.com/api/v3"
    """CoinGecko's address."""
    coinpaprika_url: str = "https://api.coinpaprika.com/v1"
    defillama_url: str = "https://coins.llama.fi"
    coinbase_url: str = "https://api.coinbase.com"
    api_key: SecretStr | None = None
    """CoinGecko's."""
    fresh_minutes: Annotated[float, Field(gt=0)] = 5.0
    """An older price is called an estimate."""
    stale_after_minutes: Annotated[float, Field(gt=0)] = 60.0
    """An older price is not used."""
    pinned: dict[str, UsdPrice] = {}

    @property
    def asked_sources(self) -> tuple[str, ...]:
        """The sources to ask, each once.

        Where `sources` is left as it is and CoinGecko's address was moved off coingecko.com (to the testnet, to a
        proxy), the others only if theirs was moved as well: nothing that was meant to stay inside goes out.
        """
        fields, others = type(self).model_fields, {"coinpaprika": self.coinpaprika_url, "defillama": self.defillama_url}
        if self.sources != fields["sources"].default or _host_of(self.url).endswith("coingecko.com"):
            return tuple(dict.fromkeys(self.sources))
        return ("coingecko", *(name for name, url in others.items() if url != fields[f"{name}_url"].default))

    @property
    def is_local(self) -> bool:
        """Whether every source to ask is on this machine."""
        addresses = {
            "coingecko": self.url,
            "coinpaprika": self.coinpaprika_url,
            "defillama": self.defillama_url,
            "coinbase": self.coinbase_url,
        }
        return all(_host_of(addresses[name]) in ("127.0.0.1", "localhost", "::1") for name in self.asked_sources)


class PlannerSettings(Section):
    """What a change must be worth, and how often the host may change."""

    horizon_hours: Annotated[int, Field(ge=1, le=24)] = 24
    min_gain_percent: Amount = 2.0
    min_gain_usd_per_hour: Amount = 0.0
    min_confidence: Annotated[float, Field(ge=0, le=1)] = 0.6
    hold_minutes: Amount = 60.0
    max_changes_per_hour: Annotated[int, Field(ge=0)] = 4
    response_curvature: Annotated[float, Field(gt=0, le=1)] = 0.9
    """Prior of earnings = yield x share ** curvature, until a node's own history teaches better."""

    @property
    def hold(self) -> timedelta:
        """How long a host rests after a change."""
        return timedelta(minutes=self.hold_minutes)


class ForecastSettings(Section):
    """Training and serving of the yield forecast."""

    candidates: Annotated[tuple[ForecastModel, ...], Field(strict=False)] = get_args(ForecastModel)
    """Which of them are trained and measured; seasonal naive always is."""
    min_history_hours: Annotated[int, Field(ge=25)] = 48
    """Below this a node is forecast by seasonal naive, marked so."""
    seed: int = 7


class TestnetSettings(Section):
    """The emulated nodes that stand in while no node is configured."""

    __test__ = False  # not a test class, whatever pytest thinks of the name

    port: Annotated[int, Field(ge=1, le=65535)] = 8414
    seed: int = 1
    world: FilePath | None = None
    """A world folder to play instead of the seeded one."""
    prices: FilePath | None = None
    """Hourly token prices (`unique_id, ds, y`) to play instead of the seeded ones."""
    history_days: Annotated[int, Field(ge=2, le=365)] = 28
    hosts: Annotated[int, Field(ge=1, le=1000)] = 1
    """How many hosts, each with a node a protocol."""


class ServiceSettings(Section):
    """Loopback addresses of what `orcha up` starts."""

    dagster_port: Annotated[int, Field(ge=1, le=65535)] = 3000
    code_server_port: Annotated[int, Field(ge=1, le=65535)] = 3030
    mlflow_port: Annotated[int, Field(ge=1, le=65535)] = 5050


class Settings(BaseSettings):
    """Everything an operator can set. Made from its arguments alone: `settings_file.load_settings` reads the rest."""

    model_config = SettingsConfigDict(
        env_prefix="ORCHA_", env_nested_delimiter="__", extra="forbid", frozen=True, strict=True
    )

    home: FilePath = Path(".orcha")
    cycle_cron: str = "*/15 * * * *"
    """When a cycle runs: a cron expression in UTC."""
    hosts: Annotated[tuple[HostSettings, ...], Field(strict=False)] = ()
    nodes: Annotated[tuple[NodeSettings, ...], Field(strict=False)] = ()
    prices: PriceSettings = PriceSettings()
    planner: PlannerSettings = PlannerSettings()
    forecast: ForecastSettings = ForecastSettings()
    testnet: TestnetSettings = TestnetSettings()
    services: ServiceSettings = ServiceSettings()

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """The arguments only, so that a stray variable cannot change settings made in code."""
        del settings_cls, env_settings, dotenv_settings, file_secret_settings
        return (init_settings,)

    @property
    def mlflow_store(self) -> str:
        """MLflow's store, written straight into: no server need be up."""
        return mlflow_store(self.home)

    @property
    def warehouse_path(self) -> Path:
        """The DuckDB file."""
        return self.home / "warehouse.duckdb"

    @property
    def uses_testnet(self) -> bool:
        """True when no node is configured: everything shown is then simulated."""
        return not self.nodes
