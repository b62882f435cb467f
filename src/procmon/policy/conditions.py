"""The conditions of rules: tests of one value, conditions on one fact, and groups of conditions."""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from ..util.globs import WILDCARD, last_part, literal_runs, path_glob, text_glob
from ..util.paths import fold_case, lowercase
from .facts import FACTS, PATH_FACTS, Facts, order_key

__all__ = [
    "BOUNDS", "GROUPS", "OPERATORS", "Bound", "Clause", "Condition", "Globs", "Group", "Key", "Part", "Table", "Test",
    "Words", "best_clause", "ordered",
]  # fmt: skip

BOUNDS = ("at_least", "at_most")
GROUPS = ("any", "all", "unless")

Key = tuple[str, bool, str]
"""A fact, and a text in one of its values: True: the text is the whole value or its last part; False: anywhere."""

Clause = Sequence[Key]
"""Keys; a process that matches has at least one of them."""


# ------------------------------------------------------------------------------------------------ tests of one value


class Glob:
    """One pattern with wildcards, compiled at its first comparison, which most in a large policy never reach."""

    __slots__ = ("_match", "form", "in_parts")

    def __init__(self, form: str, in_parts: bool) -> None:
        self.form = form
        self.in_parts = in_parts
        self._match: Callable[[str], bool] | None = None

    def match(self, value: str) -> bool:
        match = self._match
        if match is None:  # two threads may both compile it, which is harmless
            match = self._match = path_glob(self.form) if self.in_parts else text_glob(self.form)
        return match(value)


@dataclass(frozen=True, slots=True)
class Globs:
    """``glob`` and ``glob_all``: at least one pattern, or every one, matches the value.

    There can be 100,000 conditions, or 100,000 patterns in one, so a few are kept in a tuple and many in a set.
    """

    operator: str
    fact: str
    words: tuple[str, ...]
    """The patterns as written in the policy."""
    plain: Collection[str]
    """The patterns without wildcards, normalized: each matches a whole value or, without a slash, a last part."""
    globs: tuple[Glob, ...] = field(compare=False)
    """The patterns with wildcards."""
    case_sensitive: bool = False

    @classmethod
    def of(cls, operator: str, fact: str, words: Iterable[str], case_sensitive: bool = False) -> "Globs":
        words = tuple(words)
        forms = tuple(_form(fact, word, case_sensitive) for word in words)
        if forms == words:
            forms = words  # saves memory: equal texts are stored once
        globs = [Glob(form, fact in PATH_FACTS) for form in forms if WILDCARD.search(form)]
        plain = tuple(form for form in forms if not WILDCARD.search(form)) if globs else forms
        return cls(operator, fact, words, plain if len(plain) < 8 else frozenset(plain), tuple(globs), case_sensitive)

    def holds(self, value: str) -> bool:
        if self.fact == "current_directory":
            value = _without_end(value)
        if self.operator == "glob_all":
            return all(self._same(form, value) for form in self.plain) and all(g.match(value) for g in self.globs)
        if value in self.plain or (self.fact in PATH_FACTS and last_part(value) in self.plain):
            return True
        for glob in self.globs:  # not any(), which is slower: large policies spend their time here
            if glob.match(value):
                return True
        return False

    def word_for(self, value: str) -> str:
        """The pattern that matches `value`, for which the test holds."""
        return next(
            word for word in self.words if Globs.of("glob", self.fact, [word], self.case_sensitive).holds(value)
        )

    def clauses(self) -> list[Clause]:
        keys = [[self._key(form)] for form in self.plain] + [self._glob_keys(glob.form) for glob in self.globs]
        if self.operator == "glob_all" or len(keys) == 1:
            return [[key] for each in keys for key in each]
        return [[best_clause([[key] for key in each])[0] for each in keys]] if all(keys) else []

    def _same(self, form: str, value: str) -> bool:
        return form == value or (self.fact in PATH_FACTS and form == last_part(value))

    def _key(self, form: str) -> Key:
        return (self.fact, self.fact != "current_directory", fold_case(form))

    def _glob_keys(self, form: str) -> list[Key]:
        """A value that matches has every one of these keys."""
        in_parts = self.fact in PATH_FACTS
        end = last_part(form)
        if in_parts and end and not WILDCARD.search(end):
            return [self._key(end)]
        return [(self.fact, False, fold_case(run)) for run in literal_runs(form, in_parts=in_parts)]


