"""Finding secrets, or readable parts of them, in whatever an installation has written."""

import base64
import contextlib
import re
import sqlite3
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote, quote_plus

import duckdb

FRAGMENT = 12
"""A part of a secret this long is a leak: the secrets are random, so it can stand there by nothing else."""


def needles(secrets: Mapping[str, str]) -> dict[bytes, str]:
    """What to look for -> the secret's name: parts of it in every spelling that software writes by itself."""
    found: dict[bytes, str] = {}
    for name, secret in secrets.items():
        raw = secret.encode()
        spellings = {raw, quote(secret, safe="").encode(), quote_plus(secret).encode(), raw.hex().encode()}
        # In the middle of a longer text, base64 of the same bytes is spelt in three ways.
        spellings |= {base64.b64encode(b"x" * shift + raw)[4 * (shift > 0) : -4] for shift in range(3)}
        for spelling in spellings:
            # Every second start is enough: whatever is one longer than a fragment holds one of them.
            for start in range(0, max(1, len(spelling) - FRAGMENT + 1), 2):
                found[spelling[start : start + FRAGMENT]] = name
    return found


class Search:
    """Looks for secrets in texts, files and databases; `leaks` is what was found, and where."""

    def __init__(self, secrets: Mapping[str, str]) -> None:
        self._names = needles(secrets)
        self._pattern = re.compile(b"|".join(re.escape(needle) for needle in sorted(self._names)))
        self.leaks: list[str] = []
        self.looked_at: set[str] = set()

    def look(self, where: str, content: bytes | str) -> None:
        self.looked_at.add(where)
        raw = content.encode() if isinstance(content, str) else content
        for hit in self._pattern.finditer(raw):
            around = raw[max(0, hit.start() - 120) : hit.end() + 60].decode(errors="replace")
            self.leaks.append(f"{where}: {self._names[hit.group()]}: ...{around}...")

    def look_into(self, folder: Path) -> None:
        """Every file below `folder`: its bytes, and what a database among them says when it is asked."""
        for file in sorted(folder.rglob("*")):
            if not file.is_file():
                continue
            where, raw = str(file.relative_to(folder)), file.read_bytes()
            self.look(where, raw)
            if raw.startswith(b"SQLite format 3"):
                for table, value in sqlite_values(file):
                    self._look_at_value(f"{where}#{table}", value)
            elif file.suffix == ".duckdb":
                for table, value in duckdb_values(file):
                    self._look_at_value(f"{where}#{table}", value)
            else:
                self._look_at_value(where, raw)

    def _look_at_value(self, where: str, value: Any) -> None:
        if not isinstance(value, bytes):
            self.look(where, str(value))
            return
        self.look(where, value)
        with contextlib.suppress(zlib.error):  # most are not packed
            self.look(f"{where} (unpacked)", zlib.decompress(value, wbits=zlib.MAX_WBITS | 32))  # zlib or gzip


def sqlite_values(file: Path) -> Iterator[tuple[str, Any]]:
    """(table, value) of everything in the database."""
    connection = sqlite3.connect(f"file:{file}?mode=ro", uri=True)
    try:
        tables = [name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        for table in tables:
            for row in connection.execute(f'SELECT * FROM "{table}"'):
                yield from ((table, value) for value in row if isinstance(value, str | bytes))
    finally:
        connection.close()


def duckdb_values(file: Path) -> Iterator[tuple[str, Any]]:
    """(table, row as text) of everything in the database."""
    with duckdb.connect(str(file), read_only=True) as connection:
        tables = [name for (name,) in connection.execute("SELECT table_name FROM duckdb_tables()").fetchall()]
        for table in tables:
            yield from ((table, row) for row in connection.execute(f'SELECT * FROM "{table}"').fetchall())
