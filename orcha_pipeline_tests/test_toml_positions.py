import tomllib
from collections.abc import Iterator

import pytest
import tomlkit
from hypothesis import given
from hypothesis import strategies as st

from orcha_pipeline.toml_positions import key_positions

DOCUMENT = r"""
title = "a # no comment ] } \" still" # a comment with ] and "
a . "b c".'d.e' = 1979-05-27 07:32:00
text = QQQone "" two
[not.a.header] = 3 \QQQ ""QQQ
raw = QQQ\\\\QQQ
literal = '''
x = 1'' '''
empty = [ ]
list = [ # of lists
  [1, 2], "]", { z = [ { y = 'x' } ] },
]
[nodes_table.sub]
key = { cpu = 1, "quo.ted" = 2 }
[[nodes]]
name = "first"
[nodes.demand]
disk_gb = 4
[[nodes]]
name = "second"
demand.disk_gb = 5
[[nodes.parts]]
[[nodes.parts]]
[nodes.parts."deep"]
""".replace("QQQ", '"' * 3)


def paths(value: object, around: tuple = ()) -> Iterator[tuple]:
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        yield (*around, key)
        yield from paths(inner, (*around, key))


@pytest.mark.parametrize(
    ("path", "at"),
    [
        (("title",), "title"),
        (("a",), "a ."),
        (("a", "b c"), '"b c"'),
        (("a", "b c", "d.e"), "'d.e'"),
        (("literal",), "literal"),
        (("empty",), "empty"),
        (("list", 0, 1), "2]"),
        (("list", 2, "z", 0, "y"), "y = "),
        (("nodes_table", "sub", "key", "quo.ted"), '"quo.ted"'),
        (("nodes", 0), 'nodes]]\nname = "first"'),
        (("nodes", 0, "demand", "disk_gb"), "disk_gb = 4"),
        (("nodes", 1, "name"), 'name = "second"'),
        (("nodes", 1, "demand", "disk_gb"), "disk_gb = 5"),
        (("nodes", 1, "parts", 1, "deep"), '"deep"]'),
    ],
)
def test_a_key_is_found_where_it_stands(path, at):
    line, column = key_positions(DOCUMENT)[path]
    rest = "\n".join(DOCUMENT.split("\n")[line - 1 :])[column - 1 :]
    assert rest.startswith(at)


def test_every_path_of_a_document_has_a_position_and_nothing_else_has():
    assert set(key_positions(DOCUMENT)) == set(paths(tomllib.loads(DOCUMENT)))


@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_lines_and_columns_count_from_one_whatever_ends_a_line(newline):
    text = newline.join(["x = 1", "[t]", "  y = 2"])
    assert key_positions(text) == {("x",): (1, 1), ("t",): (2, 2), ("t", "y"): (3, 3)}


TEXT = st.text(st.characters(codec="utf-8", exclude_categories=["Cs", "Cc"]), max_size=8)
VALUES = st.recursive(
    st.booleans() | st.integers(-(10**9), 10**9) | TEXT | st.datetimes() | st.floats(allow_nan=False),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=12,
)


@given(st.dictionaries(TEXT, VALUES, max_size=4))
def test_positions_cover_exactly_the_paths_of_any_document(document):
    text = tomlkit.dumps(document)
    parsed = tomllib.loads(text)
    found = key_positions(text)
    assert set(found) == set(paths(parsed))
    lines = text.split("\n")
    for path, (line, column) in found.items():
        if isinstance(path[-1], str) and path[-1].isascii() and path[-1].isalnum():
            assert lines[line - 1][column - 1 :].lstrip("\"'").startswith(path[-1])
