"""Rules from a TOML file that decide about processes: load, check, decide, explain, reload.

mode = "enforce"                        # "audit": only log the decisions; every process runs
default = "allow"                       # for processes that no rule matches; left out: the next callback decides

[[rule]]
name = "no shell from a document"
image = ["cmd.exe", "powershell.exe"]   # any of them; globs; without a slash: the last part of the path
parent = "**/winword.exe"               # all keys of a rule must match
verdict = "block"                       # allow, block or ask; the first rule that matches decides
"""

import os
import re
import sys
import threading
import warnings
from copy import copy
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from ..errors import PolicyError, PolicyWarning, Problem
from ..records import DecidedBy, Decision, ProcessFlags, ProcessHelper, Verdict
from ..system.ancestry import Ancestry, Lookup
from ..util.arguments import check_function, check_process
from ..util.log import logger
from ..util.paths import lowercase
from .critical import is_critical, is_indispensable
from .explain import Explanation, Step, explain
from .facts import Details, DetailsLookup, Facts
from .files import Stamp, read_files, stamp
from .index import RulesByImage
from .lint import lint
from .parser import RuleSet, Source, read_policy
from .rules import Rule, verdict_word

__all__ = ["Details", "Explanation", "Policy", "Step"]


_RECORDED = frozenset({"parent", "ancestor", "creator", "parent_command_line"})
"""Facts that come from the records of other processes."""


class Judge(Protocol):
    """The result of `Policy.for_the_past`."""

    def __call__(self, process: ProcessHelper, at: datetime | None = None) -> tuple[Decision, frozenset[str]]: ...


