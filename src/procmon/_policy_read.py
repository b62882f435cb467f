"""From the text of a policy to its rules, with every mistake on the way: where it is and what to write instead."""

import difflib
import re
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property

from ._policy_index import RuleIndex
from ._policy_rules import FACTS, PATH_FACTS, Condition, Rule
from ._toml_places import TomlPlaces
from .errors import Problem
from .records import Verdict

__all__ = ["RuleSet", "read_policy"]

VERDICTS = {"allow": Verdict.ALLOW, "block": Verdict.BLOCK, "ask": Verdict.DEFER}
MODES = ("enforce", "audit")
TOP_KEYS = ("mode", "default", "rule")
RULE_KEYS = ("name", *FACTS, "verdict", "audit")

MEANT = {
    "deny": "block", "denied": "block", "reject": "block", "refuse": "block", "kill": "block", "blocked": "block",
    "permit": "allow", "accept": "allow", "pass": "allow", "allowed": "allow", "prompt": "ask", "defer": "ask",
    "rules": "[[rule]]", "path": "image", "exe": "image", "executable": "image", "process": "image", "program": "image",
    "action": "verdict", "decision": "verdict", "cmdline": "command_line", "args": "command_line", "hash": "sha256",
    "arguments": "command_line", "parent_image": "parent", "ppid": "parent", "publisher": "signer", "dry_run": "audit",
    "dry-run": "audit", "permissive": "audit", "monitor": "audit", "lockdown": "enforce", "enforcing": "enforce",
}  # fmt: skip
"""What other tools call our words."""

CONTROL = str.maketrans({"\t": r"\t", "\n": r"\n", "\r": r"\r", "\b": r"\b", "\f": r"\f"})
"""What Windows paths become between double quotes, and what was meant."""


@dataclass(frozen=True)
class RuleSet:
    """A policy as read: nothing in it changes, so that a reload can put another in its place at once."""

    text: str
    source: str
    mode: str = "enforce"
    default: Verdict | None = None
    rules: tuple[Rule, ...] = ()

    @cached_property
    def index(self) -> RuleIndex:
        return RuleIndex(self.rules)

    @cached_property
    def places(self) -> TomlPlaces:
        return TomlPlaces(self.text)

    @cached_property
    def facts(self) -> frozenset[str]:
        """The facts that some rule asks for."""
        return frozenset(condition.fact for rule in self.rules for condition in rule.conditions)


def read_policy(text: str, source: str) -> tuple[RuleSet, list[Problem]]:
    """The rules of a policy, as far as they can be understood, and its problems in the order of the text."""
    text = text.replace("\r\n", "\n")
    try:
        document = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        return RuleSet(text, source), [_syntax(text, error)]
    except RecursionError:
        return RuleSet(text, source), [Problem(1, 1, "its values are nested too deeply", "a policy needs no nesting")]
    reader = _Reader(text)
    rule_set = reader.read(document, source)
    return rule_set, sorted(reader.problems, key=lambda problem: (problem.line, problem.column))


