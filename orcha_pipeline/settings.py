"""Everything an operator can set, as one typed `Settings`: keys, units, ranges and defaults.

Where the values come from (`orcha.toml`, the environment) is told and read in `settings_file`.
"""

import difflib
import re
from collections.abc import Mapping
from datetime import datetime, time, timedelta
from pathlib import Path
from typing import Annotated, Any, Literal, TypeGuard, get_args
from urllib.parse import urlsplit
from zoneinfo import ZoneInfo, available_timezones

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, SecretStr, model_validator
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from orcha_pipeline.model import RESOURCES, Host, Mode, Node, Resources
from orcha_pipeline.timetable import DAYS, Bounds, Rule, Weekly, bounds_at

Name = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]{0,62}$")]
Share = Annotated[float, Field(ge=0.0, le=1.0)]
ModeName = Literal["advise", "confirm", "auto"]
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


def _clock(value: object) -> object:
    """A time of day from text such as "18:00"; TOML's own local times pass."""
    if isinstance(value, str) and re.fullmatch(r"([01][0-9]|2[0-3]):[0-5][0-9](:[0-5][0-9])?", value):
        return time.fromisoformat(value)
    if isinstance(value, time) and value.tzinfo is None:
        return value
    raise ValueError('a time of day in quotes, hours and minutes, such as "18:00"')


def _clock_or_24(value: object) -> object:
    return time() if value == "24:00" else _clock(value)


def _known_zone(name: str) -> str:
    try:
        ZoneInfo(name)
    except (KeyError, ValueError, OSError):
        near = difflib.get_close_matches(name, available_timezones(), n=1, cutoff=0.7)
        remedy = f'did you mean "{near[0]}"?' if near else 'such as "Europe/Berlin" or "UTC"'
        raise ValueError(f"no time zone of the IANA database; {remedy}") from None
    return name


Day = Literal["mon", "tue", "wed", "thu", "fri", "sat", "sun"]
BeginTime = Annotated[time, BeforeValidator(_clock)]
EndTime = Annotated[time, BeforeValidator(_clock_or_24)]
ZoneName = Annotated[str, AfterValidator(_known_zone)]


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


class LimitedResources(Section):
    """Amounts of some of the four resources; the others are not spoken of."""

    cpu_threads: Amount | None = None
    memory_gib: Amount | None = None
    disk_gb: Amount | None = None
    bandwidth_mbps: Amount | None = None

    @property
    def amounts(self) -> Mapping[str, float]:
        """Those that are given, by name."""
        return {name: amount for name in RESOURCES if (amount := getattr(self, name)) is not None}


class ScheduleSettings(Section):
    """When something holds: a window of the wall clock in `timezone`, on the days that it begins."""

    model_config = ConfigDict(serialize_by_alias=True)

    begin: BeginTime = Field(alias="from")
    until: EndTime
    """Not after `from`: that of the day after."""
    days: Annotated[tuple[Day, ...], Field(strict=False)] = DAYS
    timezone: ZoneName = "UTC"

    @property
    def when(self) -> Weekly:
        """As a value that can be asked."""
        return Weekly(self.begin, self.until, frozenset(DAYS.index(day) for day in self.days), self.timezone)


class HostScheduleSettings(ScheduleSettings, LimitedResources):
    """What a host has for its nodes at some times of the week, where that is less."""


class NodeScheduleSettings(ScheduleSettings):
    """What a node's share may be at some times of the week."""

    min_share: Share | None = None
    max_share: Share | None = None
    pin: Share | None = None


