"""Reading `orcha.toml` and the environment into `Settings`, and writing the example `orcha init` starts from.

Order of precedence: environment (`ORCHA_PLANNER__HOLD_MINUTES=30`), then the file, then the defaults in `settings`.
Everything that cannot be used is told at once, each with its place and its remedy.
"""

import difflib
import json
import os
import re
import tomllib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any, TypeGuard

from pydantic import BaseModel, ValidationError
from pydantic_settings import EnvSettingsSource

from orcha_pipeline.errors import SettingsError
from orcha_pipeline.settings import Settings
from orcha_pipeline.settings_problems import (
    Problem,
    contradictions,
    explained,
    is_container,
    is_model,
    option_problems,
    type_at,
)
from orcha_pipeline.toml_positions import KeyPath, key_positions

PREFIX = "ORCHA_"
CONFIG_VARIABLE = "ORCHA_CONFIG"
DEFAULT_NAME = "orcha.toml"


def load_settings(
    config: Path | None = None,
    environ: Mapping[str, str] | None = None,
    *,
    option_types: Mapping[str, type[BaseModel]] | None = None,
) -> Settings:
    """The settings in force: environment over file over defaults. Relative paths become absolute.

    The file is `config`, else the one that `ORCHA_CONFIG` names, else `./orcha.toml` if there is one. Relative paths
    are taken from the file's folder, without a file from the working directory. An empty variable counts as not set.

    `option_types` (protocol -> type of its `[nodes.options]`) lets the protocols and their options be checked too.
    Raises `SettingsError` with every problem found.
    """
    environ = os.environ if environ is None else environ
    file = _config_file(config, environ)
    text = "" if file is None else _read(file)
    from_file = {} if file is None else _parse(file, text)
    from_environment = _environment(environ)
    values = _merged(from_file, from_environment.values)
    problems = [*from_environment.problems, *_misspelt_variables(environ, except_for=_token_variables(values))]
    settings = None
    try:
        settings = Settings(**values)
    except ValidationError as error:
        problems += [explained(details) for details in error.errors(include_url=False)]
    if settings is not None:
        problems += contradictions(settings)
        if option_types is not None:
            problems += option_problems(settings, option_types)
    if settings is None or problems:
        raise SettingsError(_report(problems, _Places(file, key_positions(text), from_environment)))
    return _with_absolute_paths(settings, Path.cwd() if file is None else file.parent)


def settings_path(config: Path | None = None, environ: Mapping[str, str] | None = None) -> Path | None:
    """The file that `load_settings` reads with the same arguments, None where there is none. Raises `SettingsError`."""
    return _config_file(config, os.environ if environ is None else environ)


def write_example(path: Path) -> None:
    """Write the commented `orcha.toml`. Raises `SettingsError` if something is there already or it cannot be written.

    The file is the owner's alone to read (mode 600), for tokens may be put into it.
    """
    text = resources.files("orcha_pipeline").joinpath("orcha.example.toml").read_text(encoding="utf-8")
    try:
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError:
        raise SettingsError(f"{path} exists and is left as it is; move it away first, or name another file") from None
    except OSError as error:
        raise SettingsError(f"{path} cannot be written: {error.strerror}") from None


# --- the file


def _config_file(config: Path | None, environ: Mapping[str, str]) -> Path | None:
    named = environ.get(CONFIG_VARIABLE, "")
    if config is None and not named:
        default = Path(DEFAULT_NAME)
        return default.absolute() if default.exists() else None
    file = (config or Path(named)).expanduser().absolute()
    if not file.exists():
        by = "" if config is not None else f" ({CONFIG_VARIABLE} names it)"
        raise SettingsError(f"{file}: there is no such settings file{by}; name another, or write one with orcha init")
    return file


