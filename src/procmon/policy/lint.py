"""Faults of valid rules: they would block critical processes, never decide, or probably do not do what is intended."""

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime

from ..errors import Problem
from ..records import ProcessHelper, Verdict
from ..system.ancestry import Ancestry
from ..util.globs import WILDCARD, last_part
from .conditions import Bound, Condition, Globs, Group, Part, best_clause
from .critical import CRITICAL_PATHS, is_indispensable
from .facts import PATH_FACTS, Facts
from .index import ByText, RulesByImage
from .parser import Mistake, RuleSet, located
from .rules import Rule, verdict_word
from .toml_mistakes import invisible_in
from .toml_positions import Path
from .value_checks import doubt_about

__all__ = ["lint"]

MANY = 10_000
"""With more rules, a load does not search for rules that never decide; ``procmon-gate policy check`` always does."""


def lint(rules: RuleSet, *, thorough: bool) -> list[Problem]:
    """Rules that would block a critical process, that probably do not do what is intended, or that never decide.

    In a large policy, rules that never decide are found only if `thorough`.
    """
    mistakes = [*_critical(rules), *_doubtful(rules), *_expired(rules), *_on_trial(rules)]
    if thorough or len(rules.rules) <= MANY:
        mistakes += _unreachable(rules)
    several = len(rules.sources) > 1
    invisible = [
        replace(problem, source=source.name if several else "")
        for source in rules.sources
        for problem in invisible_in(source.text)
    ]
    return located(rules.sources, mistakes) + invisible


def _place(rule: Rule, *more: str | int) -> Path:
    return ("rule", rule.number - 1, *more)


# ------------------------------------------------------------------------------------------------ critical processes


def _critical(rules: RuleSet) -> Iterator[Mistake]:
    by_image = RulesByImage(rules.rules)
    harmed: dict[int, tuple[Rule, str, bool]] = {}
    for path in CRITICAL_PATHS:
        facts = Facts(ProcessHelper(pid=0, parent_pid=0, image_name=path), Ancestry(), None)
        for rule in by_image.at(path):
            if not all(part.holds(facts) for part in rule.conditions if part.facts == {"image"}):
                continue  # the rule excludes this path
            image = rule.condition("image")
            alone = len(rule.conditions) == 1
            if rule.verdict is Verdict.ALLOW and alone and rule.until is None:
                break
            harms = is_indispensable(path) if rule.names(path) else alone
            if rule.verdict is Verdict.BLOCK and not rule.audit and image and harms:
                harmed.setdefault(id(rule), (rule, path, image.patterns is not None))
    for rule, path, fatal in harmed.values():
        message = f"rule {rule.name} would block {path}, which Windows cannot do without"
        advice = "narrow the pattern; a default may be block, for it spares critical processes"
        if not fatal:
            message = f"rule {rule.name} never blocks {path}, which Windows cannot do without"
        yield Mistake(_place(rule, "image"), message, advice, fatal, file=rule.file)
    for rule in rules.rules:
        if not rule.conditions and rule.verdict is Verdict.BLOCK and not rule.audit:
            message = f"rule {rule.name} would block every process, also those that Windows cannot do without"
            advice = 'write default = "block" at the top: it spares critical processes'
            yield Mistake(_place(rule), message, advice, file=rule.file)


# ------------------------------------------------------------------------------------------- values that are doubtful


def _doubtful(rules: RuleSet) -> Iterator[Mistake]:
    for rule in rules.rules:
        for path, condition in _conditions(rule.conditions, _place(rule)):
            for test in condition.tests:
                if isinstance(test, Bound):
                    continue
                plain = not condition.in_table
                for i, word in enumerate(test.words):
                    doubt = doubt_about(condition.fact, test.operator, word, plain=plain) if word else None
                    if doubt is not None:
                        where = (*path, i) if plain else (*path, test.operator, i)
                        yield Mistake(where, *doubt, fatal=False, file=rule.file)


def _expired(rules: RuleSet) -> Iterator[Mistake]:
    now = datetime.now(UTC)
    for rule in rules.rules:
        if rule.until is not None and rule.until <= now:
            message = f"rule {rule.name} matches nothing any more: its time has passed"
            yield Mistake(_place(rule, "until"), message, "remove the rule, or set a later time", False, file=rule.file)


def _on_trial(rules: RuleSet) -> Iterator[Mistake]:
    """A rule that only logs, where the default would not let the process run; one warning for all such rules."""
    tried = [rule for rule in rules.rules if rule.audit and rule.verdict is not Verdict.ALLOW]
    if not tried or rules.mode == "audit" or rules.default in (None, Verdict.ALLOW):
        return
    first = tried[0]
    several = f" and {len(tried) - 1:,} more" if len(tried) > 1 else ""
    default = verdict_word(rules.default)
    message = f"rule {first.name}{several} only logs, so what matches runs, though the default is {default}"
    advice = "try the rule with `policy replay`, or let it match only what may run"
    yield Mistake(_place(first, "audit"), message, advice, False, file=first.file)


def _conditions(parts: Iterable[Part], path: Path) -> Iterator[tuple[Path, Condition]]:
    """Every condition below a table, with its place."""
    for part in parts:
        if isinstance(part, Group):
            for i, table in enumerate(part.tables):
                yield from _conditions(table.parts, (*path, part.kind, i))
        else:
            here: Path = (*path, part.fact)
            yield here, part
            while part.negated is not None:
                part, here = part.negated, (*here, "not")
                yield here, part


# ------------------------------------------------------------------------------------------- rules that never decide