@dataclass(frozen=True, slots=True)
class Words:
    """``equals``, ``contains``, ``starts_with``, ``ends_with`` and ``contains_all``: literal texts."""

    operator: str
    fact: str
    words: tuple[str, ...]
    forms: tuple[str, ...]
    compare: Callable[[tuple[str, ...], str], bool] = field(compare=False, repr=False)

    @classmethod
    def of(cls, operator: str, fact: str, words: Iterable[str], case_sensitive: bool = False) -> "Words":
        words = tuple(words)
        forms = tuple(_form(fact, word, case_sensitive) for word in words)
        return cls(operator, fact, words, forms, _COMPARE[operator])

    def holds(self, value: str) -> bool:
        return self.compare(self.forms, value)

    def word_for(self, value: str) -> str:
        """The text that makes the test hold for `value`."""
        return next(w for w, form in zip(self.words, self.forms, strict=True) if self.compare((form,), value))

    def clauses(self) -> list[Clause]:
        keys = [self._key(fold_case(form)) for form in self.forms]
        if self.operator == "contains_all":
            return [[key] for key in keys]
        return [keys] if all(key[2] for key in keys) else []

    def _key(self, form: str) -> Key:
        if self.operator == "equals":
            return (self.fact, True, form)
        if self.operator == "ends_with" and self.fact in PATH_FACTS and "\\" in form and last_part(form):
            return (self.fact, True, last_part(form))
        return (self.fact, False, form)


def _contains(forms: tuple[str, ...], value: str) -> bool:
    for form in forms:  # any() with a generator takes twice as long
        if form in value:
            return True
    return False


def _contains_all(forms: tuple[str, ...], value: str) -> bool:
    for form in forms:
        if form not in value:
            return False
    return True


_COMPARE: dict[str, Callable[[tuple[str, ...], str], bool]] = {
    "equals": lambda forms, value: value in forms,
    "contains": _contains,
    "starts_with": lambda forms, value: value.startswith(forms),
    "ends_with": lambda forms, value: value.endswith(forms),
    "contains_all": _contains_all,
}

OPERATORS = ("glob", *_COMPARE, "glob_all")
"""The operators that compare texts."""


@dataclass(frozen=True, slots=True)
class Bound:
    """``at_least`` and ``at_most``."""

    operator: str
    fact: str
    words: tuple[str, ...]
    key: int | tuple[int, ...]

    @classmethod
    def of(cls, operator: str, fact: str, word: str) -> "Bound":
        key = order_key(fact, fold_case(word))
        if key is None:
            raise ValueError(f"{word} has no place in the order of {fact}")
        return cls(operator, fact, (word,), key)

    def holds(self, value: str) -> bool:
        key = order_key(self.fact, fold_case(value))
        if isinstance(key, int) and isinstance(self.key, int):
            return key >= self.key if self.operator == "at_least" else key <= self.key
        if isinstance(key, tuple) and isinstance(self.key, tuple):
            return key >= self.key if self.operator == "at_least" else key <= self.key
        return False

    def word_for(self, value: str) -> str:
        return self.words[0]

    def clauses(self) -> list[Clause]:
        return []


Test = Globs | Words | Bound


def _form(fact: str, word: str, case_sensitive: bool) -> str:
    if fact in PATH_FACTS:
        return word.replace("/", "\\") if case_sensitive else lowercase(word)
    return word if case_sensitive else fold_case(word)


def _without_end(directory: str) -> str:
    r"""Windows keeps a backslash at the end of a current directory, and people write ``c:/tools``."""
    bare = directory.rstrip("\\")
    return bare if bare and not bare.endswith(":") else directory


# ------------------------------------------------------------------------------------------- conditions and groups