def _read(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise SettingsError(f"{file} is not UTF-8 text (byte {error.start + 1}); save it as UTF-8") from None
    except OSError as error:
        raise SettingsError(f"{file} cannot be read: {error.strerror}") from None


def _parse(file: Path, text: str) -> dict[str, Any]:
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        message = str(error)
        found = re.search(r" \(at (?:line (\d+), column (\d+)|end of document)\)$", message)
        place = f":{found[1]}:{found[2]}" if found and found[1] else f":{len(text.splitlines())}"
        hint = "; text stands in quotes, a number without" if message.startswith("Invalid value") else ""
        what = message[: found.start()] if found else message
        raise SettingsError(f"{file}{place}: this is not TOML: {what}{hint}") from None


# --- the environment


@dataclass(frozen=True, slots=True)
class _Environment:
    """The values that variables give as a tree, the variable of each path, and what cannot be used."""

    values: Mapping[str, Any]
    variables: Mapping[KeyPath, str]
    problems: Sequence[Problem]


def _setting_variables(environ: Mapping[str, str]) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Each variable under our prefix that is set, and the path it stands for."""
    for name in sorted(environ):
        if name.startswith(PREFIX) and name != CONFIG_VARIABLE and environ[name]:
            yield name, tuple(name.removeprefix(PREFIX).lower().split("__"))


def _environment(environ: Mapping[str, str]) -> _Environment:
    variables: dict[KeyPath, str] = {}
    problems: list[Problem] = []
    for name, path in _setting_variables(environ):
        expected = type_at(path)
        if expected is None:
            continue
        if is_container(expected) and (fault := _json_fault(environ[name])):
            problems.append(Problem(path, f"{fault}; a table or list is given as JSON", place=_variable(name)))
            continue
        variables[path] = name
    source = EnvSettingsSource(Settings)
    source.env_vars = {name.lower(): environ[name] for name in variables.values()}
    return _Environment(source(), variables, problems)


def _json_fault(text: str) -> str:
    try:
        json.loads(text)
    except json.JSONDecodeError as error:
        return f"this is not JSON at character {error.pos + 1}"  # the error's own text would repeat the value
    return ""


def _misspelt_variables(environ: Mapping[str, str], *, except_for: Iterable[str]) -> Iterator[Problem]:
    """A variable under our prefix is a mistake if it looks like one of ours, else it is somebody else's."""
    known = list(_variable_names(Settings, PREFIX))
    for name, path in _setting_variables(environ):
        if name in except_for or type_at(path) is not None:
            continue
        near = difflib.get_close_matches(name, known, n=1, cutoff=0.85)
        if path[0] in ("hosts", "nodes", "limits"):
            remedy = f"one of the {path[0]} is set in the file; all of them, as JSON, in {PREFIX}{path[0].upper()}"
        elif near:
            remedy = f"did you mean {near[0]}?"
        elif len(path) > 1:
            remedy = "docs/configuration.md lists those there are"
        else:
            continue
        yield Problem(path, f"there is no such setting; {remedy}", place=_variable(name))


def _variable(name: str) -> str:
    return f"environment variable {name}"


def _variable_names(model: type[BaseModel], prefix: str) -> Iterator[str]:
    for name, field in model.model_fields.items():
        yield f"{prefix}{name.upper()}"
        if is_model(field.annotation):
            yield from _variable_names(field.annotation, f"{prefix}{name.upper()}__")


def _token_variables(values: Mapping[str, Any]) -> set[str]:
    """The variables that nodes keep their tokens in, and channels their addresses: they may begin with our prefix."""
    alerts: object = values.get("alerts")
    nodes, channels = values.get("nodes"), alerts.get("channels") if _is_table(alerts) else None
    named = [node.get("token_env") for node in nodes if _is_table(node)] if _is_list(nodes) else []
    named += [channel.get("url_env") for channel in channels if _is_table(channel)] if _is_list(channels) else []
    return {name for name in named if isinstance(name, str)}


# --- the two together


@dataclass(frozen=True, slots=True)
class _Places:
    """Finds where the value at a path was given."""

    file: Path | None
    positions: Mapping[KeyPath, tuple[int, int]]
    environment: _Environment

    def of(self, path: KeyPath) -> str:
        """`FILE:LINE:COLUMN`, or the variable; of the nearest table around it where the value itself is missing."""
        if _has(self.environment.values, path) or path[:1] not in self.positions:
            for length in range(len(path), 0, -1):
                if name := self.environment.variables.get(path[:length]):
                    return _variable(name)
        line, column = self.rank(path)
        return f"{self.file}:{line}:{column}" if line else str(self.file or "settings")

    def rank(self, path: KeyPath) -> tuple[int, int]:
        """Line and column in the file, (0, 0) for what does not stand in it."""
        around = (self.positions.get(path[:length]) for length in range(len(path), 0, -1))
        return next((position for position in around if position), (0, 0))


def _report(problems: Sequence[Problem], places: _Places) -> str:
    in_order = sorted(problems, key=lambda problem: places.rank(problem.path))
    lines = [f"{problem.place or places.of(problem.path)}: {problem.text}" for problem in in_order]
    if len(lines) == 1:
        return lines[0]
    return "\n".join([f"{len(lines)} settings cannot be used:", *(f"  {line}" for line in lines)])


def _is_table(value: object) -> TypeGuard[dict[str, Any]]:
    return isinstance(value, dict)


def _is_list(value: object) -> TypeGuard[list[object]]:
    return isinstance(value, list)


def _has(tree: object, path: KeyPath) -> bool:
    if not path:
        return True
    part, rest = path[0], path[1:]
    if _is_list(tree):
        return isinstance(part, int) and part < len(tree) and _has(tree[part], rest)
    return _is_table(tree) and part in tree and _has(tree[part], rest)


def _merged(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(below)
    for key, value in above.items():
        known = merged.get(key)
        merged[key] = _merged(known, value) if _is_table(known) and _is_table(value) else value
    return merged


def _with_absolute_paths(settings: Settings, folder: Path) -> Settings:
    def absolute(path: Path) -> Path:
        try:
            return folder / path.expanduser()
        except RuntimeError:
            raise SettingsError(f"{path}: there is no such user; write the folder out") from None

    testnet = settings.testnet
    files = {name: path and absolute(path) for name, path in (("world", testnet.world), ("prices", testnet.prices))}
    backup = settings.backup.model_copy(update={"folder": settings.backup.folder and absolute(settings.backup.folder)})
    return settings.model_copy(
        update={"home": absolute(settings.home), "testnet": testnet.model_copy(update=files), "backup": backup}
    )