class Policy:
    r"""Rules that decide about processes; itself a callback for `Monitor.subscribe`.

    Parents and ancestors come from the processes that the policy was asked about before, and from ``lookup`` for older
    ones. Users, sessions, hashes and signers come from ``details``, and only when a rule needs them. On Windows both
    default to look-ups in Windows. A fact that is not available matches no pattern.

    >>> import procmon
    >>> policy = procmon.Policy.parse('[[rule]]\nimage = "c:/games/**"\nverdict = "block"')
    >>> policy
    <Policy <text>: 1 rule, enforced, no default>
    >>> policy.decide(procmon.SimulatedGate().start("c:/games/chess.exe")).verdict
    <Verdict.BLOCK>
    """

    if TYPE_CHECKING:  # set by `_make`
        _rules: RuleSet
        _paths: tuple[Path, ...]
        _stamp: "Stamp | None"
        _ancestry: Ancestry
        _details: DetailsLookup | None
        _given: tuple[Lookup | None, DetailsLookup | None]
        _lock: threading.Lock
        _reloading: threading.Lock
        _hits: dict[str, int]
    warnings: tuple[Problem, ...]
    """Valid rules that probably do not do what is intended, and rules that never decide."""

    def __init__(self, *arguments: object, **options: object) -> None:
        raise TypeError("make a Policy by Policy.load(path, ...) from files, or by Policy.parse(text)")

    @classmethod
    def _make(
        cls,
        rules: RuleSet,
        warned: list[Problem],
        *,
        paths: tuple[Path, ...],
        lookup: Lookup | None,
        details: DetailsLookup | None,
    ) -> "Policy":
        for name, function, argument in (("lookup", lookup, "pid"), ("details", details, "ProcessHelper")):
            if function is not None:
                check_function(name, function, argument)
        policy = cls.__new__(cls)
        policy._rules = rules
        policy._given = lookup, details
        policy._paths = paths
        policy._stamp = None
        windows = sys.platform == "win32"
        policy._ancestry = Ancestry(_running if lookup is None and windows else lookup)
        policy._details = _inspect if details is None and windows else details
        policy._lock = threading.Lock()
        policy._reloading = threading.Lock()
        policy._hits = {}
        policy.warnings = tuple(warned)
        return policy

    @classmethod
    def load(
        cls, *paths: str | os.PathLike[str], lookup: Lookup | None = None, details: DetailsLookup | None = None
    ) -> "Policy":
        """Load the policy of a file, or of several files and folders: their rules in this order.

        A folder, such as ``rules.d``, stands for every ``*.toml`` in it, in the order of their names. Rules that
        probably do not do what is intended are in `warnings`, logged, and reported to Python's ``warnings`` as a
        `PolicyWarning`.

        Raises: PolicyError when a file cannot be read or has mistakes; its ``problems`` lists them all.

        >>> Policy.load("missing.toml")
        Traceback (most recent call last):
        ...
        procmon.PolicyError: missing.toml: there is no such file; give the path of a policy
        """
        files = tuple(map(Path, paths))
        if not files:
            raise TypeError("Policy.load takes at least one path; Policy.parse takes a text")
        before = stamp(files)  # first: a change during the read counts as a later change
        policy = cls._make(*_accept(read_files(files)), paths=files, lookup=lookup, details=details)
        policy._stamp = before
        policy._warn()
        return policy

    @classmethod
    def parse(
        cls, text: str, source: str = "<text>", *, lookup: Lookup | None = None, details: DetailsLookup | None = None
    ) -> "Policy":
        """Make the policy of a TOML text; ``source`` is its name in messages. Warns like `load`.

        Raises: PolicyError when it has mistakes.
        """
        policy = cls._make(*_accept([Source(_check_text(text), source)]), paths=(), lookup=lookup, details=details)
        policy._warn()
        return policy

    @staticmethod
    def check(text: str) -> list[Problem]:
        """Return every mistake in a policy's text, in order, including those with which it would load.

        >>> for problem in Policy.check('mode = "audits"'):
        ...     print(problem)
        line 1, column 8: there is no mode "audits"; write "audit"
        """
        return _check([Source(_check_text(text), "<text>")])

    @staticmethod
    def check_file(*paths: str | os.PathLike[str]) -> list[Problem]:
        """Return every mistake in a policy's files and folders; see `check`.

        Raises: PolicyError when one cannot be read, or is not a text.
        """
        return _check(read_files(tuple(map(Path, paths))))

    @property
    def source(self) -> str:
        """The files it was loaded from, or the name given to `parse`."""
        return self._rules.name

    @property
    def mode(self) -> str:
        """``"enforce"`` or ``"audit"``."""
        return self._rules.mode

    @property
    def default(self) -> Verdict | None:
        """The verdict if no rule matches; None: the policy has no opinion then."""
        return self._rules.default

    @property
    def version(self) -> str:
        """Twelve hexadecimal digits that differ if the texts of two policies differ; file names do not matter.

        >>> Policy.parse('default = "ask"').version
        '24e4748882d4'
        """
        return self._rules.version

    @property
    def asks(self) -> bool:
        """Whether a rule that is enforced, or the default, has the verdict ``ask``."""
        verdicts = [self._rules.default, *(rule.verdict for rule in self._rules.rules if not rule.audit)]
        return self.mode == "enforce" and Verdict.DEFER in verdicts

    @property
    def hits(self) -> dict[str, int]:
        """The number of decisions of each rule, by name or number in the order of the rules, and of ``"default"``."""
        names = [*(rule.name for rule in self._rules.rules), "default"]
        with self._lock:
            return {name: self._hits.get(name, 0) for name in names}

    def decide(self, process: ProcessHelper) -> Decision:
        """Return the verdict of the first rule that matches, or the default; ALLOW without one. ``ask`` is DEFER.

        Critical Windows processes are always allowed. In audit mode it is the verdict that would have been enforced.
        """
        rules = self._rules
        decision = self._decide(rules, self._facts(rules, check_process("process", process)))
        self._count(decision)
        return decision

    def __call__(self, process: ProcessHelper) -> Decision | None:
        """As a callback: `decide`, or None if no rule matches and there is no default."""
        rules = self._rules
        decision = self._decide(rules, self._facts(rules, process))
        if decision.by is DecidedBy.DEFAULT and rules.default is None:
            return None
        self._count(decision)
        return decision

    def explain(self, process: ProcessHelper) -> Explanation:
        """Explain the result of `decide`, rule by rule; counts nothing."""
        rules = self._rules
        facts = self._facts(rules, check_process("process", process))
        decision = self._decide(rules, facts)
        ending = ""
        if decision.by is DecidedBy.EXEMPT:
            ending = "a critical Windows process: it is allowed whatever a rule or the default says"
            if not is_indispensable(lowercase(process.image_name)):
                ending = "a critical Windows process: only a rule that names it blocks it"
        elif decision.by is DecidedBy.DEFAULT:
            ending = (
                f"no rule matches; the default is {verdict_word(rules.default)}" if rules.default else "no rule matches"
            )
        if decision.audited:
            ending = f"{ending}; audit: it is logged and let pass".removeprefix("; ")
        return explain(rules, facts, decision, ending)

    def for_the_past(self, details: DetailsLookup | None = None) -> "Judge":
        """Return a function that decides about recorded processes, oldest first; it looks up and counts nothing.

        ``details`` returns the recorded facts of a process. The function returns the decision, and the facts that rules
        need and that are not recorded, or only in part; see `audit.replay`. A rule's ``until`` is compared with the
        second argument, without one with the process' time.
        """
        if details is not None:
            check_function("details", details, "ProcessHelper")
        rules, ancestry = self._rules, Ancestry()
        sids = [word.lower().startswith("s-1-") for rule in rules.index.rules for word in rule.words("user")]

        def judge(process: ProcessHelper, at: datetime | None = None) -> tuple[Decision, frozenset[str]]:
            ancestry.note(process)
            facts = Facts(process, ancestry, details, at or process.created, recorded=True)
            decision = self._decide(rules, facts)
            return decision, facts.missing | facts.missing_in_part(by_sid=any(sids), by_name=not all(sids))

        return judge

    def reload(self) -> None:
        """Read the files again. The next decision uses the new rules, or, if a file is broken, all of the old ones.

        Raises: PolicyError when the files cannot be used; the old rules stay in force, and the error is logged.
        """
        if not self._paths:
            raise PolicyError(f"{self.source}: it was not loaded from a file; make a new one with Policy.parse")
        with self._reloading:  # the thread that reads last has the newest rules
            before, self._stamp = self._stamp, stamp(self._paths)
            try:
                rules, warned = _accept(read_files(self._paths))
            except PolicyError as error:
                if isinstance(error.__cause__, OSError):  # perhaps another program has the file open: try again
                    self._stamp = before
                logger.error("%s\nthe old rules stay in force", error)
                raise PolicyError(f"{error}\nthe old rules stay in force", error.problems) from error
            with self._lock:
                self._rules, self._hits, self.warnings = rules, {}, tuple(warned)
        for problem in warned:
            logger.warning("%s: %s", self.source, problem)
        logger.info("%r: reloaded", self)

    def has_changed(self) -> bool:
        """Whether its files differ from those last read. Reads the disk; a missing file is no change.

        >>> Policy.parse('default = "ask"').has_changed()
        False
        """
        now = stamp(self._paths) if self._paths else None
        return now is not None and now != self._stamp

    def driver_rules(self) -> list[tuple[str, Verdict]]:
        r"""The rules that a driver can apply by itself, as lowercase paths with their verdicts.

        These are paths without wildcards and without further conditions, of the rules before the first one without
        `image`. A path that an earlier rule can match is left out. In audit mode there are none. Native paths are left
        out, because the driver would match them even if a process has a drive letter; so are letters whose case only
        Windows' table knows.

        >>> Policy.parse('[[rule]]\nimage = "C:/games/chess.exe"\nverdict = "block"').driver_rules()
        [('c:\\games\\chess.exe', <Verdict.BLOCK>)]
        """
        rules = self._rules
        by_image = RulesByImage(rules.rules)
        exact: dict[str, Verdict] = {}
        for rule in rules.rules if rules.mode == "enforce" else ():
            if rule.condition("image") is None:
                break  # it can match any path, so no later rule is certain to decide
            for path in sorted(filter(_driver_knows, _exact_paths(rule))):
                if next(by_image.at(path)) is rule and not is_indispensable(path):
                    exact[path] = rule.verdict
        return list(exact.items())

    def __copy__(self) -> "Policy":
        """A policy with the same rules, look-ups and known ancestors, and counts of its own."""
        with self._reloading:
            lookup, details = self._given
            policy = self._make(self._rules, list(self.warnings), paths=self._paths, lookup=lookup, details=details)
            policy._stamp, policy._ancestry = self._stamp, self._ancestry
        return policy

    def __deepcopy__(self, memo: dict[int, object]) -> "Policy":
        return copy(self)

    def __reduce__(self) -> tuple[object, ...]:
        """Pickle the rules as their texts, and the look-ups that were given; others are those of the platform.

        A look-up that does not pickle, such as a lambda, raises: without it the policy would decide otherwise.
        """
        with self._reloading:
            return _unpickled, (self._rules.sources, self._paths, self._stamp, *self._given)

    def __len__(self) -> int:
        """The number of rules."""
        return len(self._rules.rules)

    def __repr__(self) -> str:
        rules = self._rules
        count = f"{len(rules.rules):,} rule{'s' if len(rules.rules) != 1 else ''}"
        how = "audit only" if rules.mode == "audit" else "enforced"
        default = verdict_word(rules.default) if rules.default else "none"
        return f"<Policy {rules.name}: {count}, {how}, {'no default' if default == 'none' else f'default {default}'}>"

    def _warn(self) -> None:
        for problem in self.warnings:
            logger.warning("%s: %s", self.source, problem)
            warnings.warn(f"{self.source}: {problem}", PolicyWarning, stacklevel=3)

    def _facts(self, rules: RuleSet, process: ProcessHelper) -> Facts:
        facts = Facts(process, self._ancestry, self._details)
        if rules.index.facts & _RECORDED:
            facts.noted  # noqa: B018 - now, while the parent's pid certainly belongs to the parent
        return facts

    def _decide(self, rules: RuleSet, facts: Facts) -> Decision:
        process = facts.process
        rule = rules.index.first(facts)
        verdict = (rules.default or Verdict.ALLOW) if rule is None else rule.verdict
        tried = rule is not None and rule.audit
        by, who, note = (DecidedBy.DEFAULT, "", None) if rule is None else (DecidedBy.RULE, rule.name, rule.note)
        if verdict is not Verdict.ALLOW and not tried and _spares(rule, process):
            verdict, by, who, note = Verdict.ALLOW, DecidedBy.EXEMPT, "", None
        return Decision(
            process=process,
            verdict=verdict,
            by=by,
            who=who,
            audited=verdict is not Verdict.ALLOW and (tried or rules.mode == "audit"),
            note=note,
            policy=rules.version,
            facts=facts.looked_up(),
        )

    def _count(self, decision: Decision) -> None:
        if decision.by is not DecidedBy.EXEMPT:
            name = decision.who or "default"
            with self._lock:
                self._hits[name] = self._hits.get(name, 0) + 1


