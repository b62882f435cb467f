"""Policies: which rule decides, and the facts looked up for it."""

import functools
import gc
import time
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from types import MappingProxyType, SimpleNamespace
from typing import Any

import pytest

import procmon
from procmon import ALLOW, BLOCK, DEFER, DecidedBy, Policy, ProcessFlags, ProcessHelper
from procmon.policy.facts import Facts
from procmon.system.ancestry import Ancestry

_pids = iter(range(1000, 1_000_000, 4))


def process(image: str, *, parent: ProcessHelper | None = None, command_line: str | None = None) -> ProcessHelper:
    pid = next(_pids)
    return ProcessHelper(
        pid=pid,
        parent_pid=parent.pid if parent else 4,
        image_name=image.lower().replace("/", "\\"),
        start_key=pid,
        command_line=command_line,
    )


@dataclass
class FakeDetails:
    """The results of look-ups, and how often each was asked for."""

    command_line: str | None = None
    user: str | None = None
    user_sid: str | None = None
    session: int | None = None
    signer: str | None = None
    hash: str | None = None
    hashed: int = 0
    reasons: dict[str, str] = field(default_factory=dict)

    @property
    def sha256(self) -> str | None:
        self.hashed += 1
        return self.hash


def rules(*bodies: str, top: str = "") -> Policy:
    return Policy.parse(top + "".join(f"\n[[rule]]\n{body}\n" for body in bodies))


def block(image: str) -> str:
    return f"image = '{image}'\nverdict = 'block'"


class TestWhichRuleDecides:
    def test_the_first_that_matches(self) -> None:
        policy = rules("image = 'c:/tools/*'\nverdict = 'allow'", block("**/a.exe"), "verdict = 'ask'")
        assert policy.decide(process("c:/tools/a.exe")).verdict is ALLOW
        assert policy.decide(process("d:/a.exe")).verdict is BLOCK
        assert policy.decide(process("d:/b.exe")).verdict is DEFER

    @pytest.mark.parametrize("first", ["c:/tools/a.exe", "a.exe", "**/a.exe", "c:/**/*.exe", "*.exe", "A.EXE"])
    @pytest.mark.parametrize("second", ["c:/tools/a.exe", "a.exe", "**/a.exe", "c:/**/*.exe", "*.exe", "**"])
    def test_the_order_holds_whichever_way_a_rule_is_found(self, first: str, second: str) -> None:
        policy = rules(f"image = '{first}'\nverdict = 'ask'", f"image = '{second}'\nverdict = 'allow'")
        assert policy.decide(process("c:/tools/a.exe")).who == "1"

    def test_the_order_holds_among_many_of_one_name(self) -> None:
        others = [f"image = 'c:/{i}.exe'\nverdict = 'block'" for i in range(31)]
        policy = rules("image = 'a.exe'\nverdict = 'ask'", *others, "image = 'c:/tools/a.exe'\nverdict = 'block'")
        assert policy.decide(process("c:/tools/a.exe")).who == "1"

    def test_a_list_is_any_of_them(self) -> None:
        policy = rules("image = ['a.exe', 'c:/b/*.exe']\nverdict = 'block'")
        found = [policy.decide(process(image)).verdict for image in ("d:/a.exe", "c:/b/x.exe", "d:/b/x.exe")]
        assert found == [BLOCK, BLOCK, ALLOW]

    def test_all_keys_of_a_rule_must_match(self) -> None:
        policy = rules("image = 'a.exe'\ncommand_line = '*--bad*'\nverdict = 'block'")
        assert policy.decide(process("c:/a.exe", command_line="a.exe --BAD /x\\y")).verdict is BLOCK
        assert policy.decide(process("c:/a.exe", command_line="a.exe --good")).verdict is ALLOW
        assert policy.decide(process("c:/b.exe", command_line="b.exe --bad")).verdict is ALLOW

    def test_the_decision_names_the_rule(self) -> None:
        decision = rules("name = 'no a'\n" + block("a.exe")).decide(process("c:/a.exe"))
        assert (decision.by, decision.who) == (DecidedBy.RULE, "no a")
        assert repr(decision).endswith("by rule no a>")

    def test_without_a_match_the_default_decides(self) -> None:
        decision = rules(block("a.exe"), top="default = 'ask'").decide(process("c:/b.exe"))
        assert (decision.verdict, decision.by, decision.who) == (DEFER, DecidedBy.DEFAULT, "")

    def test_without_a_default_a_callback_has_no_opinion(self) -> None:
        policy = rules(block("a.exe"))
        assert policy(process("c:/b.exe")) is None
        decision = policy(process("c:/a.exe"))
        assert decision is not None and decision.verdict is BLOCK

    def test_a_critical_process_is_allowed_whatever_the_default(self) -> None:
        policy = rules(top="default = 'block'")
        decision = policy.decide(process("c:/windows/system32/csrss.exe"))
        assert (decision.verdict, decision.by) == (ALLOW, DecidedBy.EXEMPT)
        assert policy.decide(process("c:/temp/csrss.exe")).verdict is BLOCK


