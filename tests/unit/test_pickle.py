"""Data for other processes: records, decisions and policies pickle, and are equal there."""

import pickle
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

import procmon
from procmon import BLOCK, DecidedBy, Decision, Policy, Problem, SimulatedGate, Statistics
from procmon.records import RuleNote

TEXT = '[[rule]]\nname = "no games"\nimage = "c:/games/**"\nverdict = "block"\nmessage = "Not here."\n'


def copied(thing: object) -> object:
    return pickle.loads(pickle.dumps(thing))


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
