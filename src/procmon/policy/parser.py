"""Reads the texts of a policy: its rules, and every mistake with its place and what to write instead."""

import re
from array import array
from collections.abc import Iterable, KeysView, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from functools import cached_property

from ..errors import Problem
from ..records import RuleNote, Verdict
from ..util.path_checks import quoted
from .conditions import BOUNDS, GROUPS, OPERATORS, Bound, Condition, Globs, Group, Part, Table, Test, Words, ordered
from .facts import CASELESS, FACTS, ORDERED
from .index import RuleIndex
from .rules import Rule
from .spelling import listed, meant, shown
from .toml_mistakes import deep_key_at, invisible_at, large_number_at, new_escape_at, syntax_problem
from .toml_positions import Path, TomlPlaces
from .value_checks import bound_mistake, mistake_in, word_mistake

__all__ = ["MAX_DEPTH", "Mistake", "RuleSet", "Source", "located", "read_policy"]

VERDICTS = {"allow": Verdict.ALLOW, "block": Verdict.BLOCK, "ask": Verdict.DEFER}
MODES = ("enforce", "audit")
TOP_KEYS = ("mode", "default", "rule")
TABLE_KEYS = dict.fromkeys((*FACTS, *GROUPS)).keys()
ONLY_IN_RULES = ("name", "verdict", "audit", "message", "reference", "tags", "log", "until")
RULE_KEYS = dict.fromkeys(("name", *TABLE_KEYS, *ONLY_IN_RULES[1:])).keys()

_FACTS = frozenset(FACTS)

MAX_DEPTH = 16
"""Levels to which ``any``, ``all``, ``unless`` and ``not`` can be nested."""

NEGATED = re.compile(r"(?:not|no|except|exclude)_?(\w+)|(\w+?)_?(?:not|except|excluded?)")
"""Negated keys of other languages."""

OFF = "put # before each line of the rule to switch it off"
NO_KEYS = {"enabled": OFF, "disabled": OFF, "active": OFF, "priority": "the first rule that matches decides: move it"}
"""Keys of other tools without a key of ours."""

SIGMA = {
    "hashes": "write md5, sha1, sha256 or imphash",
    "condition": "every key of a rule must hold; any, all and unless combine tables",
    "re": "there are no regular expressions: write contains, or glob with * and ?",
    "regex": "there are no regular expressions: write contains, or glob with * and ?",
    "windash": 'write each of them: contains = [" -x", " /x"]',
}
"""Sigma's fields and modifiers without a word of ours."""

PIPED = re.compile(r"(\w+)\|(\w+)((?:\|\w+)*)")
"""A field of Sigma with its modifiers: ``CommandLine|contains|all``."""

REPORTS = ("alert", "log", "report", "audit", "warn", "detect", "monitor")
"""Verdicts of tools that only report."""

YES, NO = ("yes", "on", "true", "1"), ("no", "off", "false", "0")
"""How people write true and false."""


@dataclass(frozen=True, slots=True)
class Source:
    """One text of a policy."""

    text: str
    name: str


@dataclass(frozen=True, slots=True)
class Mistake:
    """A `Problem` without its place. The search for places takes a second in a large text, and most texts need none."""

    path: Path
    message: str
    advice: str
    fatal: bool = True
    at_key: bool = False
    """It concerns the key, not the value."""
    file: int = 0


@dataclass(frozen=True)
class RuleSet:
    """A policy as read. It is immutable, so that a reload can replace it atomically."""

    sources: tuple[Source, ...]
    mode: str = "enforce"
    default: Verdict | None = None
    rules: tuple[Rule, ...] = ()

    @property
    def name(self) -> str:
        """The names of its sources."""
        return ", ".join(source.name for source in self.sources)

    @cached_property
    def version(self) -> str:
        """Differs where the texts differ: the beginning of their SHA-256."""
        import hashlib  # here, since `import procmon` needs none of it

        digest = hashlib.sha256()
        for source in self.sources:
            data = source.text.encode("utf-8", "surrogatepass")
            digest.update(len(data).to_bytes(8, "little") + data)
        return digest.hexdigest()[:12]

    @cached_property
    def index(self) -> RuleIndex:
        return RuleIndex(self.rules)

    @cached_property
    def lines(self) -> Sequence[int]:
        """The line of each rule."""
        found = array("Q")
        for file, source in enumerate(self.sources):
            paths: list[Path] = [("rule", rule.number - 1) for rule in self.rules if rule.file == file]
            places = TomlPlaces(source.text, paths)
            found.extend(places.value(*path)[0] for path in paths)
        return found


