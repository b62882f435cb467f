"""Checks of arguments, for the first lines of public functions: a wrong argument is refused before any work begins.

Each check returns the argument, and raises TypeError for a wrong type and ValueError for a wrong value. The message
names the argument, the values that it takes, and the value that was given.
"""

import inspect
import math
import sys
from collections.abc import Awaitable, Callable

from ..records import ProcessHelper, Verdict

if sys.version_info >= (3, 14):
    import annotationlib

__all__ = [
    "LONGEST_S",
    "allow_or_block",
    "check_count",
    "check_function",
    "check_pid",
    "check_process",
    "check_process_or_pid",
    "check_seconds",
    "check_takes_one",
    "is_awaitable",
]

LONGEST_S = 1e12
"""The longest time that a caller may give: some 30,000 years, which no clock overflows."""

_LARGEST_PID = 0xFFFFFFFF


def check_seconds(name: str, value: float | None, *, optional: bool = True) -> float | None:
    """A number of seconds from 0. With `optional` also None, which means no limit.

    >>> check_seconds("timeout", 1.5), check_seconds("timeout", None)
    (1.5, None)
    >>> check_seconds("timeout", float("nan"))
    Traceback (most recent call last):
        ...
    ValueError: timeout is a number of seconds from 0, or None for no limit; not nan
    """
    if value is None and optional:
        return None
    wanted = f"{name} is a number of seconds from 0{', or None for no limit' if optional else ''}; not {value!r}"
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(wanted)
    if math.isnan(value) or not 0 <= value <= LONGEST_S:
        raise ValueError(wanted)
    return value


def check_count(name: str, value: int, *, least: int) -> int:
    """A whole number, `least` or more.

    >>> check_count("workers", True, least=1)
    Traceback (most recent call last):
        ...
    TypeError: workers is a whole number, 1 or more; not True
    """
    wanted = f"{name} is a whole number, {least} or more; not {value!r}"
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(wanted)
    if value < least:
        raise ValueError(wanted)
    return value


def check_function(name: str, value: object, argument: str) -> None:
    """A function, or another object that can be called, that returns its result at once: nothing is awaited.

    >>> check_function("lookup", {4: "system"}, "pid")
    Traceback (most recent call last):
        ...
    TypeError: lookup is a function that returns its result; not {4: 'system'}
    """
    defers = inspect.iscoroutinefunction, inspect.isasyncgenfunction, inspect.isgeneratorfunction
    if not callable(value) or any(test(one) for test in defers for one in (value, type(value).__call__)):
        raise TypeError(f"{name} is a function that returns its result; not {value!r}")
    check_takes_one(name, value, argument, value)


def check_takes_one(name: str, function: Callable[..., object], argument: str, given: object) -> None:
    """A function that can be called with one argument; otherwise it would fail at each process.

    >>> check_takes_one("a callback", lambda: None, "ProcessHelper", "it")
    Traceback (most recent call last):
        ...
    TypeError: a callback is called with one ProcessHelper; 'it' cannot be: too many positional arguments
    """
    try:
        signature = _signature(function)
    except (TypeError, ValueError):  # some builtins have no signature
        return
    try:
        signature.bind(None)
    except TypeError as error:
        raise TypeError(f"{name} is called with one {argument}; {given!r} cannot be: {error}") from None


def _signature(function: Callable[..., object]) -> inspect.Signature:
    """Its signature. Annotations are not evaluated: Python 3.14 does that late, and a name that is imported for type
    checkers alone does not exist at run time."""
    if sys.version_info >= (3, 14):
        return inspect.signature(function, annotation_format=annotationlib.Format.STRING)
    return inspect.signature(function)


def is_awaitable(value: object) -> bool:
    """Whether a function that is not awaited returned an awaitable. A coroutine is closed, so that Python does not warn
    that it was never awaited."""
    if inspect.iscoroutine(value):
        value.close()
    return issubclass(type(value), Awaitable)


def allow_or_block(name: str, value: Verdict) -> Verdict:
    """ALLOW or BLOCK, not DEFER.

    >>> allow_or_block("on_error", Verdict.BLOCK)
    <Verdict.BLOCK>
    """
    if not isinstance(value, Verdict):
        raise TypeError(f"{name} is ALLOW or BLOCK; not {value!r}")
    if value is Verdict.DEFER:
        raise ValueError(f"{name} is ALLOW or BLOCK; not {value!r}")
    return value


def check_process(name: str, value: ProcessHelper) -> ProcessHelper:
    """The record of a process.

    >>> check_process("process", "cmd.exe")
    Traceback (most recent call last):
        ...
    TypeError: process is a ProcessHelper, such as a callback gets; not 'cmd.exe'
    """
    if not isinstance(value, ProcessHelper):
        raise TypeError(f"{name} is a ProcessHelper, such as a callback gets; not {value!r}")
    return value


def check_pid(name: str, value: int) -> int:
    """A process identifier: 32 bits. Windows assigns multiples of 4.

    >>> check_pid("pid", 2**32 + 4)
    Traceback (most recent call last):
        ...
    ValueError: pid is a process identifier from 0 to 4294967295; not 4294967300
    """
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name} is a process identifier, a number; not {value!r}; procmon.processes() lists them")
    if not 0 <= value <= _LARGEST_PID:
        raise ValueError(f"{name} is a process identifier from 0 to {_LARGEST_PID}; not {value!r}")
    return value


def check_process_or_pid(name: str, value: ProcessHelper | int) -> ProcessHelper | int:
    """The record of a process, or a process identifier.

    >>> check_process_or_pid("process", 4)
    4
    """
    if isinstance(value, ProcessHelper):
        return value
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError(f"{name} is a ProcessHelper or a pid; not {value!r}; procmon.processes() lists them")
    return check_pid(name, value)