class HostSettings(Section):
    """A machine that carries nodes."""

    name: Name
    capacity: ResourceSettings
    schedules: Annotated[tuple[HostScheduleSettings, ...], Field(strict=False)] = ()
    simulated: bool = False

    def capacity_at(self, moment: datetime, hours: float = 0.0) -> Resources:
        """The least it has for its nodes from `moment` until `hours` later, that moment too."""
        end, least = moment + timedelta(hours=hours), self.capacity.to_model().as_dict()
        for schedule in self.schedules:
            if schedule.when.touches(moment, end) or schedule.when.covers(end):
                least |= {name: min(least[name], amount) for name, amount in schedule.amounts.items()}
        return Resources(**least)

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
    pin: Share | None = None
    """The operator's own share: the node is brought there and kept."""
    mode: ModeName | None = None
    """Whether it is changed: see `ApplySettings.mode`, which holds where this is not given."""
    frozen: bool = False
    """Never changed by Orcha: it keeps whatever it has, whatever `pin` and `schedules` say."""
    schedules: Annotated[tuple[NodeScheduleSettings, ...], Field(strict=False)] = ()
    power_watts: Amount = 0.0
    """What it draws at share 1.0 beyond what the idle machine draws."""
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

    def bounds_at(self, moment: datetime) -> Bounds:
        """Between which shares it must stay at a moment: see `timetable.bounds_at`."""
        rules = [Rule(when=s.when, least=s.min_share, most=s.max_share, pin=s.pin) for s in self.schedules]
        return bounds_at(moment, least=self.min_share, most=self.max_share, pin=self.pin, rules=rules)


class LimitSettings(LimitedResources):
    """What some nodes, of any hosts, may have together: a sum of shares, or of what they use."""

    name: Name
    nodes: Annotated[tuple[str, ...], Field(strict=False)]
    shares: Amount | None = None
    """Sum of their shares: 1.0 where one address or one subnet counts as one node."""


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


Preset = Literal["cautious", "balanced", "bold", "strict"]
_BALANCED: Mapping[str, float] = {
    "min_gain_percent": 0.0,
    "min_gain_usd_per_hour": 0.0,
    "min_confidence": 0.7,
    "risk_aversion": 0.0,
    "reputation_hours": 0.5,
    "held_risk": 0.0002,
}
PRESETS: Mapping[str, Mapping[str, float]] = {
    "cautious": {
        **_BALANCED,
        "min_confidence": 0.85,
        "risk_aversion": 0.5,
        "reputation_hours": 2.0,
        "held_risk": 0.001,
    },
    "balanced": _BALANCED,
    "bold": {**_BALANCED, "min_confidence": 0.5, "reputation_hours": 0.0, "held_risk": 0.0},
    "strict": {**_BALANCED, "min_gain_percent": 10.0, "min_gain_usd_per_hour": 0.5},
}
"""What a preset sets of `[planner]`, where the operator sets nothing himself."""


def _is_table(value: object) -> TypeGuard[Mapping[str, Any]]:
    return isinstance(value, Mapping)


class PlannerSettings(Section):
    """What a change must be worth, what it is taken to risk, and how often the host may change."""

    preset: Preset = "balanced"
    """Fills every key that `PRESETS` names and that is not given."""
    min_gain_percent: Amount = _BALANCED["min_gain_percent"]
    min_gain_usd_per_hour: Amount = _BALANCED["min_gain_usd_per_hour"]
    min_confidence: Share = _BALANCED["min_confidence"]
    risk_aversion: Share = _BALANCED["risk_aversion"]
    """Part of what a node may earn less than expected (the mean shortfall) that is taken off its yield."""
    reputation_hours: Amount = _BALANCED["reputation_hours"]
    """Hours of a node's earnings that a change which restarts it, or sends a transaction, is taken to cost its
    reputation, where its lever states risks."""
    held_risk: Share = _BALANCED["held_risk"]
    """Part of the amounts the network holds back that such a change is taken to put at risk."""
    power_usd_per_kwh: Amount = 0.0
    exploration: Annotated[float, Field(ge=0, le=0.05)] = 0.0
    """Most part of a host's expected earnings of an hour that may be spent on a small move only made to learn how a
    node's earnings answer; 0 is off."""
    hold_minutes: Amount = 60.0
    max_changes_per_hour: Annotated[int, Field(ge=0)] = 4
    response_curvature: Annotated[float, Field(gt=0, le=1)] = 0.9
    """Prior of earnings = yield x share ** curvature, until a node's own history teaches better."""

    @model_validator(mode="before")
    @classmethod
    def _filled(cls, given: object) -> object:
        if not _is_table(given):
            return given
        preset = given.get("preset", "balanced")
        return {**PRESETS.get(preset if isinstance(preset, str) else "", {}), **given}

    @property
    def hold(self) -> timedelta:
        """How long a host rests after a change."""
        return timedelta(minutes=self.hold_minutes)