@dataclass
class _Reader:
    """Goes through the document once and notes what is wrong."""

    text: str
    problems: list[Problem] = field(default_factory=list)

    @cached_property
    def places(self) -> TomlPlaces:
        return TomlPlaces(self.text)

    def problem(self, place: tuple[int, int], message: str, advice: str) -> None:
        self.problems.append(Problem(*place, message, advice))

    def read(self, document: Mapping[str, object], source: str) -> RuleSet:
        for key in document.keys() - set(TOP_KEYS):
            advice = f"a policy has {_listed(TOP_KEYS, 'and')}"
            if key in RULE_KEYS:
                advice = "write [[rule]] on a line above it: it belongs to a rule"
            elif meant := _meant(key, TOP_KEYS):
                advice = f"write {meant}"
            self.problem(self.places.key(key), f"a policy has no key {_quoted(key)}", advice)
        mode, default = document.get("mode", "enforce"), document.get("default")
        if mode not in MODES:
            self.choice(("mode",), "mode", mode, MODES)
        if default is not None and (not isinstance(default, str) or default not in VERDICTS):
            self.choice(("default",), "default verdict", default, VERDICTS)
        tables = document.get("rule", [])
        if not isinstance(tables, list) or not all(isinstance(table, dict) for table in tables):
            place = self.places.value("rule")
            self.problem(place, "rule is not a list of tables", "write [[rule]], with two brackets, above each rule")
            tables = []
        rules = [rule for i, table in enumerate(tables) if (rule := self.rule(i, table)) is not None]
        self.same_names(tables)
        return RuleSet(self.text, source, str(mode), VERDICTS.get(str(default)), tuple(rules))

    def rule(self, i: int, table: Mapping[str, object]) -> Rule | None:
        before = len(self.problems)
        for key in table.keys() - set(RULE_KEYS):
            meant = _meant(key, RULE_KEYS)
            advice = f"write {meant}" if meant else f"a rule has {_listed(RULE_KEYS, 'and')}"
            self.problem(self.places.key("rule", i, key), f"a rule has no key {_quoted(key)}", advice)
        verdict, name, audit = table.get("verdict"), table.get("name", str(i + 1)), table.get("audit", False)
        if "verdict" not in table:
            advice = 'add verdict = "allow", "block" or "ask"'
            self.problem(self.places.value("rule", i), f"rule {i + 1} has no verdict", advice)
        elif not isinstance(verdict, str) or verdict not in VERDICTS:
            self.choice(("rule", i, "verdict"), "verdict", verdict, VERDICTS)
        if not isinstance(name, str) or not name.strip():
            self.problem(self.places.value("rule", i, "name"), "a name is a text of some letters", 'write name = "..."')
        if not isinstance(audit, bool):
            self.problem(self.places.value("rule", i, "audit"), "audit is true or false", "write audit = true")
        conditions = [self.condition(i, fact, table[fact]) for fact in FACTS if fact in table]
        if len(self.problems) > before:
            return None
        known = tuple(condition for condition in conditions if condition is not None)
        return Rule(i + 1, str(name), known, VERDICTS[str(verdict)], bool(audit))

    def condition(self, i: int, fact: str, value: object) -> Condition | None:
        listed = value if isinstance(value, list) else [value]
        if not listed:
            place = self.places.value("rule", i, fact)
            self.problem(place, f"an empty list of {fact} matches nothing", "name some, or leave the key out")
        patterns = []
        for j, item in enumerate(listed):
            mistake = _mistake(fact, item)
            if mistake is None:
                patterns.append(str(item))
            else:
                path = ("rule", i, fact, j) if isinstance(value, list) else ("rule", i, fact)
                self.problem(self.places.value(*path), *mistake)
        return Condition.of(fact, patterns) if len(patterns) == len(listed) else None

    def choice(self, path: tuple[str | int, ...], what: str, value: object, choices: Iterable[str]) -> None:
        """A value that is none of the few that are allowed."""
        meant = _meant(value, choices) if isinstance(value, str) else None
        advice = f"write {_quoted(meant)}" if meant else f"write {_listed([_quoted(c) for c in choices], 'or')}"
        shown = _quoted(value) if isinstance(value, str) else str(value)
        self.problem(self.places.value(*path), f"there is no {what} {shown}", advice)

    def same_names(self, tables: list[Mapping[str, object]]) -> None:
        first: dict[str, int] = {}
        for i, table in enumerate(tables):
            name = table.get("name", str(i + 1))
            if name == "default":
                place = self.places.value("rule", i, "name")
                self.problem(place, 'in decisions and counts "default" is where no rule matches', "name it otherwise")
            elif isinstance(name, str) and first.setdefault(name, i) != i:
                message = f"rule {first[name] + 1} is named {_quoted(name)} too"
                self.problem(self.places.value("rule", i, "name"), message, "give each rule a name of its own")


