"""A policy from observed starts: by signer and product, by folders in which users cannot write, by hash.

A folder is trusted only below Windows' folder and those of installed programs, and only for the files directly in it.
Some subfolders let users write (docs/policy.md lists them), and a program that a user puts there would be allowed, too.
So would one in a stream of such a subfolder: ``c:\\windows\\tasks:a.exe`` has the form of a file in ``c:\\windows``.
"""

import re
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TypeVar

from ..errors import PolicyError
from ..util.globs import last_part
from ..util.printable import printable
from .policy import Policy
from .writer import comment, rule_text

_Key = TypeVar("_Key")

__all__ = ["WRITABLE", "Lesson", "Seen", "learn"]

PROTECTED = ("c:\\windows\\", "c:\\program files\\", "c:\\program files (x86)\\")
"""Folders in which only administrators install programs."""

WRITABLE = (
    "c:\\windows\\debug\\", "c:\\windows\\registration\\crmlog\\", "c:\\windows\\servicing\\",
    "c:\\windows\\system32\\com\\dmp\\", "c:\\windows\\system32\\fxstmp\\",
    "c:\\windows\\system32\\microsoft\\crypto\\rsa\\machinekeys\\", "c:\\windows\\system32\\spool\\",
    "c:\\windows\\system32\\tasks\\", "c:\\windows\\syswow64\\com\\dmp\\", "c:\\windows\\syswow64\\fxstmp\\",
    "c:\\windows\\syswow64\\tasks\\", "c:\\windows\\tasks\\", "c:\\windows\\temp\\", "c:\\windows\\tracing\\",
)  # fmt: skip
"""Folders below Windows' own in which users can write, on some machines at least."""

_SHA256 = re.compile("[0-9a-fA-F]{64}")

SHOWN = 6
"""Programs that a remark names."""


@dataclass(frozen=True, slots=True)
class Seen:
    """A program that ran, and the known facts of its file."""

    image: str
    """Its path, in the driver's spelling."""
    at: datetime | None = None
    signer: str | None = None
    """Only where Windows trusts the signature."""
    product: str | None = None
    sha256: str | None = None


@dataclass(slots=True)
class _Group:
    """Starts that one rule allows."""

    starts: int = 0
    first: datetime | None = None
    last: datetime | None = None
    images: Counter[str] = field(default_factory=Counter)
    hashes: set[str] = field(default_factory=set)

    def add(self, seen: Seen, sha256: str | None) -> None:
        self.starts += 1
        self.images[seen.image] += 1
        if sha256 is not None:
            self.hashes.add(sha256.lower())
        if seen.at is not None:
            self.first = min(self.first or seen.at, seen.at)
            self.last = max(self.last or seen.at, seen.at)

    def about(self) -> list[str]:
        """Remarks: how often and when, and which programs."""
        when = ""
        if self.first is not None and self.last is not None:
            first, last = (time.astimezone(UTC).strftime("%Y-%m-%d %H:%M") for time in (self.first, self.last))
            when = f", on {first} UTC" if first == last else f", from {first} to {last} UTC"
        starts = f"{self.starts:,} start{'s' if self.starts != 1 else ''}{when}"
        images = [image.replace("\\", "/") for image, _ in self.images.most_common(SHOWN)]
        more = f" and {len(self.images) - SHOWN:,} more" if len(self.images) > SHOWN else ""
        return [comment(starts), comment(", ".join(images) + more)]


@dataclass(frozen=True, slots=True)
class Lesson:
    """The result of `learn`."""

    text: str
    """The policy."""
    starts: int
    """The number of observed starts."""
    rules: int
    not_learned: dict[str, int]
    """Programs for which there is no safe rule, with their starts: no signer, no hash, and no trusted folder."""


