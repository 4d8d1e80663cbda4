"""The folder one training leaves: `manifest.json` and a folder a forecaster with what it has learnt.

The manifest says what was learnt from, how every candidate fared and what is served of whom, so that serving and
auditing need nothing else. The hash of each file stands in it, so that half a model is found out before it is asked.
"""

import hashlib
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from orcha_pipeline.errors import ModelError

FORMAT = 2
MANIFEST_FILE = "manifest.json"
REGISTRATION_FILE = "registration.json"
CANDIDATES_FOLDER = "candidates"
EXAMPLE_FILE = "example.npz"

Measures = dict[str, float]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Candidate(_Part):
    """One forecaster's part of a training. `scores` are empty where it was refused, and `refused` says why.

    `scores` are over all series; `by_target` the same of each target's series alone. `error_by_horizon` is the WAPE of
    each coming hour. `fallbacks` counts the windows it had no answer for, which seasonal naive answered.
    """

    scores: Measures = Field(default_factory=dict)
    by_target: dict[str, Measures] = Field(default_factory=dict)
    error_by_horizon: tuple[float, ...] = ()
    fallbacks: int = 0
    parameters: dict[str, float | int | str] = Field(default_factory=dict)
    refused: str = ""


class Manifest(_Part):
    """What a trained model is.

    `data_start` and `data_end` bound the hours the training saw. Forecasters were fitted on those before
    `fitted_before`; the rest chose and calibrated what is served, and the origins from `tested_from` on (None: too few
    hours for a test) measured it. `candidates` holds every candidate by name, and what is served as "served".
    `pooled_wape` is that of the yield served, errors and truths summed over all nodes as live errors are, and
    `pooled_wape_std` its standard deviation from origin to origin. `saved` names the candidates whose folder lies
    beside. `reason` says why no more than seasonal naive is served.
    """

    format: Literal[2] = FORMAT
    protocol: str
    trained_at: datetime
    dagster_run_id: str
    code_version: str
    seed: int
    horizon_hours: int
    quantiles: tuple[float, ...]
    targets: tuple[str, ...]
    series: tuple[str, ...]
    data_start: datetime
    data_end: datetime
    fitted_before: datetime
    tested_from: datetime | None
    origins: int
    data_sha256: str
    candidates: dict[str, Candidate]
    pooled_wape: float | None = None
    pooled_wape_std: float | None = None
    selection: dict[str, Any]
    saved: tuple[str, ...]
    files: dict[str, str]
    reason: str = ""


class Registration(_Part):
    """Under which name and version the registry knows the model of this folder."""

    name: str
    version: str


def write(folder: Path, part: Manifest | Registration) -> None:
    """Write the folder's manifest or registration."""
    name = MANIFEST_FILE if isinstance(part, Manifest) else REGISTRATION_FILE
    (folder / name).write_text(part.model_dump_json(indent=2) + "\n", encoding="utf-8")


def hashes(folder: Path) -> dict[str, str]:
    """sha256 of every file below `folder` but manifest and registration, by its path in it."""
    return {
        path.relative_to(folder).as_posix(): sha256_of(path)
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name not in (MANIFEST_FILE, REGISTRATION_FILE)
    }


def read_manifest(folder: Path) -> Manifest:
    """The folder's manifest, its files checked against it. Raises ModelError, saying what is wrong."""
    path = folder / MANIFEST_FILE
    try:
        manifest = Manifest.model_validate_json(path.read_bytes())
    except FileNotFoundError as missing:
        raise ModelError(f"{path} is missing: train the model again") from missing
    except (OSError, ValidationError) as unusable:
        raise ModelError(f"{path} cannot be read by this version of Orcha: train the model again") from unusable
    for name, expected in manifest.files.items():
        if not (folder / name).is_file() or sha256_of(folder / name) != expected:
            raise ModelError(f"{folder / name} is missing or damaged: train the model again")
    return manifest


def read_version(folder: Path) -> str:
    """The registered version of the folder's model, or "unregistered"."""
    try:
        return Registration.model_validate_json((folder / REGISTRATION_FILE).read_bytes()).version
    except FileNotFoundError:
        return "unregistered"
    except (OSError, ValidationError) as unusable:
        raise ModelError(f"{folder / REGISTRATION_FILE} cannot be read: register the model again") from unusable


def sha256_of(path: Path) -> str:
    """Hash of the file's bytes."""
    return hashlib.sha256(path.read_bytes()).hexdigest()