class TestParents:
    def test_the_parent_image_comes_from_what_was_asked_before(self) -> None:
        policy = rules("parent = 'word.exe'\nverdict = 'block'")
        word = process("c:/office/word.exe")
        assert policy.decide(word).verdict is ALLOW
        assert policy.decide(process("c:/cmd.exe", parent=word)).verdict is BLOCK
        assert policy.decide(process("c:/cmd.exe")).verdict is ALLOW

    def test_a_parent_without_a_name_is_not_known(self) -> None:
        """Its own parent is another process."""
        policy = rules("parent = 'explorer.exe'\nverdict = 'allow'", top="default = 'block'")
        line = rules("ancestor = 'explorer.exe'\nverdict = 'allow'", top="default = 'block'")
        nameless = process("", parent=(explorer := process("c:/explorer.exe")))
        child = process("c:/evil.exe", parent=nameless)
        for each in (policy, line):
            each.decide(explorer), each.decide(nameless)
        assert policy.decide(child).verdict is BLOCK
        assert "parent is not known: Windows gave its parent no name" in str(policy.explain(child))
        assert line.decide(child).verdict is ALLOW

    def test_an_ancestor_may_be_far_away_and_gone(self) -> None:
        policy = rules("ancestor = '**/office/*'\nimage = 'c.exe'\nverdict = 'block'")
        a = process("c:/office/a.exe")
        b = process("c:/b.exe", parent=a)
        c = process("c:/c.exe", parent=b)
        assert [policy.decide(p).verdict for p in (a, b, c)] == [ALLOW, ALLOW, BLOCK]

    def test_a_pid_used_again_does_not_change_who_the_parent_was(self) -> None:
        policy = rules("ancestor = 'good.exe'\nverdict = 'block'")
        good = process("c:/good.exe")
        child = process("c:/child.exe", parent=good)
        policy.decide(good), policy.decide(child)
        other = ProcessHelper(pid=good.pid, parent_pid=4, image_name="c:\\other.exe", start_key=next(_pids))
        policy.decide(other)
        assert policy.decide(child).verdict is BLOCK
        assert policy.decide(process("c:/x.exe", parent=other)).verdict is ALLOW

    def test_a_younger_process_of_the_parents_pid_is_not_the_parent(self) -> None:
        policy = rules("parent = 'late.exe'\nverdict = 'block'")
        orphan = process("c:/orphan.exe", parent=ProcessHelper(pid=77, parent_pid=4, image_name=""))
        late = ProcessHelper(pid=77, parent_pid=4, image_name="c:\\late.exe", start_key=next(_pids))
        policy.decide(late)
        assert policy.decide(orphan).verdict is ALLOW

    def test_a_parent_that_was_not_asked_about_is_not_taken_for_the_one_before_it(self) -> None:
        """Rules in the driver, exemptions and earlier callbacks keep processes from a policy; pids may be reused."""
        noon = datetime(2026, 1, 31, 12, tzinfo=UTC)

        def at(minute: int, pid: int, parent_pid: int, image: str) -> ProcessHelper:
            return ProcessHelper(
                pid=pid,
                parent_pid=parent_pid,
                image_name=f"c:\\{image}",
                start_key=minute,
                created=noon + timedelta(minutes=minute),
            )

        running: dict[int, ProcessHelper] = {}
        policy = Policy.parse("[[rule]]\nancestor = 'good.exe'\nverdict = 'allow'", lookup=running.get)
        policy.decide(at(1, 77, 4, "good.exe"))
        child = at(3, 80, 77, "child.exe")
        running[77] = at(2, 77, 4, "evil.exe")
        assert policy.decide(child).by is DecidedBy.DEFAULT
        running[77] = at(4, 77, 4, "later.exe")  # than the child: the known process had the pid then
        assert policy.decide(at(3, 84, 77, "child.exe")).by is DecidedBy.RULE
        del running[77]
        assert policy.decide(at(3, 88, 77, "child.exe")).by is DecidedBy.RULE

    def test_older_processes_are_looked_up(self) -> None:
        running = {
            10: ProcessHelper(pid=10, parent_pid=20, image_name="c:\\shell.exe"),
            20: ProcessHelper(pid=20, parent_pid=10, image_name="c:\\logon.exe"),  # a circle, by a reused pid
        }
        policy = Policy.parse("[[rule]]\nancestor = 'logon.exe'\nverdict = 'block'", lookup=running.get)
        child = ProcessHelper(pid=30, parent_pid=10, image_name="c:\\a.exe", start_key=1)
        assert policy.decide(child).verdict is BLOCK

    def test_a_chain_of_processes_does_not_grow_for_ever(self) -> None:
        policy = rules("ancestor = 'first.exe'\nverdict = 'block'")
        last = process("c:/first.exe")
        for _ in range(500):
            policy.decide(last)
            last = process("c:/next.exe", parent=last)
        assert policy.decide(last).verdict is ALLOW


