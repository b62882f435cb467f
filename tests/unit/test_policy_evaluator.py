"""Policies against a naive evaluator, written from the documentation: `decide` and `explain` agree with it."""

import json
import re
import tomllib
import warnings
from collections.abc import Sequence
from types import SimpleNamespace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import procmon
from procmon import Policy, ProcessHelper

NAMES = ["a.exe", "b.exe", "ab.exe"]
FOLDERS = ["c:/", "c:/x/", "c:/x/y/", "d:/x/"]
PATHS = st.builds(lambda folder, name: folder + name, st.sampled_from(FOLDERS), st.sampled_from(NAMES))
PATH_GLOBS = st.sampled_from(
    ["a.exe", "*.exe", "a*", "?.exe", "c:/**", "c:/x/*", "**/x/**", "**/y/a.exe", "c:/**/a.exe", "*:/x/*", "c:/**b.exe"]
)
PATH_WORDS = st.sampled_from(["a.exe", "/a.exe", "c:/x", "/x/", "x/y", ".exe", "c:/x/a.exe", "c:/a.exe", "b", "*"])
LINE_PIECES = ["a.exe", " -enc", " /c ", "http://", "mimikatz", " --quiet", "x", "*", "?", "\u00c4", "Z", "sekurlsa::"]
LINES = st.lists(st.sampled_from(LINE_PIECES), max_size=5).map("".join)
LINE_WORDS = st.lists(st.sampled_from(LINE_PIECES), min_size=1, max_size=2).map("".join)
LINE_GLOBS = st.lists(st.sampled_from([*LINE_PIECES, "*", "*"]), min_size=1, max_size=4).map("".join)
VERSIONS = st.sampled_from(["1.2", "1.2.3 (x)", "10.0.0.0", "2", "beta"])
INTEGRITIES = st.sampled_from(["low", "medium", "high", "system"])


def some(values: st.SearchStrategy[str]) -> st.SearchStrategy[object]:
    return values | st.lists(values, min_size=1, max_size=3)


def operators(words: st.SearchStrategy[str], globs: st.SearchStrategy[str], cased: bool) -> st.SearchStrategy[object]:
    texts = {
        "glob": some(globs), "equals": some(words), "contains": some(words), "starts_with": some(words),
        "ends_with": some(words), "glob_all": some(globs), "contains_all": some(words), "known": st.just(True),
    }  # fmt: skip
    plain = st.sampled_from(sorted(texts)).flatmap(lambda name: st.fixed_dictionaries({name: texts[name]}))
    two = st.tuples(plain, plain).map(lambda pair: pair[0] | pair[1])
    table = plain | two | st.just({"known": False})
    if cased:
        table |= plain.map(lambda one: one | {"case_sensitive": True})
    negated = table.map(lambda inner: {"not": inner}) | st.tuples(plain, table).map(lambda p: p[0] | {"not": p[1]})
    return some(globs) | table | negated


CONDITIONS: dict[str, st.SearchStrategy[object]] = {
    "image": operators(PATH_WORDS, PATH_GLOBS, cased=False),
    "parent": operators(PATH_WORDS, PATH_GLOBS, cased=False),
    "command_line": operators(LINE_WORDS, LINE_GLOBS, cased=True),
    "company": operators(LINE_WORDS, LINE_GLOBS, cased=True),
    "session": some(st.integers(0, 2)) | st.fixed_dictionaries({"at_least": st.integers(0, 2)}),  # type: ignore[arg-type]
    "integrity": some(INTEGRITIES) | st.fixed_dictionaries({"at_most": INTEGRITIES}),
    "file_version": st.fixed_dictionaries({"at_least": VERSIONS.filter(lambda text: text != "beta")}),
}
TABLES: st.SearchStrategy[dict[str, object]] = st.recursive(
    st.sampled_from(sorted(CONDITIONS)).flatmap(lambda fact: st.fixed_dictionaries({fact: CONDITIONS[fact]})),
    lambda inner: st.tuples(
        inner,
        st.sampled_from(["any", "all", "unless"]).flatmap(
            lambda kind: st.fixed_dictionaries({kind: st.lists(inner, min_size=1, max_size=3)})
        ),
    ).map(lambda pair: pair[0] | pair[1]),
    max_leaves=6,
)
PROCESSES = st.fixed_dictionaries({
    "image": PATHS, "parent": st.none() | PATHS, "command_line": st.none() | LINES, "company": st.none() | LINES,
    "session": st.none() | st.integers(0, 2), "integrity": st.none() | INTEGRITIES,
    "file_version": st.none() | VERSIONS,
})  # fmt: skip