def _spares(rule: Rule | None, process: ProcessHelper) -> bool:
    """Whether a process is allowed although this rule, or the default (None), is against it."""
    path = lowercase(process.image_name)
    if not is_critical(path):
        return False
    runs = ProcessFlags.RUNNING_BEFORE in process.flags and not process.paused
    return rule is None or runs or is_indispensable(path) or not rule.names(path)


def _check_text(text: str) -> str:
    if not isinstance(text, str):
        raise TypeError(f"text is the text of a policy; not {text!r}; Policy.load(path) reads a file")
    return text


def _accept(sources: list[Source]) -> tuple[RuleSet, list[Problem]]:
    """Return the rules and the warnings. Raises: PolicyError when the rules have mistakes."""
    rules, problems = read_policy(sources)
    problems += lint(rules, thorough=False)
    fatal = [problem for problem in problems if problem.fatal]
    if fatal:
        count = "a mistake" if len(fatal) == 1 else f"{len(fatal):,} mistakes"
        shown = "".join(f"\n  {problem}" for problem in fatal[:20])
        more = f"\n  and {len(fatal) - 20:,} more" if len(fatal) > 20 else ""
        raise PolicyError(f"{rules.name}: {count} in the policy{shown}{more}", fatal)
    _ = rules.index, rules.version  # made here, so that the first decision does not wait for them
    return rules, problems