class TestDetails:
    def decide(self, rule: str, details: FakeDetails, image: str = "c:/a.exe") -> procmon.Verdict:
        policy = Policy.parse(f"[[rule]]\n{rule}\nverdict = 'block'", details=lambda _: details)
        return policy.decide(process(image)).verdict

    @pytest.mark.parametrize(
        "rule",
        [
            "user = 'alice'",
            "user = 'DESKTOP/Alice'",
            "user = 'S-1-5-21-1'",
            "session = [1, 2]",
            "signer = 'Example A/S*'",
            "command_line = '*/c del *'",
            f"sha256 = '{'AB' * 32}'",
        ],
    )
    def test_what_the_record_does_not_say_is_looked_up(self, rule: str) -> None:
        details = FakeDetails("cmd /c del x", "DESKTOP\\Alice", "S-1-5-21-1", 2, "Example A/S, Denmark", "ab" * 32)
        assert self.decide(rule, details) is BLOCK
        assert self.decide(rule, FakeDetails("b", "b\\b", "S-1-5-18", 0, "b", "cd" * 32)) is ALLOW
        assert self.decide(rule, FakeDetails()) is ALLOW

    def test_nothing_is_looked_up_that_no_rule_needs(self) -> None:
        details = FakeDetails(hash="ab" * 32)
        assert self.decide(f"image = 'b.exe'\nsha256 = '{'ab' * 32}'", details) is ALLOW
        assert details.hashed == 0
        policy = Policy.parse(
            f"[[rule]]\nimage = 'a.exe'\nverdict = 'allow'\n[[rule]]\nsha256 = '{'ab' * 32}'\nverdict = 'block'",
            details=lambda _: details,
        )
        assert policy.decide(process("c:/a.exe")).verdict is ALLOW
        assert details.hashed == 0
        assert policy.decide(process("c:/b.exe")).verdict is BLOCK
        assert details.hashed == 1

    @pytest.mark.parametrize("rule", ["parent = 'make.exe'", "ancestor = 'make.exe'", "image = 'c.exe'", "session = 1"])
    @pytest.mark.parametrize("later", ["sha256 = '{}'", "user = 'b'\nsha256 = '{}'", "signer = 'b'", "user = 'b'"])
    def test_nothing_is_looked_up_that_only_later_rules_need(self, rule: str, later: str) -> None:
        text = f"[[rule]]\n{rule}\nverdict = 'block'\n[[rule]]\n{later.format('ab' * 32)}\nverdict = 'ask'"
        asked = set()

        class Details(FakeDetails):
            def __getattribute__(self, name: str) -> object:
                asked.add(name)
                return 1 if name == "session" else None

        policy = Policy.parse(text, details=lambda _: Details())
        make = process("c:/make.exe")
        policy.decide(make)
        asked.clear()
        assert policy.decide(process("c:/c.exe", parent=make)).verdict is BLOCK
        assert not asked & {"sha256", "signer", "user"}

    def test_a_look_up_that_fails_matches_nothing_and_says_why(self) -> None:
        def fail(_: ProcessHelper) -> FakeDetails:
            raise procmon.AccessDenied("OpenProcess: access is denied; run as administrator")

        policy = Policy.parse("[[rule]]\nuser = '*'\nverdict = 'block'", details=fail)
        assert policy.decide(process("c:/a.exe")).verdict is ALLOW
        assert "user is not known: OpenProcess: access is denied" in str(policy.explain(process("c:/a.exe")))

    @pytest.mark.parametrize("found", [{"user": "bob"}, MappingProxyType({"user": "bob"}), "bob", ["bob"], 4, object])
    def test_details_without_attributes_for_facts_are_an_error(self, found: object) -> None:
        policy = Policy.parse("[[rule]]\nuser = 'bob'\nverdict = 'block'", details=lambda _: found)
        with pytest.raises(TypeError, match=r"details returns an object with attributes, such as .*; not"):
            policy.decide(process("c:/a.exe"))

    @pytest.mark.parametrize("found", ["a.exe", (4, "a.exe"), SimpleNamespace(image_name="a.exe")])
    @pytest.mark.parametrize("fact", ["parent", "creator"])
    def test_a_look_up_that_returns_no_record_is_an_error(self, found: Any, fact: str) -> None:
        policy = Policy.parse(f"[[rule]]\n{fact} = 'a.exe'\nverdict = 'block'", lookup=lambda _: found)
        with pytest.raises(TypeError, match="lookup returns a ProcessHelper, or None"):
            policy.decide(replace(process("c:/b.exe"), creator_pid=8))

    @pytest.mark.parametrize("option", ["details", "lookup"])
    def test_look_ups_are_functions_that_return_their_result(self, option: str) -> None:
        async def ask(_: object) -> None: ...

        def generate(_: object) -> Iterator[None]:
            yield

        given: list[Any] = [{}, {4: "a.exe"}, SimpleNamespace(user="bob"), ask, functools.partial(ask), generate]
        for one in given:
            with pytest.raises(TypeError, match=f"{option} is a function that returns its result; not"):
                Policy.parse("", **{option: one})
        with pytest.raises(TypeError, match="details is a function"):
            Policy.parse("").for_the_past(given[0])

    @pytest.mark.parametrize(("option", "argument"), [("details", "ProcessHelper"), ("lookup", "pid")])
    def test_look_ups_take_one_argument(self, option: str, argument: str) -> None:
        given: list[Any] = [lambda: None, lambda one, two: None]
        for one in given:
            with pytest.raises(TypeError, match=f"{option} is called with one {argument}; .* cannot be:"):
                Policy.parse("", **{option: one})

    @pytest.mark.parametrize("rule", ["user = 'bob'", "parent = 'a.exe'"])
    def test_a_look_up_that_returns_a_coroutine_is_an_error_and_no_warning(self, rule: str) -> None:
        async def ask() -> Any: ...

        text = f"[[rule]]\n{rule}\nverdict = 'block'"
        policy = Policy.parse(text, details=lambda _: ask(), lookup=lambda _: ask())  # type: ignore[arg-type,return-value]
        with warnings.catch_warnings(action="error"), pytest.raises(TypeError, match="not <coroutine object"):
            policy.decide(process("c:/a.exe"))
            gc.collect()

    @pytest.mark.parametrize(
        ("rule", "details", "said"),
        [
            ("session = 1", FakeDetails(reasons={"session": "it has gone"}), "session is not known: it has gone"),
            ("signer = 'b'", FakeDetails(reasons={"signer": "unsigned"}), "signer is not known: unsigned"),
            ("user = 'b'", FakeDetails(reasons={"user": "access denied"}), "user is not known: access denied"),
            (
                "user = 'b'",
                FakeDetails(user_sid="S-1-5-21-1", reasons={"user": "no answer"}),
                "user s-1-5-21-1 is not b; its name is not known: no answer",
            ),
            (
                "user = 'S-1-5-18'",
                FakeDetails(user="PC\\ann", reasons={"user_sid": "no answer"}),
                "user pc\\ann is not S-1-5-18; its SID is not known: no answer",
            ),
            ("user = 'b'", FakeDetails(user="PC\\a", user_sid="S-1", reasons={}), "user pc\\a or s-1 is not b\n"),
            ("parent = 'b.exe'", FakeDetails(), "parent is not known: no process 4 is known"),
            ("sha256 = '" + "ab" * 32 + "'", FakeDetails(), "sha256 is not known\n"),
        ],
    )
    def test_an_explanation_says_why_a_fact_is_not_known(self, rule: str, details: FakeDetails, said: str) -> None:
        policy = Policy.parse(f"[[rule]]\n{rule}\nverdict = 'block'", details=lambda _: details)
        assert said in str(policy.explain(process("c:/a.exe")))

    def test_an_explanation_says_where_nothing_looks_facts_up(self) -> None:
        facts = Facts(process("c:/a.exe"), Ancestry(), None)
        assert facts.values("user") == ()
        assert facts.failures["user"] == "it is looked up on Windows, or by details="


