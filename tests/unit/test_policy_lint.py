"""Valid rules that harm Windows, or never decide."""

import re
from dataclasses import replace
from pathlib import Path as FilePath
from types import SimpleNamespace

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from policies import problems, rule
from procmon import ALLOW, BLOCK, DecidedBy, Policy, PolicyError, ProcessFlags, ProcessHelper
from procmon.policy.conditions import Condition, Globs
from procmon.policy.critical import INDISPENSABLE, SYSTEM_PROGRAMS, is_critical, is_indispensable
from procmon.policy.lint import _accepts, _covers, _Earlier
from procmon.policy.rules import Rule
from procmon.util.paths import lowercase

ROOT = FilePath(__file__).parents[2]


class TestRulesOnTrial:
    TRIED = rule("name = 'a'\nimage = 'a.exe'\nverdict = 'block'\naudit = true")

    @pytest.mark.parametrize("default", ["block", "ask"])
    def test_a_default_that_they_pass_by_is_named(self, default: str) -> None:
        assert problems(f"default = '{default}'\n{self.TRIED}") == [
            f"line 6, column 9: rule a only logs, so what matches runs, though the default is {default}; "
            "try the rule with `policy replay`, or let it match only what may run"
        ]
        both = self.TRIED + self.TRIED.replace("'a", "'b")
        assert "rule a and 1 more only logs" in problems(f"default = '{default}'\n{both}")[0]

    @pytest.mark.parametrize("top", ["", "default = 'allow'", "mode = 'audit'\ndefault = 'block'"])
    def test_other_policies_may_have_them(self, top: str) -> None:
        assert problems(f"{top}\n{self.TRIED}") == []


class TestRulesThatNeverDecide:
    @pytest.mark.parametrize(
        ("first", "second"),
        [
            ("", "image = 'a.exe'"),
            ("image = 'a.exe'", "image = 'c:/x/a.exe'"),
            ("image = 'a.exe'", "image = '**/x/A.EXE'"),
            ("image = '*.exe'", "image = ['a.exe', '**/b.exe', 'c:/*/c.exe']"),
            ("image = '**/a.exe'", "image = 'a.exe'"),
            ("image = 'c:/x/**'", "image = 'c:/x/*.exe'"),
            ("image = 'c:/x/*'", "image = 'c:/x/a.exe'\nuser = 'b'"),
            ("image = ['a.exe', 'b.exe']", "image = 'b.exe'\ncommand_line = '*x*'"),
            ("command_line = '*x*'", "image = 'b.exe'\ncommand_line = '*X*'"),
            ("session = [1, 2]", "session = 2"),
            ("ancestor = 'a.exe'", "parent = 'c:/a.exe'"),
            ("sha256 = '" + "ab" * 32 + "'", "sha256 = '" + "AB" * 32 + "'"),
        ],
    )
    def test_they_are_found(self, first: str, second: str) -> None:
        text = rule(first + "\nverdict = 'allow'") + rule(second + "\nverdict = 'block'")
        [problem] = Policy.check(text)
        assert problem.message == "rule 2 never decides: rule 1 matches all that it could"
        assert (problem.fatal, len(Policy.parse(text))) == (False, 2)

    @pytest.mark.parametrize(
        ("first", "second"),
        [
            ("image = 'c:/x/a.exe'", "image = 'a.exe'"),
            ("image = 'a.exe'\nuser = 'b'", "image = 'a.exe'"),
            ("image = 'a.exe'", "image = ['a.exe', 'b.exe']"),
            ("image = 'c:/x/*'", "image = 'c:/x/**'"),
            ("image = 'c:/x/**'", "image = 'a.exe'"),
            ("image = '?.exe'", "image = '*.exe'"),
            ("parent = 'a.exe'", "ancestor = 'a.exe'"),
            ("command_line = '*x*'", "command_line = '*'"),
            ("session = 1", "session = [1, 2]"),
        ],
    )
    def test_others_are_not_suspected(self, first: str, second: str) -> None:
        assert problems(rule(first + "\nverdict = 'allow'") + rule(second + "\nverdict = 'ask'")) == []

    def test_a_rule_whose_time_has_passed_is_found(self) -> None:
        body = "image = 'a.exe'\nverdict = 'block'\nuntil = "
        assert problems(rule(body + "2999-01-01T00:00:00Z")) == []
        assert problems(rule(body + "2001-01-01T00:00:00Z")) == [
            "line 4, column 9: rule 1 matches nothing any more: its time has passed;"
            " remove the rule, or set a later time"
        ]

    @pytest.mark.parametrize(
        "body",
        ["image = 'sh.exe'\ncommand_line = '* {}*'", "image = 'c:/v{}/*.exe'", "command_line = '{}*'", "user = 'u{}'"],
    )
    def test_many_rules_are_not_compared_in_pairs(self, body: str, monkeypatch: pytest.MonkeyPatch) -> None:
        compared = 0

        def counted(wide: Rule, narrow: Rule) -> bool:
            nonlocal compared
            compared += 1
            return _covers(wide, narrow)

        monkeypatch.setattr("procmon.policy.lint._covers", counted)
        assert problems("".join(rule(body.format(i) + "\nverdict = 'ask'") for i in range(4_000))) == []
        assert compared < 10 * 4_000


