"""The reactions of examples to changes while they run, which their sample output cannot show."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

import ask_on_console
import asyncio_service
import policy_with_reload
import procmon
from monitoring import until
from patience import PATIENCE

BLOCK_A = '[[rule]]\nimage = "a.exe"\nverdict = "block"\n'


@contextmanager
def running(main: Callable[[], None], gate: procmon.SimulatedGate) -> Iterator[None]:
    """Run an example in a thread until the block ends."""
    thread = threading.Thread(target=main)
    thread.start()
    try:
        yield
    finally:
        gate.end()
        thread.join(PATIENCE)
    assert not thread.is_alive()


def test_a_policy_that_is_edited_counts_from_then_on_and_a_broken_one_does_not(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, gate, printed = tmp_path / "policy.toml", procmon.SimulatedGate(), [""]

    def says(text: str) -> bool:
        printed[0] += capsys.readouterr().out
        return text in printed[0]

    path.write_text(BLOCK_A)
    with running(lambda: policy_with_reload.main(gate, path), gate):
        assert gate.verdict_of(gate.start("a.exe"), 10) is procmon.BLOCK
        path.write_text(BLOCK_A.replace("a.exe", "b.exe") + BLOCK_A.replace("a.exe", "c.exe"))
        until(lambda: says("2 rules"), "the edited policy is in force")
        assert gate.verdict_of(gate.start("a.exe"), 10) is procmon.ALLOW
        assert gate.verdict_of(gate.start("b.exe"), 10) is procmon.BLOCK
        path.write_text("[[rule]]\nverdict = ")
        until(lambda: says("the old rules stay in force"), "the broken policy is refused")
        assert gate.verdict_of(gate.start("c.exe"), 10) is procmon.BLOCK


def test_an_answer_that_comes_too_late_is_reported_and_the_next_question_follows(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    gate = procmon.SimulatedGate()
    slow, quick = gate.start("slow.exe"), gate.start("quick.exe")

    def answer(_prompt: str) -> str:
        if gate.verdict_of(slow, 0) is None:
            gate.time_out(slow)  # the user takes longer than the gate waits
        return "n"

    monkeypatch.setattr("builtins.input", answer)
    with running(lambda: ask_on_console.main(gate), gate):
        assert gate.verdict_of(quick, 10) is procmon.BLOCK
    assert "too late: " in capsys.readouterr().out
    assert gate.verdict_of(slow) is procmon.ALLOW


def test_a_process_that_dies_while_it_is_thought_about_ends_no_other_task(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    gate, think = procmon.SimulatedGate(), asyncio_service.reputation

    async def reputation(process: procmon.ProcessHelper) -> int:
        if process.name == "dies.exe":
            gate.exit(process, 1)
        return await think(process)

    monkeypatch.setattr(asyncio_service, "reputation", reputation)
    with running(lambda: asyncio_service.main(gate), gate):
        gate.start("dies.exe")
        assert gate.verdict_of(gate.start("slow.exe"), 10) is procmon.BLOCK
        assert gate.verdict_of(gate.start("hostname.exe"), 10) is procmon.ALLOW
    assert "too late: " in capsys.readouterr().out
