r"""The policy's fact for each field of Sigma, and the comparison of its values.

Sigma's fields for process creations are those of Sysmon's event 1. Its texts have wildcards, ``*`` and ``?``, which
stand for any characters, backslashes too. A policy has operators for the usual places of stars. Any other text becomes
a glob; in a path's glob ``*`` is written differently, since there it matches within one part of the path.
"""

import re
from itertools import product
from string import ascii_lowercase

from sigma.types import Placeholder, SigmaString, SpecialChars

from .conditions import All, Any, Condition, Fact, Not

__all__ = ["FACTS", "CannotSay", "bounded", "compared", "keyword", "known", "number"]

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

ALIASES = {
    "newprocessname": "Image",
    "processcommandline": "CommandLine",
    "parentprocessname": "ParentImage",
    "subjectlogonid": "LogonId",
    "mandatorylabel": "IntegrityLevel",
    "md5hash": "md5",
    "sha1hash": "sha1",
    "sha256hash": "sha256",
}
"""Sigma's field by the name, in lower case, that the Security log and other tools have for it."""

HASHES = {"MD5": ("md5", 32), "SHA1": ("sha1", 40), "SHA256": ("sha256", 64), "IMPHASH": ("imphash", 32)}
"""Fact and number of hexadecimal digits, by the name before ``=`` in the field ``Hashes``."""

PATHS = frozenset({"image", "parent", "current_directory", "user", "parent_user"})
"""Facts whose globs have parts, and in which a slash is a backslash."""

CASELESS = frozenset({"image", "parent", "integrity", "md5", "sha1", "sha256", "imphash", "logon_id"})
"""Facts whose letter case a policy does not know."""

KEYWORD_FACTS = [fact for fact in FACTS.values() if fact != "session"]

ACCOUNTS = frozenset({"user", "parent_user"})

WITH_SID = frozenset({"user", "integrity"})
"""Facts that are both a name and a SID; a condition on either is one on both."""

_CONTROL = re.compile("[\0-\x1f]")
_SURROGATE = re.compile("[\ud800-\udfff]")
_NO_ACCOUNT = re.compile("[;|,]")
_NAMED_HASH = re.compile(rf"(?:{'|'.join(HASHES)})=", re.IGNORECASE)

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
    fact = "Hashes" if field == "Hashes" else _fact(field)
    if case_sensitive and (fact in CASELESS or fact == "Hashes"):
        raise CannotSay(f"letter case counts in {field}; a policy does not know the case of {fact}: leave out cased")
    if fact == "Hashes":
        return _hash(_parts(text), text)
    parts = _parts(text)
    if sign := _never_in(fact, parts):
        raise CannotSay(f"it asks for {sign} in {fact}, where Windows allows none")
    if fact in WITH_SID and _may_be_sid(parts):
        raise CannotSay(f"a policy compares {fact} with the SID, too, and {text} may match one: write more of the name")
    condition = _text(fact, parts, case_sensitive)
    if text.s == ["-"]:  # Sysmon's text for an unknown value
        return Any((condition, Fact(fact, "known", (False,))))
    return condition


def number(field: str, value: int | float) -> Condition:
    """The condition that the field is the number."""
    if isinstance(value, int) and FACTS.get(field) == "logon_id" and value >= 0:
        return Fact("logon_id", "equals", (hex(value),))  # YAML reads 0x3e7 as a number; Windows writes it as 0x3e7
    return compared(field, SigmaString(str(value)), case_sensitive=False)


def bounded(field: str, operator: str, bound: int | float) -> Condition:
    """The condition that the field, a number, is `at_least` or `at_most` the bound."""
    if FACTS.get(field) != "session":
        raise CannotSay(f"the field {field} is compared with a number, and is none in a policy")
    if not isinstance(bound, int):
        raise CannotSay(f"it compares the number of the session with {bound}: write a whole number")
    if bound >= 0:
        return Fact("session", operator, (bound,))
    if operator == "at_most":
        raise CannotSay("no session has a number below 0")
    return Fact("session", "known", (True,))


