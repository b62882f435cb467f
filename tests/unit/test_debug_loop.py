"""Which exceptions of a debugged program its DebugGate keeps from it, on any system: events as Windows sends them."""

from types import SimpleNamespace
from typing import Any, cast

import pytest

from procmon import ALLOW, ProcessHelper
from procmon.gates import debug_loop
from procmon.win32 import debug

BREAKPOINT, WX86_BREAKPOINT = 0x80000003, 0x4000001F  # of a 64-bit program, and of a 32-bit one under a 64-bit debugger
SINGLE_STEP, WX86_SINGLE_STEP = 0x80000004, 0x4000001E
INVALID_HANDLE = 0xC0000008
PID = 44


class Debugged:
    """A loop with one process, and what became of each exception that it ran into."""

    def __init__(self, breakpoints: tuple[int, ...]) -> None:
        self.loop = debug_loop.DebugLoop(None, ALLOW, include_first=True)
        record = ProcessHelper(pid=PID, parent_pid=4, image_name=r"c:\a.exe")
        self.loop._living[PID] = debug_loop._Process(record, 0, 45, None, breakpoints)

    def raises(self, code: int, first_chance: bool = True) -> bool:
        """The exception arrives; whether the program gets to see it."""
        event = debug.DebugEvent(code=debug.EXCEPTION, pid=PID, tid=45)
        event.exception.code, event.exception.first_chance = code, first_chance
        seen: list[bool] = []
        port = SimpleNamespace(resume=lambda pid, tid, handled: seen.append(not handled))
        self.loop._handle(cast(Any, port), event)
        assert len(seen) == 1
        return seen[0]


def test_the_loaders_two_breakpoints_in_a_32_bit_program_are_kept_from_it_once_each() -> None:
    """Its 64-bit half stops first, then its 32-bit one, where the mark of a debugger could not be taken out."""
    process = Debugged(debug_loop._LOADER_BREAKPOINTS)
    assert not process.raises(BREAKPOINT)
    assert not process.raises(WX86_BREAKPOINT)
    assert process.raises(BREAKPOINT) and process.raises(WX86_BREAKPOINT), "those are its own"


@pytest.mark.parametrize("code", [BREAKPOINT, WX86_BREAKPOINT, SINGLE_STEP, WX86_SINGLE_STEP, 0xC0000005])
@pytest.mark.parametrize("breakpoints", [(), (BREAKPOINT,), (WX86_BREAKPOINT,)], ids=["none", "wide", "narrow"])
def test_what_a_program_does_itself_it_gets_to_see(code: int, breakpoints: tuple[int, ...]) -> None:
    process = Debugged(breakpoints)
    assert process.raises(code) == (code not in breakpoints)
    assert process.raises(code, first_chance=False)


def test_what_only_a_debugged_program_would_see_is_kept_from_it_each_time() -> None:
    process = Debugged(())
    assert not process.raises(INVALID_HANDLE) and not process.raises(INVALID_HANDLE)
    assert process.raises(INVALID_HANDLE, first_chance=False)
