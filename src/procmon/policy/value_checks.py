"""What is wrong with one value of a rule: what can never match, and what hardly can be meant."""

import re

from .rules import PATH_FACTS, WILD

__all__ = ["doubt_about", "mistake_in", "quoted", "shown"]

CONTROL = str.maketrans({"\t": r"\t", "\n": r"\n", "\r": r"\r", "\b": r"\b", "\f": r"\f", "\x1b": r"\e"})
"""What Windows paths become between double quotes, and what was meant."""

NAMELESS = ("system", "registry", "memory compression", "secure system", "vmmem")
"""Processes without an executable, whose name has no extension."""


def quoted(word: str) -> str:
    """`word` for a message."""
    return '"' + (word if len(word) <= 80 else word[:77] + "...") + '"'


def shown(value: object) -> str:
    """A value of the document for a message, as TOML writes it or nearly so."""
    return quoted(value) if isinstance(value, str) else quoted(str(value))[1:-1]


def mistake_in(fact: str, value: object) -> tuple[str, str] | None:
    """Why a value is no value of `fact`, or never matches one, and what to write instead."""
    if fact == "session":
        if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
            return None
        number = value if isinstance(value, str) and value.isdecimal() else "1, say"
        return f"a session is a number, not {shown(value)}", f"write session = {number}"
    if not isinstance(value, str):
        return f"{fact} is a text, not {shown(value)}", f'write {fact} = "..." or a list of texts'
    if not value.strip():
        return f"an empty {fact} matches nothing", "write a pattern, or leave the key out"
    if fact == "sha256":
        if re.fullmatch("[0-9a-fA-F]{64}", value):
            return None
        digits = re.sub(r"^sha256[:=]|[\s:-]", "", value.lower())
        advice = f"write {quoted(digits)}" if len(digits) == 64 else "write all the digits that Get-FileHash prints"
        return f"a SHA-256 is 64 hexadecimal digits, and this is {len(value)} characters", advice
    if (stripped := value.strip()) != value.strip(" ") and stripped.translate(CONTROL) == stripped:
        return f"{fact} begins or ends with a line's end", f"write {quoted(stripped)}"
    if (meant := value.translate(CONTROL)) != value:
        message = "in double quotes a backslash changes the letter after it"
        slashes = quoted(meant.replace("\\", "/"))
        return message, f"write slashes, {slashes}, or single quotes" if fact in PATH_FACTS else "write single quotes"
    return _path_mistake(fact, value.replace("\\", "/")) if fact in PATH_FACTS else None


def _path_mistake(fact: str, form: str) -> tuple[str, str] | None:
    """A way of writing, here with slashes, that no path of an image and no account has."""
    if re.search("%[^%/]+%", form) or re.match(r"~/|\$\{?(env:)?\w+\}?/", form):
        return f"variables such as {quoted(form)} are not replaced", "write the path, or **/ for any folder"
    if sign := re.search('[<>"|]', form):
        advice = f'several are a list: {fact} = ["...", "..."]' if sign[0] == "|" else "leave it out"
        return f"no {fact} has a {sign[0]} in it", advice
    if form.endswith("/"):
        below = form if form.endswith("**/") else f"{form}**/"
        return f"no {fact} ends in a slash", f"write {quoted(below[:-1])} for all that is below it"
    if "//" in form[1:]:
        single = re.sub("(?<=.)/+", "/", form)
        return "two slashes follow each other; in single quotes a backslash stands once", f"write {quoted(single)}"
    if fact == "user":
        if form.startswith("./"):
            return f"no account is told as {quoted(form)}", f"write {quoted(form[2:])}, or the machine's name"
        return None
    if prefix := re.match(r"(//[?.]|/\?\?)/(?=[a-z]:|(unc/))", form, re.IGNORECASE):
        plain = "//" + form[prefix.end() + 4 :] if prefix[2] else form[prefix.end() :]
        return f"no {fact} is told with {quoted(prefix[1])}", f"write {quoted(plain)}"
    if "/./" in f"/{form}" or "/../" in f"/{form}":
        return f"no {fact} is told with . or .. in its path", "write the whole path, or **/ for any folder"
    if "/sysnative/" in form.lower():
        return f"no {fact} is told with sysnative, which 32-bit programs say for system32", "write system32"
    if re.match("[a-zA-Z]:(?!/)", form):
        return f"{quoted(form)} names no folder", f"write {quoted(form[:2] + '/' + form[2:])}"
    if "/" in form and not re.match(r"[a-zA-Z?]:|\*|//|/device/|/\?|/\*", form, re.IGNORECASE):
        return f"{quoted(form)} names no drive", f"write {quoted('**/' + form.lstrip('/'))} for any folder, or c:/..."
    return None


def doubt_about(fact: str, value: str) -> tuple[str, str] | None:
    """Why a value, though it can match, hardly does what was meant, and what to write instead."""
    if fact == "command_line":
        if WILD.search(value) or (value[0] not in "-/" and " " in value.strip()):
            return None
        return f"{quoted(value)} would have to be the whole command line", f"write {quoted(f'*{value}*')} for a part"
    if fact == "signer":
        named = re.match(r"CN\s*=\s*([^,]+)", value, re.IGNORECASE)
        return ("a signer is told by the name alone", f"write {quoted(named[1])}") if named else None
    form = value.replace("\\", "/")
    end = form.rpartition("/")[2]
    if fact == "user":
        return ("users are told as DOMAIN\\name", "write what whoami prints") if "@" in form and end == form else None
    if fact not in PATH_FACTS:
        return None
    if several := re.fullmatch(r"(.+\.\w+)\s*[,;]\s*(.+\.\w+)", end):
        return f"{quoted(end)} is one name", f'write a list: ["{several[1]}", "{several[2]}"]'
    if re.search(r"\{[^/}]*,[^/}]*\}", form) or form[0] in "!^" or form.endswith("$"):
        return f"in {quoted(form)} only * and ? stand for others", "write a list of patterns; nothing is negated"
    if re.match("/device/harddiskvolume", form, re.IGNORECASE):
        return "a volume with a drive letter is told by that alone", "write c:/..., unless it has none"
    if WILD.search(end):
        return None
    if end != (kept := end.strip().rstrip(". ")):
        return f"Windows drops dots and spaces around {quoted(kept)}", f"write {quoted(form[: -len(end)] + kept)}"
    if "." not in end and end.lower() not in NAMELESS:
        program = quoted(form + ".exe")
        advice = f"write {program}" if form == end else f"write {program}, or {quoted(form + '/**')} for a folder"
        return f"{quoted(end)} would have to be the whole name", advice
    return None
