"""What is wrong with settings, in words: what was given, and the remedy.

A value that may be a secret is never repeated: not that of a token, nor that of a key we do not know.
"""

import difflib
import json
import re
import types
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import Any, TypeGuard, Union, get_args, get_origin
from urllib.parse import urlsplit
from zoneinfo import ZoneInfo

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from orcha_pipeline.model import RESOURCES, Resources
from orcha_pipeline.settings import (
    ChannelSettings,
    HostScheduleSettings,
    HostSettings,
    HousekeepingSettings,
    LimitSettings,
    NodeScheduleSettings,
    NodeSettings,
    QuietHoursSettings,
    ResourceSettings,
    ScheduleSettings,
    Settings,
)
from orcha_pipeline.timetable import Weekly
from orcha_pipeline.toml_positions import KeyPath

_BYTES = {
    **{f"{letter}{b}": 1000.0**power for power, letter in enumerate(["", "k", "m", "g", "t", "p"]) for b in ("b", "")},
    **{f"{letter}ib": 1024.0**power for power, letter in enumerate(["k", "m", "g", "t", "p"], start=1)},
}
_BITS_PER_SECOND = {
    **{
        f"{letter}{unit}": 1000.0**power
        for power, letter in enumerate(["", "k", "m", "g"])
        for unit in ("bit", "bit/s", "bps")
    },
    **{f"{letter}b/s": 8 * 1000.0**power for power, letter in enumerate(["", "k", "m", "g"])},
}
_SECONDS = {
    name: seconds
    for seconds, names in {
        1.0: "s sec second seconds",
        60.0: "m min minute minutes",
        3600.0: "h hour hours",
        86400.0: "d day days",
    }.items()
    for name in names.split()
}
# End of a key -> (what the number counts, text unit -> base units, base units in one of ours).
_UNITS: dict[str, tuple[str, Mapping[str, float], float]] = {
    "cpu_threads": ("hardware threads", {"threads": 1.0, "cores": 1.0, "cpus": 1.0}, 1.0),
    "_gib": ("gibibytes", _BYTES, 1024.0**3),
    "_gb": ("gigabytes", _BYTES, 1000.0**3),
    "_mbps": ("megabits per second", _BITS_PER_SECOND, 1e6),
    "_seconds": ("seconds", _SECONDS, 1.0),
    "_minutes": ("minutes", _SECONDS, 60.0),
    "_hours": ("hours", _SECONDS, 3600.0),
    "_days": ("days", _SECONDS, 86400.0),
    "_percent": ("per cent", {"%": 1.0, "percent": 1.0}, 1.0),
    "_share": ("parts of 1", {"%": 0.01, "percent": 0.01}, 1.0),
    "pin": ("parts of 1", {"%": 0.01, "percent": 0.01}, 1.0),
    "_watts": ("watts", {"w": 1.0, "watt": 1.0, "watts": 1.0, "kw": 1000.0}, 1.0),
    "_usd_per_kwh": ("US dollars for a kilowatt-hour", {}, 1.0),
}
_QUANTITY = re.compile(r"\s*([0-9][0-9_]*(?:\.[0-9]+)?)\s*(\S*)\s*")
_SECRET_WORDS = ("token", "key", "secret", "password")


@dataclass(frozen=True, slots=True)
class Problem:
    """What is wrong with the value at `path`, and the remedy. `place` where it is not that of the path."""

    path: KeyPath
    text: str
    place: str = ""


def is_model(annotation: object) -> TypeGuard[type[BaseModel]]:
    """True for a type that is a table with fixed keys."""
    return isinstance(annotation, type) and issubclass(annotation, BaseModel)


def is_container(annotation: object) -> bool:
    """True for the type of a table or list, which a variable gives as JSON."""
    return is_model(annotation) or get_origin(annotation) in (tuple, dict)


def keys_of(model: type[BaseModel]) -> dict[str, FieldInfo]:
    """The settings of a table, under the keys the file writes."""
    return {field.alias or name: field for name, field in model.model_fields.items()}


