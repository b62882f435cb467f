"""The word that was meant: near misspellings, and words of other tools; and lists and values in messages."""

from collections.abc import Iterable

from ..util.path_checks import quoted

__all__ = ["SYNONYMS", "listed", "meant", "shown"]

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
    "severity": "tags", "contains_any": "contains", "contains_one_of": "contains", "cased": "case_sensitive", "filter":
    "unless", "filters": "unless", "neq": "not", "exists": "known",
}  # fmt: skip
"""Words of other tools, and the policy's words for them."""

_JOINED = {word.replace("_", ""): ours for word, ours in SYNONYMS.items()}
"""The same, where ``ParentImage`` is ``parent_image``."""


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
