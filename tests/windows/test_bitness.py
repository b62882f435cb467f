"""32-bit programs (WOW64) under this Python, and a 32-bit controller of the driver: only the bitness differs.

The same program is built for both bitnesses (driver/client). It prints its bitness and its command line, may run
another one, and ends with a status that tells how deep the tree below it was.
"""

import hashlib
import os
import re
import subprocess
import sys
import threading
from pathlib import Path
from typing import cast

import pytest
from kernel import WineKernel

import procmon
from procmon import ALLOW, BLOCK, Integrity, ProcessHelper, Verdict
from procmon.gates import debug_loop
from procmon.gates.debug_loop import DebugLoop
from procmon.win32 import debug, kernel
from trees import BLOCKED, SOON, drive, held, next_held

ROOT = Path(__file__).resolve().parents[2]

CLIENTS = {32: ROOT / "build/driver/client-x86/client.exe", 64: ROOT / "build/driver/client-x64/client.exe"}
# On Windows the user builds them: python driver/build.py client-x64 client-x86
__test__ = kernel.is_wine() or all(path.exists() for path in CLIENTS.values())
STATUS_BREAKPOINT, STATUS_WX86_BREAKPOINT = 0x80000003, 0x4000001F
LEAF = 10  # the status of one that runs no other
PID = re.compile(r"#(\d+)")


def chain(*bits: int, end: str = "the end") -> str:
    """A command line: a client that runs a client that ... of these bitnesses."""
    return " run ".join(f'"{CLIENTS[each]}"' for each in bits) + f" {end}"


def lines(output: str | bytes) -> list[str]:
    assert isinstance(output, bytes)
    return output.decode("utf-8").splitlines()


# ------------------------------------------------------------------------------------------------------------- details


@pytest.mark.parametrize("bits", [32, 64])
def test_all_facts_of_a_held_program_and_of_the_same_one_running(bits: int, tmp_path: Path) -> None:
    """A held process has run nothing: its creator wrote the facts in its memory."""
    command = chain(bits, end="\u00fc \u4e2d\u6587 \U0001f600 " + "x" * 20_000 + " run cmd /q /k")
    output = tmp_path / "output"
    with open(output, "wb") as stdout, procmon.DebugGate.run(command, stdin=subprocess.PIPE, stdout=stdout) as gate:
        process, popen = next_held(gate), cast("subprocess.Popen[bytes]", gate.popen)
        with kernel.open_process(process.pid) as handle:
            assert kernel.is_wow64(handle) == (bits == 32)
        facts = known_facts(process.pid, command)
        assert process.command_line == command
        assert gate.allow(process) == [procmon.VerdictResult.DONE]
        child = next_held(gate)
        assert child.parent_pid == process.pid and child.name == "cmd.exe"
        assert known_facts(process.pid, command) == facts  # now it runs, and waits for its child
        gate.allow(child)
        drive(gate, until=lambda: not any(one.paused for one in gate.snapshot()))
        assert [one == process and not one.paused for one in procmon.processes() if one.pid == process.pid] == [True]
        assert [one.pid for one in procmon.tree(process)] == [process.pid, child.pid]
        popen.communicate(b"exit 41\r\n", timeout=SOON)
    assert lines(output.read_bytes())[0] == f"{bits} {command}"
    assert popen.returncode == 42


def known_facts(pid: int, command: str) -> dict[str, object]:
    """All facts of a client, looked up by its pid alone."""
    details = procmon.inspect(pid)
    ours = procmon.inspect(os.getpid())
    assert details.command_line == command
    path = details.path
    assert path is not None and path.lower().endswith("client.exe")
    assert details.user == ours.user and details.user_sid == ours.user_sid
    assert details.session == ours.session and details.elevated == ours.elevated
    assert isinstance(details.integrity, Integrity) and details.integrity == ours.integrity
    assert details.sha256 == hashlib.sha256(Path(path).read_bytes()).hexdigest()
    assert details.signature is not None and details.signature.status is procmon.SignatureStatus.UNSIGNED
    assert set(details.reasons) <= {"signer"}
    return details.as_dict()


def test_a_32_bit_program_of_windows_is_not_taken_for_its_64_bit_namesake() -> None:
    """Both have one name; Windows redirects System32 to SysWOW64 for a 32-bit program."""
    found = {}
    for folder in ("system32", "syswow64"):
        path = rf"c:\windows\{folder}\hostname.exe"
        with procmon.DebugGate.run([path], stdout=subprocess.DEVNULL) as gate:
            process = next_held(gate)
            assert process.image_name == path
            found[folder] = procmon.inspect(process).sha256
            assert found[folder] == hashlib.sha256(Path(path).read_bytes()).hexdigest()
            gate.block(process)
    assert found["system32"] != found["syswow64"]


