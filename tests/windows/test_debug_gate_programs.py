"""A program under a DebugGate behaves as it does without one."""

import subprocess

import pytest

import procmon
from trees import SOON, drive, python


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
