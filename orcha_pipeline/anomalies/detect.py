"""All anomalies of one cycle: the rules, the series and the Isolation Forest over what is known of every subject."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from itertools import pairwise
from typing import Any, cast

import numpy as np
import pandas as pd

from orcha_pipeline.anomalies import rules_earnings, rules_node, rules_orcha, rules_protocol
from orcha_pipeline.anomalies.anomaly import Anomaly
from orcha_pipeline.anomalies.catalogue import (
    NODE_AT_RISK,
    SERIES_EARNINGS,
    SERIES_LATENCY,
    SERIES_PRICE,
    SERIES_USAGE,
    SERIES_YIELD,
    UNUSUAL_HOUR,
    Rule,
)
from orcha_pipeline.anomalies.isolation_forest import FEATURES, HourScore, node_features, score_latest
from orcha_pipeline.anomalies.known import HISTORY, Known, Place
from orcha_pipeline.anomalies.rules_earnings import LASTING, SAME_HOUR_DAYS, HourEarned, Hours, same_hour
from orcha_pipeline.anomalies.rules_host import disk_filling
from orcha_pipeline.anomalies.rules_protocol import Owed
from orcha_pipeline.anomalies.trend import SPANS, Samples
from orcha_pipeline.anomalies.watched_series import series_anomaly
from orcha_pipeline.earnings import MAX_GAP
from orcha_pipeline.model import HOUR, HealthReading, HealthState, hour_of, utc
from orcha_pipeline.settings import AnomalySettings
from orcha_pipeline.warehouse.anomaly_inputs import Standing
from orcha_pipeline.warehouse.anomaly_rows import JudgedHour

LATEST = timedelta(hours=3)
"""What was read, or an hour that ended, longer ago than this is history: it was judged when it was new."""
SCORES_OF = max(SPANS)
HOST = "host:"
"""How the machine's own use begins."""


@dataclass(frozen=True, slots=True)
class _Node:
    """One node: its readings and hours, each by time and up to now."""

    name: str
    place: Place
    health: pd.DataFrame
    past: pd.DataFrame
    """`features_hourly` by hour."""
    use: pd.DataFrame | None
    """One column a metric, by hour."""

    @property
    def hours(self) -> pd.DatetimeIndex:
        """Every hour from the first to the last known one."""
        return pd.date_range(self.past.index[0], self.past.index[-1], freq="h")

    def by_hour(self, values: pd.Series) -> list[float | None]:
        """`values` on `hours`; None where unknown."""
        return _known(values.reindex(self.hours))


@dataclass(frozen=True, slots=True)
class Findings:
    """What looks wrong, and the hours that the forest has judged, of nodes that it knows enough of."""

    anomalies: list[Anomaly]
    judged: list[JudgedHour]


def detect(
    known: Known, settings: AnomalySettings, *, stale_after: timedelta = timedelta(hours=1), seed: int = 7
) -> Findings:
    """What looks wrong at `known.now`, by subject and rule; of configured nodes, and of nothing later than now.

    Each node's last complete hour is judged, if it is not older than `LATEST`, against the forecast last issued for
    it, or the same hour of the past 7 days where there is none, and by the forest; its health by the latest reading.
    A price older than `stale_after` is stale.
    """
    now = utc(known.now)
    nodes = _nodes(known, now)
    issued = _with_times(known.forecasts, "hour", "issued_at")
    issued = issued[issued["issued_at"] <= now]
    found: list[Anomaly | None] = []
    judged: list[JudgedHour] = []
    for node in nodes:
        found += _of_health(node, now, settings)
        found += _of_standing(node, [s for s in known.standings if s.node == node.name], now, settings)
        if _is_current(node, now):
            found += _of_hours(node, issued[issued["node"] == node.name], now, settings)
            found += _beside_peers(node, nodes, now, settings)
            if hour := _judged(node, known.judged.get(node.name), seed):
                judged.append(hour)
                found.append(_unusual(node, hour, now))
    found += _of_hosts(known, now, settings)
    found += _of_prices(known, now, stale_after)
    found.append(rules_orcha.clock_jumped(known.clock_jumped, at=now))
    found.append(rules_orcha.missed_cycles(known.decided_at, at=now, most=settings.missed_cycles))
    return Findings([anomaly for anomaly in found if anomaly is not None], judged)


# --- what is known, by node


