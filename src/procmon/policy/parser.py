"""From the text of a policy to its rules, with every mistake on the way: where it is and what to write instead."""

import difflib
import re
import tomllib
from array import array
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

from ..errors import Problem
from ..records import Verdict
from .index import RuleIndex
from .rules import FACTS, Condition, Rule
from .toml_positions import Path, TomlPlaces
from .value_checks import mistake_in, quoted, shown

__all__ = ["Mistake", "RuleSet", "located", "read_policy"]

VERDICTS = {"allow": Verdict.ALLOW, "block": Verdict.BLOCK, "ask": Verdict.DEFER}
MODES = ("enforce", "audit")
TOP_KEYS = ("mode", "default", "rule")
RULE_KEYS = ("name", *FACTS, "verdict", "audit")

SYNONYMS = {
    "deny": "block", "denied": "block", "reject": "block", "refuse": "block", "kill": "block", "blocked": "block",
    "permit": "allow", "accept": "allow", "pass": "allow", "allowed": "allow", "prompt": "ask", "defer": "ask",
    "rules": "[[rule]]", "path": "image", "exe": "image", "executable": "image", "process": "image", "program": "image",
    "action": "verdict", "decision": "verdict", "cmdline": "command_line", "args": "command_line", "hash": "sha256",
    "arguments": "command_line", "parent_image": "parent", "ppid": "parent", "publisher": "signer", "dry_run": "audit",
    "dry-run": "audit", "permissive": "audit", "monitor": "audit", "lockdown": "enforce", "enforcing": "enforce",
    "description": "name", "comment": "name", "title": "name", "id": "name",
}  # fmt: skip
"""What other tools call our words."""

SYNTAX = (
    (r"^(unescaped|invalid hex|escaped)", r"write paths with slashes, c:/windows, or in single quotes, 'c:\windows'"),
    ("^cannot overwrite", 'a key stands once in a rule; several values are a list: image = ["a.exe", "b.exe"]'),
    (r"^(cannot declare \('rule',\)|expected '\]\]')", "write [[rule]], with two brackets, above each rule"),
    (r"^((illegal|found invalid) character '\\n'|unterminated|expected \"'+\")", "end the text with its quote"),
    ("[“”„‘’]", "write straight quotes"),
    (r"\n\s*audit\s*=", "write audit = true"),
    (r"^invalid value\n.*=\s*[A-Za-z*]", "put texts in quotes"),
    (r"^invalid value\n\s*[\w-]+\s*=\s*[\"'\[]", "close the list above this line with ]"),
    ("^unclosed array", 'write commas between the texts, and ] behind them: ["a.exe", "b.exe"]'),
    ("^exceeds", "a policy needs no such number"),
    ("", 'a line is key = value, [[rule]], or # and a remark; several values are a list: ["a.exe", "b.exe"]'),
)  # fmt: skip
"""What to write instead, by `tomllib`'s message and, after a line's end, the line that it is about."""

DEEP_KEY = re.compile(r"\n(?:[^\s.=\"'#]*+\.){30}")
"""A line that begins with a key of so many parts that it is none; `tomllib` takes memory by the square of that."""


@dataclass(frozen=True, slots=True)
class Mistake:
    """A `Problem` before its place is looked for, which takes a second in a large text: most texts have none."""

    path: Path
    message: str
    advice: str
    fatal: bool = True
    at_key: bool = False
    """It is about the key, not the value."""


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
    def lines(self) -> Sequence[int]:
        """The line of each rule."""
        paths: list[Path] = [("rule", rule.number - 1) for rule in self.rules]
        places = TomlPlaces(self.text, paths)
        return array("Q", (places.value(*path)[0] for path in paths))


def read_policy(text: str, source: str) -> tuple[RuleSet, list[Problem]]:
    """The rules of a policy, as far as they can be understood, and its problems in the order of the text."""
    text = text.removeprefix("\ufeff").replace("\r\n", "\n")
    if deep := DEEP_KEY.search("\n" + text):
        line = text.count("\n", 0, deep.start()) + 1
        return RuleSet(text, source), [Problem(line, 1, "this is no key of a policy", SYNTAX[-1][1])]
    try:
        document = tomllib.loads(text)
    except RecursionError:
        return RuleSet(text, source), [Problem(1, 1, "its values are nested too deeply", "a policy needs no nesting")]
    except ValueError as error:  # TOMLDecodeError, or a number of too many digits
        return RuleSet(text, source), [_syntax(text, error)]
    reader = _Reader()
    mode, default, rules = reader.read(document)
    return RuleSet(text, source, mode, default, rules), located(text, reader.mistakes)


def located(text: str, mistakes: Sequence[Mistake]) -> list[Problem]:
    """The mistakes with their places, in the order of the text."""
    if not mistakes:
        return []
    places = TomlPlaces(text, (mistake.path for mistake in mistakes))
    problems = [
        Problem(*(places.key if each.at_key else places.value)(*each.path), each.message, each.advice, each.fatal)
        for each in mistakes
    ]
    return sorted(problems, key=lambda problem: (problem.line, problem.column))