def _unreachable(rules: RuleSet) -> Iterator[Mistake]:
    earlier = _Earlier(rules.rules)
    for position, rule in enumerate(rules.rules):
        first = next((other for other in earlier.candidates(position) if _covers(other, rule)), None)
        if first is None:  # a covered rule covers no rule that its cover does not
            earlier.add(position)
            continue
        message = f"rule {rule.name} never decides: rule {first.name} matches all that it could"
        advice = f"put it above rule {first.name}, or remove it"
        yield Mistake(_place(rule), message, advice, fatal=False, file=rule.file)


class _Earlier:
    """Rules, by the patterns that another rule needs to be covered by them."""

    def __init__(self, rules: Sequence[Rule]) -> None:
        self._rules = rules
        self._added: set[int] = set()
        self._all: list[int] = []
        self._by_pattern: dict[tuple[str, object], list[int]] = {}
        self._odd: dict[str, ByText] = {}
        self._odd_rest: dict[str, list[int]] = {}
        for position, rule in enumerate(rules):
            for part in rule.conditions:
                patterns = part.patterns if isinstance(part, Condition) else None
                for glob in patterns.globs if patterns is not None else ():
                    if _is_odd(_fact(part), glob.form):
                        self._add_odd(_fact(part), glob.form, position)
        for odd in self._odd.values():
            odd.finish()

    def _add_odd(self, fact: str, form: str, position: int) -> None:
        clause = best_clause(Globs.of("glob", fact, [form]).clauses())
        for _, whole, text in clause:
            self._odd.setdefault(fact, ByText(fact, 0)).add(whole, text, position)
        if not clause:
            self._odd_rest.setdefault(fact, []).append(position)

    def add(self, position: int) -> None:
        """List a rule under the condition that it shares with the fewest rules."""
        rule = self._rules[position]
        if rule.until is not None:
            return  # it covers no rule for ever
        self._added.add(position)
        if not rule.conditions:
            self._all.append(position)
            return
        patterns = [[(_fact(part), each) for each in _patterns_of(part)] for part in rule.conditions]
        rarest = min(patterns, key=lambda keys: max(len(self._by_pattern.get(key, ())) for key in keys))
        for key in rarest:
            self._by_pattern.setdefault(key, []).append(position)

    def candidates(self, position: int) -> list[Rule]:
        """In order, every rule before this one that can cover it, and some that cannot."""
        found = set(self._all)
        for part in self._rules[position].conditions:
            form = _patterns_of(part)[0]
            fact = _fact(part)
            if not isinstance(form, str):
                found.update(self._by_pattern.get((fact, form), ()))
                continue
            for wide in {fact, "ancestor" if fact == "parent" else fact}:
                for wider in _wider(wide, form):
                    found.update(self._by_pattern.get((wide, wider), ()))
                sample = _sample(wide, form)
                if sample is not None:
                    found.update(self._odd_rest.get(wide, ()))
                    found.update(self._odd[wide].find([sample]) if wide in self._odd else ())
        return [self._rules[each] for each in sorted(found) if each < position and each in self._added]


def _fact(part: Part) -> str:
    return part.fact if isinstance(part, Condition) else part.kind


def _patterns_of(part: Part) -> list[object]:
    """The normalized patterns of a part; for a part that is not only patterns, the part itself."""
    patterns = part.patterns if isinstance(part, Condition) else None
    return [*_forms(patterns)] if patterns is not None else [part]


def _covers(wide: Rule, narrow: Rule) -> bool:
    """`wide` matches every process that `narrow` matches; False also if that is not certain."""
    return all(
        any(part == other or _accepts_part(part, other) for other in narrow.conditions) for part in wide.conditions
    )


def _accepts_part(wide: Part, narrow: Part) -> bool:
    if not isinstance(wide, Condition) or not isinstance(narrow, Condition):
        return False
    if wide.fact != narrow.fact and (wide.fact, narrow.fact) != ("ancestor", "parent"):
        return False
    one, other = wide.patterns, narrow.patterns
    return one is not None and other is not None and _accepts(one, other)


def _accepts(wide: Globs, narrow: Globs) -> bool:
    globs = {glob.form for glob in wide.globs}
    return all(
        any(wider in wide.plain or wider in globs for wider in _wider(wide.fact, form))
        or ((sample := _sample(wide.fact, form)) is not None and wide.holds(sample))
        for form in _forms(narrow)
    )


def _wider(fact: str, form: str) -> set[str]:
    """Patterns that match every value that `form` matches, as far as they can be listed."""
    wider = {form, "*", "**"}
    if fact in PATH_FACTS:
        cuts = [i for i, char in enumerate(form) if char == "\\"]
        wider |= {"**\\" + form[i + 1 :] for i in (-1, *cuts)}
        wider |= {form[:i] + "\\**" for i in cuts if not WILDCARD.search(form[:i])}
        if "**" not in last_part(form):  # with ** it can be more than the last part
            wider.add(last_part(form))
    return wider


def _is_odd(fact: str, form: str) -> bool:
    """A glob that can be wider than another pattern without being among those of `_wider`."""
    usual = r"\*\*?|\*\*\\[^*?]+|[^*?]+\\\*\*" if fact in PATH_FACTS else r"\*\*?"
    return WILDCARD.search(form) is not None and re.fullmatch(usual, form) is None


def _sample(fact: str, form: str) -> str | None:
    """A value such that every pattern that matches it matches all that `form` matches; None if there is none."""
    text = form if fact not in PATH_FACTS or not WILDCARD.search(form) else last_part(form)
    return None if WILDCARD.search(text) else text


def _forms(patterns: Globs) -> list[str]:
    """The normalized patterns."""
    return [*patterns.plain, *(glob.form for glob in patterns.globs)]
