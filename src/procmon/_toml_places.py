"""Where in a TOML text each key and value stands, which `tomllib` does not say.

The text has been accepted by `tomllib` before, so this reads tokens and nesting and judges nothing.
"""

import re
from bisect import bisect_right

__all__ = ["TomlPlaces"]

Path = tuple[str | int, ...]

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
    """Line and column, both from 1, of the keys and values of a valid TOML text.

    A path names a value as Python would index it. Where a part of a path has no place of its own (a key inside an
    inline table, say), the place of the nearest thing around it is given.

    >>> places = TomlPlaces('mode = "audit"\\n[[rule]]\\nimage = ["a.exe",\\n  "b.exe"]')
    >>> places.key("mode"), places.value("mode"), places.value("rule", 0)
    ((1, 1), (1, 8), (2, 1))
    >>> places.value("rule", 0, "image", 1)
    (4, 3)
    """

    def __init__(self, text: str) -> None:
        self._line_starts = [0, *(match.end() for match in re.finditer("\n", text))]
        self._keys: dict[Path, int] = {}
        self._values: dict[Path, int] = {}
        self._read(text)

    def key(self, *path: str | int) -> tuple[int, int]:
        """Where the key that ends `path` is written."""
        return self._place(self._keys[path]) if path in self._keys else self.value(*path[:-1])

    def value(self, *path: str | int) -> tuple[int, int]:
        """Where the value at `path` begins; for a table, its header."""
        while path and path not in self._values:
            path = path[:-1]
        return self._place(self._values.get(path, 0))

    def _place(self, offset: int) -> tuple[int, int]:
        line = bisect_right(self._line_starts, offset)
        return line, offset - self._line_starts[line - 1] + 1

    def _read(self, text: str) -> None:
        table: Path = ()
        counts: dict[Path, int] = {}
        statement: list[tuple[str, int]] = []
        depth = 0
        for match in _TOKEN.finditer(text):
            token = match.group()
            if token[0] == "#":
                continue
            if token != "\n":
                statement.append((token, match.start()))
                depth += (token in ("[", "{")) - (token in ("]", "}"))
            elif statement and depth == 0:
                table = self._statement(statement, table, counts)
                statement = []
        if statement:
            self._statement(statement, table, counts)

    def _statement(self, tokens: list[tuple[str, int]], table: Path, counts: dict[Path, int]) -> Path:
        """Note one header or one ``key = value``; the table that is current after it."""
        first, offset = tokens[0]
        if first == "[":
            name = _key_parts([token for token, _ in tokens if token not in ("[", "]")])
            if tokens[1][0] == "[":
                counts[name] = counts.get(name, -1) + 1
                name = (*name, counts[name])
            self._keys.setdefault(name, offset)
            self._values.setdefault(name, offset)
            return name
        equals = next(i for i, (token, _) in enumerate(tokens) if token == "=")
        path = (*table, *_key_parts([token for token, _ in tokens[:equals]]))
        self._keys[path] = offset
        self._values[path] = tokens[equals + 1][1]
        if tokens[equals + 1][0] == "[":
            depth, index, expected = 0, 0, True
            for token, position in tokens[equals + 1 :]:
                if depth == 1 and expected and token not in ("]", ","):
                    self._values[(*path, index)] = position
                    index, expected = index + 1, False
                depth += (token in ("[", "{")) - (token in ("]", "}"))
                expected = expected or (depth == 1 and token == ",")
        return table


def _key_parts(tokens: list[str]) -> Path:
    """``a."b c".d`` as its parts; a bare token may hold dots."""
    parts: list[str] = []
    for token in tokens:
        parts += [token[1:-1]] if token[0] in "\"'" else [part for part in token.split(".") if part]
    return tuple(parts)
