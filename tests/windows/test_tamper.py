"""The check before a release, on real processes whose memory was changed from outside before they ran.

Under Wine driver/wine/kernel.py plays the kernel's part for DriverGate. Wine does not report which pages of another
process are private, so the check compares only the code at the entry point.
"""

import ctypes
import io
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

import procmon
from driven import BLOCKED, SOON, Run, held, opened, telling_kernel
from procmon import ALLOW, BLOCK, DebugGate, DecidedBy, DriverGate, ProcessFlags, ProcessHelper, VerdictResult
from procmon.gates import release_check
from procmon.system.pe import PortableExecutable
from procmon.system.tamper import find_tampering
from procmon.win32 import memory
from procmon.win32.files import open_shared
from procmon.win32.kernel import is_wine, open_process
from procmon.win32.privilege import debug_privilege
from trees import drive, eventually, next_held
from windows.hollowing import ATTACKS, HOLLOWED, change_entry

ROOT = Path(__file__).resolve().parents[2]
CLIENTS = {32: ROOT / "build/driver/client-x86/client.exe", 64: ROOT / "build/driver/client-x64/client.exe"}
# On Windows the user builds them: python driver/build.py client-x64 client-x86
__test__ = is_wine() or all(path.exists() for path in CLIENTS.values())
RAN = 10  # the status of a client that runs

Held = Callable[..., "tuple[Any, ProcessHelper, subprocess.Popen[bytes]]"]


@pytest.fixture(autouse=True)
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """A busy machine is no attack."""
    monkeypatch.setattr(release_check, "TIMEOUT_S", SOON)


@contextmanager
def debugged(command: str, **options: Any) -> Iterator[tuple[DebugGate, ProcessHelper, "subprocess.Popen[bytes]"]]:
    with DebugGate.run(command, stdout=subprocess.PIPE, **options) as gate:
        process = next_held(gate)
        assert gate.popen is not None
        yield gate, process, gate.popen  # type: ignore[misc]


@pytest.fixture(scope="module")
def run(service: procmon.DriverService) -> Iterator[Run]:
    with telling_kernel() as run:
        yield run


@pytest.fixture(params=["DebugGate", "DriverGate"])
def hold(request: pytest.FixtureRequest) -> Iterator[Any]:
    """A context in which a checking gate holds a command: the gate, the record, the program."""
    if request.param == "DebugGate":
        yield debugged
        return
    start: Run = request.getfixturevalue("run")

    @contextmanager
    def driven(command: str, **options: Any) -> Iterator[tuple[DriverGate, ProcessHelper, "subprocess.Popen[bytes]"]]:
        with opened(**options) as gate:
            program = start(command, stdout=subprocess.PIPE)
            [process] = held(gate, program.pid)
            yield gate, process, program

    yield driven


def again(gate: Any, process: ProcessHelper) -> ProcessHelper:
    """The next record of a held process."""
    found: list[ProcessHelper] = []

    def look() -> bool:
        gate.wait(0.1)
        found.extend(one for one in gate.fetch() if one.pid == process.pid)
        return bool(found)

    assert eventually(look), "its record was not returned again"
    return found[0]


# ------------------------------------------------------------------------------------------------------- what is found


@pytest.mark.promise(
    "A process is not released when the check of its memory finds code that differs from its file", gate="DebugGate"
)
@pytest.mark.parametrize("bits", [64, 32])
@pytest.mark.parametrize("attack", ATTACKS.values(), ids=ATTACKS.keys())
def test_a_program_whose_memory_was_changed_is_blocked_instead(
    hold: Any, bits: int, attack: Callable[[int, Path], None], tmp_path: Path
) -> None:
    with hold(f'"{CLIENTS[bits]}"', check_before_release=True) as (gate, process, program):
        attack(process.pid, tmp_path)
        assert gate.allow(process) == [VerdictResult.TAMPERED]
        record = again(gate, process)
        assert (record.verdict, record.decided_by, record.paused) == (BLOCK, DecidedBy.TAMPER, False)
        assert ProcessFlags.TAMPERED in record.flags
        output, _ = program.communicate(timeout=SOON)
        assert (output, program.returncode & 0xFFFFFFFF) == (b"", BLOCKED)