def _nodes(known: Known, now: datetime) -> list[_Node]:
    hourly = _with_times(known.features, "hour")
    hourly = hourly[(hourly["hour"] + HOUR <= now) & (hourly["hour"] > now - HISTORY)]
    health = _with_times(known.health, "observed_at")
    health = health[health["observed_at"] <= now].sort_values("observed_at")
    used = _hourly_use(known.usage, now)
    return [
        _Node(
            name=name,
            place=place,
            health=health[health["node"] == name],
            past=hourly[hourly["node"] == name].drop_duplicates("hour", keep="last").set_index("hour").sort_index(),
            use=used.get(name),
        )
        for name, place in sorted(known.nodes.items())
    ]


def _is_current(node: _Node, now: datetime) -> bool:
    return not node.past.empty and node.past.index[-1] + HOUR > now - LATEST


# --- a node's readings


def _of_health(node: _Node, now: datetime, settings: AnomalySettings) -> list[Anomaly | None]:
    """What its latest reading says, and where its scores are heading."""
    if node.health.empty or node.health["observed_at"].iloc[-1] < now - LATEST:
        return []
    name, host = node.name, node.place.host
    reading = _reading(node.health.iloc[-1])
    scores = _scores(_lately_told(node.health, now))
    dangers = [
        rules_protocol.score_falling(name, node.place.protocol, scores, at=now, days=settings.score_days, host=host),
        rules_protocol.flagged(name, reading.scores, at=now, host=host),
        rules_protocol.slashed(name, scores, at=now, host=host),
        rules_protocol.low_gas(
            name,
            scores.get(rules_protocol.GAS, ()),
            at=now,
            least=settings.low_gas_pol,
            days=settings.gas_days,
            host=host,
        ),
    ]
    return [
        *_one_danger(rules_node.health_anomaly(name, reading, at=now, host=host), dangers),
        rules_node.clock_skew(name, reading.scores, at=now, seconds=settings.clock_skew_seconds, host=host),
        rules_protocol.token_expiring(name, reading.scores, at=now, days=settings.token_days, host=host),
    ]


def _one_danger(health: Anomaly | None, dangers: Sequence[Anomaly | None]) -> list[Anomaly | None]:
    """That a node is at risk, within the gravest of the dangers that are told by name: it is their being so.

    Nothing is lost by it: the planner goes by the node's state, and what else puts it at risk is in the evidence.
    """
    told = [danger for danger in dangers if danger is not None]
    if health is None or health.rule != NODE_AT_RISK.id or not told:
        return [health, *told]
    worst = max(told, key=lambda danger: danger.severity.rank)
    others = [danger for danger in told if danger is not worst]
    return [replace(worst, severity=health.severity, evidence=f"{worst.evidence}; {health.evidence}"), *others]


def _reading(row: "pd.Series[Any]") -> HealthReading:
    return HealthReading(
        state=HealthState(row["state"]),
        reason=row["reason"],
        error_kind=row["error_kind"],
        latency_seconds=_number(row["latency_seconds"]),
        scores=json.loads(row["scores"]),
    )


def _lately_told(health: pd.DataFrame, now: datetime) -> pd.DataFrame:
    """The readings of `SCORES_OF`, and the last before them that told scores: what changed since is seen beside it."""
    old = health["observed_at"] <= now - SCORES_OF
    return pd.concat([health[old & (health["scores"] != "{}")].tail(1), health[~old]])


def _scores(readings: pd.DataFrame) -> dict[str, list[tuple[datetime, float]]]:
    """Each score by time; where the last reading does not tell one, nothing is known of it now."""
    found: dict[str, list[tuple[datetime, float]]] = {}
    scores: dict[str, float] = {}
    for moment, text in zip(readings["observed_at"], readings["scores"], strict=True):
        scores = json.loads(text)
        for name, value in scores.items():
            found.setdefault(name, []).append((moment.to_pydatetime(), float(value)))
    return {name: samples for name, samples in found.items() if name in scores}


def _of_standing(
    node: _Node, standings: Sequence[Standing], now: datetime, settings: AnomalySettings
) -> list[Anomaly | None]:
    owed = [
        Owed(kind=s.kind, account=s.account, amount=s.amount, unit=s.unit, oldest_at=s.oldest_at) for s in standings
    ]
    return [
        rules_protocol.invoices_ageing(
            node.name,
            owed,
            at=now,
            days=settings.invoice_days,
            percent=settings.doubtful_percent,
            host=node.place.host,
        )
    ]


