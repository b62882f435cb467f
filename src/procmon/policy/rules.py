"""What a rule is: conditions on the facts of a process, and the facts, looked up once and only when asked for."""

import fnmatch
import re
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Protocol

from ..errors import ProcmonError
from ..records import ProcessFlags, ProcessHelper, Verdict
from ..system.ancestry import Ancestry
from ..util.globs import compile_glob, last_part
from ..util.paths import lowercase

__all__ = ["FACTS", "Condition", "Details", "DetailsLookup", "Facts", "Rule", "path_form", "verdict_word"]

FACTS = ("image", "parent", "ancestor", "command_line", "session", "user", "sha256", "signer")
"""What a rule can ask for, the cheapest first: a rule looks up no more than it needs to fail."""

PATH_FACTS = frozenset({"image", "parent", "ancestor", "user"})
"""Facts with parts: ``**/cmd.exe``, ``DESKTOP/alice``. In the others ``*`` stands for any characters."""

WILD = re.compile(r"[*?]")


class Details(Protocol):
    """What the policy reads of `procmon.ProcessDetails`; each None where Windows does not say.

    ``reasons``, if it has that too, tells explanations why something is None.
    """

    @property
    def command_line(self) -> str | None: ...
    @property
    def user(self) -> str | None: ...
    @property
    def user_sid(self) -> str | None: ...
    @property
    def session_id(self) -> int | None: ...
    @property
    def sha256(self) -> str | None: ...
    @property
    def signer(self) -> str | None: ...


DetailsLookup = Callable[[ProcessHelper], Details]


def path_form(path: str) -> str:
    r"""One spelling for each path, that of the gates: lowercase, backslashes.

    >>> print(path_form("C:/Tools/A.exe"))
    c:\tools\a.exe
    """
    return lowercase(path)


def verdict_word(verdict: Verdict) -> str:
    """A verdict as policies write it: ``allow``, ``block``, ``ask``."""
    return "ask" if verdict is Verdict.DEFER else verdict.value


class Facts:
    """The facts of one process, each as a tuple of the values it may be matched by; () where it is not known."""

    def __init__(self, process: ProcessHelper, ancestry: Ancestry, details: DetailsLookup | None) -> None:
        self.process = process
        self._ancestry = ancestry
        self._find_details = details
        self._details: Details | None = None
        image = path_form(process.image_name)
        self._values: dict[str, tuple[str, ...]] = {"image": (image,) if image else ()}
        self.failures: dict[str, str] = {} if image else {"image": "Windows gave it no name"}
        """Why a fact, or a part of it, is not known."""

    def values(self, fact: str) -> tuple[str, ...]:
        """The values of one of `FACTS`; paths in `path_form`."""
        if fact not in self._values:
            told = self.process.command_line if fact == "command_line" else None
            known: tuple[str, ...] = () if told is None else (told,)
            if not known or ProcessFlags.COMMAND_LINE_TRUNCATED in self.process.flags:
                try:
                    known = self._look_up(fact) or known
                except (ProcmonError, OSError) as error:
                    self.failures[fact] = str(error)
                if known and fact == "command_line" and fact in self.failures:
                    self.failures[fact] = f"only its beginning is known: {self.failures[fact]}"
            self._values[fact] = known
        return self._values[fact]

    @property
    def missing(self) -> frozenset[str]:
        """The facts that were asked for and are not known."""
        return frozenset(fact for fact, values in self._values.items() if not values)

    def _look_up(self, fact: str) -> tuple[str, ...]:
        if fact in ("parent", "ancestor"):
            line = self._ancestry.note(self.process)
            if not line:
                pid = self.process.parent_pid
                why = f"no process {pid} is known that may have started it" if pid else "the record names none"
                self.failures[fact] = why
            return tuple(path_form(image) for image in (line if fact == "ancestor" else line[:1]))
        if self._details is None:
            if self._find_details is None:
                raise ProcmonError("it is looked up on Windows, or by details=")
            self._details = self._find_details(self.process)
        if fact == "user":
            name, sid = self._detail(fact, "user"), self._detail(fact, "user_sid")
            if fact in self.failures and name + sid:
                self.failures[fact] = f"its {'SID' if name else 'name'} is not known: {self.failures[fact]}"
            return tuple(path_form(text) for text in name + sid)
        found = self._detail(fact, "session_id" if fact == "session" else fact)
        return tuple(text.lower() for text in found) if fact == "sha256" else found

    def _detail(self, fact: str, name: str) -> tuple[str, ...]:
        """One attribute of the details, and why it is None, if they tell."""
        value = getattr(self._details, name)
        if value is not None:
            return (str(value),)
        reasons = getattr(self._details, "reasons", None)
        if isinstance(reasons, Mapping) and name in reasons:
            self.failures[fact] = str(reasons[name])
        return ()


