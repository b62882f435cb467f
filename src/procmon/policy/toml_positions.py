"""The positions of keys and values in a TOML text, which `tomllib` does not report.

`tomllib` has accepted the text before, so this reads tokens and nesting and checks nothing. The places of mistakes that
`tomllib` refuses are in `toml_mistakes`.
"""

import re
from collections.abc import Iterable, Iterator

__all__ = ["Path", "TomlPlaces", "tokens"]

Path = tuple[str | int, ...]
"""The path of a value, as Python would index it: ``("rule", 0, "image", 1)``."""

_TOKEN = re.compile(
    r'"""(?:[^\\]|\\.)*?"{3,5}'  # multi-line strings first: they begin like the short ones
    r"|'''.*?'{3,5}"
    r'|"(?:[^"\\\n]|\\.)*"'
    r"|'[^'\n]*'"
    r"|\#[^\n]*"
    r"|\n"
    r"|[\[\]{}=,]"
    r"""|[^\s\[\]{}=,"'#]+""",
    re.DOTALL,
)


def tokens(text: str) -> Iterator[tuple[int, str]]:
    """The tokens of a text with their offsets, comments left out."""
    for match in _TOKEN.finditer(text):
        if match[0][0] != "#":
            yield match.start(), match[0]


class TomlPlaces:
    """Line and column, both from 1, of some keys and values of a valid TOML text.

    Only the places of `paths` are kept, since a large text has many. If a part of a path is not in the text, its place
    is that of the nearest part around it.

    >>> text = 'mode = "audit"\\n[[rule]]\\nimage = ["a.exe",\\n  {"b" = 1}]'
    >>> places = TomlPlaces(text, [("mode",), ("rule", 0, "image", 1, "b")])
    >>> places.key("mode"), places.value("mode"), places.value("rule", 0)
    ((1, 1), (1, 8), (2, 1))
    >>> places.value("rule", 0, "image", 1, "b")
    (4, 10)
    """

    def __init__(self, text: str, paths: Iterable[Path]) -> None:
        wanted = {path[:n] for path in paths for n in range(len(path) + 1)}
        self._offsets: dict[Path, tuple[int, int]] = {(): (0, 0)}
        for path, key, value in _walk(text):
            if path in wanted:
                self._offsets.setdefault(path, (key, value))
        self._lines: dict[int, tuple[int, int]] = {}
        line, before = 1, 0
        for offset in sorted({offset for pair in self._offsets.values() for offset in pair}):
            line += text.count("\n", before, offset)
            self._lines[offset] = (line, offset - text.rfind("\n", 0, offset))
            before = offset

    def key(self, *path: str | int) -> tuple[int, int]:
        """The place of the last key of `path`."""
        return self._lines[self._nearest(path)[0]]

    def value(self, *path: str | int) -> tuple[int, int]:
        """The start of the value at `path`; for a table with a header, the header."""
        return self._lines[self._nearest(path)[1]]

    def _nearest(self, path: Path) -> tuple[int, int]:
        while path not in self._offsets:
            path = path[:-1]
        return self._offsets[path]


class _Tokens:
    """The tokens of a text without comments, one at a time; "" at its end."""

    def __init__(self, text: str) -> None:
        self._rest = tokens(text)
        self.now, self.offset = "", len(text)
        self.step()

    def step(self) -> str:
        """Go to the next token; return the one before it."""
        before = self.now
        self.offset, self.now = next(self._rest, (self.offset, ""))
        return before

    def skip(self, *tokens: str) -> None:
        while self.now in tokens:
            self.step()


def _walk(text: str) -> Iterator[tuple[Path, int, int]]:
    """Path of each key, table and element, with the offsets of its key and of its value."""
    cursor = _Tokens(text)
    table: Path = ()
    last: dict[Path, int] = {}
    while cursor.now:
        offset = cursor.offset
        if cursor.now == "[":
            cursor.step()
            many = cursor.now == "["
            cursor.skip("[")
            table = ()
            for part in _key(cursor):
                table = (*table, last[table], part) if table in last else (*table, part)
                yield table, offset, offset
            if many:
                last[table] = last.get(table, -1) + 1
            if table in last:
                table = (*table, last[table])
                yield table, offset, offset
            cursor.skip("]")
        elif cursor.now == "\n":
            cursor.step()
        else:
            yield from _pair(cursor, table)


def _pair(cursor: _Tokens, table: Path) -> Iterator[tuple[Path, int, int]]:
    """One ``key = value``."""
    offset, parts = cursor.offset, _key(cursor)
    cursor.step()  # the =
    for part in parts:
        table = (*table, part)
        yield table, offset, cursor.offset
    yield from _value(cursor, table)


def _value(cursor: _Tokens, path: Path) -> Iterator[tuple[Path, int, int]]:
    """The keys and elements inside one value."""
    opening = cursor.now
    if opening not in ("[", "{"):
        while cursor.now not in ("", "\n", ",", "]", "}"):
            cursor.step()  # a date and a time are two
        return
    cursor.step()
    index = 0
    while True:
        cursor.skip("\n", ",")
        if cursor.now in ("", "]", "}"):
            break
        if opening == "{":
            yield from _pair(cursor, path)
        else:
            yield (*path, index), cursor.offset, cursor.offset
            yield from _value(cursor, (*path, index))
            index += 1
    cursor.step()


def _key(cursor: _Tokens) -> list[str]:
    """``a."b c".d`` as its parts; a bare token may hold dots."""
    parts: list[str] = []
    while cursor.now not in ("", "=", "]"):
        token = cursor.step()
        parts += [token[1:-1]] if token[0] in "\"'" else [part for part in token.split(".") if part]
    return parts
