"""Why a policy decides as it does, rule by rule."""

from dataclasses import dataclass

from ..records import Decision, printable
from .parser import RuleSet
from .rules import Condition, Facts, Rule, verdict_word

__all__ = ["Explanation", "Step", "explain"]


@dataclass(frozen=True, slots=True)
class Step:
    """One rule that was asked, and what came of it."""

    rule: int
    """Its number, from 1."""
    name: str
    line: int
    """Where it stands in the policy."""
    matched: bool
    reasons: tuple[str, ...]
    """One for each condition, up to the first that does not hold."""
    fact: str = ""
    """The condition that does not hold; "" where all do."""


@dataclass(frozen=True, slots=True)
class Explanation:
    """What a policy says to one process, and why. It prints rule by rule.

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
    """The policy's file."""
    ending: str
    """Why it came to this where no rule matched, or what audit mode makes of it; "" otherwise."""

    def __str__(self) -> str:
        decision, process = self.decision, self.decision.process
        last = self.steps[-1] if self.steps else None
        by = f"rule {last.name}, line {last.line} of {self.source}" if last and last.matched else decision.by.value
        lines = [f"{verdict_word(decision.verdict)} {process.image_name} ({process.pid}) by {by}"]
        width = max([len(step.name) for step in self.steps], default=0)
        for run in _runs(self.steps):
            first, end = run[0], run[-1]
            if len(run) > 3:
                lines.append(f"  rules {first.rule:,} to {end.rule:,}: no, each asks for another {first.fact}")
                continue
            for step in run:
                margin = f"  {step.name:<{width}}  {'yes' if step.matched else 'no '}  "
                lines += [(margin if i == 0 else " " * len(margin)) + text for i, text in enumerate(step.reasons)]
        return "\n".join(map(printable, [*lines, f"  {self.ending}"] if self.ending else lines))


def explain(rules: RuleSet, facts: Facts, decision: Decision, ending: str) -> Explanation:
    """Ask the rules in order, as far as the first that matches, and keep what each said."""
    steps = []
    for rule, line in zip(rules.rules, rules.lines, strict=True):
        steps.append(_step(rule, line, facts))
        if steps[-1].matched:
            break
    return Explanation(decision, tuple(steps), rules.source, ending)


def _step(rule: Rule, line: int, facts: Facts) -> Step:
    reasons: list[str] = []
    for condition in rule.conditions:
        holds, reason = _reason(condition, facts)
        reasons.append(reason)
        if not holds:
            return Step(rule.number, rule.name, line, False, tuple(reasons), condition.fact)
    return Step(rule.number, rule.name, line, True, tuple(reasons) or ("it has no conditions, so all match",))


def _reason(condition: Condition, facts: Facts) -> tuple[bool, str]:
    values = facts.values(condition.fact)
    word = condition.fact.replace("_", " ")
    why = facts.failures.get(condition.fact, "")
    if not values:
        return False, f"{word} is not known: {why}".removesuffix(": ")
    for value in values:
        if condition.match(value):
            pattern = next(p for p in condition.patterns if Condition.of(condition.fact, [p]).match(value))
            return True, f"{word} {value} matches {pattern}"
    shown = " < ".join(values) if condition.fact == "ancestor" else " or ".join(values)
    wanted, more = condition.patterns[:3], len(condition.patterns) - 3
    others = f" or {more:,} more" if more > 0 else ""
    return False, f"{word} {shown} is not {' or '.join(wanted)}{others}; {why}".removesuffix("; ")


def _runs(steps: tuple[Step, ...]) -> list[list[Step]]:
    """Neighbours that failed on the same fact, together."""
    runs: list[list[Step]] = []
    for step in steps:
        if runs and not step.matched and not runs[-1][-1].matched and runs[-1][-1].fact == step.fact:
            runs[-1].append(step)
        else:
            runs.append([step])
    return runs
