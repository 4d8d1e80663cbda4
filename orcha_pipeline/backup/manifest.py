"""What an archive says of itself, and which names its files may have.

The first member, the header, tells the format before anything else is looked at. The last, the manifest, holds size and
hash of every file: they are taken while the files are written, and an archive that ends without it is not whole.
"""

from datetime import datetime
from typing import Literal

from pydantic import BaseModel, ConfigDict

FORMAT = 1
HEADER = "orcha-backup.json"
MANIFEST = "manifest.json"
HOME = "home/"
CONFIG = "config/orcha.toml"
WAREHOUSE = "warehouse.duckdb"
MLFLOW = "mlflow"
MLFLOW_STORE = "mlflow/mlflow.db"
MLFLOW_ARTIFACTS = "mlflow/artifacts"
MODELS = "models"
TESTNET = "testnet"
ROOTS = (WAREHOUSE, MLFLOW, MODELS, TESTNET)
"""What an archive holds of the data folder."""


class Header(BaseModel):
    """The beginning of an archive: of another format, nothing else is known."""

    model_config = ConfigDict(frozen=True)

    format: int


class FileEntry(BaseModel):
    """A file of the archive: bytes, and the sha256 of them."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    size: int
    sha256: str


class Manifest(BaseModel):
    """What an archive holds.

    `home` is the data folder it was made of, absolute. `migrations` are the warehouse's, `unfinished` counts the
    applications that were under way, and `files` goes by the name in the archive.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    format: Literal[1] = FORMAT
    made_at: datetime
    orcha: str
    home: str
    simulated: bool
    migrations: tuple[str, ...]
    unfinished: int
    files: dict[str, FileEntry]

    @property
    def size(self) -> int:
        """Of all files together, bytes."""
        return sum(entry.size for entry in self.files.values())

    @property
    def has_config(self) -> bool:
        """Whether the settings file is among them."""
        return CONFIG in self.files


def is_known(name: str) -> bool:
    """Whether an archive of this format may hold a file of that name."""
    if any(part in ("", ".", "..") for part in name.split("/")):
        return False
    root = name.removeprefix(HOME).partition("/")[0]
    return name in (HEADER, MANIFEST, CONFIG) or (name.startswith(HOME) and root in ROOTS)
