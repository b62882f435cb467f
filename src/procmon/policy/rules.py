"""A rule: conditions on the facts of a process, a verdict, and notes."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime

from ..records import RuleNote, Verdict
from ..util.globs import last_part
from .conditions import Clause, Condition, Group, Part
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

    def words(self, fact: str) -> Iterator[str]:
        """The texts with which it compares a fact, as written in the policy."""
        return _words(self.conditions, fact)

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


def _words(parts: Iterable[Part], fact: str) -> Iterator[str]:
    for part in parts:
        if isinstance(part, Group):
            for table in part.tables:
                yield from _words(table.parts, fact)
        elif part.fact == fact:
            for test in part.tests:
                yield from test.words
            if part.negated is not None:
                yield from _words((part.negated,), fact)


def verdict_word(verdict: Verdict) -> str:
    """A verdict as policies write it: ``allow``, ``block``, ``ask``."""
    return "ask" if verdict is Verdict.DEFER else verdict.value
