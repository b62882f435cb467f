"""Faults of patterns for image names: patterns that can never match, or that probably do not do what was meant.

``image =`` of a policy and ``match=`` of a monitor have the same checks.
"""

import re

from .globs import WILDCARD

__all__ = ["doubt_about_match", "doubt_about_path", "mistake_in_path", "quoted", "several_paths"]

NAMELESS = ("system", "registry", "memory compression", "secure system", "vmmem")
"""Processes without an executable; their names have no extension."""


SEPARATED = re.compile("[;|,]| or | OR ")
"""What people write between several values."""


def quoted(word: str) -> str:
    """`word` for a message."""
    return '"' + (word if len(word) <= 80 else word[:77] + "...") + '"'


def doubt_about_match(pattern: str) -> str | None:
    """The reason why a ``match=`` matches nothing, or not what was meant, with a correction; None where it is fine.

    >>> doubt_about_match("notepad")
    '"notepad" would have to be the whole name; write "notepad.exe"'
    """
    form = pattern.replace("\\", "/")
    if several_paths(form):
        return f"{quoted(pattern)} is one pattern; pass a function of the process, or subscribe for each"
    found = mistake_in_path("image", form) or doubt_about_path("image", form)
    return "; ".join(found) if found else None


def several_paths(form: str) -> list[str] | None:
    """The single patterns of a text that seems to contain several; otherwise None.

    >>> several_paths("a.exe; b.exe"), several_paths("c:/x, y/a.exe")
    (['a.exe', 'b.exe'], None)
    """
    if not SEPARATED.search(form):
        return None
    for separator in (";", "|", ",", " or ", " OR "):
        parts = [part.strip() for part in form.split(separator)]
        if len(parts) > 1 and all(re.search(r"\.\w{1,4}$|[*?]", part) for part in parts):
            return parts
    return None


def mistake_in_path(fact: str, form: str) -> tuple[str, str] | None:
    """A mistake by which a pattern, written with slashes, matches no path of a `fact`; and a correction."""
    if wrong := mistake_in_any_path(fact, form):
        return wrong
    if form.endswith("/"):
        below = form if form.endswith("**/") else f"{form}**/"
        return f"no {fact} ends in a slash", f"write {quoted(below[:-1])} for all that is below it"
    if wrong := doubled_slash(form):
        return wrong
    if prefix := re.match(r"(//[?.]|/\?\?)/(?=[a-z]:|(unc/))", form, re.IGNORECASE):
        plain = "//" + form[prefix.end() + 4 :] if prefix[2] else form[prefix.end() :]
        return f"no {fact} begins with {quoted(prefix[1])}", f"write {quoted(plain)}"
    if "/./" in f"/{form}" or "/../" in f"/{form}":
        return f"no {fact} has . or .. in its path", "write the whole path, or **/ for any folder"
    if "/sysnative/" in form.lower():
        return f"no {fact} has sysnative in it, which is what 32-bit programs call system32", "write system32"
    if re.match("[a-zA-Z]:(?!/)", form) and form[2:]:
        return f"{quoted(form)} names no folder", f"write {quoted(form[:2] + '/' + form[2:])}"
    if "/" in form and not re.match(r"[a-zA-Z?]:|\*|//|/device/|/\?|/\*", form, re.IGNORECASE):
        return f"{quoted(form)} names no drive", f"write {quoted('**/' + form.lstrip('/'))} for any folder, or c:/..."
    return None


def mistake_in_any_path(fact: str, form: str) -> tuple[str, str] | None:
    """A mistake by which a pattern matches no name of a file or an account; and a correction."""
    if re.search("%[^%/]+%", form) or re.match(r"~/|\$\{?(env:)?\w+\}?/", form):
        return f"variables such as {quoted(form)} are not replaced", "write the path, or **/ for any folder"
    if sign := re.search('[<>"|]', form):
        several = several_paths(form)
        advice = f"write a list: [{', '.join(map(quoted, several))}]" if several else "leave it out"
        return f"no {fact} has a {sign[0]} in it", advice
    return None


def doubled_slash(form: str) -> tuple[str, str] | None:
    if "//" not in form[1:]:
        return None
    single = re.sub("(?<=.)/+", "/", form)
    return "two slashes follow each other; in single quotes a backslash stands once", f"write {quoted(single)}"


def doubt_about_path(fact: str, form: str) -> tuple[str, str] | None:
    """The reason why a pattern for images can match, but probably not what was meant; and a correction."""
    end = form.rpartition("/")[2]
    if re.search(r"\{[^/}]*,[^/}]*\}", form) or form[0] in "!^" or form.endswith("$"):
        return f"in {quoted(form)} only * and ? stand for others", f"write a list, or {fact} = {{not = {{...}}}}"
    if re.match("/device/harddiskvolume", form, re.IGNORECASE):
        return "a volume that has a drive letter is named by it alone", "write c:/..., unless it has none"
    if WILDCARD.search(end):
        return None
    if end != (kept := end.strip().rstrip(". ")):
        return f"Windows drops dots and spaces around {quoted(kept)}", f"write {quoted(form[: -len(end)] + kept)}"
    if "." not in end and end.lower() not in NAMELESS:
        program = quoted(form + ".exe")
        advice = f"write {program}" if form == end else f"write {program}, or {quoted(form + '/**')} for a folder"
        return f"{quoted(end)} would have to be the whole name", advice
    if end.rfind(".") == 0:
        return f"{quoted(end)} would have to be the whole name", f"write {quoted(form[: -len(end)] + '*' + end)}"
    return None