def type_at(path: Sequence[str | int]) -> Any:
    """The type of the setting at `path`, without its bounds; None where there is no such setting."""
    found: Any = Settings
    for part in path:
        if get_origin(found) in (Union, types.UnionType):
            found = next(option for option in get_args(found) if option is not types.NoneType)
        if is_model(found) and part in keys_of(found):
            found = keys_of(found)[str(part)].annotation
        elif get_origin(found) is tuple and isinstance(part, int):
            found = get_args(found)[0]
        elif get_origin(found) is dict and isinstance(part, str):
            found = get_args(found)[1]
        else:
            return None
    return found


_REPEATED: dict[str, type[BaseModel]] = {
    "[[hosts]]": HostSettings,
    "[hosts.capacity]": ResourceSettings,
    "[[hosts.schedules]]": HostScheduleSettings,
    "[[nodes]]": NodeSettings,
    "[nodes.demand]": ResourceSettings,
    "[[nodes.schedules]]": NodeScheduleSettings,
    "[[limits]]": LimitSettings,
    "[[alerts.channels]]": ChannelSettings,
    "[[alerts.quiet_hours]]": QuietHoursSettings,
}


def _homes_of(key: str) -> list[str]:
    """The tables that have a setting of this name, as the file writes them."""
    homes = ["the top of the file"] if key in Settings.model_fields else []
    for name, field in Settings.model_fields.items():
        if is_model(field.annotation) and key in field.annotation.model_fields:
            homes.append(f"[{name}]")
    return homes + [home for home, model in _REPEATED.items() if key in keys_of(model)]


# --- one value that is wrong


def _dotted(path: KeyPath) -> str:
    text = ""
    for part in path:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else part
    return text


def _shown(value: object, path: KeyPath) -> str:
    """The value as the operator wrote it, as far as it cannot hold a secret."""
    name = str(path[-1]) if path else ""
    if any(word in name for word in _SECRET_WORDS) and name != "token_env":
        return "a value (not shown)"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        if "://" in value or name.endswith("url"):  # all of an address but its host may carry a key
            # Of a channel's even the host may be a token.
            return "a text (not shown)" if path[:2] == ("alerts", "channels") else _shown_address(value)
        return json.dumps(value if len(value) <= 40 else value[:40] + "...", ensure_ascii=False)
    if isinstance(value, int | float):
        return str(value)
    return _kind_of(value)


def _shown_address(value: str) -> str:
    scheme, mark, rest = value.rpartition("://")
    host = re.split(r"[/?#]", rest, maxsplit=1)[0].rpartition("@")[2]
    usable = re.fullmatch(r"[A-Za-z0-9.-]{1,60}(:[0-9]{1,5})?", host) and re.fullmatch(r"[a-z]{0,10}", scheme)
    return json.dumps(f"{scheme}{mark}{host}") if usable else "a text (not shown)"


def _kind_of(value: object) -> str:
    kinds: dict[type, str] = {dict: "a table", list: "a list", str: "text", bool: "a truth value"}
    number = "a number" if isinstance(value, int | float) else "a date or time"
    return kinds.get(type(value), number)


def _unit_of(key: str) -> tuple[str, Mapping[str, float], float] | None:
    return next((unit for ending, unit in _UNITS.items() if key.endswith(ending)), None)


def _number_remedy(key: str, value: object) -> str:
    """`disk_gb is a number of gigabytes: 4000`, with the number where the text given can be converted."""
    unit = _unit_of(key)
    remedy = f"{key} is a number of {unit[0]}" if unit else f"{key} is a number"
    found = _QUANTITY.fullmatch(value) if isinstance(value, str) else None
    if found is None:
        return remedy
    number, text_unit = float(found[1]), found[2].lower()
    if not text_unit:
        return f"{remedy}, without quotes: {number:.10g}"
    if unit is None or text_unit not in unit[1]:
        return remedy
    return f"{remedy}: {number * unit[1][text_unit] / unit[2]:.10g}"


def _suggested(word: str, known: Iterable[str]) -> str:
    known = list(known)
    near = difflib.get_close_matches(word, known, n=1, cutoff=0.7)
    return f'did you mean "{near[0]}"?' if near else f"known are: {', '.join(sorted(known))}"