class ApplySettings(Section):
    """Whether decisions are carried out, and what the operator is asked."""

    mode: ModeName | None = None
    """Of all nodes that have no `mode` of their own. Without it real nodes are only advised on, and those of the
    testnet are changed."""
    approve_within_minutes: Annotated[float, Field(gt=0)] = 60.0
    """So long a decision in mode `confirm` waits for `orcha approve`."""
    ask_again_hours: Amount = 6.0
    """So long after a request that nobody answered a node in mode `confirm` keeps its share, where others of its
    host could be changed without asking."""
    set_back: bool = True
    """Whether a change that has lost more than it might is set back."""
    set_back_beyond_percent: Amount = 10.0
    """Of what the old shares would have earned: so much more than was likely a change may lose."""
    remember_hours: Amount = 24.0
    """So long the like of a change that was set back is not made."""

    @property
    def approve_within(self) -> timedelta:
        """As a stretch of time."""
        return timedelta(minutes=self.approve_within_minutes)

    @property
    def remember_for(self) -> timedelta:
        """As a stretch of time."""
        return timedelta(hours=self.remember_hours)

    @property
    def ask_again_after(self) -> timedelta:
        """As a stretch of time."""
        return timedelta(hours=self.ask_again_hours)


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


class HousekeepingSettings(Section):
    """How long what is on record is kept. Decisions, what came of them and hourly earnings are kept for good."""

    raw_days: Annotated[int, Field(ge=28)] = 35
    """Every reading, price and forecast, and the plans. Not less than what anomalies are looked for in."""
    kept_days: Annotated[int, Field(ge=91)] = 180
    """What is left of them afterwards, and what is computed from them. Not less than what a training learns from."""
    runs_days: Annotated[int, Field(ge=1)] = 14
    """Dagster's runs with their events."""


SeverityName = Literal["info", "warning", "critical"]


class QuietHoursSettings(ScheduleSettings):
    """When no message is sent: what comes up meanwhile waits for a digest at their end."""


class ChannelSettings(Section):
    """Where messages about alerts go: an address that Apprise understands, which holds a secret."""

    name: Name
    url: SecretStr | None = None
    url_env: str | None = None
    """Name of the environment variable that holds the address: the safer way."""
    min_severity: SeverityName = "info"
    escalation: bool = False
    """Gets what nobody acknowledged in time, and nothing else."""
    messages_per_hour: Annotated[int, Field(ge=1)] = 20
    """At most; what is more goes out in one message. As many critical ones are sent besides."""


class AlertSettings(Section):
    """To whom alerts are told, and when. Without a channel they are shown, and nothing is sent."""

    channels: Annotated[tuple[ChannelSettings, ...], Field(strict=False)] = ()
    quiet_hours: Annotated[tuple[QuietHoursSettings, ...], Field(strict=False)] = ()
    wake_for_critical: bool = True
    """Whether critical alerts are sent in quiet hours all the same."""
    digest_at: BeginTime = time(8)
    """When the daily digest goes out: alerts of severity info."""
    digest_timezone: ZoneName = "UTC"
    min_severity: SeverityName = "info"
    """Below it nothing is sent to any channel."""
    escalate_after_minutes: Amount = 60.0
    """So long after it was told an alert that nobody acknowledged is told again; 0 is never. Not those of info."""

    @property
    def escalate_after(self) -> timedelta | None:
        """As a stretch of time; None: never."""
        return timedelta(minutes=self.escalate_after_minutes) if self.escalate_after_minutes else None


class HealingSettings(Section):
    """Whether nodes in mode auto that do not answer are restarted, and how often."""

    enabled: bool | None = None
    """Without it only the nodes of the testnet are."""
    after_minutes: Amount = 30.0
    """So long a node may come back by itself."""
    first_wait_minutes: Annotated[float, Field(ge=1, allow_inf_nan=False)] = 60.0
    """So long it is left alone after a restart, doubled with each that follows."""
    verify_minutes: Annotated[float, Field(ge=1, le=30)] = 10.0
    """So long after a restart a node may take to answer."""
    restarts_per_month: Annotated[int, Field(ge=0)] = 10
    """In 30 days, of a node whose lever has no such budget of its own."""

    @property
    def after(self) -> timedelta:
        """As a stretch of time."""
        return timedelta(minutes=self.after_minutes)

    @property
    def first_wait(self) -> timedelta:
        """As a stretch of time."""
        return timedelta(minutes=self.first_wait_minutes)

    @property
    def verify_for(self) -> timedelta:
        """As a stretch of time."""
        return timedelta(minutes=self.verify_minutes)