@pytest.mark.parametrize("bits", [64, 32])
def test_without_the_check_the_other_code_runs(hold: Any, bits: int) -> None:
    with hold(f'"{CLIENTS[bits]}"') as (gate, process, program):
        change_entry(process.pid)
        assert gate.allow(process) == [VerdictResult.DONE]
        assert program.wait(SOON) == HOLLOWED


@pytest.mark.parametrize("bits", [64, 32])
def test_with_on_tamper_allow_it_runs_and_the_record_tells(hold: Any, bits: int) -> None:
    options = {"check_before_release": True, "on_tamper": ALLOW}
    with hold(f'"{CLIENTS[bits]}"', **options) as (gate, process, program):
        change_entry(process.pid)
        assert gate.allow(process) == [VerdictResult.DONE]
        record = again(gate, process)
        assert (record.verdict, record.decided_by) == (ALLOW, DecidedBy.TAMPER)
        assert ProcessFlags.TAMPERED in record.flags
        assert program.wait(SOON) == HOLLOWED


PROGRAMS = [f'"{CLIENTS[64]}"', f'"{CLIENTS[32]}"', "cmd /c exit 10", f'"{sys.executable}" -c "raise SystemExit(10)"']


@pytest.mark.parametrize("command", PROGRAMS, ids=["64 bits", "32 bits", "cmd", "python"])
def test_a_program_that_nothing_was_done_to_runs(hold: Any, command: str) -> None:
    with hold(command, check_before_release=True) as (gate, process, program):
        assert gate.allow(process) == [VerdictResult.DONE]
        assert program.wait(SOON) == RAN


def test_one_that_was_created_suspended_changed_and_resumed_is_blocked() -> None:
    """The whole attack, by a program of the tree; the gate sees only the changed memory."""
    call = f"hollowing.start_suspended_and_hollow({str(CLIENTS[64])!r})"
    code = f"from windows import hollowing; raise SystemExit({call} & 0xFF)"
    command = [sys.executable, "-c", code]
    with DebugGate.run(command, stdout=subprocess.PIPE, check_before_release=True) as gate:
        attacker = next_held(gate)
        assert gate.allow(attacker) == [VerdictResult.DONE]
        child = next_held(gate)
        assert gate.popen is not None and gate.popen.stdout is not None
        assert gate.popen.stdout.readline().strip() == b"hollowed"
        assert gate.allow(child) == [VerdictResult.TAMPERED]
        drive(gate)
        gate.popen.communicate(timeout=SOON)
        assert gate.popen.returncode & 0xFF == BLOCKED & 0xFF


def test_a_monitor_tells_of_it_by_its_decisions_and_counts() -> None:
    def decide(process: ProcessHelper) -> procmon.Verdict:
        change_entry(process.pid)
        return ALLOW

    gate = DebugGate.run(f'"{CLIENTS[64]}"', stdout=subprocess.DEVNULL, check_before_release=True)
    monitor = procmon.Monitor(gate)
    monitor.subscribe(decide)
    with monitor:
        assert gate.popen is not None
        assert gate.popen.wait(SOON) & 0xFFFFFFFF == BLOCKED
        assert eventually(lambda: monitor.statistics.tampered == 1 and len(monitor.history) == 2)
    decisions = {(one.verdict, one.by) for one in monitor.history}
    assert decisions == {(ALLOW, DecidedBy.CALLBACK), (BLOCK, DecidedBy.TAMPER)}