# --- a node's hours


def _of_hours(node: _Node, promised: pd.DataFrame, now: datetime, settings: AnomalySettings) -> list[Anomaly | None]:
    """What its last complete hour came to, beside its own past."""
    name, host = node.name, node.place.host
    native, end = _native(node), node.past.index[-1].to_pydatetime() + HOUR
    found: list[Anomaly | None] = [
        rules_earnings.flatline(name, native, end=end, at=now, hours=settings.flatline_hours, host=host)
    ]
    if earned := _earned(name, node.past, promised):
        drop = rules_earnings.earnings_drop(earned, at=now, percent=settings.earnings_drop_percent, host=host)
        found.append(drop)
    if node.use is not None:
        uses = {str(metric): node.by_hour(node.use[metric]) for metric in node.use}
        shares = node.by_hour(node.past["share"].ffill())
        found += [
            rules_node.usage_spike(name, uses, shares, at=now, factor=settings.usage_spike_factor, host=host),
            rules_node.memory_leak(name, uses, shares, at=now, percent=settings.memory_rise_percent, host=host),
        ]
    found += _of_series(node, now)
    return found


def _judged(node: _Node, before: JudgedHour | None, seed: int) -> JudgedHour | None:
    """What the forest says of its last complete hour; None where too little is known to tell."""
    if before is not None and before.hour == node.past.index[-1]:
        return before
    table = node_features(node.past, latency=_latency(node.health), usage=node.use)
    scored = score_latest(table, seed=seed).hours
    if not scored:
        return None
    return JudgedHour(
        node=node.name,
        hour=scored[0].hour,
        score=scored[0].score,
        threshold=scored[0].threshold,
        evidence=_strangeness(scored[0]) if scored[0].unusual else "",
    )


def _of_series(node: _Node, now: datetime) -> list[Anomaly | None]:
    """What its series say of their last hour. Of hours in which the node was away, or nobody read it, none is news."""
    name, host = node.name, node.place.host
    hours = pd.date_range(node.past.index[0], hour_of(now) - HOUR, freq="h")
    watched: list[tuple[Rule, dict[str, pd.Series]]] = [(SERIES_YIELD, {"yield": node.past["yield_usd"]})]
    if not (_was_away(node, now) or _was_unread(node, now)):
        # At full share where that is known: a share that is changed is no event of the node's.
        known = node.past["yield_native"].notna().mean() > 0.5
        what, column = ("native earnings at full share", "yield_native") if known else ("native earnings", "net_native")
        watched.append((SERIES_EARNINGS, {what: node.past[column]}))
    if (latency := _latency(node.health)) is not None:
        watched.append((SERIES_LATENCY, {"answer time": latency}))
    if node.use is not None:
        metrics = {str(metric): node.use[metric] for metric in node.use if metric in rules_node.SPIKING}
        watched.append((SERIES_USAGE, metrics))
    return [
        series_anomaly(
            rule,
            name,
            {what: _known(values.reindex(hours)) for what, values in series.items()},
            end=hour_of(now),
            at=now,
            host=host,
        )
        for rule, series in watched
    ]


def _was_away(node: _Node, now: datetime) -> bool:
    """Whether it was away in the last hours: what it did not tell then is no news of its own."""
    lately = node.health[node.health["observed_at"] > now - LATEST]
    return bool(lately["state"].isin([HealthState.UNREACHABLE.value, HealthState.ERROR.value]).any())


def _was_unread(node: _Node, now: datetime) -> bool:
    """Whether nobody read it for long in the last hours: Orcha was away itself, and those hours stay unknown."""
    read = node.health["observed_at"]
    # The last reading before them counts: the gap may have begun with it.
    times = [*read[read <= now - LATEST].tail(1), *read[read > now - LATEST], now]
    return any(later - at > MAX_GAP for at, later in pairwise(times))


def _native(node: _Node) -> Hours:
    """What it earned by the hour in its own unit."""
    return node.by_hour(node.past["net_native"])


def _beside_peers(
    node: _Node, nodes: Sequence[_Node], now: datetime, settings: AnomalySettings
) -> list[Anomaly | None]:
    peers = [
        other
        for other in nodes
        if other.name != node.name
        and other.place.protocol == node.place.protocol
        and not other.past.empty
        and other.past.index[-1] == node.past.index[-1]
    ]
    return [
        rules_earnings.zero_while_peers_earn(
            node.name,
            _native(node),
            [_native(peer) for peer in peers],
            end=node.past.index[-1].to_pydatetime() + HOUR,
            at=now,
            hours=settings.zero_hours,
            host=node.place.host,
        )
    ]