def keyword(text: SigmaString) -> Condition:
    """The condition that at least one field contains the text."""
    parts = _parts(SpecialChars.WILDCARD_MULTI + text + SpecialChars.WILDCARD_MULTI)
    if _may_be_sid(parts):
        raise CannotSay(f"a policy looks for {text} in SIDs, too: write the field, as CommandLine|contains")
    facts = [fact for fact in KEYWORD_FACTS if not (_never_in(fact, parts) or (fact in PATHS and "/" in str(text)))]
    conditions = [_text(fact, parts, False) for fact in facts]
    if _NAMED_HASH.search(str(text)):
        conditions.append(_hash(parts, text))
    return Any(tuple(conditions))


def _fact(field: str) -> str:
    if field in FACTS:
        return FACTS[field]
    names = {name.lower(): name for name in (*FACTS, "Hashes")} | ALIASES
    if field == "EventID":
        raise CannotSay("no fact of a policy is the field EventID: convert without the pipeline that adds it")
    advice = f": write {names[field.lower()]}" if field.lower() in names else ""
    raise CannotSay(f"no fact of a policy is the field {field}{advice}")


Part = str | SpecialChars


def _parts(text: SigmaString) -> list[Part]:
    """Literal texts and wildcards, no star next to another."""
    parts: list[Part] = []
    for part in text.s:
        if isinstance(part, Placeholder):
            raise CannotSay(f"the placeholder %{part.name}% has no value; a pipeline of pySigma can give it one")
        if isinstance(part, str) and (half := _SURROGATE.search(part)):
            raise CannotSay(f"it asks for U+{ord(half[0]):04X}, half of a character, which no policy can contain")
        if part != STAR or parts[-1:] != [STAR]:
            parts.append(part)
    return parts


def _never_in(fact: str, parts: list[Part]) -> str | None:
    """What the parts have and no value of the fact has, and what a policy therefore takes for a mistake."""
    text = "".join(part for part in parts if isinstance(part, str))
    if fact in PATHS and _CONTROL.search(text):
        return "a control character"
    sign = _NO_ACCOUNT.search(text) if fact in ACCOUNTS else None
    return f"the sign {sign[0]}" if sign else None


def _may_be_sid(parts: list[Part]) -> bool:
    """A SID, which the rule does not name as one, may match the parts."""
    texts = [part.lower() for part in parts if isinstance(part, str)]
    if len(parts) == len(texts) == 1 or set(parts) <= {STAR} or any("s-1-" in text for text in texts):
        return False
    return all(re.fullmatch(r"[s\d-]*", text) for text in texts)


def _text(fact: str, parts: list[Part], case_sensitive: bool) -> Condition:
    if fact == "session" and parts != [STAR]:
        text = "".join(map(_wildcard, parts))
        if not re.fullmatch("0|[1-9][0-9]*", text):
            raise CannotSay(f"it compares the number of the session with the text '{text}': write a whole number")
        return Fact(fact, "equals", (int(text),))
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
        raise CannotSay(f"it asks for a slash in {fact}, where a policy takes it for a backslash: write \\")
    digits = dict(HASHES.values()).get(fact)
    if digits is not None and operator == "equals" and not re.fullmatch(rf"[0-9a-fA-F]{{{digits}}}", text):
        raise CannotSay(f"no {fact} is {text}; it has {digits} hexadecimal digits")
    if fact == "integrity" and operator == "equals" and not _LEVEL.fullmatch(text):
        raise CannotSay(f"Windows has no integrity level {text}")
    return Fact(fact, operator, (text,), case_sensitive)


def _glob(fact: str, parts: list[Part], case_sensitive: bool) -> Condition:
    texts = [part for part in parts if isinstance(part, str)]
    if any("*" in text or "?" in text for text in texts):
        raise CannotSay(
            "it has wildcards beside a literal * or ?, which a policy's glob cannot say: write two conditions"
        )
    if fact not in PATHS:
        return Fact(fact, "glob", ("".join(map(_wildcard, parts)),), case_sensitive)
    if any("/" in text for text in texts):
        raise CannotSay(f"it asks for a slash in {fact}, where a policy takes it for a backslash: write \\")
    if fact == "current_directory":
        return _directory_glob(parts, case_sensitive)
    return Fact(fact, "glob", _path_globs(parts), case_sensitive)


