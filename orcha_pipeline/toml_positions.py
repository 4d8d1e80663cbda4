"""Where each key of a TOML document stands, so that an error can name line and column.

The document is parsed by `tomllib`; this only finds positions, and only in text that `tomllib` has accepted.
"""

import re
import tomllib
from collections.abc import Mapping

KeyPath = tuple[str | int, ...]
"""Keys and list indexes from the document's root: `("nodes", 0, "demand", "disk_gb")`."""

_BLANK = re.compile(r"[ \t]*")
_GAP = re.compile(r"(?:[ \t\r\n]|#[^\n]*)*")
_BARE_KEY = re.compile(r"[A-Za-z0-9_-]+")
_QUOTED = re.compile(r'"(?:[^"\\]|\\.)*"' + r"|'[^']*'")
# The last quote of a multi-line string may be followed by two more that belong to the string.
_MULTILINE = re.compile(r'"""(?:[^\\]|\\.)*?"{3,5}(?!")' + r"|'''.*?'{3,5}(?!')", re.DOTALL)
_SCALAR = re.compile(r"[^,\]}#\r\n]*")


def key_positions(text: str) -> Mapping[KeyPath, tuple[int, int]]:
    """Path of every key, table and list item -> its line and column, both from 1. `text` must be valid TOML."""
    return _Scanner(text).scan()


class _Scanner:
    def __init__(self, text: str) -> None:
        self._text = text
        self._at = 0
        self._offsets: dict[KeyPath, int] = {}
        self._lists_of_tables: dict[KeyPath, int] = {}

    def scan(self) -> Mapping[KeyPath, tuple[int, int]]:
        table: KeyPath = ()
        self._skip(_GAP)
        while self._at < len(self._text):
            if self._text[self._at] == "[":
                table = self._header()
            else:
                self._assignment(table)
            self._skip(_GAP)
        return {path: self._line_and_column(offset) for path, offset in self._offsets.items()}

    def _skip(self, pattern: re.Pattern[str]) -> str:
        found = pattern.match(self._text, self._at)
        if found is None:
            raise ValueError(f"not TOML at offset {self._at}")
        self._at = found.end()
        return found.group()

    def _line_and_column(self, offset: int) -> tuple[int, int]:
        return self._text.count("\n", 0, offset) + 1, offset - (self._text.rfind("\n", 0, offset) + 1) + 1

    def _note(self, path: KeyPath, offset: int) -> None:
        self._offsets.setdefault(path, offset)

    def _key(self) -> list[tuple[str, int]]:
        """The parts of a dotted key, each with its offset."""
        parts: list[tuple[str, int]] = []
        while True:
            self._skip(_BLANK)
            start = self._at
            if self._text[start] in "\"'":
                parts.append((tomllib.loads(f"key = {self._skip(_QUOTED)}")["key"], start))
            else:
                parts.append((self._skip(_BARE_KEY), start))
            self._skip(_BLANK)
            if not self._text.startswith(".", self._at):
                return parts
            self._at += 1

    def _header(self) -> KeyPath:
        brackets = 2 if self._text.startswith("[[", self._at) else 1
        self._at += brackets
        parts = self._key()
        self._at += brackets
        path: KeyPath = ()
        for number, (part, offset) in enumerate(parts, start=1):
            path = (*path, part)
            self._note(path, offset)
            if brackets == 2 and number == len(parts):
                self._lists_of_tables[path] = self._lists_of_tables.get(path, 0) + 1
            if path in self._lists_of_tables:
                path = (*path, self._lists_of_tables[path] - 1)
                self._note(path, offset)
        return path

    def _assignment(self, table: KeyPath) -> None:
        path = table
        for part, offset in self._key():
            path = (*path, part)
            self._note(path, offset)
        self._at += 1  # the equals sign
        self._skip(_BLANK)
        self._value(path)

    def _value(self, path: KeyPath) -> None:
        rest = self._text[self._at : self._at + 3]
        if rest in {'"""', "'''"}:
            self._skip(_MULTILINE)
        elif rest[:1] in {'"', "'"}:
            self._skip(_QUOTED)
        elif rest[:1] == "[":
            self._list(path)
        elif rest[:1] == "{":
            self._inline_table(path)
        else:
            self._skip(_SCALAR)

    def _list(self, path: KeyPath) -> None:
        self._at += 1
        self._skip(_GAP)
        index = 0
        while self._text[self._at] != "]":
            self._note((*path, index), self._at)
            self._value((*path, index))
            index += 1
            self._skip(_GAP)
            if self._text[self._at] == ",":
                self._at += 1
                self._skip(_GAP)
        self._at += 1

    def _inline_table(self, path: KeyPath) -> None:
        self._at += 1
        self._skip(_GAP)
        while self._text[self._at] != "}":
            self._assignment(path)
            self._skip(_GAP)
            if self._text[self._at] == ",":
                self._at += 1
                self._skip(_GAP)
        self._at += 1