# --- what is no node


def _of_hosts(known: Known, now: datetime, settings: AnomalySettings) -> list[Anomaly | None]:
    found: list[Anomaly | None] = []
    uses = _host_use(known.usage, now)
    for host in sorted({place.host for place in known.nodes.values()}):
        use = uses.get(host)
        if use is None or not {"disk_used_bytes", "disk_total_bytes"} <= set(use.columns):
            continue
        disk = use[["disk_used_bytes", "disk_total_bytes"]].dropna()
        disk = disk[disk.index > now - SCORES_OF]
        if not disk.empty and disk.index[-1] > now - LATEST:
            hours = cast("pd.DatetimeIndex", disk.index).to_pydatetime()
            used: Samples = list(zip(hours.tolist(), disk["disk_used_bytes"].tolist(), strict=True))
            total = float(disk["disk_total_bytes"].iloc[-1])
            found.append(disk_filling(host, used, total, at=now, days=settings.disk_days))
    found += [
        rules_orcha.allocation_failed(change.host, change.status, change.reason, change.ended_at, at=now)
        for change in known.changes
    ]
    return found


def _of_prices(known: Known, now: datetime, stale_after: timedelta) -> list[Anomaly | None]:
    if known.prices is None:
        return []
    prices = _with_times(known.prices, "observed_at", "priced_at")
    found: list[Anomaly | None] = []
    for name, own in prices[prices["observed_at"] <= now].groupby("token"):
        token, believed = str(name), cast("pd.Timestamp", own["priced_at"].iloc[-1]).to_pydatetime()
        found.append(rules_orcha.price_stale(token, believed, at=now, after=stale_after))
        by_hour = own.groupby(own["observed_at"].dt.floor("h"))["usd"].last()
        hours = pd.date_range(by_hour.index[0], hour_of(now) - HOUR, freq="h")
        series = {"price": _known(by_hour.reindex(hours))}
        found.append(series_anomaly(SERIES_PRICE, token, series, end=hour_of(now), at=now))
    return found


# --- frames


def _known(values: pd.Series) -> list[float | None]:
    return [None if np.isnan(value) else value for value in values.astype(float).tolist()]


def _with_times(frame: pd.DataFrame, *columns: str) -> pd.DataFrame:
    return frame.assign(**{column: pd.to_datetime(frame[column], utc=True) for column in columns})


def _number(value: Any) -> float | None:
    return None if value is None or pd.isna(value) else float(value)


def _earned(node: str, past: pd.DataFrame, forecasts: pd.DataFrame) -> HourEarned | None:
    """The last hour beside its expectation, in the first terms in which both are known.

    Yields come first: they are what the node earned as if at full share, so that a changed share is no drop.
    """
    hour = cast("pd.Timestamp", past.index[-1])
    when = hour.to_pydatetime()
    known = ((column, _against_past(past, column, hour)) for column in ("yield_native", "net_native"))
    column, native = next(((column, found) for column, found in known if found), ("net_usd", None))
    ratio = native[0] / native[1] if native and native[1] > 0 else None
    promised = _promised(forecasts, hour)
    yielded = _number(past["yield_usd"].iloc[-1])
    if yielded is not None and promised is not None:
        return HourEarned(
            node=node,
            hour=when,
            earned=yielded,
            expected=_number(promised["p50"]),
            unit="USD at full share",
            source=f"forecast of {promised['issued_at']:%Y-%m-%d %H:%M}",
            native_ratio=ratio,
            low=_number(promised["p10"]),
            before=[_beside_promise(past, forecasts, hour - ago * HOUR) for ago in range(LASTING - 1, 0, -1)],
        )
    if found := native or _against_past(past, column, hour):
        value, expected, low = found
        return HourEarned(
            node=node,
            hour=when,
            earned=value,
            expected=expected,
            unit="native units" if native else "USD",
            source=f"median of the same hour in the past {SAME_HOUR_DAYS} days",
            low=low,
            low_told="the least of these was",
            before=[
                (None, None) if (earlier := _against_past(past, column, hour - ago * HOUR)) is None else earlier[:2]
                for ago in range(LASTING - 1, 0, -1)
            ],
        )
    return None


