"""The archive: a compressed tar that is written and read as a stream, never as a whole in memory."""

import gzip
import hashlib
import io
import os
import tarfile
import zlib
from collections.abc import Callable, Generator, Iterable, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Protocol, cast

from pydantic import BaseModel, ValidationError

from orcha_pipeline.backup.manifest import FORMAT, HEADER, MANIFEST, FileEntry, Header, Manifest, is_known
from orcha_pipeline.errors import BackupError

CHUNK = 1024 * 1024
LEVEL = 3
"""Of gzip: warehouse and models hardly become smaller beyond it, and it is several times as fast as the usual 9."""
SMALL = 64 * 1024 * 1024
"""No header or manifest is larger: what claims to be is not read into memory."""


class Readable(Protocol):
    """What bytes can be read from."""

    def read(self, size: int = ..., /) -> bytes:
        """The next bytes; none at the end."""
        ...


@dataclass(frozen=True, slots=True)
class Part:
    """A file to put into an archive under `name`."""

    name: str
    path: Path


class Hashing:
    """Passes bytes on and keeps their number and hash."""

    def __init__(self, source: Readable) -> None:
        self._source, self._hash, self.size = source, hashlib.sha256(), 0

    def read(self, size: int = -1, /) -> bytes:
        """The next bytes of the source."""
        found = self._source.read(size)
        self._hash.update(found)
        self.size += len(found)
        return found

    @property
    def entry(self) -> FileEntry:
        """Of what was read so far."""
        return FileEntry(size=self.size, sha256=self._hash.hexdigest())


def write_archive(
    path: Path, parts: Iterable[Part], *, manifest: Callable[[Mapping[str, FileEntry]], Manifest]
) -> Manifest:
    """Write `parts` to a new file that its owner alone may read (mode 600), down to the disk.

    `manifest` is given what was written and makes the last member of it. Raises FileNotFoundError where a part has
    vanished, OSError where it has shrunk meanwhile or the disk is full.
    """
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    written: dict[str, FileEntry] = {}
    with os.fdopen(handle, "wb") as file:
        with (
            gzip.GzipFile("", "wb", compresslevel=LEVEL, fileobj=file) as packed,
            tarfile.open(fileobj=packed, mode="w", format=tarfile.PAX_FORMAT) as tar,
        ):
            _add_text(tar, HEADER, Header(format=FORMAT))
            for part in parts:
                written[part.name] = _add(tar, part)
            made = manifest(written)
            _add_text(tar, MANIFEST, made)
        file.flush()
        os.fsync(file.fileno())
    return made


def _add(tar: tarfile.TarFile, part: Part) -> FileEntry:
    with part.path.open("rb") as file:
        found = os.fstat(file.fileno())
        info = tarfile.TarInfo(part.name)
        info.size, info.mtime, info.mode = found.st_size, int(found.st_mtime), found.st_mode & 0o700
        source = Hashing(file)
        # What a file has grown by since is left out: nothing that a store names grows.
        tar.addfile(info, cast("IO[bytes]", source))
    return source.entry


def _add_text(tar: tarfile.TarFile, name: str, content: BaseModel) -> None:
    text = content.model_dump_json(indent=1).encode()
    info = tarfile.TarInfo(name)
    info.size, info.mode = len(text), 0o600
    tar.addfile(info, io.BytesIO(text))


def verify(path: Path) -> Manifest:
    """Read the archive to its end and hold every file against the manifest.

    Raises `BackupError` for what is damaged, foreign, of a newer format, or names a file outside of its folder.
    """
    found: dict[str, FileEntry] = {}
    texts: dict[str, bytes] = {}
    with _refused(path):
        for member, content in _members(path):
            name = member.name
            if name in found or name in texts or MANIFEST in texts:
                raise BackupError(f"{path} is damaged or was changed: {name} does not belong where it stands.")
            if name in (HEADER, MANIFEST):
                texts[name] = content.read(min(member.size, SMALL))
                _check_header(path, texts)
            else:
                _check_header(path, texts)
                found[name] = _drained(content)
        _check_header(path, texts)
        if MANIFEST not in texts:
            raise BackupError(f"{path} is not whole: it ends without a manifest. Take another backup.")
        manifest = Manifest.model_validate_json(texts[MANIFEST])
    wrong = sorted(name for name in found.keys() | manifest.files.keys() if found.get(name) != manifest.files.get(name))
    if wrong:
        more = f" and {len(wrong) - 1} more" if len(wrong) > 1 else ""
        raise BackupError(f"{path} is damaged: {wrong[0]}{more} is not as its manifest says. Take another backup.")
    return manifest


def extract(path: Path, manifest: Manifest, place: Callable[[str], Path | None]) -> None:
    """Write the files of a verified archive to where `place` wants each; None leaves one out.

    Each is on the disk when this returns. Raises `BackupError` where the archive is no longer what was verified.
    """
    with _refused(path):
        for member, content in _members(path):
            target = None if member.name in (HEADER, MANIFEST) else place(member.name)
            if target is not None and _write(target, content) != manifest.files.get(member.name):
                raise BackupError(f"{path} was changed while it was read: {member.name} is not what it was.")


def _write(target: Path, content: Readable) -> FileEntry:
    target.parent.mkdir(parents=True, exist_ok=True)
    source = Hashing(content)
    with target.open("xb") as file:
        while chunk := source.read(CHUNK):
            file.write(chunk)
        file.flush()
        os.fsync(file.fileno())
    target.chmod(0o600)
    return source.entry


def _drained(content: Readable) -> FileEntry:
    source = Hashing(content)
    while source.read(CHUNK):
        pass
    return source.entry


def _members(path: Path) -> Generator[tuple[tarfile.TarInfo, IO[bytes]]]:
    """Each file in turn, with its content. Raises tarfile's errors; what is no plain file of ours is refused.

    Nothing is ever written by the name of a member, and `is_known` lets none pass that leads elsewhere. (The filters of
    tarfile are not in Python 3.11 before 3.11.4, as Debian has it.)
    """
    with gzip.open(path, "rb") as packed:
        with tarfile.open(fileobj=packed, mode="r|") as tar:
            for member in tar:
                content = tar.extractfile(member) if member.isreg() else None
                if content is None or not is_known(member.name):
                    raise BackupError(f"{path} is no backup of Orcha: it holds {member.name!r}.")
                yield member, content
        # The sum over everything stands at the very end, behind what tar itself reads.
        while packed.read(CHUNK):
            pass


def _check_header(path: Path, texts: Mapping[str, bytes]) -> None:
    """The header comes first, and says that this Orcha can read the rest."""
    if HEADER not in texts:
        raise BackupError(f"{path} is no backup of Orcha.")
    found = Header.model_validate_json(texts[HEADER]).format
    if found > FORMAT:
        raise BackupError(
            f"{path} was made by a newer Orcha: its format is {found}, and this one reads up to {FORMAT}. Update Orcha."
        )


@contextmanager
def _refused(path: Path) -> Generator[None]:
    """Turns what the libraries say of an archive that they cannot read into words for a person."""
    try:
        yield
    except (FileNotFoundError, IsADirectoryError) as error:
        raise BackupError(f"There is no archive at {error.filename}.") from error
    except PermissionError as error:
        raise BackupError(f"{error.filename}: {error.strerror}.") from error
    except (tarfile.TarError, gzip.BadGzipFile, zlib.error, EOFError, ValueError, ArithmeticError) as error:
        told = "what it says of itself cannot be read" if isinstance(error, ValidationError) else str(error)
        raise BackupError(f"{path} is damaged, or no backup of Orcha ({told}).") from error