def _mistake(fact: str, value: object) -> tuple[str, str] | None:
    """What is wrong with one value of a condition, and what to write instead."""
    if fact == "session":
        if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
            return None
        return f"a session is a number, not {value!r}", "write session = 1, say"
    if not isinstance(value, str):
        return f"{fact} is a text, not {value!r}", f'write {fact} = "..." or a list of texts'
    if not value:
        return f"an empty {fact} matches nothing", "write a pattern, or leave the key out"
    if fact == "sha256":
        if re.fullmatch("[0-9a-fA-F]{64}", value):
            return None
        return f"a SHA-256 is 64 hexadecimal digits, and this is {len(value)} characters", "write all of the digits"
    if fact in PATH_FACTS and (meant := value.translate(CONTROL)) != value:
        slashes = _quoted(meant.replace("\\", "/"))
        return "in double quotes a backslash changes the letter after it", f"write slashes, {slashes}, or single quotes"
    return _image_mistake(fact, value) if fact in ("image", "parent", "ancestor") else _glob_mistake(fact, value)


def _image_mistake(fact: str, value: str) -> tuple[str, str] | None:
    form = value.replace("\\", "/")
    if re.search("%[^%/]+%", form):
        return f"variables such as {_quoted(value)} are not replaced", "write the path, or **/ for any folder"
    if form.endswith("/"):
        return f"no {fact} ends in a slash", f"write {_quoted(form + '**')} for all that is below it"
    if "/" in form and not re.match(r"([a-zA-Z?]:|\*|//|/[dD]evice/|/\?|/\*)", form):
        return (
            f"{_quoted(value)} names no drive",
            f"write {_quoted('**/' + form.lstrip('/'))} for any folder, or c:/...",
        )
    return _glob_mistake(fact, value)


def _glob_mistake(fact: str, value: str) -> tuple[str, str] | None:
    try:
        Condition.of(fact, [value])
    except ValueError as error:
        return f"{_quoted(value)} is not a pattern: {error}", "* is any part, ** any folders, ? any character"
    return None


def _syntax(text: str, error: tomllib.TOMLDecodeError) -> Problem:
    """What `tomllib` refused, with its place, which Python 3.11 to 3.13 have in the message only."""
    message = str(error)
    at = re.search(r" \(at (?:line (\d+), column (\d+)|end of document)\)$", message)
    lines = text.split("\n")
    place = (int(at[1]), int(at[2])) if at and at[1] else (len(lines), len(lines[-1]) + 1)
    message = message[: at.start()] if at else message
    line = lines[place[0] - 1]
    advice = "see docs/policy.md for a whole example"
    if "\\" in line and ("Unescaped" in message or "hex" in message.lower() or "escape" in message.lower()):
        advice = "write paths with slashes, c:/windows, or in single quotes, 'c:\\windows'"
    elif re.match(r"\s*[\w-]+\s*=\s*[A-Za-z*]", line):
        advice = "put texts in quotes"
    elif "overwrite" in message:
        advice = 'a key stands once in a rule; several values are a list: image = ["a.exe", "b.exe"]'
    return Problem(*place, message[:1].lower() + message[1:], advice)


def _meant(word: str, choices: Iterable[str]) -> str | None:
    """The word that was probably meant."""
    choices = list(choices)
    lower = word.lower()
    meant = MEANT.get(lower)
    if meant and (meant in choices or meant == "[[rule]]"):
        return meant
    close = difflib.get_close_matches(lower.replace("-", "_"), choices, n=1, cutoff=0.6)
    return close[0] if close else None


def _quoted(word: str) -> str:
    return '"' + (word if len(word) <= 80 else word[:77] + "...") + '"'


def _listed(words: Iterable[str], last: str) -> str:
    *first, end = words
    return f"{', '.join(first)} {last} {end}"
