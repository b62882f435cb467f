"""Finding the first rule that matches without asking each: most rules name what they are about."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from heapq import merge

from ._policy_rules import Facts, Rule, last_part

__all__ = ["RuleIndex"]

INDEXED = ("image", "parent", "ancestor", "sha256")
"""Facts by whose values rules are found, the cheapest first."""


class RuleIndex:
    """Rules in order, and where to look for those that can match a process.

    A rule that names its images, parents, ancestors or hashes (a path, a last part, or a glob that ends in a plain last
    part) stands in a dictionary under each of these names. Only the rest is gone through one by one.
    """

    def __init__(self, rules: Sequence[Rule]) -> None:
        self.rules = tuple(rules)
        self._named: dict[str, dict[str, list[int]]] = {fact: {} for fact in INDEXED}
        self._first: dict[str, int] = {}
        self._rest: list[int] = []
        self._image_globs: list[int] = []
        for position, rule in enumerate(self.rules):
            self._place(position, rule)

    def _place(self, position: int, rule: Rule) -> None:
        for condition in rule.conditions:
            if condition.fact == "image" and condition.index_keys() is None:
                self._image_globs.append(position)
            if condition.fact in INDEXED and (keys := condition.index_keys()) is not None:
                named = self._named[condition.fact]
                for key in keys:
                    named.setdefault(key, []).append(position)
                self._first.setdefault(condition.fact, position)
                return
        self._rest.append(position)

    def first(self, facts: Facts) -> Rule | None:
        """The first rule, in the order of the file, that matches."""
        found = self._earliest(self._under("image", facts), facts, len(self.rules))
        found = self._earliest(self._rest, facts, found)
        for fact in INDEXED[1:]:
            if self._first.get(fact, found) < found:  # or else nothing there can win: do not even look the fact up
                found = self._earliest(self._under(fact, facts), facts, found)
        return self.rules[found] if found < len(self.rules) else None

    def with_image(self, path: str) -> Iterator[Rule]:
        """In order, the rules that have an image condition which this path (in `path_form`) meets."""
        for position in merge(self._image_globs, sorted(set(self._at("image", path)))):
            condition = self.rules[position].condition("image")
            if condition is not None and condition.match(path):
                yield self.rules[position]

    def candidates(self, values: Mapping[str, str]) -> list[int]:
        """In order, the positions of all rules that can match these values of facts, and of some that cannot."""
        named = {position for fact in INDEXED if fact in values for position in self._at(fact, values[fact])}
        return sorted(named | set(self._rest))

    def _earliest(self, positions: Iterable[int], facts: Facts, limit: int) -> int:
        for position in positions:
            if position >= limit:
                break
            if self.rules[position].matches(facts):
                return position
        return limit

    def _under(self, fact: str, facts: Facts) -> list[int]:
        return sorted({position for value in facts.values(fact) for position in self._at(fact, value)})

    def _at(self, fact: str, value: str) -> list[int]:
        named = self._named[fact]
        end = last_part(value)
        return named.get(value, []) + (named.get(end, []) if end != value else [])