def _unknown_key(path: KeyPath) -> str:
    key = str(path[-1])
    table = type_at(path[:-1])
    known = list(keys_of(table)) if is_model(table) else []
    homes = _homes_of(key)
    if homes and not difflib.get_close_matches(key, known, n=1, cutoff=0.7):
        return f"is not a setting here; it belongs in {' or '.join(homes)}"
    return f"is not a setting; {_suggested(key, known)}"


_RANGES = {
    "greater_than": ("more than", "gt"),
    "greater_than_equal": ("at least", "ge"),
    "less_than": ("less than", "lt"),
    "less_than_equal": ("at most", "le"),
}
_KINDS = {
    "string_type": "it must be text, in quotes",
    "string_sub_type": "it must be text, in quotes",
    "bool_type": "it must be true or false, without quotes",
    "path_type": "it must be a path, in quotes",
    "finite_number": "it must be a finite number",
}


_TABLES = ("dict_type", "model_type", "model_attributes_type")


def explained(details: ErrorDetails) -> Problem:
    """A fault that pydantic found, in an operator's words."""
    path: KeyPath = details["loc"]
    return Problem(path, f"{_dotted(path)} {_fault(details, path)}")


def _fault(details: ErrorDetails, path: KeyPath) -> str:  # noqa: PLR0911 (a table of cases)
    kind, value, key = details["type"], details["input"], str(path[-1])
    context = details.get("ctx", {})
    shown = _shown(value, path)
    if kind == "missing":
        unit = _unit_of(key)
        return f"is missing; add {key} = " + (f"its number of {unit[0]}" if unit else "...")
    if kind == "extra_forbidden":
        return _unknown_key(path)
    if kind.startswith("int_") and isinstance(value, float):
        return f"is {shown}; it must be a whole number"
    if kind in {"float_type", "float_parsing", "int_type", "int_parsing"}:
        return f"is {shown}; {_number_remedy(key, value)}"
    if kind in _RANGES:
        words, bound = _RANGES[kind]
        part = f", a part of 1: {value / 100:g}" if context[bound] == 1 and _is_percent(value) else ""
        return f"is {shown}; it must be {words} {context[bound]:g}{part}"
    if kind == "literal_error":
        known = re.findall(r"'([^']*)'", context["expected"])
        return f"is {shown}; {_suggested(str(value), known)}"
    if kind == "string_pattern_mismatch" and key == "name":
        return f"is {shown}; a name has lower-case letters, digits, - and _ only, up to 63, such as {_slug(value)}"
    if kind == "tuple_type":
        return _list_fault(value, path)
    if kind in _TABLES:
        return f"is {_kind_of(value)}; it must be a table"
    if kind in _KINDS:
        return f"is {shown}; {_KINDS[kind]}"
    return f"is {shown}; {details['msg'].removeprefix('Value error, ')}"


def _list_fault(value: object, path: KeyPath) -> str:
    items = get_args(type_at(path))
    if items and not is_model(items[0]):
        return f"is {_shown(value, path)}; it must be a list, in square brackets"
    table = ".".join(part for part in path if isinstance(part, str))
    return f"is {_kind_of(value)}; each of them is a table of its own, under [[{table}]]"


def _is_percent(value: object) -> TypeGuard[float]:
    return isinstance(value, int | float) and 1 < value <= 100


def _slug(name: object) -> str:
    given = "" if "://" in str(name) else str(name)  # an address in a wrong place may hold a secret
    slug = re.sub(r"[^a-z0-9_]+", "-", given.lower()).strip("-_")[:63]
    return f'"{slug or "my-node"}"'


# --- settings that are each right and together wrong


