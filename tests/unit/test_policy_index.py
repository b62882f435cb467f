"""The index of a policy: it finds the same rules as a test of each rule, and tests few. Rules are counted, not time."""

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import procmon
from policies import rule
from procmon import ALLOW, DEFER, Policy, ProcessHelper
from procmon.policy.facts import Facts
from procmon.policy.literals import Literals
from procmon.policy.rules import Rule
from procmon.system.ancestry import Ancestry

LINE = r'"c:\program files\vendor\updater.exe" --type=renderer --lang=de --handle=1718,i,1 /prefetch:1'
WORDS = ["alpha", "bravo", "charlie", "delta", "echo", "foxtrot", "golf", "hotel", "india", "juliet", "kilo", "lima"]


def process(line: str = LINE, image: str = "c:\\x\\updater.exe") -> ProcessHelper:
    return ProcessHelper(pid=8, parent_pid=4, image_name=image, command_line=line)


def rules(bodies: list[str]) -> Policy:
    return Policy.parse("".join(f"[[rule]]\n{body}\nverdict = 'ask'\n" for body in bodies), details=lambda _: None)


def words_of(i: int) -> list[str]:
    return [f" -{WORDS[i % 12]}{i:04}", f"{WORDS[i % 7]}/{i:04}", f"{WORDS[i % 5]}={i:04}", f"\\{i:04}.exe"]


def four_words(count: int) -> Policy:
    """Rules of four substrings of the command line, as imported detection rules have them."""
    return rules([f"command_line.contains_all = {json.dumps(words_of(i))}" for i in range(count)])


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The numbers of the rules that are evaluated."""
    numbers: list[int] = []
    matches = Rule.matches

    def counted(rule: Rule, facts: object) -> bool:
        numbers.append(rule.number)
        return matches(rule, facts)  # type: ignore[arg-type]

    monkeypatch.setattr(Rule, "matches", counted)
    return numbers


class TestRulesAsked:
    @pytest.mark.parametrize(
        "body",
        [
            "image = 'c:/vendor{0}/program.exe'", "image = 'program{0}.exe'", "image = '**/folder{0}/**'",
            "image = 'c:/vendor{0}/*.exe'", "image = {{ends_with = '/program{0}.exe'}}",
            "image = {{starts_with = 'c:/vendor{0}/'}}", "parent = 'program{0}.exe'",
            "command_line = '*--option{0} *'", "command_line = {{contains = ['--option{0} ', '/switch{0}:']}}",
            "image = 'updater.exe'\ncommand_line = {{contains = '--option{0} '}}",
            "command_line = {{contains = '.exe', starts_with = 'program{0}'}}",
            "any = [{{image = 'program{0}.exe'}}, {{command_line = '*program{0}*'}}]",
            "all = [{{image = 'updater.exe'}}, {{command_line = '*program{0}*'}}]",
            "image = 'updater.exe'\nunless = [{{command_line = '*-x*'}}]\nany = [{{command_line = '*program{0}*'}}]",
            "original_file_name = 'program{0}.exe'", "sha256 = '{0:064x}'", "user = 'user{0}'",
        ],
    )  # fmt: skip
    def test_none_of_a_thousand_that_need_something_else(self, body: str, asked: list[int]) -> None:
        details = SimpleNamespace(original_file_name="updater.exe", sha256="f" * 64, user="PC\\ann")
        text = "".join(f"[[rule]]\n{body.format(i)}\nverdict = 'ask'\n" for i in range(1000))
        policy = Policy.parse(text, details=lambda _: details)
        assert policy.decide(process()).who == ""
        assert asked == []

    def test_one_of_a_thousand_that_matches(self, asked: list[int]) -> None:
        policy = four_words(1200)
        assert policy.decide(process(" ".join([LINE, *words_of(700)]))).who == "701"
        assert asked == [701]

    def test_a_line_of_near_misses_asks_no_rule(self, asked: list[int]) -> None:
        policy = four_words(1200)
        near = "".join(f"{words_of(i)[0][:-1]}# " for i in range(1200))
        assert policy.decide(process((near * 4)[:32767])).who == ""
        assert asked == []

    def test_the_first_match_ends_the_search(self, asked: list[int]) -> None:
        policy = rules([f"command_line = {{contains = '{word}'}}" for word in ("--lang", "--type", "/prefetch")])
        assert policy.decide(process()).who == "1"
        assert asked == [1]

    def test_rules_that_need_nothing_are_asked_in_their_place(self, asked: list[int]) -> None:
        policy = rules(["image = 'b.exe'", "session = {at_least = 1}", "command_line = '*--lang*'", "image = '*'"])
        assert policy.decide(process()).who == "3"
        assert asked == [2, 3]


LETTERS = st.text("ab\u00e9\u4e00", min_size=1, max_size=12)


class TestLiterals:
    @pytest.fixture(autouse=True)
    def cut_even_few(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Otherwise the tests would need thousands of literals before texts are cut."""
        monkeypatch.setattr("procmon.policy.literals._FEW", 3)
        monkeypatch.setattr("procmon.policy.literals._FEW_SHORT", 3)

    @settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(
        st.lists(LETTERS, max_size=60, unique=True),
        st.lists(LETTERS | st.text(max_size=4), max_size=8).map("".join),
        st.data(),
    )
    def test_every_literal_that_is_in_a_text_is_found(self, words: list[str], text: str, data: st.DataObject) -> None:
        words += [f"{word}{i:07}" for i, word in enumerate(words)]  # too many to be sought one by one
        if words:
            text += "".join(data.draw(st.lists(st.sampled_from(words), max_size=4)))
        literals = Literals({word: [i] for i, word in enumerate(words)})
        assert sorted(literals.find(text)) == [i for i, word in enumerate(words) if word in text]

    @pytest.mark.parametrize("length", range(1, 20))
    def test_wherever_it_stands(self, length: int) -> None:
        others = {f"{'zyxwvuts'[i % 8]}{i:0{max(length - 1, 2)}}"[:length]: [i + 1] for i in range(40)}
        wanted = "abcdefghijklmnopqrstuvwxyz"[:length]
        literals = Literals({**others, wanted: [0]})
        for before in range(9):
            for after in range(5):
                assert 0 in set(literals.find("-" * before + wanted + "-" * after))
                assert 0 not in set(literals.find("-" * before + wanted[:-1] + "#" + "-" * after))

    def test_texts_that_are_not_ascii(self) -> None:
        words = [f"\u4e00\u4e8c{i}\u4e09\u56db\u00e9" for i in range(50)]
        literals = Literals({word: [i] for i, word in enumerate(words)})
        assert set(literals.find(f"x{words[7]}y\U0001f600{words[9]}")) == {7, 9}
        assert set(literals.find("?" * 100)) == set()


