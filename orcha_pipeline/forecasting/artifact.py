"""The folder one training leaves: `manifest.json`, and `model.onnx` and `model.keras` where a network was trained.

The manifest says how to make the inputs and how to read the outputs, so that serving needs nothing else; the hash of
the ONNX file stands in it, so that half a file is found out before it is asked for a forecast.
"""

import hashlib
from datetime import datetime
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from orcha_pipeline.errors import ModelError

MANIFEST_FILE = "manifest.json"
REGISTRATION_FILE = "registration.json"
ONNX_FILE = "model.onnx"
KERAS_FILE = "model.keras"

Kind = Literal["lstm", "seasonal-naive"]


class Manifest(BaseModel):
    """What a trained model is. `metrics` holds the backtest of each contender on the same origins.

    `data_start` and `data_end` bound the hours the training saw, the held-out ones included; `tested_from` is where
    the held-out ones begin (None without a backtest). `widening` is what serving moves p10 down and p90 up by, in
    the scaled space. `reason` says why a `seasonal-naive` is no LSTM.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    kind: Kind
    protocol: str
    trained_at: datetime
    context_hours: int
    horizon_hours: int
    channels: tuple[str, ...]
    inputs: tuple[str, ...]
    scaling: str
    quantiles: tuple[float, ...]
    widening: tuple[float, float]
    nodes: tuple[str, ...]
    data_start: datetime
    data_end: datetime
    tested_from: datetime | None
    data_sha256: str
    code_version: str
    params: dict[str, float | int | str]
    metrics: dict[str, dict[str, float]]
    fit_seconds: float
    onnx_sha256: str | None = None
    reason: str = ""


class Registration(BaseModel):
    """Under which name and version the registry knows the model of this folder."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    version: str


def write(folder: Path, part: Manifest | Registration) -> None:
    """Write the folder's manifest or registration."""
    name = MANIFEST_FILE if isinstance(part, Manifest) else REGISTRATION_FILE
    (folder / name).write_text(part.model_dump_json(indent=2) + "\n", encoding="utf-8")


def read_manifest(folder: Path) -> Manifest:
    """The folder's manifest, its ONNX file checked against it. Raises ModelError, saying what is wrong."""
    path = folder / MANIFEST_FILE
    try:
        manifest = Manifest.model_validate_json(path.read_bytes())
    except FileNotFoundError as missing:
        raise ModelError(f"{path} is missing: train the model again") from missing
    except (OSError, ValidationError) as unusable:
        raise ModelError(f"{path} cannot be read: train the model again") from unusable
    if manifest.onnx_sha256 is not None:
        onnx = folder / ONNX_FILE
        if not onnx.is_file() or sha256_of(onnx) != manifest.onnx_sha256:
            raise ModelError(f"{onnx} is missing or damaged: train the model again")
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
