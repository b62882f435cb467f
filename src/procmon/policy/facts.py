"""The facts of one process that rules compare: looked up once, and only when a rule needs them."""

import re
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime

from ..errors import ProcmonError
from ..records import ProcessFlags, ProcessHelper
from ..system.ancestry import Ancestry, Noted
from ..util.arguments import is_awaitable
from ..util.paths import fold_case

__all__ = [
    "ABOUT_THE_FILE", "CASELESS", "FACTS", "FLAG_NAMES", "FROM_THE_RECORD", "HASHES", "INTEGRITY", "ORDERED",
    "ORIGINS", "PATH_FACTS", "Details", "DetailsLookup", "Facts", "order_key",
]  # fmt: skip

FROM_THE_RECORD = ("image", "flags", "parent", "ancestor", "creator", "command_line")
"""Facts that come with the process or from records of other processes; most gates give the command line, too."""

OF_THE_PROCESS = (
    "parent_command_line", "session", "integrity", "logon_id", "user", "group", "parent_user", "current_directory",
)  # fmt: skip
"""Facts that are queried from Windows."""

ABOUT_THE_FILE = (
    "size", "origin", "original_file_name", "product", "company", "description", "file_version",
    "md5", "sha1", "sha256", "imphash", "authenticode_sha256", "signer", "publisher",
)  # fmt: skip
"""Facts that are read from the executable."""

FACTS = (*FROM_THE_RECORD, *OF_THE_PROCESS, *ABOUT_THE_FILE)
"""The facts of rules, the cheapest first: a rule looks up no more than it needs to fail."""

PATH_FACTS = frozenset({"image", "parent", "ancestor", "creator", "current_directory", "user", "parent_user"})
"""Facts with parts: ``**/cmd.exe``, ``DESKTOP/alice``. In the others ``*`` stands for any characters."""

ORDERED = frozenset({"session", "integrity", "size", "file_version"})
"""Facts that ``at_least`` and ``at_most`` compare."""

HASHES = {"md5": 32, "sha1": 40, "sha256": 64, "imphash": 32, "authenticode_sha256": 64}
"""The number of hexadecimal digits of each."""

CASELESS = frozenset({"image", "parent", "ancestor", "creator", "flags", "integrity", "origin", "session", "size"})
"""Facts without letter case; gates give image names in lower case."""

INTEGRITY = {
    "untrusted": 0x0000, "low": 0x1000, "medium": 0x2000, "medium_plus": 0x2100,
    "high": 0x3000, "system": 0x4000, "protected": 0x5000,
}  # fmt: skip
"""Integrity levels by name."""

ORIGINS = ("local", "intranet", "trusted", "internet", "restricted")
"""The zones of a Zone.Identifier stream, 0 to 4."""

FLAG_NAMES = tuple(str(flag.name).lower() for flag in ProcessFlags)
"""``ProcessFlags`` as policies write them."""

Details = object
"""The result of a look-up: an object whose attributes have the names of the policy's keys.

A fact is not known if its attribute is missing or None. `procmon.ProcessDetails` is such an object. An optional
attribute ``reasons`` maps attributes to the reasons why they are None, for explanations.
"""

DetailsLookup = Callable[[ProcessHelper], Details]

_IN_THE_RECORD = frozenset({"image", "flags"})
_NUMBERS = frozenset({"session", "size"})
_MANY = frozenset({"ancestor", "group", "user"})

_ATTRIBUTES = {"session": ("session", "session_id"), "group": ("groups", "group")}
"""The attributes of `Details` for facts whose attribute has another name."""