def _directory_glob(parts: list[Part], case_sensitive: bool) -> Condition:
    r"""Windows keeps a backslash at the end of a directory, Sigma compares it, and a policy's glob does not see it."""

    def glob(*patterns: list[Part]) -> Fact:
        globs = [each for pattern in patterns if pattern for each in _path_globs(pattern)]
        return Fact("current_directory", "glob", tuple(dict.fromkeys(globs)), case_sensitive)

    def ends(text: str) -> Fact:
        return Fact("current_directory", "ends_with", (text,))

    *before, last = parts
    if last == MARK:
        raise CannotSay("it has a ? at the end of a directory, which may be its last backslash: leave it out")
    without = _without_backslash(before if last == STAR else parts)
    if without is None:
        return glob(parts) if last == STAR else All((glob(parts), Not(ends("\\"))))
    if _roots(without) <= _roots(parts):
        ended: Condition = All((ends("\\"), glob(without)))
    else:
        ended = All((ends("\\"), Not(ends(":\\")), glob(without)))
    return Any((glob(parts), ended)) if last == STAR or _roots(parts) else ended


def _roots(parts: list[Part]) -> set[str]:
    r"""The roots of drives, such as c:\, that match; a policy's glob sees their backslash."""
    pattern = "".join(re.escape(p) if isinstance(p, str) else ".*" if p == STAR else "." for p in parts)
    return {root for root in map("{}:\\".format, ascii_lowercase) if re.fullmatch(pattern, root, re.IGNORECASE)}


def _without_backslash(parts: list[Part]) -> list[Part] | None:
    """The parts without the backslash at their end, if there is one."""
    match parts:
        case [*before, str(last)] if last.endswith("\\"):
            return [*before, *([last[:-1]] if last != "\\" else [])]
    return None


def _path_globs(parts: list[Part]) -> tuple[str, ...]:
    marks = parts.count(MARK)
    if marks > MOST_MARKS:
        raise CannotSay(f"it has {marks} wildcards ? in a path; each may be a backslash, which a policy's ? is not")
    globs = []
    for characters in product("?\\", repeat=marks):
        each = iter(characters)
        globs.append(_path_glob([next(each) if part == MARK else _wildcard(part) for part in parts]))
    return tuple(globs)


def _wildcard(part: Part) -> str:
    return part if isinstance(part, str) else "*" if part == STAR else "?"


def _path_glob(pieces: list[str]) -> str:
    r"""A glob whose stars cross the parts of a path.

    A star becomes ``**``, with one exception: where the star is a whole part and a backslash follows, ``**`` would also
    stand for no part at all. There the star becomes ``*\**``: one part, and any further ones. A glob without a
    backslash is compared only with the last part of a path. So if it begins with a star, it gets ``**\`` in front.
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
        raise CannotSay(
            f"a policy would compare the pattern {glob} with the last part of the path alone: write a folder"
        )
    return r"**" + "\\" + glob


def _hash(parts: list[Part], text: SigmaString) -> Condition:
    """``Hashes`` is ``SHA1=...,MD5=...,SHA256=...,IMPHASH=...``: a whole hash of a named kind is a fact."""
    match parts:
        case [SpecialChars.WILDCARD_MULTI, str(content), SpecialChars.WILDCARD_MULTI]:
            kind, _, digits = content.strip(",").upper().rpartition("=")
            kinds = [kind] if kind else [each for each, (_, length) in HASHES.items() if length == len(digits)]
            if kinds and all(HASHES.get(each, ("", 0))[1] == len(digits) for each in kinds) and _is_hex(digits):
                return Any(tuple(Fact(HASHES[each][0], "equals", (digits.lower(),)) for each in kinds))
    raise CannotSay(f"it asks for a part of the hashes, {text}: write Hashes|contains and a whole one, as SHA256=...")


def _is_hex(digits: str) -> bool:
    return re.fullmatch("[0-9A-F]+", digits) is not None
