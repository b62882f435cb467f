"""A policy's rules as TOML text that a person can read.

procmon.policy.writer does the same for procmon's own importers. A pySigma backend is a separate package that runs
without procmon, so each has a writer of its own; the tests read the output of both.
"""

from collections.abc import Iterator

from .conditions import Operators, Scalar, Table

__all__ = ["comment", "lines", "value"]

WIDTH = 100
"""Columns of a line before a list takes several."""

_ESCAPES = {"\b": "\\b", "\t": "\\t", "\n": "\\n", "\f": "\\f", "\r": "\\r", '"': '\\"', "\\": "\\\\"}


def value(scalar: Scalar) -> str:
    r"""A text, number or truth value; texts in single quotes, where a backslash is itself, if they can be.

    >>> print(value(r"\cmd.exe"), value("it's"), value(3), value(True))
    '\cmd.exe' "it's" 3 true
    """
    if isinstance(scalar, bool):
        return "true" if scalar else "false"
    if isinstance(scalar, int):
        return str(scalar)
    if "'" not in scalar and scalar.isprintable():
        return f"'{scalar}'"
    return '"' + "".join(map(_escaped, scalar)) + '"'


def _escaped(character: str) -> str:
    """The character in double quotes; an unseen one by its number, so that it cannot disguise a rule."""
    code = ord(character)
    if 0xD800 <= code < 0xE000:  # half of a character: TOML has none, and a condition with one is refused before
        return "\\ufffd"
    if character in _ESCAPES:
        return _ESCAPES[character]
    return character if character.isprintable() else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def comment(text: str) -> str:
    """A remark of one line."""
    return "# " + " ".join("".join(c if c.isprintable() else " " for c in text).split())


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