def read_policy(sources: Sequence[Source]) -> tuple[RuleSet, list[Problem]]:
    """The rules of a policy, as far as they can be understood, and its problems in the order of the texts."""
    sources = [Source(s.text.removeprefix("\ufeff").replace("\r\n", "\n"), s.name) for s in sources]
    reader = _Reader(sources)
    problems: list[Problem] = []
    for file, source in enumerate(sources):
        document = _document(source.text)
        if isinstance(document, Problem):
            problems.append(replace(document, source=source.name if len(sources) > 1 else ""))
        else:
            reader.read(file, document)
    rules = RuleSet(tuple(sources), reader.mode or "enforce", reader.default, tuple(reader.rules))
    return rules, problems + located(sources, reader.mistakes)


def located(sources: Sequence[Source], mistakes: Sequence[Mistake]) -> list[Problem]:
    """The mistakes with their places, in the order of the texts."""
    problems: list[Problem] = []
    for file in sorted({mistake.file for mistake in mistakes}):
        here = [mistake for mistake in mistakes if mistake.file == file]
        places = TomlPlaces(sources[file].text, (mistake.path for mistake in here))
        name = sources[file].name if len(sources) > 1 else ""
        found = [
            Problem(*(places.key if m.at_key else places.value)(*m.path), m.message, m.advice, m.fatal, name)
            for m in here
        ]
        problems += sorted(found, key=lambda problem: (problem.line, problem.column))
    return problems


def _document(text: str) -> dict[str, object] | Problem:
    if deep := deep_key_at(text):
        return deep
    import tomllib  # here, since `import procmon` needs none of it

    try:
        document = tomllib.loads(text)
    except RecursionError:
        return Problem(1, 1, "its values are nested too deeply", f"groups nest at most {MAX_DEPTH} deep")
    except ValueError as error:  # TOMLDecodeError, or a number of too many digits
        return invisible_at(text, error) or syntax_problem(text, error)
    return new_escape_at(text) or large_number_at(text) or document