class _Reader:
    """Goes through the document once and notes what is wrong."""

    def __init__(self) -> None:
        self.mistakes: list[Mistake] = []
        self._named: dict[str, int] = {}

    def mistake(self, path: Path, message: str, advice: str, *, at_key: bool = False) -> None:
        self.mistakes.append(Mistake(path, message, advice, at_key=at_key))

    def read(self, document: dict[str, object]) -> tuple[str, Verdict | None, tuple[Rule, ...]]:
        for key in document.keys() - set(TOP_KEYS):
            advice = f"a policy has {_listed(TOP_KEYS, 'and')}"
            if key in RULE_KEYS:
                advice = "write [[rule]] on a line above it: it belongs to a rule"
            elif meant := _meant(key, TOP_KEYS):
                advice = f"write {meant}"
            self.mistake((key,), f"a policy has no key {quoted(key)}", advice, at_key=True)
        mode, default = document.get("mode", "enforce"), document.get("default")
        if mode not in MODES:
            self.choice(("mode",), "mode", mode, MODES)
        if default is not None and (not isinstance(default, str) or default not in VERDICTS):
            self.choice(("default",), "default verdict", default, VERDICTS)
        tables = document.get("rule", [])
        if not isinstance(tables, list) or not all(isinstance(table, dict) for table in tables):
            advice = "write [[rule]], with two brackets, above each rule"
            self.mistake(("rule",), "rule is not a list of tables", advice)
            tables = []
        rules = tuple(rule for i, table in enumerate(tables) if (rule := self.rule(i, table)) is not None)
        return str(mode), VERDICTS.get(str(default)), rules

    def rule(self, i: int, table: dict[str, object]) -> Rule | None:
        before = len(self.mistakes)
        for key in [key for key in table if key not in RULE_KEYS]:
            meant = _meant(key, RULE_KEYS)
            advice = f"write {meant}" if meant else f"a rule has {_listed(RULE_KEYS, 'and')}"
            if key in ("mode", "default"):
                advice = "write it above the first [[rule]]"
            elif re.match("(not|no|except|exclude|unless)_?", key):
                advice = "nothing is negated: write a rule for the others above this one"
            self.mistake(("rule", i, key), f"a rule has no key {quoted(key)}", advice, at_key=True)
        verdict, audit = table.get("verdict"), table.get("audit", False)
        if "verdict" not in table:
            self.mistake(("rule", i), f"rule {i + 1} has no verdict", 'add verdict = "allow", "block" or "ask"')
        elif not isinstance(verdict, str) or verdict not in VERDICTS:
            self.choice(("rule", i, "verdict"), "verdict", verdict, VERDICTS)
        name = self.name(i, table.get("name", str(i + 1)))
        if not isinstance(audit, bool):
            self.mistake(("rule", i, "audit"), "audit is true or false", "write audit = true")
        conditions = [self.condition(i, fact, table[fact]) for fact in FACTS if fact in table]
        table.clear()  # of 100,000 rules not all are held twice
        if len(self.mistakes) > before:
            return None
        known = tuple(condition for condition in conditions if condition is not None)
        return Rule(i + 1, name, known, VERDICTS[str(verdict)], bool(audit))

    def name(self, i: int, name: object) -> str:
        path: Path = ("rule", i, "name")
        if not isinstance(name, str) or not name.strip():
            self.mistake(path, "a name is a text of some letters", 'write name = "..."')
        elif name == "default":
            self.mistake(path, 'in decisions and counts "default" is where no rule matches', "name it otherwise")
        elif self._named.setdefault(name, i) != i:
            message = f"rule {self._named[name] + 1} is named {quoted(name)} too"
            self.mistake(path, message, "give each rule a name of its own")
        return str(name)

    def condition(self, i: int, fact: str, value: object) -> Condition | None:
        path: Path = ("rule", i, fact)
        listed = value if isinstance(value, list) else [value]
        if not listed:
            self.mistake(path, f"an empty list of {fact} matches nothing", "name some, or leave the key out")
        patterns = []
        for j, item in enumerate(listed):
            wrong = mistake_in(fact, item)
            if wrong is None:
                patterns.append(str(item))
            else:
                self.mistake((*path, j) if isinstance(value, list) else path, *wrong)
        return Condition.of(fact, patterns) if len(patterns) == len(listed) else None

    def choice(self, path: Path, what: str, value: object, choices: Iterable[str]) -> None:
        """A value that is none of the few that are allowed."""
        meant = _meant(value, choices) if isinstance(value, str) else None
        advice = f"write {quoted(meant)}" if meant else f"write {_listed([quoted(c) for c in choices], 'or')}"
        self.mistake(path, f"there is no {what} {shown(value)}", advice)


def _syntax(text: str, error: ValueError) -> Problem:
    """What `tomllib` refused, with its place, which Python 3.11 to 3.13 have in the message only."""
    message = str(error)
    at = re.search(r" \(at (?:line (\d+), column (\d+)|end of document)\)$", message)
    lines = text.split("\n")
    place = (int(at[1]), int(at[2])) if at and at[1] else (len(lines), len(lines[-1]) + 1)
    message = message[: at.start()] if at else message.partition(";")[0]
    told = f"{message}\n{lines[place[0] - 1]}"
    advice = next((advice for sign, advice in SYNTAX if re.search(sign, told, re.IGNORECASE)), SYNTAX[-1][1])
    return Problem(*place, message[:1].lower() + message[1:], advice)


def _meant(word: str, choices: Iterable[str]) -> str | None:
    """The word that was probably meant."""
    choices = list(choices)
    lower = word.lower()
    meant = SYNONYMS.get(lower)
    if meant and (meant in choices or meant == "[[rule]]"):
        return meant
    close = difflib.get_close_matches(lower.replace("-", "_"), choices, n=1, cutoff=0.6)
    return close[0] if close else None


def _listed(words: Iterable[str], last: str) -> str:
    *first, end = words
    return f"{', '.join(first)} {last} {end}"