class TestLookUps:
    def test_a_fact_is_looked_up_when_the_search_comes_to_it(self) -> None:
        looked: list[str] = []

        class Details:
            def __getattr__(self, name: str) -> None:
                looked.append(name)

        text = "[[rule]]\nsession = 5\nverdict = 'ask'\n[[rule]]\nimage = 'updater.exe'\nverdict = 'ask'\n"
        policy = Policy.parse(text + "[[rule]]\nmd5 = '" + "a" * 32 + "'\nverdict = 'ask'", details=lambda _: Details())
        assert policy.decide(process()).who == "2"
        assert "md5" not in looked and "session" in looked

    def test_a_rule_that_asks_something_cheap_first_does_not_read_the_file_of_every_process(self) -> None:
        looked: list[str] = []

        class Details:
            session = 0

            def __getattr__(self, name: str) -> None:
                looked.append(name)

        text = "[[rule]]\nsession = {at_least = 1}\nsigner = 'Example'\nverdict = 'ask'"
        assert Policy.parse(text, details=lambda _: Details()).decide(process()).who == ""
        assert "signer" not in looked


class TestTheClockAndTheOrderOfTheGate:
    def test_a_clock_set_back_loses_no_parent(self) -> None:
        gate = procmon.SimulatedGate()
        policy = Policy.parse("[[rule]]\nparent = 'word.exe'\nverdict = 'block'")
        word = gate.start("c:/word.exe", parent_pid=4)
        policy.decide(word)
        assert word.created is not None
        child = replace(gate.start("c:/cmd.exe", parent_pid=word.pid), created=word.created - timedelta(seconds=2))
        assert policy.decide(child).verdict is procmon.BLOCK

    def test_a_clock_set_back_loses_no_parent_that_is_looked_up(self) -> None:
        noon = datetime(2026, 1, 31, 12, tzinfo=UTC)
        parent = ProcessHelper(pid=4, parent_pid=0, image_name="c:\\word.exe", created=noon)
        child = ProcessHelper(
            pid=8, parent_pid=4, image_name="c:\\a.exe", paused=True, created=noon - timedelta(seconds=2)
        )
        assert Ancestry({4: parent}.get).note(child).images == ("c:\\word.exe",)

    def test_among_processes_that_ran_before_a_younger_parent_is_a_pid_used_again(self) -> None:
        noon = datetime(2026, 1, 31, 12, tzinfo=UTC)
        running = {
            4: ProcessHelper(pid=4, parent_pid=12, image_name="c:\\shell.exe", created=noon),
            12: ProcessHelper(pid=12, parent_pid=0, image_name="c:\\later.exe", created=noon + timedelta(minutes=1)),
        }
        child = ProcessHelper(pid=8, parent_pid=4, image_name="c:\\a.exe", created=noon + timedelta(minutes=2))
        assert Ancestry(running.get).note(child).images == ("c:\\shell.exe",)


