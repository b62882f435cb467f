"""A policy's rules as TOML text that a person can read.

procmon.policy.writer does the same for procmon's own importers. A pySigma backend is a separate package that runs
without procmon, so each has a writer of its own; the tests read the output of both.
"""

import re
from collections.abc import Iterator

from .conditions import Operators, Scalar, Table

__all__ = ["comment", "lines", "value"]

WIDTH = 100
"""Columns of a line before a list takes several."""

_ESCAPES = {"\b": "\\b", "\t": "\\t", "\n": "\\n", "\f": "\\f", "\r": "\\r", '"': '\\"', "\\": "\\\\"}
_UNSEEN = re.compile("[\0-\x1f\x7f-\x9f\u200b-\u200f\u2028\u2029\ufeff]")
_ESCAPED = re.compile(rf'["\\]|{_UNSEEN.pattern}')


def value(scalar: Scalar) -> str:
    r"""A text, number or truth value; texts in single quotes, where a backslash is itself, if they can be.

    >>> print(value(r"\cmd.exe"), value("it's"), value(3), value(True))
    '\cmd.exe' "it's" 3 true
    """
    if isinstance(scalar, bool):
        return "true" if scalar else "false"
    if isinstance(scalar, int):
        return str(scalar)
    if "'" not in scalar and not _UNSEEN.search(scalar):
        return f"'{scalar}'"
    return '"' + _ESCAPED.sub(lambda found: _ESCAPES.get(found[0], f"\\u{ord(found[0]):04x}"), scalar) + '"'


def comment(text: str) -> str:
    """A remark of one line."""
    return "# " + " ".join(_UNSEEN.sub(" ", text).split())


def lines(of: Table, path: str = "rule") -> Iterator[str]:
    """The lines of a table below its header ``[[path]]``: its facts, then its inner tables with their headers."""
    margin = "  " * path.count(".")
    for key, content in of.items():
        if isinstance(content, dict):
            yield from (margin + line for line in _fact(key, content))
    for key, content in of.items():
        if isinstance(content, list):
            for inner in content:
                yield f"{margin}  [[{path}.{key}]]"
                yield from lines(inner, f"{path}.{key}")


def _fact(fact: str, operators: Operators) -> Iterator[str]:
    for operator, content in operators.items():
        begin = f"{fact}.{operator} = "
        if not isinstance(content, list):
            yield begin + value(content)
            continue
        items = [value(each) for each in content]
        line = f"{begin}[{', '.join(items)}]"
        if len(line) <= WIDTH:
            yield line
        else:
            yield from (f"{begin}[", *(f"  {item}," for item in items), "]")
