r"""The policy's fact for each field of Sigma, and the comparison of its values.

Sigma's fields for process creations are those of Sysmon's event 1. Its texts have wildcards, ``*`` and ``?``, which
stand for any characters, backslashes too. A policy has operators for the usual places of stars. Any other text becomes
a glob; in a path's glob ``*`` is written differently, since there it matches within one part of the path.
"""

import re
from itertools import product

from sigma.types import Placeholder, SigmaString, SpecialChars

from .conditions import All, Any, Condition, Fact

__all__ = ["FACTS", "CannotSay", "compared", "keyword", "known"]

FACTS = {
    "Image": "image",
    "OriginalFileName": "original_file_name",
    "CommandLine": "command_line",
    "CurrentDirectory": "current_directory",
    "ParentImage": "parent",
    "ParentCommandLine": "parent_command_line",
    "ParentUser": "parent_user",
    "User": "user",
    "LogonId": "logon_id",
    "TerminalSessionId": "session",
    "IntegrityLevel": "integrity",
    "FileVersion": "file_version",
    "Description": "description",
    "Product": "product",
    "Company": "company",
    "md5": "md5",
    "sha1": "sha1",
    "sha256": "sha256",
    "Imphash": "imphash",
}
"""Fact by field; ``Hashes`` has several facts and is read separately."""

HASHES = {"MD5": ("md5", 32), "SHA1": ("sha1", 40), "SHA256": ("sha256", 64), "IMPHASH": ("imphash", 32)}
"""Fact and number of hexadecimal digits, by the name before ``=`` in the field ``Hashes``."""

PATHS = frozenset({"image", "parent", "current_directory", "user", "parent_user"})
"""Facts whose globs have parts, and in which a slash is a backslash."""

CASELESS = frozenset({"image", "parent", "integrity", "md5", "sha1", "sha256", "imphash", "logon_id"})
"""Facts whose letter case a policy does not know."""

KEYWORD_FACTS = [fact for fact in FACTS.values() if fact != "session"]

_CONTROL = re.compile("[\0-\x1f]")

_LEVEL = re.compile(r"untrusted|low|medium|high|system|protected|s-1-16-\d+", re.IGNORECASE)

STAR, MARK = SpecialChars.WILDCARD_MULTI, SpecialChars.WILDCARD_SINGLE

MOST_MARKS = 4
"""Wildcards ``?`` in a path that are written out, each as a backslash and as any other character."""


class CannotSay(Exception):
    """A policy cannot express this; the message is the reason."""


def known(field: str, known: bool) -> Condition:
    """The condition that the field has a value, or has none."""
    if field == "Hashes":
        facts = [Fact(fact, "known", (True,)) for fact, _ in HASHES.values()]
        return Any(tuple(facts)) if known else All(tuple(Fact(f.fact, "known", (False,)) for f in facts))
    return Fact(_fact(field), "known", (known,))


def compared(field: str, text: SigmaString, *, case_sensitive: bool) -> Condition:
    """The condition that the field matches the text."""
    if field == "Hashes":
        return _hash(text)
    fact = _fact(field)
    if case_sensitive and fact in CASELESS:
        raise CannotSay(f"letter case counts in the field {field}; a policy does not know the case of {fact}")
    parts = _parts(text)
    if fact in PATHS and any(_CONTROL.search(part) for part in parts if isinstance(part, str)):
        raise CannotSay(f"it asks for a control character in {fact}, where Windows allows none")
    condition = _text(fact, parts, case_sensitive)
    if text.s == ["-"]:  # Sysmon's text for an unknown value
        return Any((condition, Fact(fact, "known", (False,))))
    return condition


def keyword(text: SigmaString) -> Condition:
    """The condition that at least one field contains the text."""
    parts = [STAR, *_parts(text), STAR]
    slash = any("/" in part for part in parts if isinstance(part, str))  # no path of Windows has one
    return Any(tuple(_text(fact, parts, False) for fact in KEYWORD_FACTS if not (slash and fact in PATHS)))


def _fact(field: str) -> str:
    if field not in FACTS:
        raise CannotSay(f"no fact of a policy is the field {field}")
    return FACTS[field]


Part = str | SpecialChars


def _parts(text: SigmaString) -> list[Part]:
    """Literal texts and wildcards, no star next to another."""
    parts: list[Part] = []
    for part in text.s:
        if isinstance(part, Placeholder):
            raise CannotSay(f"the placeholder %{part.name}% has no value; a pipeline of pySigma can give it one")
        if part != STAR or parts[-1:] != [STAR]:
            parts.append(part)
    return parts