def contradictions(settings: Settings) -> list[Problem]:
    """Unknown hosts, names or ports given twice, shares and demands that cannot be met, addresses that are none."""
    problems = [
        *_duplicates("hosts", [host.name for host in settings.hosts]),
        *_duplicates("nodes", [node.name for node in settings.nodes]),
        *_duplicates("limits", [limit.name for limit in settings.limits]),
        *_shared_ports(settings),
        *_not_an_address(("prices", "url"), settings.prices.url, ("http", "https")),
        *_not_an_address(("prices", "coinpaprika_url"), settings.prices.coinpaprika_url, ("http", "https")),
        *_not_an_address(("prices", "defillama_url"), settings.prices.defillama_url, ("http", "https")),
        *_not_an_address(("prices", "coinbase_url"), settings.prices.coinbase_url, ("http", "https")),
        *_no_cron(settings.cycle_cron),
        *_kept_too_short(settings.housekeeping),
        *_duplicates("alerts.channels", [channel.name for channel in settings.alerts.channels]),
    ]
    for index, channel in enumerate(settings.alerts.channels):
        problems += _channel_contradictions(("alerts", "channels", index), channel)
    hosts = {host.name: host for host in settings.hosts}
    for index, host in enumerate(settings.hosts):
        problems += _host_schedules(("hosts", index), host)
    for index, node in enumerate(settings.nodes):
        path = ("nodes", index)
        problems += _node_contradictions(path, node)
        if node.host not in hosts:
            remedy = _suggested(node.host, hosts) if hosts else "add a [[hosts]] table of that name"
            problems.append(Problem((*path, "host"), f'{_dotted(path)}.host is "{node.host}", no host; {remedy}'))
        else:
            problems += _more_than_the_host(path, node, hosts[node.host])
    for index, limit in enumerate(settings.limits):
        problems += _limit_contradictions(("limits", index), limit, settings)
    for host in hosts.values():
        problems += _minimum_shares(settings, host) or _minimum_shares_of_a_week(settings, host)
    return problems


def _duplicates(table: str, names: Sequence[str]) -> Iterator[Problem]:
    for index, name in enumerate(names):
        if name in names[:index]:
            path = (*table.split("."), index, "name")
            yield Problem(path, f'{_dotted(path)} is "{name}", taken already; give it another')


def _channel_contradictions(path: KeyPath, channel: ChannelSettings) -> Iterator[Problem]:
    """Nothing of an address is repeated: any part of it may be a token."""
    if channel.url is None and channel.url_env is None:
        yield Problem(path, f"{_dotted(path)} has no address; give url_env, the variable that holds it")
    if channel.url is not None and channel.url_env is not None:
        yield Problem((*path, "url"), f"{_dotted(path)} has a url and a url_env; keep url_env, the safer one")
    if channel.url is not None and not re.match(r"[A-Za-z0-9+-]{2,24}://.", channel.url.get_secret_value()):
        yield Problem(
            (*path, "url"),
            f'{_dotted(path)}.url is no address of Apprise (not shown); it begins with a service, as "ntfy://..." does',
        )
    if channel.url_env is not None and not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", channel.url_env):
        yield Problem(
            (*path, "url_env"),
            f"{_dotted(path)}.url_env is no variable name (not shown); it names the environment variable that holds "
            'the address, such as "MY_CHANNEL"',
        )


def _shared_ports(settings: Settings) -> Iterator[Problem]:
    ports: dict[KeyPath, int] = {("testnet", "port"): settings.testnet.port}
    ports |= {("services", name): port for name, port in settings.services.model_dump().items()}
    count = Counter(ports.values())
    for path, port in ports.items():
        if count[port] > 1:
            others = " and ".join(_dotted(other) for other in ports if other != path and ports[other] == port)
            yield Problem(path, f"{_dotted(path)} is {port}, as is {others}; give each its own port")


def _no_cron(expression: str) -> Iterator[Problem]:
    if not re.fullmatch(r"[0-9*/,-]+(?: +[0-9A-Za-z*/,-]+){4}", expression.strip()):
        yield Problem(
            ("cycle_cron",),
            f'cycle_cron is "{expression}"; it must be a cron expression of five fields, such as "*/15 * * * *"',
        )


def _kept_too_short(kept: HousekeepingSettings) -> Iterator[Problem]:
    if kept.raw_days > kept.kept_days:
        yield Problem(
            ("housekeeping", "kept_days"),
            f"housekeeping.kept_days is {kept.kept_days}, less than its raw_days {kept.raw_days}; "
            "raise the one or lower the other",
        )


