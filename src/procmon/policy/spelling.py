"""Suggestions for mistakes: near misspellings, words of other tools, and texts that `tomllib` refuses."""

import re
from collections.abc import Iterable, Iterator

from ..errors import Problem
from ..util.path_checks import quoted
from .toml_positions import tokens

__all__ = ["SYNONYMS", "invisible_at", "invisible_in", "listed", "meant", "new_escape_at", "shown", "syntax_problem"]

SYNONYMS = {
    "deny": "block", "denied": "block", "reject": "block", "refuse": "block", "kill": "block", "blocked": "block",
    "permit": "allow", "accept": "allow", "pass": "allow", "allowed": "allow", "prompt": "ask", "defer": "ask",
    "rules": "[[rule]]", "path": "image", "exe": "image", "executable": "image", "process": "image", "program": "image",
    "action": "verdict", "decision": "verdict", "cmdline": "command_line", "args": "command_line", "hash": "sha256",
    "arguments": "command_line", "parent_image": "parent", "parent_cmdline": "parent_command_line", "dry_run": "audit",
    "permissive": "audit", "monitor": "audit", "lockdown": "enforce", "enforcing": "enforce", "comment": "name",
    "title": "name", "id": "name", "cwd": "current_directory", "original_filename": "original_file_name",
    "product_name": "product", "company_name": "company", "file_description": "description", "integrity_level":
    "integrity", "logon": "logon_id", "filesize": "size", "file_size": "size", "zone": "origin", "groups": "group",
    "expires": "until", "expiry": "until", "ref": "reference", "url": "reference", "labels": "tags", "startswith":
    "starts_with", "begins_with": "starts_with", "endswith": "ends_with", "is": "equals", "eq": "equals", "equal":
    "equals", "like": "glob", "matches": "glob", "or": "any", "and": "all", "any_of": "any", "one_of": "any",
    "all_of": "all", "min": "at_least", "max": "at_most", "gte": "at_least", "lte": "at_most",
    "new_process_name": "image", "parent_process_name": "parent", "user_name": "user", "level": "tags",
    "severity": "tags",
}  # fmt: skip
"""Words of other tools, and the policy's words for them."""

_JOINED = {word.replace("_", ""): ours for word, ours in SYNONYMS.items()}
"""The same, where ``ParentImage`` is ``parent_image``."""

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
"""What to write instead. The patterns match `tomllib`'s message, a line's end, and the line with the mistake."""

_NEW_ESCAPE = re.compile(r"(?<!\\)(?:\\\\)*\\[xe]")


def meant(word: str, choices: Iterable[str]) -> str | None:
    """The intended word, probably: a synonym, or a choice that differs by a slip. A wrong guess is worse than none.

    >>> meant("comand-line", ["command_line", "user"]), meant("issuer", ["user"])
    ('command_line', None)
    """
    choices = list(choices)
    form = word.lower().replace("-", "_")
    synonym = _JOINED.get(form.replace("_", ""))
    if synonym and (synonym in choices or (synonym == "[[rule]]" and "rule" in choices)):
        return synonym
    allowed = 2 if len(form) > 8 else 1 if len(form) > 3 else 0
    near = {choice: _slips(form, choice) for choice in choices if abs(len(choice) - len(form)) <= allowed}
    best = min(near, key=near.__getitem__, default=None)
    return best if best is not None and near[best] <= allowed else None


def _slips(one: str, other: str) -> int:
    """The number of letters that were omitted, inserted, changed, or swapped with the next."""
    rows = [list(range(len(other) + 1))]
    for i, a in enumerate(one, 1):
        row = [i]
        for j, b in enumerate(other, 1):
            cost = min(rows[-1][j] + 1, row[-1] + 1, rows[-1][j - 1] + (a != b))
            if i > 1 and j > 1 and a == other[j - 2] and one[i - 2] == b:
                cost = min(cost, rows[-2][j - 2] + 1)
            row.append(cost)
        rows.append(row)
    return rows[-1][-1]


def shown(value: object) -> str:
    """A value of the document for a message, as TOML writes it or nearly so."""
    return quoted(value) if isinstance(value, str) else quoted(str(value))[1:-1]


def listed(words: Iterable[str], last: str) -> str:
    """``a, b and c``."""
    *first, end = words
    return f"{', '.join(first)} {last} {end}"


def syntax_problem(text: str, error: ValueError) -> Problem:
    """The `Problem` for an error of `tomllib`, with its place, which Python 3.11 to 3.13 have only in the message."""
    message, (line, column) = _placed(text, error)
    context = f"{message}\n{text.split(chr(10))[line - 1]}"
    advice = next((advice for sign, advice in _SYNTAX if re.search(sign, context, re.IGNORECASE)), _SYNTAX[-1][1])
    return Problem(line, column, message[:1].lower() + message[1:], advice)


def new_escape_at(text: str) -> Problem | None:
    r"""The first escape that is new in TOML 1.1: ``\x64`` or ``\e``. Python 3.15 reads them, older versions do not.

    They are refused everywhere, since a policy must mean the same on each Python, and in ``"d:\x64\tool.exe"`` the
    escape is not intended.
    """
    if not _NEW_ESCAPE.search(text):
        return None
    for offset, token in tokens(text):
        if token[0] == '"' and (found := _NEW_ESCAPE.search(token)):
            at = offset + found.end()
            place = (text.count("\n", 0, at) + 1, at - text.rfind("\n", 0, at))
            return Problem(*place, "unescaped '\\' in a string", _SYNTAX[0][1])
    return None


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
            at = offset + token.index(found)
            place = (text.count("\n", 0, at) + 1, at - text.rfind("\n", 0, at))
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
