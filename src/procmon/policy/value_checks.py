"""Faults of one value of a rule: it can never match, or it probably does not do what is intended."""

import re
from itertools import pairwise

from ..util.globs import WILDCARD
from ..util.path_checks import (
    SEPARATED,
    doubled_slash,
    doubt_about_path,
    mistake_in_any_path,
    mistake_in_path,
    quoted,
    several_paths,
)
from .facts import FLAG_NAMES, HASHES, INTEGRITY, ORIGINS, PATH_FACTS, order_key
from .spelling import listed, meant, shown

__all__ = ["bound_mistake", "doubt_about", "mistake_in", "several_in", "word_mistake"]

CONTROL = str.maketrans({"\t": r"\t", "\n": r"\n", "\r": r"\r", "\b": r"\b", "\f": r"\f", "\x1b": r"\e"})
"""The control characters that Windows paths become in double quotes, and the intended text."""

IMAGES = frozenset({"image", "parent", "ancestor", "creator"})
ACCOUNTS = frozenset({"user", "parent_user"})
LINES = frozenset({"command_line", "parent_command_line"})
NUMBERS = {"session": "1", "size": "1000000"}
"""Facts that are numbers, each with a likely one."""
LARGEST = {"session": 2**32 - 1, "size": 2**63 - 1}
"""The largest value of each."""

FORMS = {
    "group": (r"s-1(-\d+)+", "a group is a SID", 'write "S-1-5-32-544", say: `whoami /groups` prints them'),
    "logon_id": (r"0x(0|[1-9a-f][\da-f]*)", "a logon_id is hexadecimal without leading zeros", 'write "0x3e7", say'),
}
"""Facts that Windows writes in one form only, each with what to say of another one."""

CHOICES = {"flags": FLAG_NAMES, "origin": ORIGINS, "integrity": tuple(INTEGRITY)}
"""Facts with few possible values."""

LEGAL_FORM = re.compile(
    r"\b(inc|incorporated|ltd|limited|llc|l\.l\.c|corp|corporation|gmbh|ag|co|company|plc|bv|b\.v|srl|s\.r\.l|sa|s\.a"
    r"|oy|ab|pty|a/s)\b",
    re.IGNORECASE,
)
"""The ends of company names, also after a comma: ``Example, Inc.``"""


def mistake_in(fact: str, value: object) -> tuple[str, str] | None:
    """Why a pattern is no value of `fact`, or never matches one, and what to write instead."""
    if fact in NUMBERS:
        return _number_mistake(fact, value)
    if wrong := _text_mistake(fact, value):
        return wrong
    assert isinstance(value, str)
    if fact in HASHES and not WILDCARD.search(value):
        return _hash_mistake(fact, value)
    if fact in CHOICES and not WILDCARD.search(value):
        return _choice_mistake(fact, value)
    if fact in FORMS and not WILDCARD.search(value):
        return _form_mistake(fact, value)
    if (stripped := value.strip()) != value.strip(" ") and stripped.translate(CONTROL) == stripped:
        return f"{fact} begins or ends with a line's end", f"write {quoted(stripped)}"
    if fact in PATH_FACTS:
        return _escape_mistake(fact, value) or _path_mistake(fact, value.replace("\\", "/"))
    return _escape_mistake(fact, value)


def word_mistake(fact: str, operator: str, value: object) -> tuple[str, str] | None:
    """The same for a literal text: operators compare it as it is, so few texts are wrong."""
    if fact in NUMBERS:
        if operator == "equals":
            return _number_mistake(fact, value)
        return f"{fact} is a number", f"write {fact} = 1, or at_least and at_most"
    if operator == "equals" and value == "":
        return None
    if isinstance(value, str) and value and not value.strip():
        return None  # a value can contain a blank
    if wrong := _text_mistake(fact, value):
        return wrong
    assert isinstance(value, str)
    if operator == "equals" and fact in HASHES:
        return _hash_mistake(fact, value)
    if operator == "equals" and fact in CHOICES:
        return _choice_mistake(fact, value)
    if fact in ACCOUNTS and (several := several_in(fact, value)):
        return _several_names(fact, several)
    return _escape_mistake(fact, value) if fact in PATH_FACTS else None


def bound_mistake(fact: str, operator: str, value: object) -> tuple[str, str] | None:
    """Why a value is no bound of an ordered fact."""
    if fact in NUMBERS:
        return _number_mistake(fact, value, f"{{{operator} = #}}")
    if isinstance(value, str) and order_key(fact, value.lower()) is not None:
        return None
    if fact == "integrity":
        return f"there is no integrity {shown(value)}", f"write {listed(map(quoted, INTEGRITY), 'or')}"
    return f"{shown(value)} is no version", f'write file_version = {{{operator} = "10.0.19041"}}, a text of numbers'