def _not_an_address(path: KeyPath, url: str, schemes: Sequence[str]) -> Iterator[Problem]:
    try:
        parts = urlsplit(url)
        usable = parts.scheme in schemes and bool(parts.hostname or (parts.scheme == "unix" and parts.path))
        usable = usable and (parts.port is None or parts.port > 0)
    except ValueError:
        usable = False
    if not usable:
        # `127.0.0.1:14002` alone parses as a path, `localhost:14002` as a scheme.
        bare = re.fullmatch(r"[A-Za-z0-9.-]+(?::[0-9]+)?", url)
        remedy = f'write "http://{url}"' if bare else f"it must begin with {' or '.join(f'{s}://' for s in schemes)}"
        yield Problem(path, f"{_dotted(path)} is {_shown(url, path)}, no address; {remedy}")


def _node_contradictions(path: KeyPath, node: NodeSettings) -> Iterator[Problem]:
    yield from _not_an_address((*path, "url"), node.url, ("http", "https"))
    if node.min_share > node.max_share:
        yield Problem(
            (*path, "min_share"),
            f"{_dotted(path)}.min_share is {node.min_share:g}, above its max_share {node.max_share:g}; "
            "lower the one or raise the other",
        )
    yield from _outside_its_own((*path, "pin"), node.pin, node)
    for index, schedule in enumerate(node.schedules):
        yield from _node_schedule((*path, "schedules", index), schedule, node)
    if node.token is not None and node.token_env is not None:
        yield Problem((*path, "token"), f"{_dotted(path)} has a token and a token_env; keep token_env, the safer one")
    if node.token_env is not None and not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", node.token_env):
        # What does not look like a variable's name is likely the token itself.
        yield Problem(
            (*path, "token_env"),
            f"{_dotted(path)}.token_env is no variable name (not shown); it names the environment variable that holds "
            'the token, such as "MY_TOKEN"',
        )
    controller = (*path, "controller")
    if node.controller.kind == "docker":
        yield from _not_an_address((*controller, "url"), node.controller.url, ("unix", "http", "https"))
        if not node.controller.container:
            yield Problem(
                controller, f"{_dotted(controller)} is of kind docker without a container; give the container's name"
            )
    if node.controller.kind == "systemd" and not node.controller.unit:
        yield Problem(controller, f"{_dotted(controller)} is of kind systemd without a unit; give the service's name")
    if node.controller.kind == "cgroup" and not node.controller.cgroup:
        yield Problem(
            controller, f"{_dotted(controller)} is of kind cgroup without a cgroup; give the path in /proc/PID/cgroup"
        )


def _more_than_the_host(path: KeyPath, node: NodeSettings, host: HostSettings) -> Iterator[Problem]:
    demand, capacity = node.demand.to_model().as_dict(), host.capacity.to_model().as_dict()
    for name in RESOURCES:
        if demand[name] > capacity[name]:
            key = (*path, "demand", name)
            yield Problem(
                key,
                f'{_dotted(key)} is {demand[name]:g}, more than the {capacity[name]:g} of host "{host.name}"; '
                "it is what the node uses at share 1.0: lower it, or correct the host's capacity",
            )


def _outside_its_own(path: KeyPath, share: float | None, node: NodeSettings) -> Iterator[Problem]:
    """Whether a node can be given the share at all: its levers reach from its min_share to its max_share."""
    if share is None or node.min_share > node.max_share or node.min_share <= share <= node.max_share:
        return
    low = share < node.min_share
    key, bound, remedy = ("min_share", node.min_share, "lower") if low else ("max_share", node.max_share, "raise")
    yield Problem(
        path,
        f"{_dotted(path)} is {share:g}, {'below' if low else 'above'} the node's {key} {bound:g}, beyond which it is "
        f"never taken; {remedy} that {key}, or change this",
    )


