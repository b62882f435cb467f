"""Data for other processes: records, decisions and policies pickle, and are equal there."""

import copy
import pickle
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from types import SimpleNamespace

import pytest

import procmon
from procmon import BLOCK, DecidedBy, Decision, Policy, Problem, SimulatedGate, Statistics
from procmon.records import RuleNote

TEXT = '[[rule]]\nname = "no games"\nimage = "c:/games/**"\nverdict = "block"\nmessage = "Not here."\n'


def copied(thing: object) -> object:
    return pickle.loads(pickle.dumps(thing))


def as_a_field(thing: object) -> object:
    return asdict(_Holder(thing))["thing"]


@dataclass
class _Holder:
    thing: object


COPIES = [copied, copy.copy, copy.deepcopy, as_a_field]


@pytest.fixture
def process() -> procmon.ProcessHelper:
    return SimulatedGate().start("c:/games/chess.exe", command_line="chess")


def test_a_record_pickles_with_every_field(process: procmon.ProcessHelper) -> None:
    other = copied(process)
    assert isinstance(other, procmon.ProcessHelper) and other.as_dict() == process.as_dict()


def test_a_decision_pickles_with_every_field(process: procmon.ProcessHelper) -> None:
    decision = replace(
        Decision(process=process, verdict=BLOCK, by=DecidedBy.RULE, who="x", note=RuleNote(tags=("a",))),
        facts={"user": "ada"},
    )
    assert copied(decision) == decision


def test_statistics_and_problems_pickle() -> None:
    assert copied(Statistics(held=3)) == Statistics(held=3)
    problem = Policy.check('mode = "x"')[0]
    assert isinstance(problem, Problem) and copied(problem) == problem


def test_a_policy_decides_the_same_where_it_is_unpickled(process: procmon.ProcessHelper) -> None:
    policy = Policy.parse(TEXT)
    other = copied(policy)
    assert isinstance(other, Policy)
    here, there = policy.decide(process), other.decide(process)
    assert (there.verdict, there.who, there.note, there.policy) == (here.verdict, here.who, here.note, here.policy)
    assert repr(other) == repr(policy) and other.version == policy.version


def test_a_policy_of_files_can_be_reloaded_where_it_is_unpickled(tmp_path: Path) -> None:
    path = tmp_path / "policy.toml"
    path.write_text(TEXT)
    other = copied(Policy.load(path))
    assert isinstance(other, Policy)
    path.write_text('default = "block"')
    other.reload()
    assert other.default is BLOCK and len(other) == 0


def test_another_process_unpickles_a_policy() -> None:
    code = "import pickle, sys; print(pickle.load(sys.stdin.buffer))"
    command = [sys.executable, "-c", f"import sys; sys.path[:] = {sys.path!r}; {code}"]
    done = subprocess.run(command, input=pickle.dumps(Policy.parse(TEXT)), stdout=subprocess.PIPE, check=True)
    assert done.stdout.decode().strip() == repr(Policy.parse(TEXT))


def bob(process: procmon.ProcessHelper) -> object:
    return SimpleNamespace(user="bob")


def parent(pid: int) -> procmon.ProcessHelper:
    return procmon.ProcessHelper(pid=pid, parent_pid=0, image_name="c:\\parent.exe")


@pytest.mark.parametrize("how", COPIES)
@pytest.mark.parametrize("condition", ["user = 'bob'", "parent = 'parent.exe'"])
def test_a_copy_of_a_policy_keeps_its_look_ups(
    process: procmon.ProcessHelper, condition: str, how: Callable[[object], object]
) -> None:
    policy = Policy.parse(f"[[rule]]\n{condition}\nverdict = 'block'", details=bob, lookup=parent)
    other = how(policy)
    assert isinstance(other, Policy) and other is not policy
    assert other.decide(process).verdict is policy.decide(process).verdict is BLOCK


@pytest.mark.parametrize("how", COPIES)
def test_a_copy_of_a_policy_has_changed_when_its_file_has(tmp_path: Path, how: Callable[[object], object]) -> None:
    path = tmp_path / "policy.toml"
    path.write_text(TEXT)
    other = how(Policy.load(path))
    assert isinstance(other, Policy) and not other.has_changed()
    path.write_text('default = "block"')
    assert other.has_changed()


@pytest.mark.parametrize("how", [copy.copy, copy.deepcopy])
def test_a_copy_of_a_policy_knows_the_ancestors_and_counts_by_itself(how: Callable[[Policy], Policy]) -> None:
    gate = SimulatedGate()
    policy = Policy.parse("[[rule]]\nname = 'x'\nparent = 'word.exe'\nverdict = 'block'")
    word = gate.start("word.exe")
    policy.decide(word)
    other = how(policy)
    assert other.decide(gate.start("cmd.exe", parent_pid=word.pid)).verdict is BLOCK
    assert (policy.hits, other.hits) == ({"x": 0, "default": 1}, {"x": 1, "default": 0})


def test_a_policy_whose_look_up_does_not_pickle_is_not_pickled_without_it() -> None:
    with pytest.raises((pickle.PicklingError, AttributeError), match="lambda"):
        pickle.dumps(Policy.parse(TEXT, details=lambda _: None))
