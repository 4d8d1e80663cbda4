"""Reading and replacing the configuration files of nodes, whole or not at all."""

import os
import tempfile
from pathlib import Path

from orcha_pipeline.errors import AllocationError


def read_config(node: str, path: Path) -> str:
    """The file's text, line ends untouched. Raises `AllocationError`."""
    try:
        return path.read_bytes().decode()
    except UnicodeDecodeError:
        raise AllocationError(node, f"{path} is not UTF-8 text") from None
    except OSError as error:
        raise AllocationError(node, f"cannot read {path}: {error.strerror}") from None


def replace_config(node: str, path: Path, text: str) -> None:
    """Put `text` in the file's place at once, keeping its mode and owner. Raises `AllocationError`."""
    # The file behind a link is replaced, not the link.
    target = path.resolve()
    try:
        before = target.stat()
        descriptor, temporary = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(text.encode())
                file.flush()
                os.fchmod(file.fileno(), before.st_mode & 0o7777)
                created = os.fstat(file.fileno())
                if (created.st_uid, created.st_gid) != (before.st_uid, before.st_gid):
                    os.fchown(file.fileno(), before.st_uid, before.st_gid)
                os.fsync(file.fileno())
            os.replace(temporary, target)  # noqa: PTH105 (both are strings or paths of one folder)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise
    except OSError as error:
        raise AllocationError(node, f"cannot write {path}: {error.strerror}") from None