class TestAudit:
    def test_audit_mode_says_what_it_would_have_done(self) -> None:
        policy = rules(block("a.exe"), "image = 'b.exe'\nverdict = 'allow'", top="mode = 'audit'")
        decision = policy.decide(process("c:/a.exe"))
        assert (decision.verdict, decision.audited) == (BLOCK, True)
        assert not policy.decide(process("c:/b.exe")).audited

    def test_one_rule_alone_can_be_tried_out(self) -> None:
        policy = rules(block("a.exe") + "\naudit = true", block("b.exe"))
        assert policy.decide(process("c:/a.exe")).audited
        assert not policy.decide(process("c:/b.exe")).audited


class TestHits:
    def test_each_rule_counts_its_decisions(self) -> None:
        policy = rules("name = 'a'\n" + block("a.exe"), block("b.exe"))
        for image in ("c:/a.exe", "c:/a.exe", "c:/x.exe"):
            policy.decide(process(image))
        assert policy.hits == {"a": 2, "2": 0, "default": 1}
        policy.explain(process("c:/a.exe"))
        assert policy.hits["a"] == 2


@pytest.mark.parametrize("pattern", ["c:/ΟΔΟΣ/a.exe", "c:/ΟΔΟΣ/*.exe", "**/ΟΔΟΣ/**"])
def test_letters_are_lowered_one_by_one_as_windows_does(pattern: str) -> None:
    started = procmon.SimulatedGate().start("C:/ΟΔΟΣ/A.EXE")  # `str.lower` knows another sigma for the end of a word
    assert started.image_name == "c:\\οδοσ\\a.exe"
    assert rules(block(pattern)).decide(started).verdict is BLOCK