@dataclass(frozen=True, slots=True)
class Condition:
    """One key of a rule: the fact must match one of the patterns.

    There may be 100,000 conditions, and 100,000 patterns in one, so few are kept in a tuple and many in a set.
    """

    fact: str
    patterns: tuple[str, ...]
    """As they are written in the policy."""
    plain: Collection[str]
    """Those without wildcards, in the one spelling: each matches a whole value or, without a slash, a last part."""
    globs: tuple[tuple[str, Callable[[str], bool]], ...]
    """The others."""

    @classmethod
    def of(cls, fact: str, patterns: Iterable[str]) -> "Condition":
        """The condition that these patterns of the policy make.

        Raises: ValueError where a pattern is empty.
        """
        patterns = tuple(patterns)
        plain: list[str] = []
        globs: list[tuple[str, Callable[[str], bool]]] = []
        for pattern in patterns:
            form = path_form(pattern) if fact in PATH_FACTS else pattern.lower()
            if WILD.search(form):
                globs.append((form, (compile_glob if fact in PATH_FACTS else compile_text_glob)(form)))
            else:
                plain.append(pattern if form == pattern else form)  # one text, where it can be one
        return cls(fact, patterns, tuple(plain) if len(plain) < 8 else frozenset(plain), tuple(globs))

    def matches(self, values: tuple[str, ...]) -> bool:
        """One of the values matches one of the patterns."""
        return any(self.match(value) for value in values)

    def match(self, value: str) -> bool:
        """This value matches one of the patterns."""
        in_parts = self.fact in PATH_FACTS
        form = value if in_parts else value.lower()
        return (
            form in self.plain
            or (in_parts and last_part(form) in self.plain)
            or any(matches(value) for _, matches in self.globs)
        )

    def index_keys(self) -> list[str] | None:
        """Values and last parts of which a matching value must have one; None where no such set is known."""
        ends = [last_part(form) for form, _ in self.globs]
        if any(self.fact not in PATH_FACTS or not end or WILD.search(end) for end in ends):
            return None
        return [*self.plain, *ends]


@dataclass(frozen=True, slots=True)
class Rule:
    """One ``[[rule]]`` of a policy."""

    number: int
    """From 1, in the order of the file."""
    name: str
    """Its name, or else its number."""
    conditions: tuple[Condition, ...]
    """In the order of `FACTS`. All must match; a rule without any matches every process."""
    verdict: Verdict
    audit: bool = False
    """It is logged, and the process is let pass."""

    def matches(self, facts: Facts) -> bool:
        """All conditions hold."""
        return all(condition.matches(facts.values(condition.fact)) for condition in self.conditions)

    def condition(self, fact: str) -> Condition | None:
        """The condition on `fact`, if there is one."""
        return next((condition for condition in self.conditions if condition.fact == fact), None)


@lru_cache(maxsize=4096)
def compile_text_glob(pattern: str) -> Callable[[str], bool]:
    """A test of whole texts in which ``*`` is any characters and ``?`` any one; letter case does not count.

    >>> compile_text_glob("* /c format*")("CMD.EXE /c format d:")
    True
    """
    # `fnmatch` never goes back behind a star, so no command line, however padded, takes long to compare.
    match = re.compile(fnmatch.translate(pattern.replace("[", "[[]")), re.IGNORECASE).match
    return lambda text: match(text) is not None