def toml(value: object) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key} = {toml(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(toml, value)) + "]"
    return json.dumps(value)


def naive_table(table: dict[str, object], process: dict[str, object]) -> bool:
    """docs/policy.md, sentence by sentence, without regard to speed."""
    for key, value in table.items():
        if key in ("any", "all", "unless"):
            assert isinstance(value, list)
            found = [naive_table(inner, process) for inner in value]
            holds = {"any": any(found), "all": all(found), "unless": not any(found)}[key]
        else:
            holds = naive_fact(key, value, process[key])
        if not holds:
            return False
    return True


def naive_fact(fact: str, asked: object, value: object) -> bool:
    if not isinstance(asked, dict):
        asked = {"glob": asked}
    if asked.get("known", value is not None) is not (value is not None):
        return False
    if "not" in asked and naive_fact(fact, asked["not"], value):
        return False
    tests = {name: words for name, words in asked.items() if name not in ("known", "not", "case_sensitive")}
    if not tests:
        return True
    return value is not None and all(
        naive_test(fact, name, words if isinstance(words, list) else [words], str(value), "case_sensitive" in asked)
        for name, words in tests.items()
    )


def naive_test(fact: str, operator: str, words: Sequence[object], value: str, cased: bool) -> bool:
    in_parts = fact in ("image", "parent")

    def form(text: object) -> str:
        text = str(text).replace("/", "\\") if in_parts else str(text)
        return text if cased else text.lower()

    value = form(value)
    found = []
    for word in map(form, words):
        if operator in ("at_least", "at_most"):
            one, other = naive_order(fact, value), naive_order(fact, word)
            found.append(bool(one and other and (one >= other if operator == "at_least" else one <= other)))
        elif operator in ("glob", "glob_all"):
            found.append(naive_glob(word, value.split("\\")[-1] if in_parts and "\\" not in word else value, in_parts))
        else:
            found.append({
                "equals": value == word, "contains": word in value, "contains_all": word in value,
                "starts_with": value.startswith(word), "ends_with": value.endswith(word),
            }[operator])  # fmt: skip
    return all(found) if operator.endswith("_all") else any(found)


def naive_order(fact: str, text: str) -> list[int]:
    if fact == "integrity":
        return [["low", "medium", "high", "system"].index(text)]
    numbers = [int(number) for number in (re.match(r"[\d.]*", text) or [""])[0].split(".") if number]
    return (numbers + [0] * 8)[:8] if numbers else []


def naive_glob(pattern: str, text: str, in_parts: bool, begin: bool = True) -> bool:
    if not pattern:
        return not text
    if in_parts and begin and (folders := re.match(r"\*\*+\\", pattern)):
        rest = pattern[folders.end() :]
        ends = [i + 1 for i, char in enumerate(text) if char == "\\"]
        return any(naive_glob(rest, text[end:], True) for end in (0, *ends))
    if in_parts and pattern.startswith("**"):
        rest = pattern.lstrip("*")
        return any(naive_glob(rest, text[i:], True, False) for i in range(len(text) + 1))
    if pattern[0] == "*":
        reach = text.index("\\") if in_parts and "\\" in text else len(text)
        return any(naive_glob(pattern[1:], text[i:], in_parts, False) for i in range(reach + 1))
    if pattern[0] == "?":
        return text[:1] not in ("", "\\" if in_parts else "") and naive_glob(pattern[1:], text[1:], in_parts, False)
    return text[:1] == pattern[0] and naive_glob(pattern[1:], text[1:], in_parts, pattern[0] == "\\")


@pytest.mark.promise(
    "A policy decides like a naive evaluator written from the documentation, and explain agrees", gate="Policy"
)
@settings(max_examples=300, suppress_health_check=[HealthCheck.too_slow], deadline=None)
@given(st.lists(TABLES, min_size=1, max_size=6), st.lists(PROCESSES, min_size=1, max_size=4))
def test_decide_and_explain_agree_with_the_documentation(
    tables: list[dict[str, object]], processes: list[dict[str, object]]
) -> None:
    text = "".join(
        "[[rule]]\nverdict = 'ask'\n" + "".join(f"{key} = {toml(value)}\n" for key, value in table.items())
        for table in tables
    )
    now: dict[str, object] = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", procmon.PolicyWarning)
        made = Policy.parse(text, details=lambda _: SimpleNamespace(**now))
    for table in tables:
        assert tomllib.loads("".join(f"{key} = {toml(value)}\n" for key, value in table.items())) == table
    for pid, values in enumerate(processes, 1000):
        now = values
        line = values["command_line"]
        process = ProcessHelper(
            pid=pid,
            parent_pid=0,
            image_name=str(values["image"]).replace("/", "\\"),
            command_line=None if line is None else str(line),
        )
        expected = [naive_table(table, values) for table in tables]
        first = str(expected.index(True) + 1) if True in expected else ""
        decision, explanation = made.decide(process), made.explain(process)
        assert decision.who == first
        shown = [step.matched for step in explanation.steps]
        assert shown == expected[: len(shown)] and len(shown) == (int(first) if first else len(tables))
        assert explanation.decision.who == first
        assert all(bool(step.decided) is not step.matched for step in explanation.steps)