PIECES = st.lists(st.sampled_from(["a", "b", "/", "*", "**", "?", "/**/", "**/", "/**"]), min_size=1, max_size=5)


@settings(max_examples=1000)
@example(["a**"], ["b/a**"], ["b/aba/a/"])
@given(PIECES, PIECES, st.lists(st.text("ab/", min_size=1, max_size=7), min_size=1, max_size=5))
def test_whatever_a_covered_pattern_matches_the_other_one_matches(
    wide: list[str], narrow: list[str], images: list[str]
) -> None:
    """Otherwise a rule that decides would be reported as one that never does."""
    one, other = Globs.of("glob", "image", ["".join(wide)]), Globs.of("glob", "image", ["".join(narrow)])
    if _accepts(one, other):
        for image in [*images, "".join(narrow).replace("**", "a/b").replace("*", "b").replace("?", "a")]:
            value = lowercase(image)
            assert one.holds(value) or not other.holds(value)


@given(st.lists(st.tuples(PIECES, st.sampled_from(["image", "parent", "ancestor", "user", "signer"])), max_size=8))
def test_none_that_covers_is_overlooked(written: list[tuple[list[str], str]]) -> None:
    rules = [
        Rule(number, str(number), (Condition.of(fact, ["".join(pieces)]),), ALLOW)
        for number, (pieces, fact) in enumerate(written, 1)
    ]
    earlier = _Earlier(rules)
    for i, each in enumerate(rules):
        found = [other.number for other in earlier.candidates(i) if _covers(other, each)]
        assert found == [other.number for other in rules[:i] if _covers(other, each)]
        earlier.add(i)


