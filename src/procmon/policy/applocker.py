"""AppLocker's rules for executables as a policy.

AppLocker evaluates its deny rules first, then its allow rules, and blocks every other executable. It does not control
the SYSTEM account. Its paths have variables of their own, and ``*`` stands for any characters, backslashes too.

Sources: https://learn.microsoft.com/en-us/windows/client-management/mdm/applocker-csp (the schema),
https://learn.microsoft.com/en-us/windows/security/application-security/application-control/app-control-for-business/applocker/understanding-the-path-rule-condition-in-applocker,
and understanding-the-publisher-rule-condition-in-applocker beside it
"""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from xml.etree import ElementTree

from ..errors import PolicyError
from .policy import Policy
from .writer import comment, rule_text

__all__ = ["Imported", "read_applocker"]

Table = dict[str, object]
Element = ElementTree.Element

EVERYONE, SYSTEM = "S-1-1-0", "S-1-5-18"

VARIABLES = {
    "%OSDRIVE%": ("{drive}",),
    "%WINDIR%": ("{drive}/windows",),
    "%SYSTEM32%": ("{drive}/windows/system32", "{drive}/windows/syswow64"),
    "%PROGRAMFILES%": ("{drive}/program files", "{drive}/program files (x86)"),
}
"""The folders for each variable."""

NO_COUNTERPART = {
    "%REMOVABLE%": "a policy does not know which drives are CDs and DVDs",
    "%HOT%": "a policy does not know which drives can be unplugged",
}

HASHES = {"SHA256": "authenticode_sha256", "SHA256FLAT": "sha256"}
"""The fact for each kind of hash: ``SHA256`` is that of Authenticode, ``SHA256Flat`` that of the whole file."""


@dataclass(frozen=True, slots=True)
class Imported:
    """A policy made of another tool's rules."""

    text: str
    """The policy."""
    rules: int
    """How many rules of the other tool it has."""
    left_out: tuple[str, ...]
    """The parts that it lacks because a policy does not control them."""


class _Mistake(Exception):
    """A part of a rule that has no counterpart."""


def read_applocker(data: bytes, source: str, *, drive: str = "c:") -> Imported:
    """Convert an exported AppLocker policy to a policy; ``drive`` is the drive of Windows.

    Raises: PolicyError, with the rule and the reason, when it is no AppLocker policy, has no rules for executables, or
    has a part that a policy cannot express.
    """
    root = _parse(data, source)
    collections = [root] if root.tag == "RuleCollection" else root.findall("RuleCollection")
    executables = [each for each in collections if each.get("Type") == "Exe" and len(each)]
    if not executables:
        raise PolicyError(f"{source}: it has no rules for executables, so AppLocker would let every program run")
    if len(executables) > 1:
        raise PolicyError(f"{source}: it has {len(executables)} collections of rules for executables; keep one")
    [collection] = executables
    rules: list[tuple[str, str]] = []
    mistakes: list[str] = []
    for element in collection:
        if not element.tag.startswith("File"):
            continue  # extensions: how services and packaged apps are treated
        try:
            rules.append(_rule(element, drive))
        except _Mistake as mistake:
            mistakes.append(f"  rule {_name(element)}: {mistake}")
    if mistakes:
        raise PolicyError("\n".join([f"{source}: a policy cannot say all of it", *mistakes]))
    left_out = tuple(_left_out(collections))
    rules.sort(key=lambda rule: rule[0] != "block")  # deny before allow, each in its order
    mode = "audit" if collection.get("EnforcementMode") == "AuditOnly" else "enforce"
    parts = [
        f'# From AppLocker: {source}\nmode = "{mode}"\ndefault = "block"',
        rule_text({"name": "AppLocker does not control the SYSTEM account", "user": SYSTEM, "verdict": "allow"}),
        *(text for _, text in rules),
        *(["\n".join(comment(f"left out: {each}") for each in left_out)] if left_out else []),
    ]
    text = "\n\n".join(parts) + "\n"
    Policy.parse(text, source)  # finds rules that no policy may have, such as a block of every program
    return Imported(text, len(rules), left_out)


def _parse(data: bytes, source: str) -> Element:
    if b"<!DOCTYPE" in data.replace(b"\0", b""):
        raise PolicyError(f"{source}: it has a document type, which no AppLocker policy has")
    try:
        root = ElementTree.fromstring(data)
    except (ElementTree.ParseError, ValueError, LookupError) as error:  # the last two: an encoding that it lacks
        raise PolicyError(f"{source}: it is not XML: {error}; export the policy with Get-AppLockerPolicy") from error
    if root.tag not in ("AppLockerPolicy", "RuleCollection"):
        raise PolicyError(f"{source}: it is no AppLocker policy but a {root.tag}; export with Get-AppLockerPolicy")
    return root


def _left_out(collections: list[Element]) -> Iterator[str]:
    for each in collections:
        kind = each.get("Type", "?")
        if kind != "Exe" and len(each):
            yield f"{len(each)} rules of the collection {kind}: a policy decides about processes that start"


def _name(element: Element) -> str:
    return f"{element.get('Name', 'without a name')} ({element.get('Id', 'no Id')})"