def _no_day(path: KeyPath, schedule: ScheduleSettings) -> Iterator[Problem]:
    if not schedule.days:
        yield Problem((*path, "days"), f"{_dotted(path)}.days names no day; name some, or leave it out for every day")


def _node_schedule(path: KeyPath, schedule: NodeScheduleSettings, node: NodeSettings) -> Iterator[Problem]:
    yield from _no_day(path, schedule)
    if schedule.min_share is None and schedule.max_share is None and schedule.pin is None:
        yield Problem(path, f"{_dotted(path)} changes nothing; give it a min_share, a max_share or a pin")
    for key in ("min_share", "max_share", "pin"):
        yield from _outside_its_own((*path, key), getattr(schedule, key), node)
    if schedule.min_share is not None and schedule.max_share is not None and schedule.min_share > schedule.max_share:
        yield Problem(
            (*path, "min_share"),
            f"{_dotted(path)}.min_share is {schedule.min_share:g}, above its max_share {schedule.max_share:g}; "
            "lower the one or raise the other",
        )


def _host_schedules(path: KeyPath, host: HostSettings) -> Iterator[Problem]:
    capacity = host.capacity.to_model().as_dict()
    for index, schedule in enumerate(host.schedules):
        table = (*path, "schedules", index)
        yield from _no_day(table, schedule)
        if not schedule.amounts:
            yield Problem(table, f"{_dotted(table)} changes nothing; give it one of {', '.join(RESOURCES)}")
        for name, amount in schedule.amounts.items():
            if amount > capacity[name]:
                yield Problem(
                    (*table, name),
                    f"{_dotted((*table, name))} is {amount:g}, more than the host's {capacity[name]:g}; a schedule "
                    "only takes away: lower it, or raise the host's capacity",
                )


def _limit_contradictions(path: KeyPath, limit: LimitSettings, settings: Settings) -> Iterator[Problem]:
    nodes = {node.name: node for node in settings.nodes}
    if len(limit.nodes) < 2:
        yield Problem(
            (*path, "nodes"),
            f"{_dotted(path)}.nodes names {len(limit.nodes) or 'none'}; name at least 2 (for one, set its max_share)",
        )
    for index, name in enumerate(limit.nodes):
        key = (*path, "nodes", index)
        if name not in nodes:
            remedy = _suggested(name, nodes) if nodes else "add a [[nodes]] table of that name"
            yield Problem(key, f'{_dotted(key)} is "{name}", no node; {remedy}')
        elif name in limit.nodes[:index]:
            yield Problem(key, f'{_dotted(key)} is "{name}", named already; name each node once')
    if (limit.shares is None) != (not limit.amounts):
        limits = {"shares": limit.shares} if limit.shares is not None else limit.amounts
        for name, most in limits.items():
            yield from _limit_below_the_least((*path, name), most, [nodes[n] for n in limit.nodes if n in nodes])
    else:
        remedy = "limit the one here and the other in a table of its own" if limit.amounts else "give it one"
        yield Problem(
            path,
            f"{_dotted(path)} limits {'both' if limit.amounts else 'neither'} shares "
            f"{'and' if limit.amounts else 'nor'} an amount of {', '.join(RESOURCES)}; {remedy}",
        )


def _limit_below_the_least(path: KeyPath, most: float, nodes: Sequence[NodeSettings]) -> Iterator[Problem]:
    name = str(path[-1])
    shares = [_own_least(node) for node in nodes]
    per_share = [1.0 if name == "shares" else node.demand.to_model().as_dict()[name] for node in nodes]
    least = sum(share * use for share, use in zip(shares, per_share, strict=True))
    if least > most * (1 + 1e-9):
        yield Problem(
            path,
            f"{_dotted(path)} is {most:g}, less than the {least:g} that the min_share and pin of its nodes need "
            "together; raise it, or lower some of them",
        )


def _own_least(node: NodeSettings) -> float:
    return node.min_share if node.pin is None else node.pin


