"""Every error Orcha raises on purpose. The text is for a person: what was wrong, where, what to do."""

import traceback
from pathlib import Path


class OrchaError(Exception):
    """The family's root: the command line prints its text alone, without a traceback."""


class SettingsError(OrchaError):
    """A setting that cannot be used; the text names the file, the line and the remedy."""


class WarehouseError(OrchaError):
    """The warehouse file cannot be opened, migrated or written."""


class ModelError(OrchaError):
    """A forecasting model cannot be trained, loaded or served."""


class PlanError(OrchaError):
    """No allocation satisfies the constraints, or the solver failed."""


class BackupError(OrchaError):
    """A backup cannot be made, or an archive cannot be restored."""


class SupervisionError(OrchaError):
    """A service that `orcha up` runs cannot be started or kept up (a busy port, a second instance)."""


class AdapterError(OrchaError):
    """One node's API could not be read or driven. `node` is the configured name, `kind` goes into the warehouse."""

    kind = "api"

    def __init__(self, node: str, message: str) -> None:
        self.node = node
        self.message = message
        super().__init__(f"{node}: {message}")


class NodeConnectionError(AdapterError):
    """The node does not answer: refused, reset, name not found, or out of its time budget."""

    kind = "connection"


class AuthenticationError(AdapterError):
    """The node answers that the key or token is missing, wrong or expired."""

    kind = "authentication"


class UnusableError(AdapterError):
    """The node's own settings cannot be used: a bad option, a variable that is not set."""

    kind = "settings"


class ApiError(AdapterError):
    """The node answers with an error of its own (HTTP 4xx/5xx, GraphQL errors, too many requests)."""

    kind = "api"


class ParseError(AdapterError):
    """The answer is not what the API promises: HTML, broken JSON, a missing or mistyped field."""

    kind = "parse"


class AllocationError(AdapterError):
    """A lever could not be moved, or what was read back is not what was asked for."""

    kind = "allocation"


class UnsupportedError(AdapterError):
    """The node has no such lever or reading, or this installation may not use it."""

    kind = "unsupported"


def where(error: BaseException) -> str:
    """The kind of an unforeseen error and the line it came from. Its text is left out: it may repeat a secret."""
    frames = traceback.extract_tb(error.__traceback__)
    place = f" in {Path(frames[-1].filename).name}, line {frames[-1].lineno}" if frames else ""
    return f"{type(error).__name__}{place}"