def _number_mistake(fact: str, value: object, form: str = "#") -> tuple[str, str] | None:
    if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
        if value <= LARGEST[fact]:
            return None
        return f"no {fact} is so large: {shown(value)}", f"the largest is {LARGEST[fact]}"
    text = value if isinstance(value, str) else ""
    if re.fullmatch("[0-9]{1,18}", text):
        advice = form.replace("#", str(int(text)))
    elif form == "#" and re.fullmatch(r"[0-9]{1,18}([\s;|,]+[0-9]{1,18})+", text):
        advice = str([int(number) for number in re.findall("[0-9]+", text)])
    else:
        form = f"{{at_{'most' if '<' in text else 'least'} = #}}" if re.search("[<>]", text) else form
        advice = form.replace("#", NUMBERS[fact]) + ", say"
    return f"a {fact} is a number, not {shown(value)}", f"write {fact} = {advice}"


def _text_mistake(fact: str, value: object) -> tuple[str, str] | None:
    if isinstance(value, bool):
        return f"{fact} is a text, not {shown(value)}", f"write {fact} = {{known = {str(value).lower()}}}"
    if isinstance(value, dict):
        return f"{fact} is a text, not a table in a list", f"write any = [{{{fact} = ...}}, {{{fact} = ...}}]"
    if not isinstance(value, str):
        number = hex(value) if isinstance(value, int) and fact == "logon_id" else "..."  # TOML reads 0x3e7 as a number
        return f"{fact} is a text, not {shown(value)}", f'write {fact} = "{number}" or a list of texts'
    if not value.strip():
        return f"an empty {fact} matches nothing", 'write a pattern, {equals = ""} for an empty text, or no key'
    return None


def _hash_mistake(fact: str, value: str) -> tuple[str, str] | None:
    length = HASHES[fact]
    if re.fullmatch(rf"[0-9a-fA-F]{{{length}}}", value):
        return None
    name = {"sha256": "a SHA-256", "sha1": "a SHA-1", "md5": "an MD5", "imphash": "an import hash"}.get(fact, f"{fact}")
    found = re.findall(rf"(?<![0-9a-f])[0-9a-f]{{{length}}}(?![0-9a-f])", value.lower())
    if len(found) > 1:
        return f"{quoted(value)} are several in one text", f"write a list: {_list(found)}"
    digits = re.sub(r"^(sha256|sha1|md5|imphash)[:=]|[\s:-]", "", value.lower())
    exact = len(digits) == length
    advice = f"write {quoted(digits)}" if exact else "write all the digits that Get-FileHash prints"
    return f"{name} is {length} hexadecimal digits, and this is {len(value)} characters", advice


def _choice_mistake(fact: str, value: str) -> tuple[str, str] | None:
    choices = CHOICES[fact]
    if value.lower() in choices:
        return None
    if fact == "integrity" and (number := re.fullmatch("(s-1-16-)?([0-9]{1,10})", value, re.IGNORECASE)):
        return _level_mistake(value, int(number[2]), by_sid=bool(number[1]))
    parts = [part for part in re.split(r"\W+", value.lower()) if part in choices]
    if len(parts) > 1:
        return f"{quoted(value)} are several in one text", f"write a list: {_list(parts)}"
    word = meant(value, choices)
    advice = f"write {quoted(word)}" if word else f"write {listed(map(quoted, choices), 'or')}"
    return f"there is no {fact} {quoted(value)}", advice


def _level_mistake(value: str, level: int, *, by_sid: bool) -> tuple[str, str] | None:
    """A level is compared by its SID and by its name, or by its number if it has no name."""
    name = next((name for name, number in INTEGRITY.items() if number == level), str(level))
    form = f"S-1-16-{level}" if by_sid else name
    if value.upper() == form.upper():
        return None
    return f"no integrity is written {quoted(value)}", f"write {quoted(form)}"


def _form_mistake(fact: str, value: str) -> tuple[str, str] | None:
    form, message, advice = FORMS[fact]
    return None if re.fullmatch(form, value, re.IGNORECASE) else (f"{message}, not {quoted(value)}", advice)


def _escape_mistake(fact: str, value: str) -> tuple[str, str] | None:
    """A backslash that TOML has read as something else."""
    if (meant_text := value.translate(CONTROL)) == value:
        return None
    slashes = quoted(meant_text.replace("\\", "/"))
    advice = f"write slashes, {slashes}, or single quotes" if fact in PATH_FACTS else "write single quotes"
    return "in double quotes a backslash changes the letter after it", advice


def _several_names(fact: str, several: list[str]) -> tuple[str, str]:
    return f"no {fact} has these signs in it: they are several in one text", f"write a list: {_list(several)}"


def _path_mistake(fact: str, form: str) -> tuple[str, str] | None:
    """A spelling, here with slashes, that no path and no account has."""
    if fact in IMAGES:
        return mistake_in_path(fact, form)
    if fact in ACCOUNTS and (several := several_in(fact, form)):
        return _several_names(fact, several)
    if wrong := mistake_in_any_path(fact, form):
        return wrong
    if fact in ACCOUNTS and form.endswith("/"):
        return f"no {fact} ends in a slash", f"write {quoted(form + '**')} for all of them"
    if form.endswith("/") and not re.fullmatch("[a-zA-Z?]:/", form):
        return f"{fact} is compared without a slash at its end", f"write {quoted(form.rstrip('/'))}"
    if wrong := doubled_slash(form):
        return wrong
    if fact in ACCOUNTS and form.startswith("./"):
        return f"no account is called {quoted(form)}", f"write {quoted(form[2:])}, or the machine's name"
    return mistake_in_path(fact, form) if fact not in ACCOUNTS and not form.endswith("/") else None