class Facts:
    """The facts of one process, each as a tuple of values, any of which can match; () if the fact is not known."""

    __slots__ = (
        "_ancestry", "_at", "_details", "_find_details", "_folded", "_noted", "_raw", "_recorded", "failures",
        "process",
    )  # fmt: skip

    def __init__(
        self,
        process: ProcessHelper,
        ancestry: Ancestry,
        details: DetailsLookup | None,
        at: datetime | None = None,
        *,
        recorded: bool = False,
    ) -> None:
        """`recorded` details have what was known at the time, when more processes ran than a log has."""
        self.process = process
        self._recorded = recorded
        self._ancestry = ancestry
        self._find_details = details
        self._details: Details | None = None
        self._at = at
        self._noted: Noted | None = None
        self._raw: dict[str, tuple[str, ...]] = {}
        self._folded: dict[str, tuple[str, ...]] = {}
        self.failures: dict[str, str] = {}
        """Why a fact, or a part of it, is not known."""

    @property
    def at(self) -> datetime:
        """The time for which the rules are evaluated."""
        if self._at is None:
            self._at = datetime.now(UTC)
        return self._at

    @property
    def noted(self) -> Noted:
        """The parent and the ancestors; noted at the first use."""
        if self._noted is None:
            self._noted = self._ancestry.note(self.process)
        return self._noted

    def values(self, fact: str) -> tuple[str, ...]:
        """The values of one of `FACTS` in the form for comparisons: lower case, paths with backslashes."""
        folded = self._folded.get(fact)
        if folded is None:
            folded = self._folded[fact] = tuple(map(fold_case, self.written(fact)))
        return folded

    def written(self, fact: str) -> tuple[str, ...]:
        """The same in the letter case that Windows gives."""
        found = self._raw.get(fact)
        if found is None:
            try:
                found = _FINDERS.get(fact, _find_detail)(self, fact)
            except (ProcmonError, OSError) as error:
                found = ()
                self.failures[fact] = str(error)
            if fact in PATH_FACTS:
                found = tuple(text.replace("/", "\\") for text in found)
            self._raw[fact] = found
        return found

    @property
    def missing(self) -> frozenset[str]:
        """The facts that were looked up and are not known."""
        return frozenset(fact for fact, values in self._raw.items() if not values)

    def missing_in_part(self, *, by_sid: bool, by_name: bool) -> frozenset[str]:
        """The facts of which only the part that rules do not compare is known, or only the beginning: ``user_sid``,
        ``user_name``, ``command_line``. Rules compare accounts ``by_sid``, ``by_name`` or both."""
        found = set()
        if accounts := self._raw.get("user"):
            have_sid = any(account.startswith("S-1-") for account in accounts)
            have_name = not all(account.startswith("S-1-") for account in accounts)
            found |= {"user_sid"} if by_sid and not have_sid else set()
            found |= {"user_name"} if by_name and not have_name else set()
        cut = ProcessFlags.COMMAND_LINE_TRUNCATED in self.process.flags
        if cut and self._raw.get("command_line") == (self.process.command_line,):
            found.add("command_line")
        return frozenset(found)

    def looked_up(self) -> dict[str, object]:
        """The facts that were looked up, are known, and are not in the record, as JSON types."""
        found: dict[str, object] = {}
        for fact, values in self._raw.items():
            if (
                values
                and fact not in _IN_THE_RECORD
                and (fact, values[0]) != ("command_line", self.process.command_line)
            ):
                number = fact in _NUMBERS and values[0].isdecimal()
                found[fact] = int(values[0]) if number else list(values) if fact in _MANY else values[0]
        return found

    # ------------------------------------------------------------------------------------------------- the look-ups

    def detail(self, fact: str, *names: str) -> object:
        """The first of these attributes of the details that is known. If none is, the details' reason is stored."""
        if self._details is None:
            if self._find_details is None:
                raise ProcmonError("it is looked up on Windows, or by details=")
            self._details = _check_details(self._find_details(self.process))
        for name in names:
            value = getattr(self._details, name, None)
            if value is not None:
                return value
        reasons = getattr(self._details, "reasons", None)
        for name in names:
            if isinstance(reasons, Mapping) and name in reasons:
                self.failures[fact] = str(reasons[name])
                break
        return None


def _check_details(found: Details) -> Details:
    """Refuse what has no attributes for facts, such as a dict: it would pass for details of which none is known."""
    kind = type(found)
    if is_awaitable(found) or issubclass(kind, Mapping) or (found is not None and kind.__module__ == "builtins"):
        wanted = "details returns an object with attributes, such as types.SimpleNamespace(**facts), or None"
        raise TypeError(f"{wanted}; not {found!r}")
    return found


def _find_detail(facts: Facts, fact: str) -> tuple[str, ...]:
    value = facts.detail(fact, *_ATTRIBUTES.get(fact, (fact,)))
    return () if value is None else (str(value),)


def _find_image(facts: Facts, fact: str) -> tuple[str, ...]:
    if facts.process.image_name:
        return (facts.process.image_name,)
    facts.failures[fact] = "Windows gave it no name"
    return ()


def _find_flags(facts: Facts, fact: str) -> tuple[str, ...]:
    """The names of the flags that are set; one empty text if no flag is set, since that is known."""
    flags = facts.process.flags
    return tuple(str(flag.name).lower() for flag in ProcessFlags if flag in flags) if flags else ("",)