def test_a_reload_makes_a_new_index(tmp_path: Path) -> None:
    path = tmp_path / "policy.toml"
    for word in ("alpha", "bravo"):
        text = "".join(f"[[rule]]\ncommand_line = '*{word}{i} *'\nverdict = 'block'\n" for i in range(40))
        path.write_text(text, encoding="utf-8")
        if word == "alpha":
            policy = Policy.load(path)
        else:
            policy.reload()
        found = [policy.decide(process(f"x {each}7 ")).who for each in ("alpha", "bravo")]
        assert found == (["8", ""] if word == "alpha" else ["", "8"])


# ------------------------------------------------------------------------- against asking each rule in turn

IMAGES = st.sampled_from(["c:\\a.exe", "c:\\x\\a.exe", "d:\\x\\y\\b.exe", "c:\\x\\b.exe", ""])
PATTERNS = st.sampled_from(
    ["a.exe", "b.exe", "c:/a.exe", "c:/x/b.exe", "**/a.exe", "c:/**/b.exe", "*.exe", "c:/x/*", "**/x/**", "?.exe"]
)
HASHES = ["aa" * 32, "bb" * 32]


class Hashed:
    command_line = user = user_sid = signer = None
    session = 1

    def __init__(self, sha256: str | None) -> None:
        self.sha256 = sha256


@given(
    st.lists(
        st.fixed_dictionaries(
            {},
            optional={
                "image": st.lists(PATTERNS, min_size=1, max_size=2),
                "parent": st.lists(PATTERNS, min_size=1, max_size=2),
                "ancestor": st.lists(PATTERNS, min_size=1, max_size=2),
                "sha256": st.lists(st.sampled_from(HASHES), min_size=1, max_size=2),
                "session": st.sampled_from(["[0]", "[1]", "[0, 1]", "{at_most = 0}", "{at_least = 1}"]),
            },
        ),
        max_size=8,
    ),
    st.lists(IMAGES, min_size=1, max_size=3),
    st.sampled_from([*HASHES, None]),
)
def test_the_index_finds_what_asking_each_rule_in_turn_finds(
    bodies: list[dict[str, object]], line: list[str], sha256: str | None
) -> None:
    text = "".join(
        rule("\n".join([*(f"{key} = {values}" for key, values in body.items()), "verdict = 'ask'"])) for body in bodies
    )
    records = {pid: ProcessHelper(pid=pid, parent_pid=pid + 1, image_name=image) for pid, image in enumerate(line, 10)}
    policy = Policy.parse(text, lookup=records.get, details=lambda _: Hashed(sha256))
    facts = Facts(records[10], policy._ancestry, policy._details)
    in_turn = [each.name for each in policy._rules.rules if each.matches(facts)]
    assert [each.name for each in policy._rules.index.candidates(facts) if each.matches(facts)] == in_turn
    decision = policy.decide(records[10])
    assert decision.who == (in_turn[0] if in_turn else "")
    assert decision.verdict is (DEFER if in_turn else ALLOW)
