"""What is wrong with rules that are well written: they harm Windows, never decide, or hardly do what was meant."""

import os
import re
import sys
from collections.abc import Iterator

from ..errors import Problem
from ..records import Verdict
from ..util.globs import last_part
from .parser import Mistake, RuleSet, located
from .rules import PATH_FACTS, WILD, Condition, Rule, path_form
from .value_checks import doubt_about

__all__ = ["CRITICAL_NAMES", "is_critical", "lint"]

CRITICAL_NAMES = (
    "smss.exe", "csrss.exe", "wininit.exe", "winlogon.exe", "services.exe", "lsass.exe", "logonui.exe", "dwm.exe",
    "fontdrvhost.exe", "conhost.exe", "werfault.exe", "wermgr.exe",
)  # fmt: skip
"""Of the system directory: without these Windows, or every console program, stops. The driver never holds them."""

_SYSTEM = path_form(os.environ.get("SystemRoot", r"c:\windows") if sys.platform == "win32" else r"c:\windows")
_CRITICAL = [rf"{_SYSTEM}\system32\{name}" for name in sorted(CRITICAL_NAMES)]
_SPARED = frozenset([*_CRITICAL, *(rf"{_SYSTEM}\syswow64\{name}" for name in CRITICAL_NAMES)])


def is_critical(path: str) -> bool:
    """The image, in `path_form`, is one that a policy must not block; its 32-bit twin is spared with it."""
    return path in _SPARED


def lint(rules: RuleSet, *, thorough: bool) -> list[Problem]:
    """Rules that would block a critical process and, if `thorough`, those that hardly do what was meant."""
    thoroughly = (*_unreachable(rules), *_doubtful(rules)) if thorough else ()
    return located(rules.text, [*_critical(rules), *thoroughly])


def _critical(rules: RuleSet) -> Iterator[Mistake]:
    harmed: dict[Rule, str] = {}
    for path in _CRITICAL:
        for rule in rules.index.with_image(path):
            image = rule.condition("image")
            alone = len(rule.conditions) == 1
            if rule.verdict is Verdict.ALLOW and alone:
                break
            if rule.verdict is Verdict.BLOCK and image is not None and (alone or _names(image, path)):
                harmed.setdefault(rule, path)
    for rule, path in harmed.items():
        message = f"rule {rule.name} would block {path}, which Windows cannot do without"
        advice = "narrow the pattern; a default may be block, for it spares critical processes"
        yield Mistake(("rule", rule.number - 1, "image"), message, advice)
    for rule in rules.rules:
        if not rule.conditions and rule.verdict is Verdict.BLOCK:
            message = f"rule {rule.name} would block every process, also those that Windows cannot do without"
            advice = 'write default = "block" at the top: it spares critical processes'
            yield Mistake(("rule", rule.number - 1), message, advice)


def _names(image: Condition, path: str) -> bool:
    """The condition gives the program's name, not just a pattern that happens to match."""
    keys = image.index_keys() or []
    return path in keys or last_part(path) in keys


def _doubtful(rules: RuleSet) -> Iterator[Mistake]:
    for rule in rules.rules:
        for condition in rule.conditions:
            for i, pattern in enumerate(condition.patterns):
                if (doubtful := doubt_about(condition.fact, pattern)) is not None:
                    yield Mistake(("rule", rule.number - 1, condition.fact, i), *doubtful, fatal=False)


def _unreachable(rules: RuleSet) -> Iterator[Mistake]:
    earlier = _Earlier()
    for rule in rules.rules:
        first = next((other for other in earlier.candidates(rule) if _covers(other, rule)), None)
        if first is None:  # who is covered covers nothing that the other does not
            earlier.add(rule)
            continue
        message = f"rule {rule.name} never decides: rule {first.name} matches all that it could"
        advice = f"put it above rule {first.name}, or remove it"
        yield Mistake(("rule", rule.number - 1), message, advice, fatal=False)


class _Earlier:
    """Rules, found by what another one would have to say to be covered by them."""

    def __init__(self) -> None:
        self._all: list[Rule] = []
        self._saying: dict[tuple[str, str], list[Rule]] = {}
        self._odd: dict[str, list[Rule]] = {}

    def add(self, rule: Rule) -> None:
        """Keep `rule` under that condition of which the fewest say the same."""
        if not rule.conditions:
            self._all.append(rule)
            return
        said = [[(condition.fact, form) for form in _forms(condition)] for condition in rule.conditions]
        rarest = min(said, key=lambda keys: max(len(self._saying.get(key, ())) for key in keys))
        for key in rarest:
            self._saying.setdefault(key, []).append(rule)
        if any(_is_odd(*key) for key in rarest):
            self._odd.setdefault(rarest[0][0], []).append(rule)

    def candidates(self, rule: Rule) -> list[Rule]:
        """In order, every rule that can cover `rule`, and some that cannot."""
        found = list(self._all)
        for condition in rule.conditions:
            form = _forms(condition)[0]
            for fact in {condition.fact, "ancestor" if condition.fact == "parent" else condition.fact}:
                for wider in _wider(fact, form):
                    found += self._saying.get((fact, wider), ())
                if _sample(fact, form) is not None:
                    found += self._odd.get(fact, ())
        return sorted({other.number: other for other in found}.values(), key=lambda other: other.number)


def _covers(wide: Rule, narrow: Rule) -> bool:
    """Whatever `narrow` matches, `wide` matches; False also where that cannot be told."""
    return all(
        any(
            _accepts(condition, other)
            for other in narrow.conditions
            if other.fact == condition.fact or (condition.fact, other.fact) == ("ancestor", "parent")
        )
        for condition in wide.conditions
    )


def _accepts(wide: Condition, narrow: Condition) -> bool:
    globs = {form for form, _ in wide.globs}
    return all(
        any(wider in wide.plain or wider in globs for wider in _wider(wide.fact, form))
        or ((sample := _sample(wide.fact, form)) is not None and wide.match(sample))
        for form in _forms(narrow)
    )


def _wider(fact: str, form: str) -> set[str]:
    """Patterns that match all that `form` matches, as far as they can be listed."""
    wider = {form, "*", "**"}
    if fact in PATH_FACTS:
        cuts = [i for i, char in enumerate(form) if char == "\\"]
        wider |= {"**\\" + form[i + 1 :] for i in (-1, *cuts)}
        wider |= {form[:i] + "\\**" for i in cuts if not WILD.search(form[:i])}
        if "**" not in last_part(form):  # or else it may be more than the last part
            wider.add(last_part(form))
    return wider


def _is_odd(fact: str, form: str) -> bool:
    """A glob that can be wider than another pattern without being among those of `_wider`."""
    usual = r"\*\*?|\*\*\\[^*?]+|[^*?]+\\\*\*" if fact in PATH_FACTS else r"\*\*?"
    return WILD.search(form) is not None and re.fullmatch(usual, form) is None


def _sample(fact: str, form: str) -> str | None:
    """A value such that a pattern which matches it matches all that `form` does; None if there is none."""
    text = form if fact not in PATH_FACTS or not WILD.search(form) else last_part(form)
    return None if WILD.search(text) else text


def _forms(condition: Condition) -> list[str]:
    """The patterns in the one spelling in which they are compared."""
    return [*condition.plain, *(form for form, _ in condition.globs)]
