"""Searches that no single test replaces: the core under many threads, under random bytes, and the handshake in every
order.

Each runs for a few seconds, or with ``PROCMON_LONG=1`` for a minute. docs/testing.md lists the faults that each has
caught. A missing tool is a failure whose message says how to install it.
"""

import importlib.util
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from core.harness import PROJECT, build
from patience import PATIENCE

LONG = os.environ.get("PROCMON_LONG") == "1"
SECONDS = 60 if LONG else 3
RUNS = 50_000 if LONG else 2_000
"""Of the fuzzer. A number, not a time: a busy machine makes few in a minute."""

HOST = PROJECT / "driver" / "host"
HANDSHAKE = PROJECT / "driver" / "model" / "handshake.pml"


def run(command: list[str], *, timeout: float, cwd: Path | None = None) -> str:
    """Run a command and return its output. Fails with all output on a status other than 0, or a timeout."""
    result = subprocess.run(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace", timeout=timeout, cwd=cwd
    )
    if result.returncode:
        pytest.fail(f"{' '.join(command)}: exit status {result.returncode}\n{result.stdout[-20_000:]}", pytrace=False)
    return result.stdout


def tool(name: str, package: str) -> str:
    """The path of a program."""
    path = shutil.which(name)
    if path is None:
        pytest.fail(f"{name} is not on PATH; on Debian: apt-get install {package}", pytrace=False)
    return path


@pytest.mark.parametrize("sanitizers", [["thread"], ["address", "undefined"]], ids="-".join)
def test_many_threads_lose_no_wake_up_and_mix_up_no_verdict(sanitizers: list[str]) -> None:
    program = build().host_program("stress", sanitizers)
    assert "no finding" in run([str(program), str(SECONDS)], timeout=SECONDS + PATIENCE)


def test_any_bytes_are_answered_without_harm(tmp_path: Path) -> None:
    program = build().host_program("fuzz", ["fuzzer", "address", "undefined"])
    found = tmp_path / "found"
    found.mkdir()
    options = [f"-runs={RUNS}", "-max_len=2048", "-timeout=120", f"-artifact_prefix={tmp_path}/"]
    output = run([str(program), *options, str(found), str(HOST / "corpus")], timeout=6 * PATIENCE)
    done = re.search(r"Done (\d+) runs", output)
    assert done and int(done.group(1)) >= RUNS, f"the fuzzer hardly ran:\n{output[-2000:]}"


def test_the_fuzzers_first_programs_are_those_that_seeds_py_writes() -> None:
    spec = importlib.util.spec_from_file_location("procmon_fuzz_seeds", HOST / "seeds.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    corpus = {path.name: path.read_bytes() for path in (HOST / "corpus").iterdir()}
    assert corpus == module.seeds(), "run python3 driver/host/seeds.py"


@pytest.mark.parametrize("timeout", [0, 1], ids=["without timeouts", "with timeouts"])
@pytest.mark.parametrize("processes", [2, 3] if LONG else [2])
def test_every_order_of_the_handshake_keeps_its_promises(tmp_path: Path, timeout: int, processes: int) -> None:
    run(
        [tool("spin", "spin"), f"-DPROCESSES={processes}", f"-DTIMEOUT={timeout}", "-a", str(HANDSHAKE)],
        timeout=60, cwd=tmp_path,
    )  # fmt: skip
    run([tool("gcc", "gcc"), "-O2", "-w", "-DNFAIR=3", "-o", "pan", "pan.c"], timeout=120, cwd=tmp_path)
    claims = re.findall(r"^ltl (\w+)", HANDSHAKE.read_text("utf-8"), re.MULTILINE)
    assert claims == ["released", "answerable", "ends"]
    if processes == 3:
        claims = ["answerable"]  # with all assertions; the other two would take minutes and gigabytes
    for claim in claims:
        report = run([str(tmp_path / "pan"), "-a", "-f", "-N", claim, "-m1000000"], timeout=600, cwd=tmp_path)
        complete = "errors: 0" in report and "Search not completed" not in report and "max search depth" not in report
        assert complete, f"the handshake breaks '{claim}':\n{report}\n{trail(tmp_path, timeout, processes)}"


def trail(folder: Path, timeout: int, processes: int) -> str:
    """The shortest path to the error that the checker recorded, as text."""
    if not (folder / "handshake.pml.trail").exists():
        return ""
    command = ["spin", f"-DPROCESSES={processes}", f"-DTIMEOUT={timeout}", "-t", "-p", "-k", "handshake.pml.trail"]
    return run([*command, str(HANDSHAKE)], timeout=60, cwd=folder)[-8000:]
