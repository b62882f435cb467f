"""Finds the first rule that matches without testing each: most rules need a name or a text that few processes have."""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence

from ..records import ProcessHelper
from ..system.ancestry import Ancestry
from ..util.globs import last_part
from .conditions import Condition, Key, best_clause
from .facts import ABOUT_THE_FILE, PATH_FACTS, Facts
from .literals import Literals
from .rules import Rule

__all__ = ["ByText", "RuleIndex", "RulesByImage"]


class RuleIndex:
    """Rules in order, with an index of the rules that can match a process.

    A rule that needs at least one of some keys (a path, a last part, a hash, a literal text in a command line) is
    listed under each of these keys. All other rules are tested one by one. A rule that is found is then tested as a
    whole, so a key may match more processes than the rule does, but must not match fewer.
    """

    def __init__(self, rules: Sequence[Rule]) -> None:
        self.rules = tuple(rules)
        self.facts = frozenset[str]().union(*(rule.facts for rule in self.rules))
        """The facts that at least one rule needs."""
        clauses = [rule.clauses() for rule in self.rules]
        often = Counter(key for each in clauses for clause in each for key in clause)
        self._by_fact: dict[str, ByText] = {}
        self._rest: list[int] = []
        for position, rule in enumerate(self.rules):
            clause = best_clause(clauses[position], often)
            clauses[position] = []
            if not clause or _better_asked(rule, clause[0]):
                self._rest.append(position)
                continue
            for fact, whole, text in clause:
                self._by_fact.setdefault(fact, ByText(fact, position)).add(whole, text, position)
        for named in self._by_fact.values():
            named.finish()
        self._order = sorted(self._by_fact.values(), key=lambda named: named.first)

    def first(self, facts: Facts) -> Rule | None:
        """The first rule, in the order of the files, that matches."""
        for rule in self.candidates(facts):
            if rule.matches(facts):
                return rule
        return None

    def candidates(self, facts: Facts) -> Iterator[Rule]:
        """In order, the rules that can match, and few others.

        A fact is looked up when the search reaches the first rule that is listed under it.
        """
        rules, order, rest = self.rules, self._order, self._rest
        found: list[int] = []  # descending, so that the next one is at the end
        end = len(rules)
        looked_up = at_rest = 0
        ahead = order[0].first if order else end  # the position at which the next fact must be looked up
        resting = rest[0] if rest else end
        while True:
            position = found[-1] if found else end
            if resting < position:
                position = resting
            if ahead <= position and looked_up < len(order):
                named = order[looked_up]
                looked_up += 1
                ahead = order[looked_up].first if looked_up < len(order) else end
                hits = named.find(facts.values(named.fact))
                if hits:
                    found = sorted({*found, *hits}, reverse=True)
                continue
            if position == end:
                return
            if position == resting:
                at_rest += 1
                resting = rest[at_rest] if at_rest < len(rest) else end
            else:
                found.pop()
            yield rules[position]


class RulesByImage:
    """The rules with a condition on the image, found by a path: for analysis of rules, not for processes."""

    def __init__(self, rules: Sequence[Rule]) -> None:
        self._rules = rules
        self._named = ByText("image", 0)
        self._rest: list[int] = []
        for position, rule in enumerate(rules):
            image = rule.condition("image")
            clause = best_clause(image.clauses()) if image is not None else ()
            for _, whole, text in clause:
                self._named.add(whole, text, position)
            if image is not None and not clause:
                self._rest.append(position)
        self._named.finish()

    def at(self, path: str) -> Iterator[Rule]:
        """In order, the rules whose image condition this path meets, whatever their other conditions are."""
        facts = Facts(ProcessHelper(pid=0, parent_pid=0, image_name=path), Ancestry(), None)
        for position in sorted({*self._rest, *self._named.find(facts.values("image"))}):
            condition = self._rules[position].condition("image")
            if condition is not None and condition.holds(facts):
                yield self._rules[position]


def _better_asked(rule: Rule, key: Key) -> bool:
    """The index would read the file, which takes long, for a rule that tests a cheaper fact first."""
    first = rule.conditions[0]
    return key[0] in ABOUT_THE_FILE and isinstance(first, Condition) and first.fact not in ABOUT_THE_FILE


class ByText:
    """Positions of rules by the texts that they need in one fact: whole values and last parts, or anywhere in it."""

    def __init__(self, fact: str, first: int) -> None:
        self.fact = fact
        self.first = first
        self._in_parts = fact in PATH_FACTS
        self._earliest: dict[str, int] = {}
        self._later: dict[str, list[int]] = {}  # a list for each name would be most of the index
        self._written: dict[str, list[int]] = {}
        self._literals: Literals | None = None

    def add(self, whole: bool, text: str, position: int) -> None:
        if not whole:
            self._written.setdefault(text, []).append(position)
        elif self._earliest.setdefault(text, position) != position:
            self._later.setdefault(text, []).append(position)

    def finish(self) -> None:
        """Build the search for texts, once all were added."""
        if self._written:
            self._literals = Literals(self._written)
        self._written = {}

    def find(self, values: Iterable[str]) -> list[int]:
        """The positions of all texts that occur in at least one of the values."""
        found: list[int] = []
        for value in values:
            for key in (value, last_part(value)) if self._in_parts else (value,):
                earliest = self._earliest.get(key)
                if earliest is not None:
                    found.append(earliest)
                    found += self._later.get(key, ())
            if self._literals is not None:
                found += self._literals.find(value)
        return found