def _text(fact: str, parts: list[Part], case_sensitive: bool) -> Condition:
    match parts:
        case []:
            return Fact(fact, "equals", ("",), case_sensitive)
        case [SpecialChars.WILDCARD_MULTI]:
            return Fact(fact, "known", (True,))
        case [str(text)]:
            operator = "equals"
        case [SpecialChars.WILDCARD_MULTI, str(text), SpecialChars.WILDCARD_MULTI]:
            operator = "contains"
        case [str(text), SpecialChars.WILDCARD_MULTI]:
            operator = "starts_with"
        case [SpecialChars.WILDCARD_MULTI, str(text)]:
            operator = "ends_with"
        case _:
            return _glob(fact, parts, case_sensitive)
    if fact in PATHS and "/" in text:
        raise CannotSay(f"it asks for a slash in {fact}, where a policy takes it for a backslash")
    digits = dict(HASHES.values()).get(fact)
    if digits is not None and operator == "equals" and not re.fullmatch(rf"[0-9a-fA-F]{{{digits}}}", text):
        raise CannotSay(f"no {fact} is {text}; it has {digits} hexadecimal digits")
    if fact == "integrity" and operator == "equals" and not _LEVEL.fullmatch(text):
        raise CannotSay(f"Windows has no integrity level {text}")
    if fact == "session":
        if operator != "equals" or not text.isdecimal():
            raise CannotSay(f"it compares the number of the session with the text {text}")
        return Fact(fact, operator, (int(text),))
    return Fact(fact, operator, (text,), case_sensitive)


def _glob(fact: str, parts: list[Part], case_sensitive: bool) -> Condition:
    texts = [part for part in parts if isinstance(part, str)]
    if any("*" in text or "?" in text for text in texts):
        raise CannotSay("it has wildcards beside a literal * or ?, which a policy's glob cannot say")
    if fact == "session":
        raise CannotSay("it compares the number of the session with a pattern")
    if fact not in PATHS:
        return Fact(fact, "glob", ("".join(map(_wildcard, parts)),), case_sensitive)
    if any("/" in text for text in texts):
        raise CannotSay(f"it asks for a slash in {fact}, where a policy takes it for a backslash")
    marks = parts.count(MARK)
    if marks > MOST_MARKS:
        raise CannotSay(f"it has {marks} wildcards ? in a path; each may be a backslash, which a policy's ? is not")
    globs = []
    for characters in product("?\\", repeat=marks):
        each = iter(characters)
        globs.append(_path_glob([next(each) if part == MARK else _wildcard(part) for part in parts]))
    return Fact(fact, "glob", tuple(globs), case_sensitive)


def _wildcard(part: Part) -> str:
    return part if isinstance(part, str) else "*" if part == STAR else "?"


def _path_glob(pieces: list[str]) -> str:
    r"""A glob whose stars cross the parts of a path.

    ``**`` does, unless it is a part by itself and a backslash follows: then it stands for any folders or none. So such
    a star becomes ``*\**``, one part and any further ones. A glob without a backslash would be compared only with the
    last part, so if it begins with a star it gets ``**\`` in front: any folders or none.
    """
    glob = ""
    for i, piece in enumerate(pieces):
        if piece != "*":
            glob += piece
        elif (not glob or glob.endswith("\\")) and "".join(pieces[i + 1 :]).startswith("\\"):
            glob += r"*\**"
        else:
            glob += "**"
    if "\\" in glob:
        return glob
    if not glob.startswith("**"):
        raise CannotSay(f"a policy would compare the pattern {glob} with the last part of the path alone")
    return r"**" + "\\" + glob


def _hash(text: SigmaString) -> Condition:
    """``Hashes`` is ``SHA1=...,MD5=...,SHA256=...,IMPHASH=...``: a whole hash of a named kind is a fact."""
    match _parts(text):
        case [SpecialChars.WILDCARD_MULTI, str(content), SpecialChars.WILDCARD_MULTI]:
            kind, _, digits = content.strip(",").upper().rpartition("=")
            kinds = [kind] if kind else [each for each, (_, length) in HASHES.items() if length == len(digits)]
            if kinds and all(HASHES.get(each, ("", 0))[1] == len(digits) for each in kinds) and _is_hex(digits):
                return Any(tuple(Fact(HASHES[each][0], "equals", (digits.lower(),)) for each in kinds))
    raise CannotSay(f"it asks for a part of the hashes, {text}; a policy knows each hash as a whole")


def _is_hex(digits: str) -> bool:
    return re.fullmatch("[0-9A-F]+", digits) is not None