# --------------------------------------------------------------------------------------------------------------- trees

TREES = [(64, 32, 64), (32, 64, 32), (32, 32, 32)]


@pytest.mark.parametrize("bits", TREES, ids=str)
def test_each_process_of_a_mixed_tree_is_held_and_then_runs_to_its_end(bits: tuple[int, ...]) -> None:
    with procmon.DebugGate.run(chain(*bits), stdout=subprocess.PIPE) as gate:
        records = drive(gate)
        assert gate.popen is not None
        output, _ = gate.popen.communicate(timeout=SOON)
    assert held(records) == ["client.exe"] * 3
    starts = [record for record in records if record.paused]
    assert [child.parent_pid for child in starts] == [os.getpid(), starts[0].pid, starts[1].pid]
    assert [start.command_line for start in starts] == [chain(*bits), chain(*bits[1:]), chain(*bits[2:])]
    assert lines(output) == [f"{each} {start.command_line}" for each, start in zip(bits, starts, strict=True)]
    ends = {record.pid: record.exit_status for record in records if record.exited}
    assert [ends[start.pid] for start in starts] == [LEAF + 2, LEAF + 1, LEAF]


@pytest.mark.parametrize("blocked", [0, 1, 2])
@pytest.mark.parametrize("bits", TREES, ids=str)
def test_a_blocked_process_of_a_mixed_tree_never_runs(bits: tuple[int, ...], blocked: int) -> None:
    seen: list[ProcessHelper] = []

    def decide(process: ProcessHelper) -> Verdict:
        seen.append(process)
        return BLOCK if len(seen) == blocked + 1 else ALLOW

    with procmon.DebugGate.run(chain(*bits), stdout=subprocess.PIPE) as gate:
        records = drive(gate, decide)
        assert gate.popen is not None
        output, _ = gate.popen.communicate(timeout=SOON)
    assert len(seen) == blocked + 1
    assert [line.split()[0] for line in lines(output)] == [str(each) for each in bits[:blocked]]
    ends = [record.exit_status for record in records if record.exited]
    assert ends == [BLOCKED + above for above in range(blocked + 1)]


@pytest.mark.parametrize("code", ["0xC0000005", "0xE0001234", "0x4000001F", "0x4000001E"])
def test_an_exception_of_a_32_bit_program_that_nobody_handles_ends_it_as_ever(code: str) -> None:
    """Windows reports a 32-bit program's breakpoint as 0x4000001F and its single step as 0x4000001E."""
    command = chain(32, end=f"raise {code}")
    free = subprocess.run(command, stdout=subprocess.DEVNULL, timeout=SOON).returncode & 0xFFFFFFFF
    with procmon.DebugGate.run(command, stdout=subprocess.DEVNULL) as gate:
        assert drive(gate)[-1].exit_status == free != LEAF


def status_of_a_breakpoint() -> int:
    """The exit status of a 32-bit program at a breakpoint. Under Wine 8 any breakpoint ends it, with 0."""
    done = subprocess.run(chain(32, end="break"), stdout=subprocess.DEVNULL, timeout=SOON)
    return done.returncode & 0xFFFFFFFF


def test_a_breakpoint_in_a_32_bit_program_ends_it_as_ever() -> None:
    free = status_of_a_breakpoint()
    assert free in (STATUS_BREAKPOINT, 0)
    with procmon.DebugGate.run(chain(32, end="break"), stdout=subprocess.DEVNULL) as gate:
        assert drive(gate)[-1].exit_status == free