def test_a_hash_in_capitals_is_the_same_hash() -> None:
    policy = Policy.parse(
        f"[[rule]]\nsha256 = '{'AB' * 32}'\nverdict = 'block'", details=lambda _: FakeDetails(hash="Ab" * 32)
    )
    asked = process("c:/a.exe")
    assert policy.decide(asked).verdict is policy.explain(asked).decision.verdict is BLOCK


def test_a_command_line_that_was_cut_is_looked_up() -> None:
    """Otherwise padding could evade a rule."""
    cut = replace(process("c:/a.exe", command_line="a    "), flags=ProcessFlags.COMMAND_LINE_TRUNCATED)
    text = "[[rule]]\ncommand_line = '*/evil'\nverdict = 'block'"
    whole = FakeDetails(command_line="a    /evil")
    assert Policy.parse(text, details=lambda _: whole).decide(cut).verdict is BLOCK
    ends_in_spaces = "[[rule]]\ncommand_line = '* '\nverdict = 'block'"  # the known part must suffice
    assert Policy.parse(ends_in_spaces, details=lambda _: FakeDetails()).decide(cut).verdict is BLOCK
    assert Policy.parse(ends_in_spaces, details=lambda _: whole).decide(cut).verdict is ALLOW

    def fail(_: ProcessHelper) -> FakeDetails:
        raise procmon.StaleProcess("it has gone")

    assert Policy.parse(ends_in_spaces, details=fail).decide(cut).verdict is BLOCK
    explained = str(Policy.parse(text, details=fail).explain(cut))
    assert "command line a     is not */evil; only its beginning is known: it has gone" in explained


def test_no_command_line_takes_long_to_compare() -> None:
    """An attacker chooses it, and a comparison delays all other threads."""
    policy = rules("command_line = '*-enc*-nop*bypass*'\nverdict = 'block'")
    begin = time.thread_time()  # CPU time of this thread, whatever else the machine does
    assert policy.decide(process("c:/a.exe", command_line="-enc -nop " * 3_200)).verdict is ALLOW
    assert policy.decide(process("c:/a.exe", command_line="-enc -nop " * 3_200 + "[BYPASS]")).verdict is BLOCK
    assert time.thread_time() - begin < 5