def _rule(element: Element, drive: str) -> tuple[str, str]:
    """The verdict of a rule, and its text."""
    verdict = {"Allow": "allow", "Deny": "block"}.get(element.get("Action", ""))
    if verdict is None:
        raise _Mistake(f"its action is {element.get('Action')}, neither Allow nor Deny")
    rule: Table = {"name": " ".join(_name(element).split()), "verdict": verdict}
    if description := " ".join(element.get("Description", "").split()):
        rule["message"] = description
    conditions = [_condition(each, drive) for each in element.iterfind("Conditions/*")]
    if len(conditions) != 1:
        raise _Mistake(f"it has {len(conditions)} conditions instead of one")
    rule |= conditions[0]
    sid = element.get("UserOrGroupSid", "")
    if not re.fullmatch(r"S-1(-[0-9a-fA-F]+)+", sid):
        raise _Mistake(f"its account {sid!r} is no SID")
    if sid != EVERYONE:
        rule["any"] = [{"group": {"equals": sid}}, {"user": {"equals": sid}}]
    if exceptions := [_condition(each, drive) for each in element.iterfind("Exceptions/*")]:
        rule["unless"] = exceptions
    return verdict, rule_text(rule)


def _condition(element: Element, drive: str) -> Table:
    if element.tag not in CONDITIONS:
        raise _Mistake(f"it has a condition of an unknown kind, {element.tag}")
    return CONDITIONS[element.tag](element, drive)


def _path(element: Element, drive: str) -> Table:
    globs = [_glob(path) for path in _expanded(element.get("Path", ""), drive)]
    return {"image": globs[0] if len(globs) == 1 else globs}


def _expanded(path: str, drive: str) -> list[str]:
    """The path without its variable, with slashes; several paths if the variable stands for several folders."""
    path = path.replace("\\", "/")
    variable, rest = "", path
    if found := re.match("%[^%/]*%", path):
        variable, rest = found[0].upper(), path[found.end() :]
    if "%" in rest:
        raise _Mistake(f"the path {path} has a variable in its middle")
    if not variable:
        return [path]
    if variable in NO_COUNTERPART:
        raise _Mistake(f"the path {path} begins with {variable}, and {NO_COUNTERPART[variable]}")
    if variable not in VARIABLES:
        raise _Mistake(f"the path {path} begins with {variable}, which AppLocker does not have")
    return [folder.format(drive=drive) + rest for folder in VARIABLES[variable]]


def _glob(path: str) -> str:
    """AppLocker's pattern as a policy's glob, in which a star alone between slashes is one part of the path.

    >>> _glob("c:/tools/*"), _glob("c:/*/a.exe"), _glob("*.scr")
    ('c:/tools/**', 'c:/*/**/a.exe', '**/**.scr')
    """
    if not path or path.endswith("/"):
        raise _Mistake(f"the path {path!r} names no file; AppLocker writes {path}* for all below a folder")
    glob, *others = re.split(r"\*+", path)
    for piece in others:
        alone = (not glob or glob.endswith("/")) and piece.startswith("/")
        glob += ("*/**" if alone else "**") + piece
    if "/" in glob or glob == "**":
        return glob
    if not glob.startswith("**"):
        raise _Mistake(f"the path {path} names no folder")
    return f"**/{glob}"  # without a slash it would match only the last part


def _publisher(element: Element, drive: str) -> Table:
    table: Table = {}
    for name, fact in (
        ("PublisherName", "publisher"),
        ("ProductName", "product"),
        ("BinaryName", "original_file_name"),
    ):
        value = element.get(name, "*")
        if name == "BinaryName" and re.search("[*?]", value):  # in the other two only a star alone is no text
            if value not in ("*", "?"):
                raise _Mistake(
                    f"the file name {value} has a wildcard in a text, and a policy does not know which names it matches"
                )
            value = "*"
        if value != "*":
            table[fact] = {"equals": value}
        elif name == "PublisherName":
            table[fact] = {"known": True}
    limits: Table = {}
    version = element.find("BinaryVersionRange")
    for name, operator in (("LowSection", "at_least"), ("HighSection", "at_most")):
        value = "*" if version is None else version.get(name, "*")
        if value == "*":
            continue
        if not re.fullmatch(r"\d{1,5}(\.\d{1,5}){0,3}", value):
            raise _Mistake(f"the version {value} is not four numbers with dots between them")
        limits[operator] = value
    return table | ({"file_version": limits} if limits else {})


def _hash(element: Element, drive: str) -> Table:
    found: dict[str, list[str]] = {}
    for each in element.iterfind("FileHash"):
        kind, digits = each.get("Type", ""), each.get("Data", "").removeprefix("0x").lower()
        fact = HASHES.get(kind.upper())
        if fact is None:
            raise _Mistake(f"it has a hash of the kind {kind}; a policy compares with SHA256 and SHA256Flat")
        if not re.fullmatch("[0-9a-f]{64}", digits):
            raise _Mistake(f"its hash {digits} is not 64 hexadecimal digits")
        found.setdefault(fact, []).append(digits)
    if not found:
        raise _Mistake("it has no hash")
    tables: list[Table] = [{fact: {"equals": hashes}} for fact, hashes in found.items()]
    return tables[0] if len(tables) == 1 else {"all": [{"any": tables}]}


CONDITIONS: dict[str, Callable[[Element, str], Table]] = {
    "FilePathCondition": _path,
    "FilePublisherCondition": _publisher,
    "FileHashCondition": _hash,
}
