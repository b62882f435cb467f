"""Callbacks: which objects can be subscribed, which processes they are asked about, and what they may return."""

import inspect
import warnings
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from typing import Any, NamedTuple, Protocol, runtime_checkable

from ..errors import PolicyWarning
from ..records import DecidedBy, Decision, ProcessHelper, RuleNote, Verdict, VerdictResult
from ..util.arguments import check_takes_one
from ..util.globs import compile_glob
from ..util.log import logger
from ..util.path_checks import doubt_about_match

__all__ = ["Callback", "Decider", "ExitCallback", "Match", "Opinion", "Ruling", "Subscription", "read_opinion"]

Opinion = Verdict | Decision | None
"""What a callback may return; None: no opinion, the next callback is asked."""
Callback = Callable[[ProcessHelper], Opinion | Awaitable[Opinion]]
ExitCallback = Callable[[ProcessHelper], object]
Match = str | Callable[[ProcessHelper], bool] | None
"""Which processes a callback is asked about: a glob on `image_name`, a predicate, or None for all."""


_NOT_AWAITED = "match is not awaited, so it cannot be a coroutine function; look up in the callback"


@runtime_checkable
class Decider(Protocol):
    """An object that decides, as `Policy` does; `Monitor.subscribe` takes it like a callback.

    >>> import procmon
    >>> isinstance(procmon.Policy.parse(""), procmon.Decider)
    True
    """

    def decide(self, process: ProcessHelper) -> Opinion | Awaitable[Opinion]:
        """What a callback returns; `Policy` returns a `Decision` with the rule that made it, or None."""


class Subscription:
    r"""A callback that a monitor asks; made by `Monitor.subscribe` and `Monitor.on_exit`.

    It can be called like the function that it wraps, so a decorated function stays testable by itself.

    >>> import procmon
    >>> monitor = procmon.Monitor(procmon.SimulatedGate())
    >>> @monitor.subscribe(match="notepad.exe")
    ... def decide(process):
    ...     return procmon.BLOCK
    >>> decide
    <Subscription decide matching 'notepad.exe'>
    >>> decide(procmon.ProcessHelper(pid=8, parent_pid=4, image_name="notepad.exe"))
    <Verdict.BLOCK>
    >>> decide.cancel()
    >>> decide
    <Subscription decide matching 'notepad.exe', cancelled>
    """

    match: Match
    """Which processes the callback is asked about."""
    __wrapped__: Callback | ExitCallback | Decider
    """The function or object that was subscribed."""

    def __init__(
        self,
        callback: Callback | ExitCallback | Decider,
        match: Match,
        forget: Callable[["Subscription"], None],
    ) -> None:
        if isinstance(callback, Subscription):  # its function, about the same processes unless another match is given
            match = callback.match if match is None else match
            callback = callback.__wrapped__
        if isinstance(callback, type):
            raise TypeError(f"a callback is a function or an object; {callback.__name__} is a class: instantiate it")
        decide = getattr(callback, "decide", None)
        if callable(callback):  # first: a Policy that is called may have no opinion, unlike its `decide`
            self._ask: Callable[[ProcessHelper], object] = callback
        elif callable(decide):
            self._ask = decide
        else:
            raise TypeError(f"a callback is a function of one process, or has a method decide; {callback!r} is neither")
        _check_answers(self._ask, "a callback", callback)
        self.name = self.__name__ = _name_of(callback)
        self.match = match
        self.cancelled = False
        self._forget = forget
        self.__wrapped__ = callback
        self.__doc__ = getattr(callback, "__doc__", None) or type(self).__doc__
        if match is None:
            self._concerns: Callable[[ProcessHelper], bool] | None = None
        elif isinstance(match, str):
            matches = compile_glob(match)
            self._concerns = lambda process: matches(process.image_name)
            if doubt := doubt_about_match(match):
                logger.warning("match=%r: %s", match, doubt)
                warnings.warn(f"match={match!r}: {doubt}", PolicyWarning, stacklevel=4)
        elif inspect.iscoroutinefunction(match):
            raise TypeError(_NOT_AWAITED)
        elif callable(match) and not isinstance(match, type):  # each object of a class would match
            _check_answers(match, "match", match)
            self._concerns = match
        else:
            raise TypeError(f"match is a glob such as '*.exe' or a function of one ProcessHelper, not {match!r}")

    def __repr__(self) -> str:
        match = f" matching {self.match!r}" if self.match is not None else ""
        return f"<Subscription {self.name}{match}{', cancelled' if self.cancelled else ''}>"

    def __call__(self, process: ProcessHelper) -> Any:  # what the function returns, a verdict or an awaitable
        return self._ask(process)

    def concerns(self, process: ProcessHelper) -> bool:
        """Whether the callback is asked about this process.

        >>> import procmon
        >>> subscription = procmon.Monitor(procmon.SimulatedGate()).subscribe(print, match="a.exe")
        >>> subscription.concerns(procmon.ProcessHelper(pid=8, parent_pid=4, image_name="b.exe"))
        False
        """
        if self.cancelled or self._concerns is None:
            return not self.cancelled
        matched: object = self._concerns(process)
        if matched is not True and inspect.iscoroutine(matched):  # as an object, it would match every process
            matched.close()
            raise TypeError(_NOT_AWAITED)
        return bool(matched)

    def ask(self, process: ProcessHelper) -> object:
        """What the callback returns; None where it is not asked about this process."""
        return self._ask(process) if self.concerns(process) else None

    def cancel(self) -> None:
        """Stop asking the callback; a call that is running goes on, and its result counts. Idempotent."""
        self.cancelled = True
        self._forget(self)