def several_in(fact: str, value: str) -> list[str] | None:
    """The values, if one text seems to contain several, which belong in a list.

    >>> several_in("image", "a.exe; b.exe"), several_in("signer", "Example, Inc.")
    (['a.exe', 'b.exe'], None)
    """
    if not SEPARATED.search(value):
        return None
    if fact in IMAGES or fact == "original_file_name":
        return several_paths(value)
    for separator in (";", "|", ",", " or ", " OR "):
        parts = [part.strip() for part in value.split(separator)]
        if len(parts) > 1 and all(parts) and _are_values(fact, separator, parts):
            return parts
    return None


def _are_values(fact: str, separator: str, parts: list[str]) -> bool:
    """The parts look like values of the fact, and values of this fact do not contain the separator."""
    if fact == "current_directory":
        return all(re.match(r"[a-zA-Z?]:[\\/]|\*|[\\/]", part) for part in parts)
    if fact in ACCOUNTS:
        return separator in ";|,"
    if fact in LINES:
        return all(part[0] == "*" or part[-1] == "*" for part in parts) and any(
            before[-1] == "*" and after[0] == "*" for before, after in pairwise(parts)
        )
    if fact == "publisher" or separator == ",":
        named = [part for part in parts if re.search(r"\w", LEGAL_FORM.sub("", part))]
        whole = len(named) == len(parts)
        if fact == "publisher":
            return whole and sum("O=" in part.upper() for part in parts) > 1 and separator != ","
        return whole and all(LEGAL_FORM.search(part) for part in parts)
    return True


def _list(words: list[str]) -> str:
    shown_words = ", ".join(map(quoted, words[:4]))
    return f"[{shown_words}, ...]" if len(words) > 4 else f"[{shown_words}]"


def doubt_about(fact: str, operator: str, value: str, *, plain: bool = True) -> tuple[str, str] | None:
    """Why a value can match, but probably does not do what is intended, and what to write instead.

    A value in a table of operators is not `plain`: its author knows that ``|`` in a command line is a pipe. There a
    glob that no path matches is only a doubt, since an imported rule must not keep a whole policy from loading.
    """
    if not plain and operator in ("glob", "glob_all") and (wrong := mistake_in(fact, value)):
        return wrong
    exact = operator in ("glob", "glob_all", "equals")
    if (exact or fact in IMAGES) and (plain or fact not in LINES) and (several := several_in(fact, value)):
        return f"{quoted(value)} is one value", f"write a list: {_list(several)}"
    if operator not in ("glob", "glob_all"):
        if WILDCARD.search(value) and fact in IMAGES:
            return f"in {operator} * and ? are themselves, and no image has one", "write glob"
        if operator == "equals" and fact in FORMS:
            return _form_mistake(fact, value)
        if value[0] == value[-1] == "*" and re.search(r"\w", value):
            return f"in {operator} * and ? are themselves", f"write {quoted(value.strip('*'))}, or glob"
        return _doubt_about_whole(fact, operator, value.replace("\\", "/"))
    if plain and fact not in PATH_FACTS and re.match(r"\.\*|\^", value):
        return f"in {quoted(value)} only * and ? stand for others", "write * for .*, and no ^"
    if fact in LINES:
        if WILDCARD.search(value) or (value[0] not in "-/" and " " in value.strip()):
            return None
        return f"{quoted(value)} would have to be the whole command line", f"write {quoted(f'*{value}*')} for a part"
    if fact == "signer":
        named = re.match(r"CN\s*=\s*([^,]+)", value, re.IGNORECASE)
        return ("a signer is a name alone", f"write {quoted(named[1])}") if named else None
    form = value.replace("\\", "/")
    end = form.rpartition("/")[2]
    if fact in ACCOUNTS:
        return ("users are named DOMAIN\\name", "write what whoami prints") if "@" in form and end == form else None
    return doubt_about_path(fact, form) if fact in IMAGES else None


def _doubt_about_whole(fact: str, operator: str, form: str) -> tuple[str, str] | None:
    """A name alone, where the operator sees a whole path or account."""
    if fact in ACCOUNTS and operator == "equals" and "/" not in form and not re.match("s-1-", form, re.IGNORECASE):
        return "equals sees the domain, too", f"write {fact} = {quoted(form)} for any domain, or DOMAIN\\name"
    if fact not in IMAGES or form[:1] == "/" or form[1:2] in ("", ":"):
        return None
    if operator == "equals" and re.search(r"\.\w+$", form):
        return "equals sees the whole path", f"write {fact} = {quoted(form)}"
    if operator == "starts_with":
        return "starts_with sees the whole path", f"write {fact} = {quoted(form + '*')}"
    return None
