"""Why a policy decides as it does, rule by rule."""

from collections.abc import Iterator
from dataclasses import dataclass

from ..records import Decision
from ..util.printable import printable
from .conditions import Bound, Condition, Group, Part, Test
from .facts import Facts
from .parser import RuleSet
from .rules import Rule, verdict_word

__all__ = ["Explanation", "Step", "explain"]

_HOLDS = {
    "glob": "matches", "glob_all": "matches each of", "equals": "is exactly", "contains": "contains",
    "contains_all": "contains each of", "starts_with": "begins with", "ends_with": "ends with",
    "at_least": "is at least", "at_most": "is at most",
}  # fmt: skip
_FAILS = {
    "glob": "is not", "glob_all": "does not match each of", "equals": "is not exactly", "contains": "does not contain",
    "contains_all": "does not contain each of", "starts_with": "does not begin with", "ends_with": "does not end with",
    "at_least": "is not at least", "at_most": "is more than",
}  # fmt: skip

LONGEST_NAME = 40
"""Characters of a rule's name before the reasons stand below the names, not beside them."""

LONGEST_VALUE = 300
"""Characters of a fact before it is cut: a command line can have 32,767, and each rule may repeat it."""


@dataclass(frozen=True, slots=True)
class Step:
    """One rule that was evaluated, and its result."""

    rule: int
    """Its number, from 1."""
    name: str
    line: int
    """Its line in the policy."""
    matched: bool
    reasons: tuple[str, ...]
    """One for each condition, up to the first that does not hold; a group's own conditions follow it, indented."""
    fact: str = ""
    """The fact or the group that does not hold; "" if all hold."""
    decided: str = ""
    """The first reason against the rule; "" if it matches."""


@dataclass(frozen=True, slots=True)
class Explanation:
    """The decision of a policy about one process, and its reasons. It prints rule by rule.

    >>> import procmon
    >>> policy = procmon.Policy.parse('[[rule]]\\nname = "games"\\nimage = "**/games/*"\\nverdict = "block"')
    >>> print(policy.explain(procmon.SimulatedGate().start("c:/games/chess.exe")))
    block c:\\games\\chess.exe (1000) by rule games, line 1 of <text>
      games  yes  image c:\\games\\chess.exe matches **/games/*
    """

    decision: Decision
    steps: tuple[Step, ...]
    """The rules up to the one that matched."""
    source: str
    """The file of the rule that matched, or all files of the policy."""
    ending: str
    """Why the decision was made if no rule matched, or the effect of audit mode; "" otherwise."""

    def __str__(self) -> str:
        decision, process = self.decision, self.decision.process
        last = self.steps[-1] if self.steps else None
        by_rule = last is not None and last.matched and decision.who == last.name
        by = f"rule {last.name}, line {last.line} of {self.source}" if last and by_rule else decision.by.value
        lines = [f"{verdict_word(decision.verdict)} {process.image_name} ({process.pid}) by {by}"]
        width = max([len(step.name) for step in self.steps], default=0)
        beside = width <= LONGEST_NAME
        for run in _runs(self.steps):
            first, end = run[0], run[-1]
            if len(run) > 3:
                in_one_file = end.rule - first.rule + 1 == len(run)
                which = f"{first.rule:,} to {end.rule:,}" if in_one_file else f"{first.name} to {end.name}"
                lines.append(f"  rules {which}: no, {_common(first.fact)}")
                continue
            for step in run:
                mark = "yes" if step.matched else "no "
                margin = f"  {step.name:<{width}}  {mark}  " if beside else " " * 7
                lines += [] if beside else [f"  {mark}  {step.name}"]
                lines += [(margin if i == 0 else " " * len(margin)) + text for i, text in enumerate(step.reasons)]
        if decision.note is not None and decision.note.message:
            lines.append(f"  message: {decision.note.message}")
        return "\n".join(map(printable, [*lines, f"  {self.ending}"] if self.ending else lines))


def explain(rules: RuleSet, facts: Facts, decision: Decision, ending: str) -> Explanation:
    """Evaluate the rules in order, up to the first that matches, and keep the result of each."""
    steps: list[Step] = []
    source = rules.name
    for rule, line in zip(rules.rules, rules.lines, strict=True):
        steps.append(_step(rule, line, facts))
        if steps[-1].matched:
            source = rules.sources[rule.file].name
            break
    return Explanation(decision, tuple(steps), source, ending)


def _step(rule: Rule, line: int, facts: Facts) -> Step:
    if rule.until is not None and facts.at >= rule.until:
        text = f"until {rule.until.isoformat()} has passed"
        return Step(rule.number, rule.name, line, False, (text,), "until", text)
    reasons: list[str] = []
    for part in rule.conditions:
        report = _report(part, facts)
        reasons += report.lines
        if not report.holds:
            name = part.fact if isinstance(part, Condition) else part.kind
            return Step(rule.number, rule.name, line, False, tuple(reasons), name, report.decided)
    return Step(rule.number, rule.name, line, True, tuple(reasons) or ("it has no conditions, so all match",))