def test_one_that_has_gone_is_no_attack(hold: Any) -> None:
    with hold(f'"{CLIENTS[64]}"', check_before_release=True) as (gate, process, program):
        program.kill()
        [result] = gate.allow(process)
        assert result is not VerdictResult.TAMPERED
        program.communicate(timeout=SOON)
    assert find_tampering(process) == ""


# ------------------------------------------------------------------------------------------------------- what it needs


@pytest.mark.parametrize("name", ["python3.dll", f"python3{sys.version_info.minor}.dll", "_ctypes.pyd"])
def test_code_is_predicted_for_the_place_where_windows_has_put_it(name: str) -> None:
    """Their preferred address is the same, so Windows has moved all but one; and they run."""
    kernel32 = ctypes.WinDLL("kernel32")
    kernel32.GetModuleHandleW.restype = ctypes.c_void_p
    base = kernel32.GetModuleHandleW(name)
    assert base, f"{name} is not loaded"
    path = ctypes.create_unicode_buffer(1024)
    kernel32.GetModuleFileNameW(ctypes.c_void_p(base), path, len(path))
    with open_shared(path.value) as file:
        expected = PortableExecutable(io.BytesIO(file.read())).code_at_entry(base)
    if expected is not None:  # python3.dll has no code of its own
        assert ctypes.string_at(base + expected.address, len(expected.code)) == expected.code
    assert (expected is None) == (name == "python3.dll")


def test_pages_that_were_written_to_are_told_of_this_process() -> None:
    """Wine reports this for the current process only; Windows also for others."""
    own = (1 << 8 * ctypes.sizeof(ctypes.c_void_p)) - 1  # the result of GetCurrentProcess
    kernel32 = ctypes.WinDLL("kernel32")
    kernel32.GetModuleHandleW.restype = ctypes.c_void_p
    code = kernel32.GetModuleHandleW("kernel32.dll") + memory.PAGE_BYTES
    private = ctypes.create_string_buffer(b"x" * 2 * memory.PAGE_BYTES)
    page = (ctypes.addressof(private) + memory.PAGE_BYTES - 1) & -memory.PAGE_BYTES
    assert memory.read(own, code, 1) and memory.read(own, page, 1) == b"x"
    assert memory.private_pages(own, [code, page]) == [page]


def test_a_privilege_is_that_of_one_thread_for_a_while() -> None:
    advapi32 = ctypes.WinDLL("advapi32", use_last_error=True)
    token = ctypes.c_void_p()
    thread = ctypes.c_void_p(-2)  # the result of GetCurrentThread

    def impersonates() -> bool:
        query = 0x0008
        found = advapi32.OpenThreadToken(thread, query, True, ctypes.byref(token))
        if found:
            ctypes.WinDLL("kernel32").CloseHandle(token)
        return bool(found)

    assert not impersonates()
    with debug_privilege():
        assert impersonates()
    assert not impersonates()
    with pytest.raises(ZeroDivisionError), debug_privilege():
        raise ZeroDivisionError
    assert not impersonates()


def test_a_look_leaves_no_handle_open() -> None:
    with DebugGate.run(f'"{CLIENTS[64]}"', stdout=subprocess.DEVNULL) as gate:
        process = next_held(gate)
        assert find_tampering(process) == ""
        before = handles()
        for _ in range(20):
            assert find_tampering(process) == ""
        assert handles() <= before
        gate.block(process)


def handles() -> set[int]:
    """The values below 0x2000 that are open handles of this process."""
    kernel32 = ctypes.WinDLL("kernel32")
    flags = ctypes.c_uint32()
    values = range(4, 0x2000, 4)
    return {one for one in values if kernel32.GetHandleInformation(ctypes.c_void_p(one), ctypes.byref(flags))}


def test_a_process_cannot_be_looked_into_without_the_right_to() -> None:
    with open_process(procmon.processes()[0].pid) as limited, pytest.raises(OSError, match="ReadProcessMemory"):
        memory.read(limited, 0x10000, 1)