def test_a_process_without_a_name_matches_no_image() -> None:
    nameless = process("")
    policy = rules("image = '*'\nverdict = 'ask'", top="default = 'block'")
    assert policy.decide(nameless).verdict is BLOCK
    assert "image is not known" in str(policy.explain(nameless))


def test_the_repr_says_what_it_is() -> None:
    assert repr(rules(block("a.exe"), top="mode = 'audit'\ndefault = 'ask'")) == (
        "<Policy <text>: 1 rule, audit only, default ask>"
    )


class TestExactRules:
    def test_paths_alone_can_be_handed_to_a_driver(self) -> None:
        policy = rules(block("C:/a.exe"), "image = ['d:/b.exe', 'd:/c.exe']\nverdict = 'allow'")
        assert policy.driver_rules() == [("c:\\a.exe", BLOCK), ("d:\\b.exe", ALLOW), ("d:\\c.exe", ALLOW)]

    @pytest.mark.parametrize(
        "earlier",
        ["image = '**/a.exe'", "image = 'a.exe'", "command_line = '*x*'", "image = 'c:/a.exe'\nuser = 'b'", ""],
    )
    def test_not_where_an_earlier_rule_might_decide(self, earlier: str) -> None:
        assert rules(earlier + "\nverdict = 'allow'", block("c:/a.exe")).driver_rules() == []

    def test_a_pattern_keeps_back_only_what_it_matches(self) -> None:
        asking = [f"image = '{pattern}'\nverdict = 'ask'" for pattern in ("c:/x/**", "d:/**/a.exe")]
        policy = rules(*asking, block("c:/x/a.exe"), block("c:/y/a.exe"))
        assert policy.driver_rules() == [("c:\\y\\a.exe", BLOCK)]

    @pytest.mark.parametrize("image", ["/device/harddiskvolume2/a.exe", "**/a.exe", "/?/c:/a.exe", "c:/\u0130.exe"])
    def test_paths_that_a_driver_compares_in_another_way_stay_here(self, image: str) -> None:
        """A native path would match there although the process has a drive letter, which the policy uses."""
        assert rules(block(image)).driver_rules() == []

    def test_letters_of_any_script_are_handed_over(self) -> None:
        assert rules(block("c:/ΟΔΟΣ/a.exe")).driver_rules() == [("c:\\οδοσ\\a.exe", BLOCK)]
        assert rules(block("//server/share/a.exe")).driver_rules() == [("\\\\server\\share\\a.exe", BLOCK)]

    def test_what_asks_or_only_audits_stays_here(self) -> None:
        asking = "image = 'c:/a.exe'\nverdict = 'ask'"
        assert rules(asking, block("c:/a.exe"), block("c:/b.exe") + "\naudit = true").driver_rules() == []
        assert rules(block("c:/a.exe"), top="mode = 'audit'").driver_rules() == []


@pytest.mark.parametrize(
    ("text", "asks"),
    [
        ("default = 'ask'", True),
        ("mode = 'audit'\ndefault = 'ask'", False),
        ("[[rule]]\nimage = 'a.exe'\nverdict = 'ask'", True),
        ("[[rule]]\nimage = 'a.exe'\nverdict = 'ask'\naudit = true", False),
        ("default = 'block'", False),
    ],
)
def test_a_policy_that_only_audits_asks_about_no_process(text: str, asks: bool) -> None:
    assert Policy.parse(text).asks is asks


def test_an_image_in_any_spelling_is_matched() -> None:
    policy = Policy.parse("[[rule]]\nimage = 'c:/x/**'\nverdict = 'block'")
    assert policy.decide(ProcessHelper(pid=8, parent_pid=4, image_name="C:/X/Y/A.exe")).verdict is BLOCK


def test_a_decision_has_the_command_line_of_a_parent_that_is_the_childs_own() -> None:
    policy = Policy.parse("[[rule]]\nparent_command_line = '*install*'\nverdict = 'block'", lookup=lambda _: None)
    parent = ProcessHelper(pid=4, parent_pid=0, image_name="c:\\setup.exe", command_line="setup /install", start_key=1)
    child = replace(parent, pid=8, parent_pid=4, start_key=2)  # a program that starts itself again
    policy.decide(parent)
    assert policy.decide(child).facts == {"parent_command_line": "setup /install"}
