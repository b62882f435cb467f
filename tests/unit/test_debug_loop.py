"""The exceptions that DebugGate hides from a debugged program, on any system: events as Windows sends them."""

from types import SimpleNamespace
from typing import Any, cast

import pytest

from procmon import ALLOW, ProcessFlags, ProcessHelper
from procmon.gates import debug_loop
from procmon.win32 import debug, debugged

BREAKPOINT, WX86_BREAKPOINT = 0x80000003, 0x4000001F  # of a 64-bit program, and of a 32-bit one under a 64-bit debugger
SINGLE_STEP, WX86_SINGLE_STEP = 0x80000004, 0x4000001E
INVALID_HANDLE = 0xC0000008
NOT_CLOSABLE = 0xC0000235
PID = 44
BREAK_IN = 0x7FFE00045670
"""Address of ntdll's DbgBreakPoint."""
OWN_CODE, DISPATCHER, NARROW_NTDLL, NARROW_OFFSET = 0x7FF600001000, 0x7FFE00012340, 0x77000000, 0x5670
"""Addresses: of the program, of the kernel's way to raise in ntdll, and of the 32-bit ntdll."""


@pytest.fixture(autouse=True)
def known_addresses(monkeypatch: pytest.MonkeyPatch) -> None:
    addresses = {debug.DISPATCHER: DISPATCHER, "DbgBreakPoint": BREAK_IN}
    monkeypatch.setattr(debug, "_our_address", addresses.__getitem__)
    monkeypatch.setattr(debug_loop, "narrow_dispatcher", lambda ntdll: ntdll + NARROW_OFFSET if ntdll else 0)
    monkeypatch.setattr(debugged, "has_strict_handle_checks", lambda process: process == STRICT)


STRICT = 0x5C
"""The handle of a process that has strict handle checks enabled."""


class Debugged:
    """A loop with one process, and the result of each of its exceptions."""

    def __init__(self, breakpoints: tuple[int, ...], *, attached: bool = False) -> None:
        self.loop = debug_loop.DebugLoop(None, ALLOW, include_first=True)
        flags = ProcessFlags.RUNNING_BEFORE if attached else ProcessFlags(0)
        record = ProcessHelper(pid=PID, parent_pid=4, image_name=r"c:\a.exe", flags=flags)
        self.loop._living[PID] = debug_loop._Process(record, 0, 45, None, breakpoints)

    def loads(self, base: int) -> None:
        """Windows has loaded a library there."""
        event = debug.DebugEvent(code=debug.LOAD_DLL, pid=PID, tid=45)
        event.load_dll.base = base
        self.loop._handle(cast(Any, SimpleNamespace(resume=lambda pid, tid, handled: None)), event)

    def raises(self, code: int, first_chance: bool = True, address: int = OWN_CODE) -> bool:
        """Deliver the exception; return whether the program sees it."""
        event = debug.DebugEvent(code=debug.EXCEPTION, pid=PID, tid=45)
        event.exception.code, event.exception.first_chance = code, first_chance
        event.exception.address = address
        seen: list[bool] = []
        port = SimpleNamespace(resume=lambda pid, tid, handled: seen.append(not handled))
        self.loop._handle(cast(Any, port), event)
        assert len(seen) == 1
        return seen[0]


def test_the_loaders_two_breakpoints_in_a_32_bit_program_are_kept_from_it_once_each() -> None:
    """Its 64-bit half stops first, then its 32-bit one, if the debugger's mark could not be removed."""
    process = Debugged(debug_loop._LOADER_BREAKPOINTS)
    assert not process.raises(BREAKPOINT)
    assert not process.raises(WX86_BREAKPOINT)
    assert process.raises(BREAKPOINT) and process.raises(WX86_BREAKPOINT), "those are its own"


