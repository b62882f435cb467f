"""Rules from a TOML file that decide about processes: load, check, decide, explain, reload.

mode = "enforce"                        # "audit": log what would have been done, and let it pass
default = "allow"                       # for what no rule matches; left out: the next callback decides

[[rule]]
name = "no shell from a document"
image = ["cmd.exe", "powershell.exe"]   # any of them; globs; without a slash: the last part of the path
parent = "**/winword.exe"               # all keys of a rule must match
verdict = "block"                       # allow, block or ask; the first rule that matches decides
"""

import logging
import os
import re
import sys
import threading
from collections.abc import Callable
from pathlib import Path

from ..errors import PolicyError, Problem
from ..records import DecidedBy, Decision, ProcessHelper, Verdict
from ..system.ancestry import Ancestry, Lookup
from .explain import Explanation, Step, explain
from .lint import is_critical, lint
from .parser import RuleSet, read_policy
from .rules import Condition, Details, DetailsLookup, Facts, Rule, path_form, verdict_word

__all__ = ["Details", "Explanation", "Policy", "Step"]

_log = logging.getLogger("procmon")

LARGEST = 64 * 1024 * 1024
"""Bytes of the largest policy file that is read."""


class Policy:
    r"""Rules that decide about processes; itself a callback for `Monitor.subscribe`.

    Parents and ancestors come from the processes that the policy has been asked about, and from ``lookup`` for older
    ones; users, sessions, hashes and signers from ``details``, only when a rule needs them. Both are looked up on
    Windows by themselves. A fact that cannot be had matches no pattern.

    >>> import procmon
    >>> policy = procmon.Policy.parse('[[rule]]\nimage = "c:/games/**"\nverdict = "block"')
    >>> policy
    <Policy <text>: 1 rule, enforced, no default>
    >>> policy.decide(procmon.SimulatedGate().start("c:/games/chess.exe")).verdict
    <Verdict.BLOCK>
    """

    def __init__(
        self, rules: RuleSet, *, path: Path | None, lookup: Lookup | None, details: DetailsLookup | None
    ) -> None:
        self._rules = rules
        self._path = path
        self._stamp: tuple[int, int] | None = None
        windows = sys.platform == "win32"
        self._ancestry = Ancestry(lookup or (_running if windows else None))
        self._details = details or (_inspect if windows else None)
        self._lock = threading.Lock()
        self._hits: dict[str, int] = {}

    @classmethod
    def load(
        cls, path: str | os.PathLike[str], *, lookup: Lookup | None = None, details: DetailsLookup | None = None
    ) -> "Policy":
        """The policy of a file.

        Raises: PolicyError when the file cannot be read or has mistakes; its ``problems`` lists them all.

        >>> Policy.load("missing.toml")
        Traceback (most recent call last):
        ...
        procmon.errors.PolicyError: missing.toml: there is no such file; give the path of a policy
        """
        path = Path(path)
        stamp = _file_stamp(path)  # first: a change while it is read is one that comes after
        policy = cls(_accept(*read_policy(_read_file(path), str(path))), path=path, lookup=lookup, details=details)
        policy._stamp = stamp
        return policy

    @classmethod
    def parse(
        cls, text: str, source: str = "<text>", *, lookup: Lookup | None = None, details: DetailsLookup | None = None
    ) -> "Policy":
        """The policy of a TOML text; ``source`` names it in messages.

        Raises: PolicyError when it has mistakes.
        """
        return cls(_accept(*read_policy(text, source)), path=None, lookup=lookup, details=details)

    @staticmethod
    def check(text: str) -> list[Problem]:
        """Every mistake of a policy's text, in its order, also those that do not keep it from loading.

        >>> for problem in Policy.check('mode = "audits"'):
        ...     print(problem)
        line 1, column 8: there is no mode "audits"; write "audit"
        """
        rules, problems = read_policy(text, "<text>")
        return sorted(problems + lint(rules, thorough=True), key=lambda problem: (problem.line, problem.column))

    @staticmethod
    def check_file(path: str | os.PathLike[str]) -> list[Problem]:
        """Every mistake of a policy's file; see `check`.

        Raises: PolicyError when it cannot be read, or is not a text.
        """
        return Policy.check(_read_file(Path(path)))

    @property
    def source(self) -> str:
        """The file it was loaded from, or the name given to `parse`."""
        return self._rules.source

    @property
    def mode(self) -> str:
        """``"enforce"`` or ``"audit"``."""
        return self._rules.mode

    @property
    def default(self) -> Verdict | None:
        """The verdict where no rule matches; None: it has no opinion then."""
        return self._rules.default

    @property
    def hits(self) -> dict[str, int]:
        """How often each rule decided, by name or number in the order of the rules, and ``"default"``."""
        names = [*(rule.name for rule in self._rules.rules), "default"]
        with self._lock:
            return {name: self._hits.get(name, 0) for name in names}

    def decide(self, process: ProcessHelper) -> Decision:
        """The verdict of the first rule that matches, or the default; ALLOW where there is none. ``ask`` is DEFER.

        Critical Windows processes are always allowed. In audit mode the decision says what would have been done.
        """
        rules = self._rules
        decision = self._decide(rules, self._facts(rules, process))
        self._count(decision)
        return decision

    def __call__(self, process: ProcessHelper) -> Decision | None:
        """As a callback: `decide`, or None where no rule matches and there is no default."""
        rules = self._rules
        decision = self._decide(rules, self._facts(rules, process))
        if decision.by is DecidedBy.DEFAULT and rules.default is None:
            return None
        self._count(decision)
        return decision

    def explain(self, process: ProcessHelper) -> Explanation:
        """Why `decide` would say what it says, rule by rule; counts nothing."""
        rules = self._rules
        facts = self._facts(rules, process)
        decision = self._decide(rules, facts)
        if decision.by is DecidedBy.EXEMPT:
            return Explanation(decision, (), rules.source, "a critical Windows process: no rule is asked")
        ending = ""
        if decision.by is DecidedBy.DEFAULT:
            ending = (
                f"no rule matches; the default is {verdict_word(rules.default)}" if rules.default else "no rule matches"
            )
        if decision.audited:
            ending = f"{ending}; audit: it is logged and let pass".removeprefix("; ")
        return explain(rules, facts, decision, ending)

    def for_the_past(self) -> Callable[[ProcessHelper], tuple[Decision, frozenset[str]]]:
        """The same rules for processes of the past, oldest first: nothing is looked up, nothing counted.

        Each gets its decision, and the facts that rules asked for and its record does not hold; see `audit.replay`.
        """
        rules, ancestry = self._rules, Ancestry()

        def judge(process: ProcessHelper) -> tuple[Decision, frozenset[str]]:
            ancestry.note(process)
            facts = Facts(process, ancestry, None)
            return self._decide(rules, facts), facts.missing

        return judge

    def reload(self) -> None:
        """Read the file again; from the next decision on all of it holds, or, if it is broken, all of the old.

        Raises: PolicyError when the file cannot be used; the old rules stay, and the log says so.
        """
        if self._path is None:
            raise PolicyError(f"{self.source}: it was not loaded from a file; make a new one with Policy.parse")
        self._stamp = _file_stamp(self._path)
        try:
            rules = _accept(*read_policy(_read_file(self._path), str(self._path)))
        except PolicyError as error:
            _log.error("%s\nthe old rules stay in force", error)
            raise PolicyError(f"{error}\nthe old rules stay in force", error.problems) from error
        with self._lock:
            self._rules, self._hits = rules, {}
        _log.info("%r: reloaded", self)

    def has_changed(self) -> bool:
        """Its file is another than the one last read, by `load` or `reload`. Asks the disk; one that is missing is not.

        >>> Policy.parse('default = "ask"').has_changed()
        False
        """
        stamp = _file_stamp(self._path) if self._path is not None else None
        return stamp is not None and stamp != self._stamp

    def driver_rules(self) -> list[tuple[str, Verdict]]:
        r"""The rules that a driver can apply by itself, as lowercase paths with their verdicts.

        These are paths without wildcards and without further conditions, up to the first that an earlier rule of
        another kind might have decided. In audit mode there are none. Native paths are not among them, for the driver
        would match them where a process also has a drive letter; nor are letters whose case only Windows' table knows.

        >>> Policy.parse('[[rule]]\nimage = "C:/games/chess.exe"\nverdict = "block"').driver_rules()
        [('c:\\games\\chess.exe', <Verdict.BLOCK>)]
        """
        rules = self._rules
        exact: dict[str, Verdict] = {}
        for rule in rules.rules if rules.mode == "enforce" else ():
            image = rule.condition("image")
            if image is None:
                break  # it may match any path, so no later rule is certain
            if _is_exact(rule, image):
                for path in sorted(filter(_driver_knows, image.plain)):
                    if next(rules.index.with_image(path)) is rule and not is_critical(path):
                        exact[path] = rule.verdict
        return list(exact.items())

    def __len__(self) -> int:
        """How many rules it has."""
        return len(self._rules.rules)

    def __repr__(self) -> str:
        rules = self._rules
        count = f"{len(rules.rules):,} rule{'s' if len(rules.rules) != 1 else ''}"
        how = "audit only" if rules.mode == "audit" else "enforced"
        default = verdict_word(rules.default) if rules.default else "none"
        return f"<Policy {rules.source}: {count}, {how}, {'no default' if default == 'none' else f'default {default}'}>"

    def _facts(self, rules: RuleSet, process: ProcessHelper) -> Facts:
        if rules.index.facts & {"parent", "ancestor"}:
            self._ancestry.note(process)  # now, while its parent's pid is certainly its parent's
        return Facts(process, self._ancestry, self._details)

    def _decide(self, rules: RuleSet, facts: Facts) -> Decision:
        process = facts.process
        if is_critical(path_form(process.image_name)):
            return Decision(process=process, verdict=Verdict.ALLOW, by=DecidedBy.EXEMPT)
        rule = rules.index.first(facts)
        verdict = rule.verdict if rule is not None else rules.default or Verdict.ALLOW
        return Decision(
            process=process,
            verdict=verdict,
            by=DecidedBy.RULE if rule is not None else DecidedBy.DEFAULT,
            who=rule.name if rule is not None else "",
            audited=verdict is not Verdict.ALLOW and (rules.mode == "audit" or (rule is not None and rule.audit)),
        )

    def _count(self, decision: Decision) -> None:
        if decision.by is not DecidedBy.EXEMPT:
            name = decision.who or "default"
            with self._lock:
                self._hits[name] = self._hits.get(name, 0) + 1