def _minimum_shares(settings: Settings, host: HostSettings) -> list[Problem]:
    """The least that all nodes of a host together must get has to fit it, or there is no plan at all."""
    nodes = [(index, node) for index, node in enumerate(settings.nodes) if node.host == host.name]
    least = [_own_least(node) for _, node in nodes]
    problems: list[Problem] = []
    for name, (total, has) in _lacking([node for _, node in nodes], least, host.capacity.to_model()).items():
        alone = [node.demand.to_model().as_dict()[name] > has for _, node in nodes]
        if not any(alone):
            index, node = nodes[-1]
            path = ("nodes", index, "min_share" if node.pin is None else "pin")
            which = "min_share" if all(node.pin is None for _, node in nodes) else "min_share or pin"
            problems.append(
                Problem(
                    path,
                    f'{_dotted(path)}: the {which} of all nodes of host "{host.name}" together need {total:g} {name}, '
                    f"more than its {has:g}; lower some of them",
                )
            )
    return problems


def _minimum_shares_of_a_week(settings: Settings, host: HostSettings) -> list[Problem]:
    """The same at all times of the week: the first time at which it does not fit."""
    nodes = [(index, node) for index, node in enumerate(settings.nodes) if node.host == host.name]
    windows = [schedule.when for _, node in nodes for schedule in node.schedules]
    windows += [schedule.when for schedule in host.schedules]
    paths: list[KeyPath] = [("nodes", index, "schedules") for index, node in nodes if node.schedules]
    if not paths and host.schedules:
        paths = [("hosts", settings.hosts.index(host), "schedules")]
    for moment in sorted({moment for window in windows for moment in _turns(window)}):
        least = [node.bounds_at(moment).least for _, node in nodes]
        for name, (total, has) in _lacking([node for _, node in nodes], least, host.capacity_at(moment)).items():
            path = paths[-1]
            return [
                Problem(
                    path,
                    f'{_dotted(path)}: on a {moment:%A at %H:%M} UTC all nodes of host "{host.name}" together need '
                    f"{total:g} {name}, more than the {has:g} it has then; lower a min_share or pin, or give it more",
                )
            ]
    return []


def _lacking(
    nodes: Sequence[NodeSettings], shares: Sequence[float], capacity: Resources
) -> dict[str, tuple[float, float]]:
    """Each resource of which nodes use more at these shares than there is: what they use, what there is."""
    used = [node.demand.to_model().scaled(share).as_dict() for node, share in zip(nodes, shares, strict=True)]
    totals = {name: sum(amounts[name] for amounts in used) for name in RESOURCES}
    return {name: (totals[name], has) for name, has in capacity.as_dict().items() if totals[name] > has * (1 + 1e-9)}


def _turns(window: Weekly) -> Iterator[datetime]:
    """When it begins and ends in a week of winter and one of summer: what clocks say in other zones differs."""
    zone = ZoneInfo(window.zone)
    for monday in (date(2026, 1, 5), date(2026, 7, 6)):
        for day in window.days:
            begins = monday + timedelta(days=day)
            ends = begins + timedelta(days=window.end <= window.start)
            yield datetime.combine(begins, window.start, zone).astimezone(UTC)
            yield datetime.combine(ends, window.end, zone).astimezone(UTC)


def option_problems(settings: Settings, option_types: Mapping[str, type[BaseModel]]) -> list[Problem]:
    """Protocols that nobody speaks, and options their adapter would refuse."""
    problems: list[Problem] = []
    for index, node in enumerate(settings.nodes):
        path = ("nodes", index)
        if node.protocol not in option_types:
            remedy = _suggested(node.protocol, option_types)
            problems.append(
                Problem((*path, "protocol"), f'{_dotted(path)}.protocol is "{node.protocol}", not installed; {remedy}')
            )
            continue
        options = option_types[node.protocol]
        try:
            options.model_validate(node.options)
        except ValidationError as error:
            for details in error.errors(include_url=False):
                key: KeyPath = (*path, "options", *details["loc"])
                fault = (
                    f"is not an option of {node.protocol}; {_suggested(str(key[-1]), options.model_fields)}"
                    if details["type"] == "extra_forbidden"
                    else _fault(details, key)
                )
                problems.append(Problem(key, f"{_dotted(key)} {fault}"))
    return problems