@dataclass(frozen=True, slots=True)
class _Report:
    """Whether a part of a rule holds, the lines that explain it, and the deciding reason."""

    holds: bool
    lines: list[str]
    decided: str


def _report(part: Part, facts: Facts) -> _Report:
    return _group(part, facts) if isinstance(part, Group) else _condition(part, facts)


def _group(group: Group, facts: Facts) -> _Report:
    """The group in one line, and below it its tables, each up to its first part that does not hold.

    An `any` or `unless` ends at the first table that holds, an `all` at the first that does not.
    """
    lines: list[str] = []
    decided = ""
    stopped = False
    for table in group.tables:
        inner = []
        for part in table.parts:
            inner.append(_report(part, facts))
            if not inner[-1].holds:
                break
        table_holds = inner[-1].holds
        mark = "yes  " if table_holds else "no   "
        text = [line for report in inner for line in report.lines]
        lines += [f"  {mark if i == 0 else '     '}{line}" for i, line in enumerate(text)]
        decided = decided if decided and group.kind == "any" and not table_holds else inner[-1].decided
        if table_holds is (group.kind != "all"):
            stopped = True
            break
    if group.kind == "all":
        head = "all: one does not hold" if stopped else "all: every one holds"
        return _Report(not stopped, [head, *lines], decided)
    if group.kind == "any":
        head = "any: one holds" if stopped else "any: none holds"
        return _Report(stopped, [head, *lines], decided)
    head = "unless: one holds, so the rule does not match" if stopped else "unless: none holds, so the rule may match"
    return _Report(not stopped, [head, *lines], f"unless: {decided}" if stopped else "unless: none holds")


def _condition(condition: Condition, facts: Facts) -> _Report:
    holds, text = _sentence(condition, facts)
    return _Report(holds, [text], text)


def _sentence(condition: Condition, facts: Facts) -> tuple[bool, str]:
    values = condition.values(facts)
    word = condition.fact.replace("_", " ")
    why = facts.failures.get(condition.fact, "")
    unknown = f"{word} is not known: {why}".removesuffix(": ")
    if condition.known is not None:
        if condition.known is not bool(values):
            return False, f"{word} is known: {_shown(condition.fact, values)}" if values else unknown
        if not condition.tests and condition.negated is None:
            return True, f"{word} {_shown(condition.fact, values)} is known" if values else unknown
    if condition.tests and not values:
        return False, unknown
    sentences: list[str] = []
    if condition.tests:
        value = next((value for value in values if condition.meets(value)), None)
        if value is None:
            return False, f"{_failure(condition, word, values)}; {why}".removesuffix("; ")
        sentences = [_holding(test, word, value) for test in condition.tests]
    if condition.negated is None:
        return True, " and ".join(sentences)
    inner, text = _sentence(condition.negated, facts)
    if inner:
        return False, f"{text}, which its not excludes"
    if not values:
        text = f"{text}, so its not holds"
    return True, " and ".join([*sentences, text])


def _holding(test: Test, word: str, value: str) -> str:
    every = test.operator in ("glob_all", "contains_all")
    words = _words(test) if every else test.word_for(value)
    return f"{word} {_cut(value)} {_HOLDS[test.operator]} {words}"


def _failure(condition: Condition, word: str, values: tuple[str, ...]) -> str:
    """The first test that no value meets; if every test is met by some value: that no value meets all."""
    shown = _shown(condition.fact, values)
    test = next((test for test in condition.tests if not any(map(test.holds, values))), None)
    if test is None:
        return f"no {word} of {shown} meets all of its operators"
    return f"{word} {shown} {_FAILS[test.operator]} {_words(test)}"


def _words(test: Test) -> str:
    if isinstance(test, Bound):
        return test.words[0]
    more = len(test.words) - 3
    joint = " and " if test.operator in ("glob_all", "contains_all") else " or "
    return joint.join(test.words[:3]) + (f"{joint}{more:,} more" if more > 0 else "")


def _shown(fact: str, values: tuple[str, ...]) -> str:
    return (" < " if fact == "ancestor" else " or ").join(_cut(value) or '""' for value in values)


def _cut(value: str) -> str:
    return value if len(value) <= LONGEST_VALUE else f"{value[:LONGEST_VALUE]}... ({len(value):,} characters)"


def _common(fact: str) -> str:
    """The common reason of a run of rules that failed on the same fact."""
    groups = {"any": "none of its any holds", "all": "one of its all does not hold", "unless": "an unless holds"}
    if fact == "until":
        return "the time of each has passed"
    return f"of each {groups[fact]}" if fact in groups else f"each asks for another {fact}"


def _runs(steps: tuple[Step, ...]) -> Iterator[list[Step]]:
    """Groups adjacent steps that failed on the same fact."""
    run: list[Step] = []
    for step in steps:
        if run and (step.matched or run[-1].matched or run[-1].fact != step.fact):
            yield run
            run = []
        run.append(step)
    if run:
        yield run
