"""Every public function refuses wrong arguments before it does anything, with a sentence that explains them."""

import asyncio
import inspect
import math
import os
import typing
from collections.abc import Callable, Iterator

import pytest

import procmon

BAD_SECONDS: list[object] = ["1", math.nan, 1e306, -1, True]
BAD_PROCESSES: list[object] = ["cmd.exe", b"4", 4.5, 2**32 + 4, -4, True]


def subjects() -> Iterator[tuple[str, object]]:
    """The objects with public methods to call, on any system."""
    gate = procmon.SimulatedGate()
    monitor = procmon.Monitor(gate)
    yield "SimulatedGate()", gate
    yield "Monitor()", monitor
    yield "procmon", procmon


SUBJECTS = dict(subjects())
PROCESS = procmon.ProcessHelper(pid=44, parent_pid=4, image_name="a.exe")


def parameters() -> Iterator[tuple[str, Callable[..., object], inspect.Parameter, dict[str, object]]]:
    """Each parameter of each public function that is a time or a process, with valid values for the required others."""
    for owner, subject in SUBJECTS.items():
        names = procmon.__all__ if subject is procmon else [name for name in dir(subject) if not name.startswith("_")]
        for name in names:
            if isinstance(inspect.getattr_static(subject, name, None), property):
                continue
            function: Callable[..., object] = getattr(subject, name)
            if inspect.isclass(function) or not inspect.isroutine(function):
                continue
            hints = typing.get_type_hints(function)
            signature = inspect.signature(function)
            for parameter in signature.parameters.values():
                if is_seconds(hints.get(parameter.name)) or is_process(hints.get(parameter.name)):
                    others: dict[str, object] = {
                        other.name: PROCESS if is_process(hints.get(other.name)) else "a.exe"
                        for other in signature.parameters.values()
                        if other is not parameter
                        and other.default is other.empty
                        and other.kind is other.POSITIONAL_OR_KEYWORD
                    }
                    yield f"{owner}.{name}({parameter.name}=)", function, parameter, others


def is_seconds(hint: object) -> bool:
    return hint is float or set(typing.get_args(hint)) == {float, type(None)}


def is_process(hint: object) -> bool:
    return hint is procmon.ProcessHelper or procmon.ProcessHelper in typing.get_args(hint)


WALKED = {name: (function, parameter, others) for name, function, parameter, others in parameters()}


def test_the_walk_finds_the_functions_that_people_call() -> None:
    assert {"Monitor().wait(timeout=)", "Monitor().starts(timeout=)", "SimulatedGate().wait(timeout=)"} <= set(WALKED)
    assert {"procmon.inspect(process=)", "procmon.tree(root=)", "procmon.run(timeout=)"} <= set(WALKED)
    assert {"Monitor().allow(process=)", "SimulatedGate().terminate(process=)"} <= set(WALKED)


@pytest.mark.parametrize("name", WALKED)
def test_a_wrong_time_or_process_is_refused(name: str) -> None:
    function, parameter, others = WALKED[name]
    hint = typing.get_type_hints(function)[parameter.name]
    for bad in BAD_SECONDS if is_seconds(hint) else BAD_PROCESSES:
        with pytest.raises((TypeError, ValueError), match="; not |not a|no process|a number|is "):
            if parameter.kind is parameter.VAR_POSITIONAL:
                result = function(bad, **others)
            else:
                result = function(**{**others, parameter.name: bad})
            if inspect.iscoroutine(result):
                asyncio.run(result)


@pytest.mark.parametrize("options", [{name: bad} for name in ("hold_timeout",) for bad in BAD_SECONDS])
@pytest.mark.parametrize(
    "make",
    [
        procmon.SimulatedGate,
        lambda **options: procmon.DebugGate.run("cmd", **options),
        lambda **options: procmon.DebugGate.attach(4096, **options),
        procmon.DriverGate,
    ],
    ids=["SimulatedGate", "DebugGate.run", "DebugGate.attach", "DriverGate"],
)
def test_a_wrong_hold_timeout_is_refused_by_every_gate(make: Callable[..., object], options: dict[str, object]) -> None:
    with pytest.raises((TypeError, ValueError), match="hold_timeout is a number of seconds"):
        make(**options)


@pytest.mark.parametrize("verdict", [procmon.DEFER, "block", 1])
@pytest.mark.parametrize("name", ["fail", "on_timeout", "on_disconnect"])
@pytest.mark.parametrize(
    "make",
    [procmon.SimulatedGate, lambda **options: procmon.DebugGate.run("cmd", **options), procmon.DriverGate],
    ids=["SimulatedGate", "DebugGate.run", "DriverGate"],
)
def test_a_wrong_verdict_is_refused_by_every_gate(make: Callable[..., object], name: str, verdict: object) -> None:
    with pytest.raises((TypeError, ValueError), match=f"{name} is ALLOW or BLOCK; not "):
        make(**{name: verdict})


@pytest.mark.parametrize(
    ("pid", "error", "text"),
    [
        ("notepad.exe", TypeError, r"procmon\.processes\(\) lists them"),
        (4097, ValueError, "multiples of 4"),  # Windows would treat it as 4096, and hold that process
        (2**32 + 4, ValueError, "from 0 to 4294967295"),
        (os.getpid() & ~3 if os.getpid() % 4 else os.getpid(), None, ""),
    ],
)
def test_a_process_that_cannot_be_attached_to_is_refused(pid: int, error: type[Exception] | None, text: str) -> None:
    if error is None:
        if pid != os.getpid():
            return  # only Windows has multiples of 4 alone
        error, text = ValueError, "a program cannot debug itself"
    with pytest.raises(error, match=text):
        procmon.DebugGate.attach(pid)
