"""What is wrong with rules that are well written: those that never decide, and those that would harm Windows."""

import os
import sys
from collections.abc import Iterator

from ._policy_read import RuleSet
from ._policy_rules import PATH_FACTS, WILD, Condition, Rule, last_part, path_form
from .errors import Problem
from .records import Verdict

__all__ = ["CRITICAL_NAMES", "is_critical", "lint"]

CRITICAL_NAMES = (
    "smss.exe", "csrss.exe", "wininit.exe", "winlogon.exe", "services.exe", "lsass.exe", "logonui.exe", "conhost.exe",
    "werfault.exe", "wermgr.exe",
)  # fmt: skip
"""Of the system directory: without these Windows, or every console program, stops. The driver never holds them."""

_SYSTEM = path_form(os.environ.get("SystemRoot", r"c:\windows") if sys.platform == "win32" else r"c:\windows")
_CRITICAL = frozenset(rf"{_SYSTEM}\system32\{name}" for name in CRITICAL_NAMES)


def is_critical(path: str) -> bool:
    """The image, in `path_form`, is one that a policy must not block."""
    return path in _CRITICAL


def lint(rules: RuleSet, *, thorough: bool) -> list[Problem]:
    """Rules that would block a critical process and, if `thorough`, rules that never decide."""
    return [*_critical(rules), *(_unreachable(rules) if thorough else ())]


def _critical(rules: RuleSet) -> Iterator[Problem]:
    harmed: dict[Rule, str] = {}
    for path in sorted(_CRITICAL):
        for rule in rules.index.with_image(path):
            image = rule.condition("image")
            alone = len(rule.conditions) == 1
            if rule.verdict is Verdict.ALLOW and alone:
                break
            if rule.verdict is Verdict.BLOCK and image is not None and (alone or _names(image, path)):
                harmed.setdefault(rule, path)
    for rule, path in harmed.items():
        place = rules.places.value("rule", rule.number - 1, "image")
        message = f"rule {rule.name} would block {path}, which Windows cannot do without"
        yield Problem(*place, message, "narrow the pattern; a default may be block, for it spares critical processes")
    for rule in rules.rules:
        if not rule.conditions and rule.verdict is Verdict.BLOCK:
            place = rules.places.value("rule", rule.number - 1)
            message = f"rule {rule.name} would block every process, also those that Windows cannot do without"
            yield Problem(*place, message, 'write default = "block" at the top: it spares critical processes')


def _names(image: Condition, path: str) -> bool:
    """The condition gives the program's name, not just a pattern that happens to match."""
    keys = image.index_keys() or frozenset()
    return path in keys or last_part(path) in keys


def _unreachable(rules: RuleSet) -> Iterator[Problem]:
    for position, rule in enumerate(rules.rules):
        for earlier in rules.index.candidates(_probes(rule)):
            if earlier >= position:
                break
            if _covers(rules.rules[earlier], rule):
                first = rules.rules[earlier]
                place = rules.places.value("rule", rule.number - 1)
                message = f"rule {rule.name} never decides: rule {first.name} matches all that it could"
                yield Problem(*place, message, f"put it above rule {first.name}, or remove it", fatal=False)
                break


def _probes(rule: Rule) -> dict[str, str]:
    """For each fact of `rule` a value that it accepts, by which the index finds rules that accept it too."""
    probes = {condition.fact: WILD.sub("\0", _forms(condition)[0]) for condition in rule.conditions}
    if "parent" in probes:
        probes.setdefault("ancestor", probes["parent"])  # what asks for an ancestor accepts a parent
    return probes


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
    return all(_accepts_form(wide, form) for form in _forms(narrow))


def _accepts_form(wide: Condition, form: str) -> bool:
    forms = _forms(wide)
    if form in forms or "**" in forms or "*" in forms:
        return True
    if wide.fact not in PATH_FACTS:
        return not WILD.search(form) and wide.match(form)
    if "\\" in form and not WILD.search(form):
        return wide.match(form)
    end = last_part(form)
    if not WILD.search(end) and any(Condition.of(wide.fact, [g]).match(end) for g in forms if "\\" not in g):
        return True  # the last part alone is enough
    return any(
        (g.endswith("\\**") and not WILD.search(g[:-2]) and form.startswith(g[:-2])) or g == f"**\\{form}"
        for g in forms
    )


def _forms(condition: Condition) -> list[str]:
    """The patterns in the one spelling in which they are compared."""
    return [path_form(p) if condition.fact in PATH_FACTS else p.lower() for p in condition.patterns]