def _find_parent(facts: Facts, fact: str) -> tuple[str, ...]:
    """From the records of the parent and the ancestors; recorded details come first. An image without a name is not
    known, and another ancestor's image is not the parent's."""
    images = facts.noted.images
    line = images if fact == "ancestor" else images[:1]
    found = tuple(image for image in line if image)
    if facts._find_details is not None and (facts._recorded or not found):
        given = facts.detail(fact, *([fact] if found else [fact, "parent"]))
        several = given if isinstance(given, Iterable) and not isinstance(given, str) else (given,)
        found = tuple(str(image) for image in several if image) or found
    if found:
        facts.failures.pop(fact, None)
    elif line:
        facts.failures.setdefault(fact, f"Windows gave its {fact} no name")
    else:
        pid = facts.process.parent_pid
        known = f"no process {pid} is known that may have started it" if pid else "the record names none"
        facts.failures.setdefault(fact, known)
    return found


def _find_creator(facts: Facts, fact: str) -> tuple[str, ...]:
    creator = facts._ancestry.creator(facts.process)
    return (creator.image_name,) if creator is not None and creator.image_name else _find_detail(facts, fact)


def _find_command_line(facts: Facts, fact: str) -> tuple[str, ...]:
    """The record's command line, or the whole one if the record's is cut, so that padding evades no rule."""
    given = facts.process.command_line
    if given is not None and ProcessFlags.COMMAND_LINE_TRUNCATED not in facts.process.flags:
        return (given,)
    try:
        found = _find_detail(facts, fact)
    except (ProcmonError, OSError) as error:
        if given is None:
            raise
        found = ()
        facts.failures[fact] = str(error)
    if found or given is None:
        return found
    if fact in facts.failures:
        facts.failures[fact] = f"only its beginning is known: {facts.failures[fact]}"
    return (given,)


def _find_parent_command_line(facts: Facts, fact: str) -> tuple[str, ...]:
    """The command line in the parent's record, which outlives the parent."""
    parent = facts.noted.parent
    if (
        parent is not None
        and parent.command_line is not None
        and ProcessFlags.COMMAND_LINE_TRUNCATED not in parent.flags
    ):
        return (parent.command_line,)
    return _find_detail(facts, fact)


def _find_user(facts: Facts, fact: str) -> tuple[str, ...]:
    """The name and the SID."""
    known = [facts.detail(fact, name) for name in ("user", "user_sid")]
    if fact in facts.failures and any(value is not None for value in known):
        facts.failures[fact] = f"its {'SID' if known[1] is None else 'name'} is not known: {facts.failures[fact]}"
    return tuple(str(value) for value in known if value is not None)


def _find_group(facts: Facts, fact: str) -> tuple[str, ...]:
    found = facts.detail(fact, *_ATTRIBUTES["group"])
    if isinstance(found, str) or not isinstance(found, Iterable):
        return () if found is None else (str(found),)
    return tuple(map(str, found))


def _find_integrity(facts: Facts, fact: str) -> tuple[str, ...]:
    """The name of the level, or its number if it has no name, and its SID, which some logs use."""
    found = facts.detail(fact, "integrity")
    if found is None:
        return ()
    key = int(found) if isinstance(found, int) else order_key("integrity", fold_case(str(found)))
    if not isinstance(key, int):
        return (str(found),)
    name = next((name for name, level in INTEGRITY.items() if level == key), str(key))
    return (name, f"S-1-16-{key}")


def _find_logon_id(facts: Facts, fact: str) -> tuple[str, ...]:
    found = facts.detail(fact, "logon_id")
    return () if found is None else (hex(found) if isinstance(found, int) else str(found),)


_FINDERS: dict[str, Callable[[Facts, str], tuple[str, ...]]] = {
    "image": _find_image,
    "flags": _find_flags,
    "parent": _find_parent,
    "ancestor": _find_parent,
    "creator": _find_creator,
    "command_line": _find_command_line,
    "parent_command_line": _find_parent_command_line,
    "user": _find_user,
    "group": _find_group,
    "integrity": _find_integrity,
    "logon_id": _find_logon_id,
}


def order_key(fact: str, text: str) -> int | tuple[int, ...] | None:
    """The key of a value that ``at_least`` and ``at_most`` compare; None if the value has no place in the order.

    >>> order_key("file_version", "10.0.19041.1 (WinBuild.160101.0800)"), order_key("integrity", "high")
    ((10, 0, 19041, 1), 12288)
    """
    if fact == "file_version":
        found = re.match(r"\s*(\d{1,9}(?:\.\d{1,9}){0,7})(?!\d)", text)
        numbers = [int(number) for number in found[1].split(".")] if found else []
        while len(numbers) > 1 and not numbers[-1]:
            numbers.pop()  # 10.0 is 10.0.0.0
        return tuple(numbers) or None
    if fact == "integrity":
        if text in INTEGRITY:
            return INTEGRITY[text]
        text = text.removeprefix("s-1-16-")
    return int(text) if re.fullmatch("[0-9]{1,20}", text) else None