def _unpickled(
    sources: tuple[Source, ...],
    paths: tuple[Path, ...],
    stamp: Stamp | None,
    lookup: Lookup | None,
    details: DetailsLookup | None,
) -> Policy:
    """Make a policy of pickled texts, which were valid before."""
    policy = Policy._make(*_accept(list(sources)), paths=paths, lookup=lookup, details=details)
    policy._stamp = stamp
    return policy


def _check(sources: list[Source]) -> list[Problem]:
    rules, problems = read_policy(sources)
    order = {source.name: i for i, source in enumerate(sources)}
    found = problems + lint(rules, thorough=True)
    return sorted(found, key=lambda problem: (order.get(problem.source, 0), problem.line, problem.column))


def _driver_knows(path: str) -> bool:
    """The driver compares this path as the policy does."""
    return re.match(r"[a-z]:\\|\\\\", path) is not None and all(char.lower() == char for char in path)


def _exact_paths(rule: Rule) -> list[str]:
    """The paths of a rule that has only paths and a verdict."""
    image = rule.condition("image")
    patterns = image.patterns if image is not None and len(rule.conditions) == 1 else None
    says_more = rule.audit or rule.until is not None or rule.note is not None or rule.verdict is Verdict.DEFER
    if patterns is None or says_more or patterns.globs or not all("\\" in form for form in patterns.plain):
        return []
    return list(patterns.plain)


def _running(pid: int) -> ProcessHelper | None:
    """The default of ``lookup``; imported when a rule first needs it."""
    from ..system.listing import lookup

    return lookup(pid)


def _inspect(process: ProcessHelper) -> Details:
    """The default of ``details``; imported when a rule first needs it."""
    from ..system import details

    return details.inspect(process)