def test_a_breakpoint_of_the_loader_is_kept_from_a_32_bit_program(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each half of the process has one, which it hits while it is marked as debugged."""
    taken: list[int] = []
    is_ours = DebugLoop._is_ours

    def note(loop: DebugLoop, pid: int, exception: debug.ExceptionInfo) -> bool:
        ours = is_ours(loop, pid, exception)
        taken.extend([exception.code] if ours else [])
        return ours

    monkeypatch.setattr(debug_loop, "_unmark", lambda handle, peb: False)
    monkeypatch.setattr(DebugLoop, "_is_ours", note)
    with procmon.DebugGate.run(chain(32, end="mark"), stdout=subprocess.PIPE) as gate:
        assert drive(gate)[-1].exit_status == LEAF
        assert gate.popen is not None and lines(gate.popen.communicate(timeout=SOON)[0])[1:] == ["debugged"]
    survives = status_of_a_breakpoint() == STATUS_BREAKPOINT  # otherwise .dev/wine32 has a loader without one
    assert bool(taken) == survives and set(taken) <= {STATUS_BREAKPOINT, STATUS_WX86_BREAKPOINT}
    assert len(taken) == len(set(taken))


def test_procmon_run_shows_a_mixed_tree_and_returns_its_status() -> None:
    command = [sys.executable, "-m", "procmon", "run", "--", str(CLIENTS[32]), "run", str(CLIENTS[64]), "leaf"]
    done = subprocess.run(command, capture_output=True, text=True, encoding="utf-8", timeout=SOON)
    assert done.returncode == LEAF + 1
    assert [line.split()[0] for line in done.stdout.splitlines()] == ["32", "64"]
    shown = done.stderr.splitlines()
    assert [Path(line.split()[3]) for line in shown[:-1]] == [CLIENTS[32], CLIENTS[64]]
    assert shown[-1] == "2 held: 2 allowed, 0 blocked"


def test_a_32_bit_program_is_not_marked_as_debugged_in_either_of_its_halves() -> None:
    """Otherwise the loader of one of the halves would stop at its own breakpoint."""
    with procmon.DebugGate.run(chain(32, end="mark"), stdout=subprocess.PIPE) as gate:
        process, popen = next_held(gate), gate.popen
        assert popen is not None
        assert gate._loop._living[process.pid].breakpoints == set()
        gate.allow(process)
        drive(gate)
        assert lines(popen.communicate(timeout=SOON)[0])[1:] == ["not debugged"]


def test_a_64_bit_program_that_a_32_bit_python_may_not_debug_is_refused_with_advice(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(*arguments: object, **options: object) -> None:
        raise OSError(22, "The request is not supported", None, 50)  # Windows' error; Wine debugs any process

    monkeypatch.setattr(subprocess, "Popen", refuse)
    with pytest.raises(OSError, match="not supported") as refused:
        procmon.DebugGate.run(["hostname"])
    assert refused.value.__notes__ == ["a 32-bit Python cannot debug a 64-bit program: use a 64-bit Python"]


# ---------------------------------------------------------------------------------------------- the driver's controller


def controlled(bits: int, tree: tuple[int, ...]) -> tuple[list[str], int]:
    """The output of a C++ controller of this bitness for a tree whose last process it blocks, and the tree's status.

    Pids differ from run to run: their order numbers replace them.
    """
    command = [str(CLIENTS[bits]), "control", str(len(tree) + 1), "hostname.exe"]
    with procmon.DriverService(), subprocess.Popen(command, stdout=subprocess.PIPE) as popen, WineKernel() as wine:
        assert popen.stdout is not None
        watchdog = threading.Timer(2 * SOON, popen.kill)
        watchdog.start()
        output = popen.stdout.readline() + popen.stdout.readline()  # then it has registered
        root = wine.run(chain(*tree, end="run hostname"), stdout=subprocess.DEVNULL)
        output += popen.stdout.read()
        assert popen.wait(SOON) == 0, output
        status = root.wait(SOON) & 0xFFFFFFFF
        watchdog.cancel()
    order = {str(os.getpid()): "us"}
    return [PID.sub(lambda pid: order.setdefault(pid[1], f"p{len(order)}"), line) for line in lines(output)], status


@pytest.mark.parametrize("tree", [(64,), (32, 64)], ids=str)
def test_a_controller_of_either_bitness_speaks_the_same_bytes(tree: tuple[int, ...]) -> None:
    narrow, wide = controlled(32, tree), controlled(64, tree)
    assert narrow == wide
    told, status = narrow
    assert status == (BLOCKED + len(tree)) & 0xFFFFFFFF
    kinds = [line.split()[0] for line in told]
    starts, ends = ["held", "allow"] * len(tree) + ["held", "block"], ["ended"] * (len(tree) + 1)
    assert kinds == ["info", "info", *starts, *ends, "info"]
    assert "not controlled by us" in told[0] and ", controlled by us" in told[1]
    assert f"held {len(tree) + 1}, allowed {len(tree)}, blocked 1" in told[-1]
    holds = [line for line in told if line.startswith("held")]
    assert holds[0].startswith("held p1 below us, ") and holds[0].endswith(chain(*tree, end="run hostname"))
    assert all(line.endswith(": 0") for line in told if line.startswith(("allow", "block")))
    assert f"status 0x{BLOCKED:X}" in next(line for line in told if line.startswith("ended"))
