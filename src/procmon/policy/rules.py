"""What a rule is: conditions on the facts of a process, a verdict, and what else it says."""

from dataclasses import dataclass
from datetime import datetime

from ..records import RuleNote, Verdict
from .conditions import Clause, Condition, Part
from .facts import Facts

__all__ = ["Rule", "verdict_word"]


@dataclass(frozen=True, slots=True)
class Rule:
    """One ``[[rule]]`` of a policy."""

    number: int
    """From 1, in the order of its file."""
    name: str
    """Its name, or else its number; in a policy of several files, with the name of its file."""
    conditions: tuple[Part, ...]
    """The cheapest first. All must hold; a rule without any matches every process."""
    verdict: Verdict
    audit: bool = False
    """It is logged, and the process is let pass."""
    until: datetime | None = None
    """From this time on it matches nothing."""
    note: RuleNote | None = None
    """What it says of itself."""
    file: int = 0
    """The place of its file in the policy, from 0."""

    def matches(self, facts: Facts) -> bool:
        """All conditions hold, and its time has not run out."""
        if self.until is not None and facts.at >= self.until:
            return False
        for part in self.conditions:
            if not part.holds(facts):
                return False
        return True

    def condition(self, fact: str) -> Condition | None:
        """The condition on `fact` that stands in the rule itself, if there is one."""
        return next((part for part in self.conditions if isinstance(part, Condition) and part.fact == fact), None)

    def clauses(self) -> list[Clause]:
        """Sets of keys: a process that matches has one key of each."""
        return [clause for part in self.conditions for clause in part.clauses()]

    @property
    def facts(self) -> frozenset[str]:
        """The facts that it asks for."""
        return frozenset[str]().union(*(part.facts for part in self.conditions))


def verdict_word(verdict: Verdict) -> str:
    """A verdict as policies write it: ``allow``, ``block``, ``ask``."""
    return "ask" if verdict is Verdict.DEFER else verdict.value