def _promised(forecasts: pd.DataFrame, hour: pd.Timestamp) -> "pd.Series[Any] | None":
    """The last forecast for an hour that could not know it."""
    issued = forecasts[(forecasts["hour"] == hour) & (forecasts["issued_at"] < hour + HOUR)]
    return None if issued.empty else issued.sort_values("issued_at").iloc[-1]


def _beside_promise(
    past: pd.DataFrame, forecasts: pd.DataFrame, hour: pd.Timestamp
) -> tuple[float | None, float | None]:
    """What an hour yielded in USD, and what its forecast said."""
    promised = _promised(forecasts, hour)
    return _number(past["yield_usd"].get(hour)), None if promised is None else _number(promised["p50"])


def _against_past(past: pd.DataFrame, column: str, hour: pd.Timestamp) -> tuple[float, float, float] | None:
    """The value of an hour, and median and least of the same hour in the past days, where they are known."""
    values = past[column]
    earlier = [_number(values.get(hour - timedelta(days=day))) for day in range(1, SAME_HOUR_DAYS + 1)]
    value, expected = _number(values.get(hour)), same_hour(earlier)
    return None if value is None or expected is None else (value, *expected)


def _latency(readings: pd.DataFrame) -> pd.Series | None:
    if readings.empty:
        return None
    hours = readings["observed_at"].dt.floor("h")
    return readings["latency_seconds"].astype(float).groupby(hours).mean()


def _hourly_use(usage: pd.DataFrame | None, now: datetime) -> dict[str, pd.DataFrame]:
    """By node, one column a metric by full hour: the mean of a gauge, the increase of a counter (`…_total`) an hour."""
    if usage is None or usage.empty:
        return {}
    hourly = _with_times(usage, "hour", "read_at")
    hourly = hourly[hourly["hour"] < hour_of(now)].sort_values(["node", "metric", "hour"])
    counters = hourly["metric"].str.endswith("_total")
    earlier = hourly.groupby(["node", "metric"])[["last", "read_at"]].shift()
    # Readings need not lie an hour apart: what is counted is the rate between the last of two hours.
    hours = (hourly["read_at"] - earlier["read_at"]).dt.total_seconds() / 3600
    rise = ((hourly["last"] - earlier["last"]) / hours).where(hourly["last"] >= earlier["last"])  # else it began anew
    value = hourly["mean"].where(~counters, rise)
    return _tables(hourly, value)


def _host_use(usage: pd.DataFrame | None, now: datetime) -> dict[str, pd.DataFrame]:
    """By host, one column a metric by hour: as it last stood."""
    if usage is None or usage.empty:
        return {}
    hourly = _with_times(usage[usage["node"].str.startswith(HOST)], "hour")
    hourly = hourly[hourly["hour"] < now]
    found = _tables(hourly, hourly["last"])
    return {name.removeprefix(HOST): table for name, table in found.items()}


def _tables(hourly: pd.DataFrame, value: pd.Series) -> dict[str, pd.DataFrame]:
    rows = hourly[["node", "hour", "metric"]].assign(value=value.astype(float)).set_index(["hour", "metric"])
    return {
        str(name): own["value"].unstack("metric")  # noqa: PD010 (each stands there once: pivot_table would average)
        for name, own in rows.groupby("node")
    }


def _strangeness(hour: HourScore) -> str:
    """What the forest found strange, told by the features furthest from the ordinary."""
    away = {name: 10 * (1 - value) if name == "health" else abs(value) for name, value in hour.features.items()}
    order = [name for name in sorted(away, key=lambda name: away[name], reverse=True) if away[name] >= 1]
    told = [f"{FEATURES[name]}: {_deviation(name, hour.features[name])}" for name in order[:3]]
    return (
        f"the hour from {hour.hour:%Y-%m-%d %H:%M} UTC is unlike its past (score {hour.score:.3f}, unusual "
        f"above {hour.threshold:.3f}); {'; '.join(told) or 'no single value stands out'}"
    )


def _unusual(node: _Node, hour: JudgedHour, now: datetime) -> Anomaly | None:
    if not hour.evidence:
        return None
    return UNUSUAL_HOUR.found(node.name, hour.evidence, at=now, host=node.place.host, score=hour.score, since=hour.hour)


def _deviation(name: str, value: float) -> str:
    return f"{100 * value:.0f} %" if name == "health" else f"{value:+.1f} typical deviations"