def _name_of(callback: object) -> str:
    while isinstance(callback, partial):
        callback = callback.func
    name = getattr(callback, "__name__", None)
    return name if isinstance(name, str) else type(callback).__name__


def _check_answers(ask: Callable[..., object], what: str, given: object) -> None:
    """Refuse at once a function that could not answer for any process."""
    if any(inspect.isgeneratorfunction(one) or inspect.isasyncgenfunction(one) for one in (ask, type(ask).__call__)):
        raise TypeError(f"{what} returns its answer; {given!r} has a `yield`, so a call would run none of it")
    check_takes_one(what, ask, "ProcessHelper", given)


class Ruling(NamedTuple):
    """A verdict about a process, and the authority that gave it."""

    verdict: Verdict
    by: DecidedBy
    who: str = ""
    audited: bool = False
    reason: str = ""
    source: Decision | None = None
    """The Decision that a callback returned: its further fields are kept."""

    @property
    def defers(self) -> bool:
        """The process stays held."""
        return self.verdict is Verdict.DEFER and not self.audited

    @property
    def blocks(self) -> bool:
        """The process must end. An audited process is allowed, whatever the verdict is."""
        return self.verdict is Verdict.BLOCK and not self.audited

    def decision(
        self,
        process: ProcessHelper,
        held_for: float = 0.0,
        result: VerdictResult | None = None,
        at: datetime | None = None,
    ) -> Decision:
        """The Decision about this process, made at that time, or now."""
        at = at or datetime.now(UTC)
        made: dict[str, Any] = {"process": process, "who": self.who, "at": at, "held_for": held_for, "result": result}
        if (source := self.source) is not None:
            with suppress(Exception):  # a subclass may refuse to be copied
                return replace(source, **made)
            made |= {"note": source.note, "policy": source.policy, "facts": source.facts}
        return Decision(verdict=self.verdict, by=self.by, audited=self.audited, reason=self.reason, **made)


_OPINION_FIELDS = (
    ("verdict", Verdict),
    ("by", DecidedBy),
    ("who", str),
    ("audited", bool),
    ("reason", str),
    ("note", RuleNote | None),
    ("policy", str),
    ("facts", Mapping),
)


def read_opinion(result: object, name: str) -> Ruling:
    """The ruling in a callback's result.

    Raises: TypeError when it is not an opinion.
    """
    if isinstance(result, Verdict):
        return Ruling(result, DecidedBy.CALLBACK, name)
    if isinstance(result, Decision):
        for field, kind in _OPINION_FIELDS:
            if not isinstance(value := getattr(result, field), kind):
                wanted = getattr(kind, "__name__", "RuleNote or None")
                raise TypeError(f"{name} returned a Decision whose {field} is {value!r}; it must be a {wanted}")
        who = result.who or (name if result.by is DecidedBy.CALLBACK else "")
        return Ruling(result.verdict, result.by, who, result.audited, result.reason, result)
    if inspect.isawaitable(result):
        raise TypeError(f"{name} returned an awaitable that gave an awaitable; await it once")
    raise TypeError(f"{name} returned {result!r}; return ALLOW, BLOCK, DEFER, a Decision, or None for no opinion")