def _accept(rules: RuleSet, problems: list[Problem]) -> RuleSet:
    """The rules, if nothing is wrong with them."""
    problems = [problem for problem in problems + lint(rules, thorough=False) if problem.fatal]
    if problems:
        count = "a mistake" if len(problems) == 1 else f"{len(problems):,} mistakes"
        shown = "".join(f"\n  {problem}" for problem in problems[:20])
        more = f"\n  and {len(problems) - 20:,} more" if len(problems) > 20 else ""
        raise PolicyError(f"{rules.source}: {count} in the policy{shown}{more}", problems)
    return rules


def _read_file(path: Path) -> str:
    try:
        with path.open("rb") as file:
            data = file.read(LARGEST + 1)
    except FileNotFoundError as error:
        raise PolicyError(f"{path}: there is no such file; give the path of a policy") from error
    except OSError as error:
        raise PolicyError(f"{path}: it cannot be read: {error.strerror or error}; give the path of a policy") from error
    if len(data) > LARGEST:
        raise PolicyError(f"{path}: it is larger than {LARGEST // 2**20} MB; give the path of a policy, a TOML text")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        column = error.start - data.rfind(b"\n", 0, error.start)
        problem = Problem(line, column, f"byte 0x{data[error.start]:02x} is not UTF-8 text", "save the policy as UTF-8")
        raise PolicyError(f"{path}: it is not a text: {problem}", [problem]) from error


def _file_stamp(path: Path) -> tuple[int, int] | None:
    """Time and size of a file, which differ once it was changed; None where there is none, or none at this moment."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_mtime_ns, status.st_size


def _driver_knows(path: str) -> bool:
    """The driver compares this path as the policy does."""
    return re.match(r"[a-z]:\\|\\\\", path) is not None and all(char.lower() == char for char in path)


def _is_exact(rule: Rule, image: Condition) -> bool:
    plain = not image.globs and all("\\" in form for form in image.plain)
    return plain and len(rule.conditions) == 1 and not rule.audit and rule.verdict is not Verdict.DEFER


def _running(pid: int) -> ProcessHelper | None:
    """The default of ``lookup``; imported when a rule first needs it."""
    from ..system.listing import lookup

    return lookup(pid)


def _inspect(process: ProcessHelper) -> Details:
    """The default of ``details``; imported when a rule first needs it."""
    from ..system import details

    return details.inspect(process)
