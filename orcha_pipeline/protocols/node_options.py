"""What an adapter takes from its node's settings: options, the token, the demand its lever is measured by."""

import os
from typing import TypeVar

from pydantic import SecretStr, ValidationError

from orcha_pipeline.errors import SettingsError
from orcha_pipeline.protocols.base import AdapterOptions
from orcha_pipeline.settings import NodeSettings

Options = TypeVar("Options", bound=AdapterOptions)


def read_options(settings: NodeSettings, kind: type[Options]) -> Options:
    """`[nodes.options]` as `kind`; `SettingsError` names the node, the option and what it may be."""
    try:
        return kind.model_validate(settings.options)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        option = ".".join(str(part) for part in first["loc"])
        known = ", ".join(sorted(kind.model_fields)) or "none"
        raise SettingsError(
            f"node {settings.name!r}: option {option!r}: {first['msg']}. "
            f"Options of the {settings.protocol} adapter: {known}"
        ) from None


def node_token(settings: NodeSettings) -> SecretStr | None:
    """The key or token: from the environment variable that `token_env` names, else `token`."""
    if settings.token_env is None:
        return settings.token
    found = os.environ.get(settings.token_env, "")
    if not found:
        raise SettingsError(
            f"node {settings.name!r}: the environment variable {settings.token_env} (token_env) is not set; "
            "export it with the node's key or token"
        )
    return SecretStr(found)


def required_token(settings: NodeSettings, what: str) -> SecretStr:
    """`node_token`, or `SettingsError` saying that this protocol needs `what`."""
    token = node_token(settings)
    if token is None:
        raise SettingsError(f"node {settings.name!r}: {settings.protocol} needs {what}; set token_env to its variable")
    return token


def positive_demand(settings: NodeSettings, resource: str) -> float:
    """What the node uses of `resource` at share 1.0; `SettingsError` where it is 0, for a share of 0 is nothing."""
    demand = settings.demand.to_model().as_dict()[resource]
    if demand <= 0:
        raise SettingsError(
            f"node {settings.name!r}: demand.{resource} must be above 0: "
            f"the {settings.protocol} lever is measured by it"
        )
    return demand