@dataclass(frozen=True, slots=True)
class Condition:
    """One key of a table: the tests of one fact."""

    fact: str
    tests: tuple[Test, ...]
    """All must hold for the same value."""
    negated: "Condition | None" = None
    """``not``: a condition on the same fact that must not hold."""
    known: bool | None = None
    """Whether the fact must be known; None: no requirement."""
    case_sensitive: bool = False
    in_table: bool = field(default=False, compare=False)
    """It is written as a table of operators, not just as patterns."""

    @classmethod
    def of(cls, fact: str, patterns: Iterable[str]) -> "Condition":
        """The condition that consists of these patterns."""
        return cls(fact, (Globs.of("glob", fact, patterns),))

    @property
    def patterns(self) -> Globs | None:
        """The patterns, if the condition consists only of them."""
        first = self.tests[0] if len(self.tests) == 1 else None
        if self.negated is not None or self.known is not None or self.case_sensitive:
            return None
        return first if isinstance(first, Globs) and first.operator == "glob" else None

    def values(self, facts: Facts) -> tuple[str, ...]:
        """The values in the letter case for the comparison."""
        return facts.written(self.fact) if self.case_sensitive else facts.values(self.fact)

    def holds(self, facts: Facts) -> bool:
        values = facts.written(self.fact) if self.case_sensitive else facts.values(self.fact)
        if self.known is not None and self.known is not bool(values):
            return False
        if self.tests:
            for value in values:
                if self.meets(value):
                    break
            else:
                return False
        return self.negated is None or not self.negated.holds(facts)

    def meets(self, value: str) -> bool:
        """Every test holds for this value."""
        for test in self.tests:  # see Globs.holds
            if not test.holds(value):
                return False
        return True

    def clauses(self) -> list[Clause]:
        return [clause for test in self.tests for clause in test.clauses()]

    @property
    def facts(self) -> frozenset[str]:
        return frozenset((self.fact,))


@dataclass(frozen=True, slots=True)
class Group:
    """``any``, ``all`` or ``unless``: at least one, every one, or none of its tables must hold."""

    kind: str
    tables: tuple["Table", ...]

    def holds(self, facts: Facts) -> bool:
        ends = self.kind != "all"  # any and unless end at the first table that holds, all at the first that does not
        for table in self.tables:
            if table.holds(facts) is ends:
                return self.kind == "any"
        return self.kind != "any"

    def clauses(self) -> list[Clause]:
        if self.kind == "unless":
            return []
        each = [table.clauses() for table in self.tables]
        if self.kind == "all":
            return [clause for clauses in each for clause in clauses]
        best = [best_clause(clauses) for clauses in each]
        return [[key for clause in best for key in clause]] if all(best) else []

    @property
    def facts(self) -> frozenset[str]:
        return frozenset[str]().union(*(table.facts for table in self.tables))


Part = Condition | Group


@dataclass(frozen=True, slots=True)
class Table:
    """Conditions and groups; all must hold."""

    parts: tuple[Part, ...]

    def holds(self, facts: Facts) -> bool:
        for part in self.parts:
            if not part.holds(facts):
                return False
        return True

    def clauses(self) -> list[Clause]:
        return [clause for part in self.parts for clause in part.clauses()]

    @property
    def facts(self) -> frozenset[str]:
        return frozenset[str]().union(*(part.facts for part in self.parts))


_COST = {fact: cost for cost, fact in enumerate(FACTS)}


def ordered(parts: Iterable[Part]) -> tuple[Part, ...]:
    """The parts of a table, those that need only cheap facts first. The order changes no result."""
    return tuple(sorted(parts, key=lambda part: max((_COST[fact] for fact in part.facts), default=0)))


# ------------------------------------------------------------------------------------------------- keys for the index

_CHEAP = 6  # the first 6 of FACTS come with the process
_LOOKED_UP = 14  # the first 14 are not read from the file


def best_clause(clauses: Iterable[Clause], often: Mapping[Key, int] | None = None) -> Clause:
    """The clause that finds a rule with the least work; () if there is none.

    Cheap facts come first. Then the number of rules that share a key (`often`) decides, and how rarely a text contains
    it: long texts and whole names are rare.
    """
    return min(clauses, key=lambda clause: _work(clause, often or {}), default=())


def _work(clause: Clause, often: Mapping[Key, int]) -> tuple[int, float]:
    dearest = max(_COST[fact] for fact, _, _ in clause)
    kind = 0 if dearest < _CHEAP else 1 if dearest < _LOOKED_UP else 2
    return kind, sum(often.get(key, 1) * (0.02 if key[1] else 0.6 ** min(len(key[2]), 24)) for key in clause)
