"""Mistakes in the text of a policy, with their places and advice: what `tomllib` refuses, and invisible characters.

`toml_positions` finds the places of values in a text that `tomllib` has accepted.
"""

import re
from collections.abc import Iterator

from ..errors import Problem
from .toml_positions import tokens

__all__ = ["deep_key_at", "invisible_at", "invisible_in", "large_number_at", "new_escape_at", "syntax_problem"]

_SYNTAX = (
    (r"^(unescaped|invalid hex|escaped)", r"write paths with slashes, c:/windows, or in single quotes, 'c:\windows'"),
    ("^cannot overwrite", 'a key stands once in a rule; several values are a list: image = ["a.exe", "b.exe"]'),
    (r"^(cannot declare \('rule',\)|expected '\]\]')", "write [[rule]], with two brackets, above each rule"),
    (r"^invalid initial[^\n]*\n.*,\s*\}", "delete the comma before }"),
    (r"^(invalid initial|unclosed inline)[^\n]*\n.*\{", "an inline table stands on one line: write [[rule.any]]"),
    (r"^((illegal|found invalid) character '\\n'|unterminated|expected \"'+\")", "end the text with its quote"),
    ("[“”„‘’]", "write straight quotes"),
    (r"\n\s*audit\s*=", "write audit = true"),
    (r"^invalid value\n.*=\s*[A-Za-z*]", "put texts in quotes"),
    (r"^invalid value\n\s*[\w-]+\s*=\s*[\"'\[]", "close the list above this line with ]"),
    (r"^expected '='[^\n]*\n\S+\.toml$", "Policy.load(path) reads a file"),
    ("^unclosed array", 'write commas between the texts, and ] behind them: ["a.exe", "b.exe"]'),
    ("^exceeds", "a policy needs no such number"),
    ("", 'a line is key = value, [[rule]], or # and a remark; several values are a list: ["a.exe", "b.exe"]'),
)  # fmt: skip
"""What to write instead, by a pattern for this text: the message of `tomllib`, ``\\n``, the line with the mistake."""

_MAX_DOTS = 30
"""A key with as many dots is refused. The keys of policies have one or two."""

_LARGE = re.compile(
    r"""(?<![\w"'])[+-]?(?:0x[\dA-Fa-f_]{16,}|0o[0-7_]{21,}|0b[01_]{63,}|[1-9][\d_]{18,})(?![\w"'])""", re.ASCII
)
"""A number that perhaps needs more than 64 bits."""

_MANY_DOTS = re.compile(rf"(?:\.[^.\n]*+){{{_MAX_DOTS}}}")

_NEW_ESCAPE = re.compile(r"(?<!\\)(?:\\\\)*\\[xe]")


def syntax_problem(text: str, error: ValueError) -> Problem:
    """The `Problem` for an error of `tomllib`, with its place, which Python 3.11 to 3.13 have only in the message."""
    message, (line, column) = _placed(text, error)
    if re.search("^(?:title|logsource|detection):", text, re.MULTILINE):
        return Problem(line, column, "this is a Sigma rule, not a policy", "convert it: `sigma convert -t procmon`")
    context = f"{message}\n{text.split(chr(10))[line - 1]}"
    advice = next((advice for sign, advice in _SYNTAX if re.search(sign, context, re.IGNORECASE)), _SYNTAX[-1][1])
    return Problem(line, column, message[:1].lower() + message[1:], advice)


def deep_key_at(text: str) -> Problem | None:
    """The first key of too many parts, in any spelling. `tomllib` takes memory by the square of their number.

    The text may be invalid: up to its first mistake, where `tomllib` stops, its tokens are those that `tomllib` reads.
    """
    if not _MANY_DOTS.search(text):
        return None
    before, begin, dots = "\n", -1, 0
    for offset, token in tokens(text):
        if token in "\n[]{}=,":
            before, begin, dots = token, -1, 0
            continue
        begin = offset if begin < 0 else begin
        if token[0] not in "\"'" and before != "=":
            dots += token.count(".")
        if dots >= _MAX_DOTS:
            return Problem(*_place(text, begin), "this is no key of a policy", _SYNTAX[-1][1])
    return None


def new_escape_at(text: str) -> Problem | None:
    r"""The first escape that is new in TOML 1.1: ``\x64`` or ``\e``. Python 3.15 reads them, older versions do not.

    They are refused everywhere, since a policy must mean the same on each Python, and in ``"d:\x64\tool.exe"`` the
    escape is not intended.
    """
    if not _NEW_ESCAPE.search(text):
        return None
    for offset, token in tokens(text):
        if token[0] == '"' and (found := _NEW_ESCAPE.search(token)):
            return Problem(*_place(text, offset + found.end()), "unescaped '\\' in a string", _SYNTAX[0][1])
    return None


def large_number_at(text: str) -> Problem | None:
    """The first whole number of more than 64 bits. TOML has none, `tomllib` reads it, and Python may not write it."""
    if not _LARGE.search(text):
        return None
    for offset, token in tokens(text):
        if _LARGE.fullmatch(token) and _is_large(token):
            return Problem(*_place(text, offset), "a number of more than 64 bits", "a policy needs no such number")
    return None


def _is_large(token: str) -> bool:
    try:
        return not -(2**63) <= int(token, 0) < 2**63
    except ValueError:  # a key, in which `_` and any number of digits may stand; what it means is checked later
        return False


def _place(text: str, offset: int) -> tuple[int, int]:
    """The line and the column, both from 1."""
    return text.count("\n", 0, offset) + 1, offset - text.rfind("\n", 0, offset)


def invisible_at(text: str, error: ValueError) -> Problem | None:
    """The invisible character that made `tomllib` refuse the text, if there is one."""
    _, (number, column) = _placed(text, error)
    line = text.split("\n")[number - 1]
    for i, char in enumerate(line[:column]):
        if _invisible(char) and not re.search("[\"'#]", line[:i]):
            where = f"line {number} {'begins with' if not line[:i].strip() else 'has'} the invisible U+{ord(char):04X}"
            return Problem(number, i + 1, where, "delete it")
    return None


def invisible_in(text: str) -> Iterator[Problem]:
    """Invisible characters in values: a text with one, copied from a page, matches nothing."""
    if text.isascii() or not any(map(_invisible, set(text))):
        return
    for offset, token in tokens(text):
        found = next((char for char in token if _invisible(char)), None)
        if found is not None and token[0] in "\"'":
            place = _place(text, offset + token.index(found))
            advice = f'delete it, or write "\\u{ord(found):04X}" in double quotes where it is meant'
            yield Problem(*place, f"the text has the invisible U+{ord(found):04X} in it", advice, fatal=False)


def _invisible(char: str) -> bool:
    if char <= "\x7f":
        return False
    import unicodedata

    return unicodedata.category(char) in ("Cf", "Zs", "Zl", "Zp") or char == "\u3164"


def _placed(text: str, error: ValueError) -> tuple[str, tuple[int, int]]:
    message = str(error)
    at = re.search(r" \(at (?:line (\d+), column (\d+)|end of document)\)$", message)
    if at and at[1]:
        return message[: at.start()], (int(at[1]), int(at[2]))
    lines = text.split("\n")
    return message[: at.start()] if at else message.partition(";")[0], (len(lines), len(lines[-1]) + 1)
