"""A rule: conditions on the facts of a process, a verdict, and notes."""

from dataclasses import dataclass
from datetime import datetime

from ..records import RuleNote, Verdict
from ..util.globs import last_part
from .conditions import Clause, Condition, Part
from .facts import Facts

__all__ = ["Rule", "verdict_word"]


@dataclass(frozen=True, slots=True)
class Rule:
    """One ``[[rule]]`` of a policy."""

    number: int
    """From 1, in the order of its file."""
    name: str
    """Its name, or its number without one; in a policy of several files, the number with the name of its file."""
    conditions: tuple[Part, ...]
    """The cheapest first. All must hold; a rule without any matches every process."""
    verdict: Verdict
    audit: bool = False
    """Its verdict is only logged, and the process runs."""
    until: datetime | None = None
    """From this time on it matches nothing."""
    note: RuleNote | None = None
    """Its message, reference and tags."""
    file: int = 0
    """The index of its file in the policy."""

    def matches(self, facts: Facts) -> bool:
        """All conditions hold, and `until` has not passed."""
        if self.until is not None and facts.at >= self.until:
            return False
        for part in self.conditions:
            if not part.holds(facts):
                return False
        return True

    def condition(self, fact: str) -> Condition | None:
        """The condition on `fact` in the rule itself, outside its groups, if there is one."""
        return next((part for part in self.conditions if isinstance(part, Condition) and part.fact == fact), None)

    def names(self, path: str) -> bool:
        """A condition on the image names this program; it is not just a pattern that happens to match."""
        names = (path, last_part(path))
        return any(
            fact == "image" and whole and text in names for clause in self.clauses() for fact, whole, text in clause
        )

    def clauses(self) -> list[Clause]:
        """Sets of keys: a process that matches has one key of each."""
        return [clause for part in self.conditions for clause in part.clauses()]

    @property
    def facts(self) -> frozenset[str]:
        """The facts that it needs."""
        return frozenset[str]().union(*(part.facts for part in self.conditions))


def verdict_word(verdict: Verdict) -> str:
    """A verdict as policies write it: ``allow``, ``block``, ``ask``."""
    return "ask" if verdict is Verdict.DEFER else verdict.value