def test_only_the_break_in_is_kept_from_a_program_to_which_the_gate_attached() -> None:
    process = Debugged((), attached=True)
    assert process.raises(BREAKPOINT), "its own, also if ntdll did not break in"
    assert not process.raises(BREAKPOINT, address=BREAK_IN)
    assert process.raises(BREAKPOINT) and process.raises(WX86_BREAKPOINT)
    assert process.raises(SINGLE_STEP, address=BREAK_IN)


def test_a_program_that_the_gate_started_may_break_where_a_debugger_breaks_in() -> None:
    assert Debugged(()).raises(BREAKPOINT, address=BREAK_IN)


def test_a_program_to_which_the_gate_attached_expects_no_breakpoint_once_its_mark_is_cleared(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for cleared, expected in ((True, set[int]()), (False, {BREAKPOINT, WX86_BREAKPOINT})):
        monkeypatch.setattr(debug_loop, "_unmark", lambda info, peb, cleared=cleared: cleared)
        monkeypatch.setattr(debug_loop, "asked", lambda question, *arguments: SimpleNamespace(peb=0))
        monkeypatch.setattr(
            debug_loop,
            "describe",
            lambda handle, pid, flags, **facts: ProcessHelper(pid=pid, parent_pid=4, image_name="a.exe", flags=flags),
        )
        loop = debug_loop.DebugLoop(None, ALLOW, include_first=True, attached_pid=PID)
        loop._created(debug.DebugEvent(code=debug.CREATE_PROCESS, pid=PID, tid=45))
        assert loop._living[PID].breakpoints == expected


@pytest.mark.parametrize("code", [BREAKPOINT, WX86_BREAKPOINT, SINGLE_STEP, WX86_SINGLE_STEP, 0xC0000005])
@pytest.mark.parametrize("breakpoints", [(), (BREAKPOINT,), (WX86_BREAKPOINT,)], ids=["none", "wide", "narrow"])
def test_what_a_program_does_itself_it_gets_to_see(code: int, breakpoints: tuple[int, ...]) -> None:
    process = Debugged(breakpoints)
    assert process.raises(code) == (code not in breakpoints)
    assert process.raises(code, first_chance=False)


@pytest.mark.parametrize("code", [INVALID_HANDLE, NOT_CLOSABLE])
def test_what_only_a_debugged_program_would_see_is_kept_from_it_each_time(code: int) -> None:
    process = Debugged(())
    for address in (DISPATCHER, DISPATCHER + 0x3A):
        assert not process.raises(code, address=address)
    assert process.raises(code, first_chance=False, address=DISPATCHER)


@pytest.mark.parametrize("code", [INVALID_HANDLE, NOT_CLOSABLE])
@pytest.mark.parametrize("address", [OWN_CODE, 0, DISPATCHER - 1, DISPATCHER + 0x1000, NARROW_NTDLL + NARROW_OFFSET])
def test_the_same_exception_raised_by_the_program_itself_reaches_it(code: int, address: int) -> None:
    assert Debugged(()).raises(code, address=address)


def test_a_program_with_strict_handle_checks_gets_the_kernels_exceptions_too() -> None:
    """Windows raises them without a debugger, too."""
    process = Debugged(())
    process.loop._living[PID].handle = STRICT
    assert process.raises(INVALID_HANDLE, address=DISPATCHER)


def test_in_a_32_bit_program_the_kernel_raises_at_the_address_of_its_own_ntdll() -> None:
    process = Debugged(())
    for base in (0x7FFE00000000, NARROW_NTDLL, 0x76000000):  # the 64-bit one, its own, the next library
        process.loads(base)
    assert not process.raises(INVALID_HANDLE, address=NARROW_NTDLL + NARROW_OFFSET)
    assert process.raises(INVALID_HANDLE, address=0x76000000 + NARROW_OFFSET)


def test_without_the_address_in_ntdll_every_exception_is_the_programs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(debug, "_our_address", lambda name: 0)
    assert Debugged(()).raises(INVALID_HANDLE, address=0)
