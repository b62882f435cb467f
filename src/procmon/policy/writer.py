"""Rules as the text of a policy, for importers and for answers that are saved."""

from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime

__all__ = ["comment", "rule_text", "toml_value"]

WIDTH = 100
"""Columns of a line before a list takes several."""

_ESCAPES = {"\b": "\\b", "\t": "\\t", "\n": "\\n", "\f": "\\f", "\r": "\\r", '"': '\\"', "\\": "\\\\"}


def toml_value(value: object) -> str:
    r"""A text, number, truth value, time, or list of these, as TOML on one line.

    >>> print(toml_value("c:/a b.exe"), toml_value(r"c:\a.exe"), toml_value(["it's \"x\"", 3, True]))
    "c:/a b.exe" 'c:\a.exe' ["it's \"x\"", 3, true]
    """
    match value:
        case bool():
            return "true" if value else "false"
        case int():
            return str(value)
        case datetime():
            return value.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        case str():
            if value.isprintable() and not set('"\\') & set(value):
                return f'"{value}"'
            if value.isprintable() and "'" not in value:
                return f"'{value}'"
            return '"' + "".join(map(_escaped, value)) + '"'
        case Sequence():
            return f"[{', '.join(map(toml_value, value))}]"
    raise TypeError(f"TOML has no {type(value).__name__}")


def _escaped(character: str) -> str:
    """The character in double quotes; an unseen one by its number, so that no name of a file can disguise a rule."""
    code = ord(character)
    if 0xD800 <= code < 0xE000:
        raise ValueError(f"half a surrogate pair, U+{code:04X}, cannot be written in a policy")
    if character in _ESCAPES or character.isprintable():
        return _ESCAPES.get(character, character)
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def comment(text: str) -> str:
    """A remark of one line.

    >>> comment("two\\nlines")
    '# two lines'
    """
    return "# " + " ".join("".join(c if c.isprintable() else " " for c in text).split())


def rule_text(rule: Mapping[str, object]) -> str:
    r"""One ``[[rule]]`` from a dictionary as `tomllib` would read it.

    >>> print(rule_text({"verdict": "allow", "size": {"at_most": 9}, "unless": [{"image": "a.exe"}]}))
    [[rule]]
    verdict = "allow"
    size.at_most = 9
      [[rule.unless]]
      image = "a.exe"
    """
    return "\n".join(["[[rule]]", *_lines(rule, "rule")])


def _lines(table: Mapping[str, object], path: str) -> Iterator[str]:
    margin = "  " * path.count(".")
    for key, value in table.items():
        if isinstance(value, Mapping):
            for operator, operand in value.items():
                yield from (margin + line for line in _pair(f"{key}.{operator}", operand))
        elif key not in ("any", "all", "unless"):
            yield from (margin + line for line in _pair(key, value))
    for key in ("any", "all", "unless"):
        for inner in _tables(table, key):
            yield f"{margin}  [[{path}.{key}]]"
            yield from _lines(inner, f"{path}.{key}")


def _tables(table: Mapping[str, object], key: str) -> list[Mapping[str, object]]:
    inner = table.get(key, [])
    assert isinstance(inner, list)
    return inner


def _pair(key: str, value: object) -> Iterator[str]:
    line = f"{key} = {toml_value(value)}"
    if len(line) <= WIDTH or not isinstance(value, list):
        yield line
    else:
        yield from (f"{key} = [", *(f"  {toml_value(each)}," for each in value), "]")