def learn(programs: Iterable[Seen], *, writable: Callable[[str], bool] = lambda folder: False) -> Lesson:
    """Make a policy that allows the programs seen; ``writable`` returns whether users can write to a local folder.

    The policy only logs what it would block (``mode = "audit"``) until its reader changes that to ``enforce``.
    """
    signed: dict[tuple[str, str], _Group] = {}
    folders: dict[str, _Group] = {}
    hashed: dict[str, _Group] = {}
    not_learned: Counter[str] = Counter()
    trusted: dict[str, bool] = {}
    sayable: dict[tuple[str, str], bool] = {}
    starts = 0
    for seen in programs:
        starts += 1
        sha256 = seen.sha256 if seen.sha256 is not None and _SHA256.fullmatch(seen.sha256) else None
        folder = seen.image[: seen.image.rfind("\\") + 1]
        if folder not in trusted:
            trusted[folder] = _is_protected(folder) and not writable(folder)
        is_stream = ":" in last_part(seen.image)
        makers = (seen.signer or "", seen.product or "")
        if makers not in sayable:
            sayable[makers] = bool(seen.signer) and _is_rule(_signer_rule(*makers))
        if sayable[makers]:
            group = signed.setdefault(makers, _Group())
        elif trusted[folder] and not is_stream:
            group = folders.setdefault(folder, _Group())
        elif sha256 is not None:
            group = hashed.setdefault(seen.image, _Group())
        else:
            not_learned[seen.image] += 1
            continue
        group.add(seen, sha256)
    rules = [
        *(_by_signer(*key, group) for key, group in _most_first(signed)),
        *(_by_folder(folder, group) for folder, group in _most_first(folders)),
        *(_by_hash(image, group) for image, group in _most_first(hashed)),
    ]
    head = [
        comment(f"Learned from {starts:,} starts. It blocks nothing yet: read it, replay logs with it, then write"),
        comment('mode = "enforce". It then blocks every program that no rule allows.'),
        'mode = "audit"',
        'default = "block"',
    ]
    left = [comment(f"not learned: {image.replace(chr(92), '/')}: {n:,} starts") for image, n in not_learned.items()]
    if left:
        left.insert(
            0, comment("No signer and no hash is known of these, and users may be able to write to their folders:")
        )
    text = "\n\n".join(["\n".join(head), *rules, *(["\n".join(left)] if left else [])]) + "\n"
    return Lesson(text, starts, len(rules), dict(not_learned.most_common()))


def _is_protected(folder: str) -> bool:
    """Only administrators can put programs into this folder, as far as its name says."""
    by_name = folder.startswith(PROTECTED) and not folder.startswith(WRITABLE)
    # temp::$index_allocation is temp, and servic~1 is servicing
    is_plain = re.search("[*?:~]", folder[len("c:") :]) is None
    return by_name and is_plain and _is_rule(_folder_rule(folder))


def _is_rule(rule: dict[str, object]) -> bool:
    """Whether a policy can have this rule: logs can have half surrogate pairs, and paths that no file has."""
    try:
        Policy.parse(rule_text(rule))
    except (PolicyError, ValueError):
        return False
    return True


def _most_first(groups: dict[_Key, _Group]) -> list[tuple[_Key, _Group]]:
    return sorted(groups.items(), key=lambda pair: -pair[1].starts)


def _by_signer(signer: str, product: str, group: _Group) -> str:
    return _rule(group, _signer_rule(signer, product))


def _signer_rule(signer: str, product: str) -> dict[str, object]:
    rule: dict[str, object] = {"name": f"{product} by {signer}" if product else f"signed by {signer}"}
    rule |= {"verdict": "allow", "signer": {"equals": signer}}
    return rule | ({"product": {"equals": product}} if product else {})


def _by_folder(folder: str, group: _Group) -> str:
    return _rule(group, _folder_rule(folder))


def _folder_rule(folder: str) -> dict[str, object]:
    path = folder.replace("\\", "/")
    no_streams = [{"image": "*:*"}]
    return {"name": f"files in {path}", "verdict": "allow", "image": f"{path}*", "unless": no_streams}


def _by_hash(image: str, group: _Group) -> str:
    name = printable(f"{last_part(image)} by hash, seen as {image.replace(chr(92), '/')}")
    return _rule(group, {"name": name, "verdict": "allow", "sha256": sorted(group.hashes)})


def _rule(group: _Group, rule: dict[str, object]) -> str:
    return "\n".join([*group.about(), rule_text(rule)])
