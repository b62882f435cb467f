"""procmon on a 32-bit Python (WOW64). dev.py makes one for Wine; on Windows run the other tests with your own."""

import json
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

import procmon
from procmon.win32.kernel import is_wine
from trees import next_held

__test__ = is_wine()
ROOT = Path(__file__).resolve().parents[2]
PYTHON = ROOT / ".dev" / "windows32" / "python.exe"
IN_TIME = 300.0  # seconds


def run(*words: str) -> "subprocess.CompletedProcess[str]":
    command = [str(PYTHON), "-X", "utf8", *words]
    return subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, encoding="utf-8", stdin=subprocess.DEVNULL, timeout=IN_TIME
    )


def tell(code: str) -> Mapping[str, Any]:
    """The value that `code` assigns to `told` in the 32-bit Python."""
    done = run("-c", f"import json, procmon\ntold = {{}}\n{code}\nprint(json.dumps(told))")
    assert done.returncode == 0, done.stderr
    told: Mapping[str, Any] = json.loads(done.stdout)
    return told


def test_it_is_one_on_a_64_bit_windows_and_its_structures_have_the_sizes_of_the_headers() -> None:
    told = tell(
        "import ctypes\n"
        "from procmon.win32 import debug, kernel, memory, process, trust\n"
        "told['bits'], told['wow64'] = ctypes.sizeof(ctypes.c_void_p) * 8, kernel.is_wow64()\n"
        "for each in (debug.DebugEvent, memory._BasicInformation, process._ListEntry, trust._TrustData):\n"
        "    told[each.__name__] = ctypes.sizeof(each)\n"
    )
    sizes = {"DebugEvent": 96, "_BasicInformation": 28, "_ListEntry": 80, "_TrustData": 52}
    assert told == {"bits": 32, "wow64": True, **sizes}


def test_its_python_that_evaluates_annotations_late_takes_one_that_names_what_does_not_exist() -> None:
    """Python 3.14. A name that is imported for type checkers alone is such a one."""
    told = tell(
        "import sys\n"
        "monitor = procmon.Monitor(procmon.SimulatedGate())\n"
        "def decide(process: ProcessHelper) -> Verdict: pass\n"
        "def neither() -> Verdict: pass\n"
        "told['late'], told['one'] = sys.version_info >= (3, 14), repr(monitor.subscribe(decide))\n"
        "try: monitor.subscribe(neither)\n"
        "except TypeError as error: told['none'] = 'called with one' in str(error)\n"
    )
    assert told == {"late": True, "one": "<Subscription decide>", "none": True}


@pytest.mark.parametrize(
    ("file", "but"),
    [
        ("test_debug_gate_conformance.py", ""),
        ("test_debug_gate_faults.py", ""),
        # Wine raises what NtClose raises in its 64-bit ntdll, at an address that a 32-bit debugger gets cut.
        ("test_debug_gate_programs.py", "not sees_no_debugger"),
        ("test_driver_gate.py", "not rules_are_answered"),  # rules for System32: what runs there is of SysWOW64
        ("test_service.py", ""),
        ("test_tamper.py", "DebugGate and 32"),
    ],
)
def test_what_passes_on_a_64_bit_python_passes_on_it(file: str, but: str) -> None:
    done = run(
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        "--noconftest",
        "-p",
        "wine_creation",
        "-p",
        "driver_fixtures",
        "-k",
        but,
        f"tests/windows/{file}",
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert " passed" in done.stdout.splitlines()[-1]


def test_it_refuses_to_look_into_all_processes_of_the_machine_before_their_release() -> None:
    told = tell(
        "try:\n"
        "    procmon.DriverGate(check_before_release=True)\n"
        "except procmon.UnsupportedPlatform as error:\n"
        "    told['error'] = str(error)\n"
    )
    assert told == {"error": "a 32-bit Python cannot look into 64-bit processes: use a 64-bit Python"}


@pytest.mark.parametrize("folder", ["system32", "syswow64"])
def test_it_tells_of_a_held_program_what_a_64_bit_python_tells(folder: str) -> None:
    """Its own System32 is SysWOW64: with the path alone it would hash and check another program."""
    with procmon.DebugGate.run([rf"c:\windows\{folder}\hostname.exe", "\u00fc"], stdout=subprocess.DEVNULL) as gate:
        process = next_held(gate)
        # Ours first: who first makes a window under Wine, as a look at a signature does, leaves an explorer.exe behind
        # that keeps its output open.
        expected = procmon.inspect(process.pid).as_dict()
        theirs = tell(f"told = procmon.inspect({process.pid}).as_dict()")
        expected["parent_command_line"] = None  # of this Python, which has 64 bits
        if folder == "system32":  # Windows 8.1 and later tell it; Wine leaves it to be read
            assert "a 32-bit Python cannot read a 64-bit process" in theirs["reasons"]["command_line"]
            expected["command_line"] = expected["current_directory"] = None
        assert {**theirs, "reasons": None} == {**expected, "reasons": None}
        gate.block(process)


def test_its_list_and_tree_are_ours() -> None:
    with procmon.DebugGate.run(["hostname"], stdout=subprocess.DEVNULL) as gate:
        process = next_held(gate)
        told = tell(
            f"(one,) = procmon.tree({process.pid})\n"
            "told['tree'] = [one.pid, one.parent_pid, one.image_name, one.start_key]\n"
            "told['pids'] = [each.pid for each in procmon.processes()]\n"
        )
        assert told["tree"] == [process.pid, process.parent_pid, process.image_name, process.start_key]
        assert {each.pid for each in procmon.processes()} <= {*told["pids"]}
        gate.block(process)
