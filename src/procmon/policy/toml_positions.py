"""Where in a TOML text keys and values stand, which `tomllib` does not say.

The text has been accepted by `tomllib` before, so this reads tokens and nesting and judges nothing.
"""

import re
from collections.abc import Iterable, Iterator

__all__ = ["Path", "TomlPlaces"]

Path = tuple[str | int, ...]
"""What names a value, as Python would index it: ``("rule", 0, "image", 1)``."""

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


class TomlPlaces:
    """Line and column, both from 1, of some keys and values of a valid TOML text.

    Only what is asked for is kept, since a large text has many places. Where a part of a path is not in the text, the
    place of the nearest thing around it is given.

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
        """Where the key that ends `path` is written."""
        return self._lines[self._nearest(path)[0]]

    def value(self, *path: str | int) -> tuple[int, int]:
        """Where the value at `path` begins; for a table with a header, that."""
        return self._lines[self._nearest(path)[1]]

    def _nearest(self, path: Path) -> tuple[int, int]:
        while path not in self._offsets:
            path = path[:-1]
        return self._offsets[path]


class _Tokens:
    """The tokens of a text but for comments, one at a time; "" at its end."""

    def __init__(self, text: str) -> None:
        self._rest = (match for match in _TOKEN.finditer(text) if match[0][0] != "#")
        self.now, self.offset = "", len(text)
        self.step()

    def step(self) -> str:
        """Go to the next token; the one before."""
        before, match = self.now, next(self._rest, None)
        if match is not None:
            self.now, self.offset = match[0], match.start()
        else:
            self.now = ""
        return before

    def skip(self, *tokens: str) -> None:
        while self.now in tokens:
            self.step()


def _walk(text: str) -> Iterator[tuple[Path, int, int]]:
    """Path of each key, table and element, with the offsets of its key and of its value."""
    tokens = _Tokens(text)
    table: Path = ()
    last: dict[Path, int] = {}
    while tokens.now:
        offset = tokens.offset
        if tokens.now == "[":
            tokens.step()
            many = tokens.now == "["
            tokens.skip("[")
            table = ()
            for part in _key(tokens):
                table = (*table, last[table], part) if table in last else (*table, part)
                yield table, offset, offset
            if many:
                last[table] = last.get(table, -1) + 1
            if table in last:
                table = (*table, last[table])
                yield table, offset, offset
            tokens.skip("]")
        elif tokens.now == "\n":
            tokens.step()
        else:
            yield from _pair(tokens, table)


def _pair(tokens: _Tokens, table: Path) -> Iterator[tuple[Path, int, int]]:
    """One ``key = value``."""
    offset, parts = tokens.offset, _key(tokens)
    tokens.step()  # the =
    for part in parts:
        table = (*table, part)
        yield table, offset, tokens.offset
    yield from _value(tokens, table)


def _value(tokens: _Tokens, path: Path) -> Iterator[tuple[Path, int, int]]:
    """What is inside one value."""
    opening = tokens.now
    if opening not in ("[", "{"):
        while tokens.now not in ("", "\n", ",", "]", "}"):
            tokens.step()  # a date and a time are two
        return
    tokens.step()
    index = 0
    while True:
        tokens.skip("\n", ",")
        if tokens.now in ("", "]", "}"):
            break
        if opening == "{":
            yield from _pair(tokens, path)
        else:
            yield (*path, index), tokens.offset, tokens.offset
            yield from _value(tokens, (*path, index))
            index += 1
    tokens.step()


def _key(tokens: _Tokens) -> list[str]:
    """``a."b c".d`` as its parts; a bare token may hold dots."""
    parts: list[str] = []
    while tokens.now not in ("", "=", "]"):
        token = tokens.step()
        parts += [token[1:-1]] if token[0] in "\"'" else [part for part in token.split(".") if part]
    return parts
