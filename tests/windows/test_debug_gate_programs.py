"""A program under a DebugGate behaves as it does without one."""

import subprocess

import pytest

import procmon
from procmon.gates import debug_loop
from procmon.win32 import debug, memory, process
from trees import SOON, drive, next_held, python


def run_through(code: str) -> tuple[str, int]:
    """The program's output under a gate, and its exit status."""
    with procmon.DebugGate.run(python(code), stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as gate:
        drive(gate)
        assert gate.popen is not None
        output = gate.popen.communicate(timeout=SOON)[0]
        assert isinstance(output, str)
        return output.strip(), gate.popen.returncode & 0xFFFFFFFF


def test_a_program_handles_its_own_exceptions() -> None:
    output, status = run_through("import ctypes\ntry: ctypes.string_at(0)\nexcept OSError as e: print(e)")
    assert "access violation" in output and status == 0


@pytest.mark.parametrize("code", ["0xC0000005", "0x80000003", "0xE0001234"])
def test_an_unhandled_exception_ends_a_program_as_ever(code: str) -> None:
    kernel32 = "import ctypes; k = ctypes.WinDLL('kernel32'); k.SetErrorMode(3)"
    raising = f"{kernel32}; k.RaiseException({code}, 0, 0, None)"
    free = subprocess.run(python(raising), stderr=subprocess.DEVNULL)
    assert free.returncode != 0
    assert run_through(raising)[1] == free.returncode & 0xFFFFFFFF


def test_a_program_sees_no_debugger_and_may_write_debug_output() -> None:
    code = (
        "import ctypes; k = ctypes.WinDLL('kernel32')\n"
        "k.OutputDebugStringW('x'); k.OutputDebugStringA(b'x')\n"
        "print(k.IsDebuggerPresent(), k.CloseHandle(ctypes.c_void_p(0x5554)), k.GetLastError())\n"
    )
    assert run_through(code)[0].split()[:2] == ["0", "0"]


def test_a_creator_that_gives_a_command_line_an_odd_number_of_bytes_ends_no_gate(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """On Windows a creator writes into its suspended child before the debugger hears of it; here the test does."""
    prepare = debug_loop._unmark

    def shorten(info: debug.CreateProcessInfo, peb: int) -> bool:
        parameters = int.from_bytes(memory.read(info.process, peb + process._PARAMETERS, process._POINTER), "little")
        memory.write(info.process, parameters + process._COMMAND_LINE, (2 * 3 + 1).to_bytes(2, "little"))
        return prepare(info, peb)

    monkeypatch.setattr(debug_loop, "_unmark", shorten)
    with procmon.DebugGate.run("hostname", stdout=subprocess.DEVNULL) as gate:
        held = next_held(gate)
        assert held.command_line == "hos"
        assert procmon.inspect(held).command_line == "hos"
        assert gate.block(held) == [procmon.VerdictResult.DONE]