class TestCriticalProcesses:
    @pytest.mark.parametrize(
        "image",
        ["lsass.exe", "c:/windows/system32/csrss.exe", "c:/windows/**", "**", "*.exe", "s*.exe"],
    )
    def test_a_rule_that_would_block_one_is_refused(self, image: str) -> None:
        with pytest.raises(
            PolicyError, match="line 2, column 9: rule 1 would block .*, which Windows cannot do without"
        ):
            Policy.parse(rule(f"image = '{image}'\nverdict = 'block'"))

    def test_also_under_a_condition_where_it_is_named(self) -> None:
        with pytest.raises(PolicyError, match="lsass"):
            Policy.parse(rule("image = '**/lsass.exe'\nuser = 'x'\nverdict = 'block'"))

    def test_also_where_it_blocks_everything(self) -> None:
        with pytest.raises(PolicyError, match='write default = "block" at the top'):
            Policy.parse(rule("verdict = 'block'"))

    @pytest.mark.parametrize(
        "text",
        [
            "default = 'block'",
            rule("image = 'c:/windows/system32/*'\nverdict = 'allow'") + rule("image = '**'\nverdict = 'block'"),
            rule("image = 'c:/temp/lsass.exe'\nverdict = 'block'"),
            rule("image = 'c:/windows/**'\nuser = 'guest'\nverdict = 'block'"),
            rule("image = '**'\nverdict = 'ask'"),
        ],
    )
    def test_what_spares_them_is_accepted(self, text: str) -> None:
        policy = Policy.parse(text)
        for name in INDISPENSABLE + SYSTEM_PROGRAMS:
            process = ProcessHelper(pid=8, parent_pid=4, image_name=f"c:\\windows\\system32\\{name}")
            assert policy.decide(process).verdict is ALLOW

    def test_the_driver_exempts_each_below_its_usual_creators(self) -> None:
        source = (ROOT / "driver/core/exempt.cpp").read_text(encoding="utf-8")
        exempt = dict(re.findall(r'literal\(u"([\w.]+\.exe)"\), (\w+)', source))
        assert exempt.keys() >= set(INDISPENSABLE + SYSTEM_PROGRAMS)
        assert {name for name, creators in exempt.items() if creators == "kAnyCreator"} == set(INDISPENSABLE)
        assert is_critical("c:\\windows\\system32\\lsass.exe")
        assert is_critical("c:\\windows\\syswow64\\werfault.exe")
        assert not is_critical("c:\\windows\\lsass.exe")
        assert is_indispensable("c:\\windows\\system32\\lsass.exe")
        assert not is_indispensable("c:\\windows\\system32\\werfault.exe")

    @pytest.mark.parametrize("name", SYSTEM_PROGRAMS)
    @pytest.mark.parametrize(
        "conditions",
        [
            "image = '{name}'",
            "image = '**/{name}'",
            "image = 'C:/Windows/System32/{name}'",
            "image = ['a.exe', '{name}']\ncommand_line = '*'",
            "image = {{ends_with = '\\{name}'}}",
            "[[rule.any]]\nimage = '{name}'\n[[rule.any]]\nimage = 'a.exe'",
        ],
    )
    def test_a_rule_that_names_a_system_program_blocks_it(self, name: str, conditions: str) -> None:
        """An attacker can start one suspended and replace its code; the driver holds it below such a creator."""
        policy = Policy.parse(rule("verdict = 'block'\n" + conditions.format(name=name)))
        path = f"c:\\windows\\system32\\{name}"
        process = ProcessHelper(pid=8, parent_pid=4, image_name=path, command_line="x")
        assert policy.decide(process).verdict is BLOCK

    @pytest.mark.parametrize(
        "conditions",
        [
            "image = ['a.exe', 'winlog*']\ncommand_line = '*'",
            "image = {contains = 'winlogon.exe'}",
            "image = 'c:/windows/**'\nparent = 'winlogon.exe'",
        ],
    )
    def test_a_rule_that_matches_a_system_program_without_naming_it_spares_it(self, conditions: str) -> None:
        path = "c:\\windows\\system32\\winlogon.exe"
        policy = Policy.parse(rule(conditions + "\nverdict = 'block'"), details=lambda _: SimpleNamespace(parent=path))
        process = ProcessHelper(pid=8, parent_pid=4, image_name=path, command_line="x")
        assert policy.decide(process).by is DecidedBy.EXEMPT
        assert policy.decide(replace(process, image_name="c:\\windows\\winlogon.exe")).verdict is BLOCK

    def test_a_system_program_that_runs_already_is_spared_by_every_rule(self) -> None:
        """A sweep would end it. One that was suspended before the driver was loaded is held, and has not run."""
        policy = Policy.parse(rule("image = 'winlogon.exe'\nverdict = 'block'"))
        path = "c:\\windows\\system32\\winlogon.exe"
        running = ProcessHelper(pid=8, parent_pid=4, image_name=path, flags=ProcessFlags.RUNNING_BEFORE)
        assert policy.decide(running).verdict is ALLOW
        assert policy.decide(replace(running, paused=True)).verdict is BLOCK

    def test_a_rule_that_names_a_system_program_goes_to_the_driver(self) -> None:
        path = "c:\\windows\\system32\\werfault.exe"
        assert Policy.parse(rule(f"image = '{path.replace(chr(92), '/')}'\nverdict = 'block'")).driver_rules() == [
            (path, BLOCK)
        ]

    def test_explain_says_that_only_a_rule_that_names_it_blocks_a_system_program(self) -> None:
        process = ProcessHelper(pid=8, parent_pid=4, image_name="c:\\windows\\system32\\conhost.exe")
        assert "only a rule that names it blocks it" in str(Policy.parse("default = 'block'").explain(process))