class _Reader:
    """Goes through the documents once, and collects their rules and mistakes."""

    def __init__(self, sources: Sequence[Source]) -> None:
        self.mistakes: list[Mistake] = []
        self.rules: list[Rule] = []
        self.mode: str | None = None
        self.default: Verdict | None = None
        self._sources = sources
        self._file = 0
        self._settings: dict[str, tuple[object, int]] = {}
        self._named: dict[str, tuple[int, int]] = {}

    def mistake(self, path: Path, message: str, advice: str, *, at_key: bool = False) -> None:
        self.mistakes.append(Mistake(path, message, advice, at_key=at_key, file=self._file))

    def read(self, file: int, document: dict[str, object]) -> None:
        """Read one file; `file` is its index."""
        self._file = file
        for key in document.keys() - set(TOP_KEYS):
            advice = f"a policy has {listed(TOP_KEYS, 'and')}"
            if key in RULE_KEYS:
                advice = "write [[rule]] on a line above it: it belongs to a rule"
            elif word := meant(key, TOP_KEYS):
                advice = f"write {word}"
            self.mistake((key,), f"a policy has no key {quoted(key)}", advice, at_key=True)
        mode, default = document.get("mode"), document.get("default")
        if mode is not None and self.choice(("mode",), "mode", mode, MODES) and self.once("mode", mode):
            self.mode = str(mode)
        if default is not None and self.choice(("default",), "default verdict", default, VERDICTS):
            self.default = VERDICTS[str(default)] if self.once("default", default) else self.default
        tables = document.get("rule", [])
        if not isinstance(tables, list) or not all(isinstance(table, dict) for table in tables):
            advice = "write [[rule]], with two brackets, above each rule"
            self.mistake(("rule",), "rule is not a list of tables", advice)
            tables = []
        for i, table in enumerate(tables):
            if (rule := self.rule(i, table)) is not None:
                self.rules.append(rule)

    def once(self, key: str, value: object) -> bool:
        """No earlier file has another value."""
        earlier, file = self._settings.setdefault(key, (value, self._file))
        if earlier == value:
            return True
        message = f"{self._sources[file].name} says {key} = {shown(earlier)}"
        self.mistake((key,), message, f"let one file say {key}, or all the same")
        return False

    def rule(self, i: int, table: dict[str, object]) -> Rule | None:
        before = len(self.mistakes)
        path: Path = ("rule", i)
        if "verdict" not in table:
            self.mistake(path, f"rule {i + 1} has no verdict", 'add verdict = "allow", "block" or "ask"')
        else:
            self.choice((*path, "verdict"), "verdict", table["verdict"], VERDICTS)
        name = self.name(i, table.get("name"))
        audit, log = (self.flag(path, key, table.get(key, key == "log")) for key in ("audit", "log"))
        until = self.until((*path, "until"), table["until"]) if "until" in table else None
        note = self.note(path, table, log)
        parts = self.parts(path, table, RULE_KEYS, 0)
        verdict = VERDICTS.get(str(table.get("verdict")), Verdict.ALLOW)
        table.clear()  # so that 100,000 rules are not in memory twice
        if len(self.mistakes) > before:
            return None
        return Rule(i + 1, name, parts, verdict, audit, until, note, self._file)

    # -------------------------------------------------------------------------------------- names, times and notes

    def name(self, i: int, name: object) -> str:
        path: Path = ("rule", i, "name")
        if name is None:
            name = str(i + 1) if len(self._sources) == 1 else f"{_file_name(self._sources[self._file].name)}:{i + 1}"
        if not isinstance(name, str) or not name.strip():
            self.mistake(path, "a name is a text of some letters", 'write name = "..."')
        elif name == "default":
            self.mistake(path, 'in decisions and counts "default" is where no rule matches', "name it otherwise")
        elif self._named.setdefault(name, (self._file, i)) != (self._file, i):
            file, other = self._named[name]
            where = f" of {self._sources[file].name}" if file != self._file else ""
            message = f"rule {other + 1}{where} is named {quoted(name)} too"
            self.mistake(path, message, "give each rule a name of its own")
        return str(name)

    def flag(self, path: Path, key: str, value: object) -> bool:
        if not isinstance(value, bool):
            said = str(value).lower()
            word = "false" if said in NO or (key == "log" and said not in YES) else "true"
            self.mistake((*path, key), f"{key} is true or false", f"write {key} = {word}")
        return value is True

    def until(self, path: Path, value: object) -> datetime | None:
        if isinstance(value, datetime) and value.tzinfo is not None:
            return value
        if isinstance(value, datetime):
            advice = f"write until = {value.isoformat()}Z, for UTC, or an offset such as +02:00"
            self.mistake(path, "until has no time zone", advice)
        else:
            self.mistake(path, f"until is a time, not {shown(value)}", "write until = 2026-12-31T12:00:00Z, no quotes")
        return None

    def note(self, path: Path, table: Mapping[str, object], log: bool) -> RuleNote | None:
        if log and not table.keys() & {"message", "reference", "tags"}:
            return None
        texts = {key: table.get(key, "") for key in ("message", "reference")}
        for key, text in texts.items():
            if not isinstance(text, str) or (key in table and not text.strip()):
                self.mistake((*path, key), f"{key} is a text, not {shown(text)}", f'write {key} = "..."')
        tags = table.get("tags", [])
        if not isinstance(tags, list) or not all(isinstance(tag, str) and tag.strip() for tag in tags):
            self.mistake((*path, "tags"), "tags is a list of texts", 'write tags = ["...", "..."]')
            tags = []
        return RuleNote(message=str(texts["message"]), reference=str(texts["reference"]), tags=tuple(tags), log=log)

    # ---------------------------------------------------------------------------------------------------- conditions

    def parts(self, path: Path, table: Mapping[str, object], keys: KeysView[str], depth: int) -> tuple[Part, ...]:
        """The conditions and groups of a table."""
        for key in table.keys() - keys:
            self.unknown(path, key, keys)
        parts: list[Part] = []
        for key, value in table.items():
            part: Part | None = None
            if key in _FACTS:
                part = self.condition((*path, key), key, value, depth)
            elif key in GROUPS:
                part = self.group((*path, key), key, value, depth + 1)
            parts += [part] if part is not None else []
        return ordered(parts) if len(parts) > 1 else tuple(parts)

    def unknown(self, path: Path, key: str, keys: KeysView[str]) -> None:
        """Note a key that no rule has, or none in this place."""
        inside = len(path) > 2
        advice = f"a rule has {listed(RULE_KEYS, 'and')}"
        if inside:
            advice = "any, all and unless contain facts and any, all, unless"
        if key in ("mode", "default"):
            advice = "write it above the first [[rule]]"
        elif inside and key in ONLY_IN_RULES:
            advice = "it belongs to the rule: write it above the first [[rule.any]] and the like"
        elif key in OPERATORS or key in (*BOUNDS, "known", "not", "case_sensitive"):
            advice = f"it belongs to a fact: write command_line = {{{key} = ...}}, say"
        elif (found := NEGATED.fullmatch(key)) and (fact := meant(found[1] or found[2], FACTS)):
            advice = f"write {fact} = {{not = {{glob = ...}}}}, or unless = [{{{fact} = ...}}]"
        elif (found := PIPED.fullmatch(key)) and (fact := meant(found[1], FACTS)):
            advice = SIGMA.get(found[2]) or f"write {fact} = {{{_operator(found[2], found[3])} = ...}}"
        elif word := meant(key, keys):
            advice = f"write {word}"
        elif key.lower() in SIGMA:
            advice = SIGMA[key.lower()]
        elif not inside and key.lower() in NO_KEYS:
            advice = NO_KEYS[key.lower()]
        where = f"{path[-2] if isinstance(path[-1], int) and inside else 'a rule'} has no key {quoted(key)}"
        self.mistake((*path, key), where, advice, at_key=True)

    def group(self, path: Path, kind: str, value: object, depth: int) -> Group | None:
        if not self.shallow(path, depth):
            return None
        if not isinstance(value, list) or not all(isinstance(table, dict) for table in value):
            advice = f"write {kind} = [{{...}}, {{...}}], or [[{'.'.join(str(p) for p in path if isinstance(p, str))}]]"
            self.mistake(path, f"{kind} is a list of tables", advice)
            return None
        if not value:
            self.mistake(path, f"an empty {kind} says nothing", "write tables of facts in it, or leave the key out")
        tables = []
        for i, table in enumerate(value):
            if not table:
                advice = "write facts in it, or leave it out"
                self.mistake((*path, i), "an empty table matches every process", advice)
            tables.append(Table(self.parts((*path, i), table, TABLE_KEYS, depth)))
        return Group(kind, tuple(tables))

    def shallow(self, path: Path, depth: int) -> bool:
        if depth > MAX_DEPTH:
            self.mistake(path, f"groups nest more than {MAX_DEPTH} deep", "write several rules")
        return depth <= MAX_DEPTH

    def condition(self, path: Path, fact: str, value: object, depth: int) -> Condition | None:
        if not isinstance(value, dict):
            words = self.words(path, fact, "glob", value, plain=True)
            return Condition(fact, (Globs.of("glob", fact, words),)) if words is not None else None
        before = len(self.mistakes)
        allowed = [*OPERATORS, *(BOUNDS if fact in ORDERED else ()), "known", "not", "case_sensitive"]
        for key in value.keys() - set(allowed):
            advice = f"{fact} has {listed(allowed, 'and')}"
            if key in BOUNDS:
                advice = f"{listed(sorted(ORDERED), 'and')} have an order; write glob, equals or contains"
            elif key in SIGMA:
                advice = SIGMA[key]
            elif word := meant(key, allowed):
                advice = f"write {word}"
            self.mistake((*path, key), f"{fact} has no operator {quoted(key)}", advice, at_key=True)
        if not value.keys() - {"case_sensitive"}:
            self.mistake(path, f"{fact} has no operator", f'write {fact} = "...", or {fact} = {{contains = "..."}}')
        case_sensitive = self.case_sensitive(path, fact, value)
        tests: list[Test] = []
        for operator in (*OPERATORS, *BOUNDS):
            if operator in value and operator in allowed:
                test = self.test((*path, operator), fact, operator, value[operator], case_sensitive)
                tests += [test] if test is not None else []
        known = self.flag(path, "known", value["known"]) if "known" in value else None
        if known is False and tests:
            advice = "write one of them in any = [...]"
            self.mistake((*path, "known"), f"{fact} that is not known meets no other operator", advice)
        negated = None
        if "not" in value and self.shallow((*path, "not"), depth + 1):
            if isinstance(value["not"], dict):
                negated = self.condition((*path, "not"), fact, value["not"], depth + 1)
            else:
                self.mistake((*path, "not"), "not is a table of operators", "write not = {glob = ...}")
        if len(self.mistakes) > before:
            return None
        return Condition(fact, tuple(tests), negated, known, case_sensitive, in_table=True)

    def case_sensitive(self, path: Path, fact: str, value: Mapping[str, object]) -> bool:
        if "case_sensitive" not in value:
            return False
        if fact in CASELESS:
            message = f"{fact} is known in lower case only"
            self.mistake((*path, "case_sensitive"), message, "leave it out", at_key=True)
        return self.flag(path, "case_sensitive", value["case_sensitive"])

    def test(self, path: Path, fact: str, operator: str, value: object, case_sensitive: bool) -> Test | None:
        if operator in BOUNDS:
            if wrong := bound_mistake(fact, operator, value):
                self.mistake(path, *wrong)
                return None
            return Bound.of(operator, fact, str(value))
        words = self.words(path, fact, operator, value)
        if words is None:
            return None
        kind = Globs if operator in ("glob", "glob_all") else Words
        return kind.of(operator, fact, words, case_sensitive)

    def words(self, path: Path, fact: str, operator: str, value: object, *, plain: bool = False) -> list[str] | None:
        """The texts of one operator, or None if one of them is wrong; `plain`: written without a table."""
        found = value if isinstance(value, list) else [value]
        if not found:
            self.mistake(path, f"an empty list of {fact} matches nothing", "name some, or leave the key out")
            return None
        words = []
        for j, item in enumerate(found):
            wrong = mistake_in(fact, item) if plain else word_mistake(fact, operator, item)
            if wrong is None:
                words.append(str(item))
            else:
                self.mistake((*path, j) if isinstance(value, list) else path, *wrong)
        return words if len(words) == len(found) else None

    def choice(self, path: Path, what: str, value: object, choices: Iterable[str]) -> bool:
        """The value is one of the choices."""
        if isinstance(value, str) and value in choices:
            return True
        word = meant(value, choices) if isinstance(value, str) else None
        advice = f"write {quoted(word)}" if word else f"write {listed([quoted(c) for c in choices], 'or')}"
        if path[-1] == "verdict" and word is None and str(value).lower() in REPORTS:
            advice = 'write verdict = "block" and audit = true to log only'
        self.mistake(path, f"there is no {what} {shown(value)}", advice)
        return False


def _operator(modifier: str, more: str) -> str:
    """The operator for modifiers of Sigma."""
    return "contains_all" if (modifier, more) == ("contains", "|all") else meant(modifier, OPERATORS) or "equals"


def _file_name(name: str) -> str:
    return re.split(r"[\\/]", name)[-1]
