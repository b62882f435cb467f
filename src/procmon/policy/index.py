"""Finding the first rule that matches without asking each: most rules name what they are about."""

from collections.abc import Iterable, Iterator, Sequence
from heapq import merge
from itertools import chain

from ..util.globs import last_part
from .rules import Facts, Rule

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
        self.facts = frozenset(condition.fact for rule in rules for condition in rule.conditions)
        """The facts that some rule asks for."""
        self._named: dict[str, _Named] = {}
        self._rest: list[int] = []
        self._image_globs: list[int] = []
        for position, rule in enumerate(self.rules):
            self._place(position, rule)

    def _place(self, position: int, rule: Rule) -> None:
        for condition in rule.conditions:
            if condition.fact in INDEXED:
                keys = condition.index_keys()
                if keys is not None:
                    self._named.setdefault(condition.fact, _Named(position)).add(keys, position)
                    return
                if condition.fact == "image":
                    self._image_globs.append(position)
        self._rest.append(position)

    def first(self, facts: Facts) -> Rule | None:
        """The first rule, in the order of the file, that matches."""
        orders: list[Iterable[int]] = [self._under(fact, facts) for fact in self._named]
        if self._rest:
            orders.append(self._rest)
        for position in merge(*orders) if len(orders) > 1 else chain(*orders):
            if self.rules[position].matches(facts):
                return self.rules[position]
        return None

    def _under(self, fact: str, facts: Facts) -> Iterator[int]:
        """In order, the rules found by a fact, which is looked up when the search has come to the first of them all."""
        named = self._named[fact]
        yield named.first
        yield from sorted({position for value in facts.values(fact) for position in named.at(value)})

    def with_image(self, path: str) -> Iterator[Rule]:
        """In order, the rules that have an image condition which this path (in `path_form`) meets."""
        named = self._named["image"].at(path) if "image" in self._named else []
        for position in merge(self._image_globs, sorted(set(named))):
            condition = self.rules[position].condition("image")
            if condition is not None and condition.match(path):
                yield self.rules[position]


class _Named:
    """Positions of rules by the names that they give of one fact."""

    def __init__(self, first: int) -> None:
        self.first = first
        self._earliest: dict[str, int] = {}
        self._later: dict[str, list[int]] = {}  # a list for each name would be most of the index

    def add(self, keys: list[str], position: int) -> None:
        for key in keys:
            if self._earliest.setdefault(key, position) != position:
                self._later.setdefault(key, []).append(position)

    def at(self, value: str) -> list[int]:
        """The rules that name this value or its last part."""
        found: list[int] = []
        for key in {value, last_part(value)} & self._earliest.keys():
            found += (self._earliest[key], *self._later.get(key, ()))
        return found