class ServiceSettings(Section):
    """Loopback addresses of what `orcha up` starts, and how large it may grow."""

    dagster_port: Annotated[int, Field(ge=1, le=65535)] = 3000
    code_server_port: Annotated[int, Field(ge=1, le=65535)] = 3030
    mlflow_port: Annotated[int, Field(ge=1, le=65535)] = 5050
    health_port: Annotated[int, Field(ge=1, le=65535)] = 3080
    memory_limit_mib: Annotated[float, Field(ge=1024, allow_inf_nan=False)] = 4096.0
    """A service of which one process is larger is started again."""


class AnomalySettings(Section):
    """From where on something is called wrong. Each rule is told of in docs/alerts.md."""

    earnings_drop_percent: Annotated[float, Field(gt=0, le=100)] = 30.0
    """An hour that earns so much less than was expected of it."""
    flatline_hours: Annotated[int, Field(ge=3, le=168)] = 6
    """So many hours that earn exactly the same."""
    zero_hours: Annotated[int, Field(ge=1, le=168)] = 3
    """So many hours without earnings, in which other nodes of the protocol earn."""
    usage_spike_factor: Annotated[float, Field(gt=1, allow_inf_nan=False)] = 3.0
    """So many times the most that a node used in an hour of the past week."""
    memory_rise_percent: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 30.0
    """So steep a steady rise of a node's memory in a day."""
    clock_skew_seconds: Annotated[float, Field(ge=1, allow_inf_nan=False)] = 60.0
    """So far a node's clock may be from this machine's."""
    score_days: Amount = 7.0
    """A score that will be below what its protocol asks within so many days."""
    invoice_days: Amount = 3.0
    """So long an accepted invoice may wait for its payment."""
    doubtful_percent: Annotated[float, Field(ge=0, le=100)] = 10.0
    """More of what was earned lately than this that may never be paid."""
    low_gas_pol: Amount = 1.0
    """Less POL than this in a wallet. Below the node's own `minimum_pol` it is in danger."""
    gas_days: Amount = 7.0
    """Or a wallet that is empty within so many days."""
    token_days: Amount = 3.0
    """A token that expires within so many days."""
    disk_days: Amount = 7.0
    """A disk that is full within so many days."""
    missed_cycles: Annotated[int, Field(ge=1)] = 2
    """More cycles in a row than this without a decision."""


class BackupSettings(Section):
    """Where backups go, and how many of those made at night are kept."""

    folder: FilePath | None = None
    """Without it `backups` in the data folder: see `Settings.backup_folder`."""
    keep: Annotated[int, Field(ge=1)] = 7
    """Of the archives made at night the last so many; those made by hand stay."""
    nightly: bool = True
    """Whether one is made every night."""


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
    limits: Annotated[tuple[LimitSettings, ...], Field(strict=False)] = ()
    prices: PriceSettings = PriceSettings()
    planner: PlannerSettings = PlannerSettings()
    apply: ApplySettings = ApplySettings()
    forecast: ForecastSettings = ForecastSettings()
    anomalies: AnomalySettings = AnomalySettings()
    housekeeping: HousekeepingSettings = HousekeepingSettings()
    backup: BackupSettings = BackupSettings()
    alerts: AlertSettings = AlertSettings()
    healing: HealingSettings = HealingSettings()
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
    def backup_folder(self) -> Path:
        """Where archives are put that are not told otherwise."""
        return self.backup.folder or self.home / "backups"

    @property
    def modes(self) -> dict[str, Mode]:
        """Node -> whether it is changed, and who is asked before."""
        usual = self.apply.mode
        return {
            node.name: Mode(node.mode or usual or (Mode.AUTO if node.simulated else Mode.ADVISE)) for node in self.nodes
        }

    @property
    def healed(self) -> tuple[NodeSettings, ...]:
        """The nodes whose self-healing is on, whatever their mode."""
        return tuple(
            node for node in self.nodes if (self.healing.enabled is None and node.simulated) or self.healing.enabled
        )

    @property
    def uses_testnet(self) -> bool:
        """True when no node is configured: everything shown is then simulated."""
        return not self.nodes
