"""The commands that hold processes: ``run``, ``guard`` and ``watch``."""

import argparse
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, closing, contextmanager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TextIO, runtime_checkable

from ..audit import AuditLog
from ..driver.protocol import MAX_RULES
from ..errors import ProcmonError
from ..gates.base import Gate
from ..monitor.event_log import EventLogSink
from ..monitor.sinks import Sink
from ..policy.files import files_of
from ..policy.policy import Policy
from ..records import Verdict
from ..win32.console import before_console_ends_us
from .allow_all import AllowAll
from .answers import Answers, Inspect, look_up
from .live_policy import Reloader, in_words, write_guard_state
from .policy_writers import refuse_to_overwrite
from .prompts import Keyboard, open_keyboard
from .results import Results
from .screen import Screen
from .session import Session
from .statuses import BROKEN_PIPE, INTERRUPTED

__all__ = ["CommandNotFound", "Gates", "exit_status", "guard", "run", "watch"]

WAIT_SLICE_S = 0.1
"""Longest single wait for the command: Ctrl+C does not interrupt the wait on Windows."""

BUILT_INTO_CMD = frozenset(
    "assoc break call cd chdir cls color copy date del dir echo endlocal erase for ftype goto if md mkdir mklink move"
    " path pause popd prompt pushd rd rem ren rename rmdir set setlocal shift start time title type ver verify"
    " vol".split()
)


class CommandNotFound(ProcmonError):
    """``run``: there is no such command."""


class RunsCommand(Gate, Protocol):
    """A gate of a command that the gate has started."""

    @property
    def popen(self) -> "subprocess.Popen[bytes] | subprocess.Popen[str] | None":
        """The command."""


@runtime_checkable
class TakesRules(Protocol):
    """A gate that can decide about exact paths by itself."""

    def set_rules(self, rules: Iterable[tuple[str, Verdict]]) -> object: ...


class RunGate(Protocol):
    """Makes the gate of ``run``."""

    def __call__(
        self, command: Sequence[str], *, hold_timeout: float | None, fail: Verdict | None, check_before_release: bool
    ) -> RunsCommand: ...


class MachineGate(Protocol):
    """Makes the gate of ``guard`` and ``watch``."""

    def __call__(self, *, hold_timeout: float | None, fail: Verdict | None, check_before_release: bool) -> Gate: ...


def _debug_gate(
    command: Sequence[str], *, hold_timeout: float | None, fail: Verdict | None, check_before_release: bool
) -> RunsCommand:
    from ..gates.debug import DebugGate

    return DebugGate.run(list(command), hold_timeout=hold_timeout, fail=fail, check_before_release=check_before_release)


def _driver_gate(*, hold_timeout: float | None, fail: Verdict | None, check_before_release: bool) -> Gate:
    from ..gates.driver import DriverGate

    return DriverGate(hold_timeout=hold_timeout, fail=fail, check_before_release=check_before_release)


@dataclass(frozen=True)
class Gates:
    """Makes the gates; tests give their own."""

    run: RunGate = _debug_gate
    driver: MachineGate = _driver_gate
    keyboard: Callable[[Screen], Keyboard | None] = open_keyboard
    inspect: Inspect = look_up


def run(options: argparse.Namespace) -> int:
    """Run a command, and decide about each process of its tree; return its exit status."""
    policy, answers = _policy(options), _answers(options)
    results = Results() if options.tree or options.summary else None
    with _log(options) as log:
        screen = _screen(options, sys.stderr, policy)
        try:
            gate = options.gates.run(options.argv, **_gate_options(options))
        except FileNotFoundError as error:
            raise CommandNotFound(_not_found(options.argv)) from error
        with closing(gate):
            keyboard = options.gates.keyboard(screen)
            session = _session(options, gate, policy, log, keyboard, answers, results=results, goes_on=True)
            with before_console_ends_us(session.end):
                interrupted = _live(session, lambda: None, patience=1)  # the command gets the first Ctrl+C, too
    if results is not None:
        for wanted, text in ((options.tree, results.tree), (options.summary, results.summary)):
            if wanted:
                screen.line(text())
    if screen.broken:
        return BROKEN_PIPE
    if interrupted or gate.popen is None:
        return INTERRUPTED
    return exit_status(_wait(gate.popen))


def guard(
    options: argparse.Namespace,
    *,
    ready: Callable[[], None] = lambda: None,
    stop: threading.Event | None = None,
    sinks: Iterable[Sink] = (),
) -> int:
    """Decide about each new process of the machine until Ctrl+C, or until `stop` is set, which returns 0.

    `ready` is called once processes are held; `sinks` get each decision, too.
    """
    given, answers = _policy(options), _answers(options)
    with ExitStack() as opened:
        log = opened.enter_context(_log(options))
        screen = _screen(options, sys.stdout, given)
        keyboard = options.gates.keyboard(screen)
        policy, started = _rules_of_guard(options, given, keyboard)
        events = opened.enter_context(_event_log(options))
        gate = opened.enter_context(closing(_machine_gate(options)))
        setting = threading.Lock()

        def push_driver_rules(policy: Policy) -> None:
            if not options.driver_rules or options.audit or not isinstance(gate, TakesRules):
                return
            with setting:  # the reloader has a thread of its own
                exact = [] if allow_all.active else policy.driver_rules()[:MAX_RULES]
                try:
                    gate.set_rules(exact)
                except (ProcmonError, ValueError):
                    gate.set_rules([])  # the rules of an older policy must not contradict this one
                    raise
            screen.note(f"the driver itself decides about {len(exact):,} exact path{'s' * (len(exact) != 1)}")

        def loaded(policy: Policy) -> None:
            write_guard_state(policy)
            push_driver_rules(policy)

        allow_all = AllowAll(screen.note)
        every_sink = [*sinks, *events]
        session = _session(options, gate, policy, log, keyboard, answers, allow_all=allow_all, sinks=every_sink)
        loaded(policy)
        screen.note(started)
        reloaders = [Reloader(policy, screen, loaded, paths=options.policy)]
        if answers is not None:
            reloaders.append(Reloader(answers.policy, screen, paths=[answers.path]))

        def tick() -> None:
            for reload in reloaders:
                reload()
            if allow_all.has_changed():
                push_driver_rules(policy)
            if allow_all.active:
                session.allow_pending()

        return _until_interrupted(session, tick, ready, stop)


def _rules_of_guard(options: argparse.Namespace, given: Policy | None, keyboard: Keyboard | None) -> tuple[Policy, str]:
    """Return the rules, and a line about them; without --policy the user is asked about every process."""
    if given is not None:
        return given, f"{in_words(given)}; {'all processes run; ' if options.audit else ''}Ctrl+C ends it"
    policy = Policy.parse('default = "ask"')
    if options.audit:
        return policy, "you would be asked about each of these; all of them run; Ctrl+C ends it"
    if keyboard is None:
        reason = "with --json there are no questions" if options.json else "there is no terminal to ask on"
        raise ProcmonError(
            f"without rules guard asks you about every process, and {reason}: give --policy FILE, or --audit to see"
            " what it would ask about, or use `procmon-gate watch`"
        )
    return policy, "asking about each process that starts: y lets it run, n ends it; Ctrl+C to end"


def watch(options: argparse.Namespace) -> int:
    """Show each new process of the machine until Ctrl+C."""
    policy = _policy(options)
    with _log(options) as log:
        screen = _screen(options, sys.stdout, policy)
        with closing(_machine_gate(options)) as gate:
            session = _session(options, gate, None, log, None)
            screen.note("every process that starts is shown, and runs; Ctrl+C ends it")
            return _until_interrupted(session, lambda: None)


def exit_status(status: int) -> int:
    """Return the status as `sys.exit` takes it on Windows: 0xC0000364 as the negative number of the same 32 bits."""
    return status - 2**32 if status >= 2**31 else status


def _not_found(argv: Sequence[str]) -> str:
    """The reason why Windows finds no such program, and what to write instead."""
    name = argv[0]
    through_cmd = f"write: procmon-gate run -- cmd /c {subprocess.list2cmdline(argv)}"
    if name.lower() in BUILT_INTO_CMD:
        return f"{name} is no program, but a command of cmd.exe; {through_cmd}"
    script = Path(shutil.which(name) or "").name
    if script.lower().endswith((".bat", ".cmd")):
        return f"{name} is {script}, which cmd.exe runs; {through_cmd}"
    return f"there is no command {name}; give its path, or look at PATH"


def _answers(options: argparse.Namespace) -> Answers | None:
    """Open the file of kept answers."""
    return Answers(options.answers, options.gates.inspect) if options.answers else None


def _policy(options: argparse.Namespace) -> Policy | None:
    """Load the files and folders of ``--policy``, before any file is written.

    Raises: PolicyError; ProcmonError when the command would write to a file that it reads.
    """
    policy = Policy.load(*options.policy) if options.policy else None
    read = [file for path in options.policy for file in files_of(path)]
    read += [options.answers] if options.answers else []
    if options.log:
        why = "the rules are in it, and the log would be appended to them; give another --log FILE"
        refuse_to_overwrite(options.log, read, why=why)
    if options.output:
        why = "this command uses it otherwise, and would overwrite it; give another --output FILE"
        refuse_to_overwrite(options.output, read, [options.log] if options.log else [], why=why)
    return policy


def _screen(options: argparse.Namespace, stream: TextIO, policy: Policy | None) -> Screen:
    """Open ``--output``, or take `stream`; the first lines are the warnings of the policy."""
    if options.output:
        try:
            stream = open(options.output, "w", encoding="utf-8", errors="backslashreplace")
        except OSError as error:
            raise ProcmonError(
                f"{options.output}: it cannot be written: {error.strerror}; give another file"
            ) from error
        options.to_close = stream
    options.screen = screen = Screen(stream, json_lines=options.json)
    screen.show_default = policy is not None
    for problem in policy.warnings if policy is not None else ():
        screen.note(f"warning: {problem}")
    return screen


def _log(options: argparse.Namespace) -> AbstractContextManager[AuditLog | None]:
    """Open the audit log before anything is held; each line is written before its verdict is sent."""
    return AuditLog(options.log, write_ahead=True, format=options.log_format) if options.log else nullcontext()


@contextmanager
def _event_log(options: argparse.Namespace) -> Iterator[list[Sink]]:
    """Open the event log of Windows if --event-log is given."""
    if not options.event_log:
        yield []
        return
    with EventLogSink() as sink:
        yield [sink]


def _fail(options: argparse.Namespace) -> Verdict | None:
    """Return the verdict of --fail, None where it is not given; in audit mode ALLOW, because every process runs."""
    verdict: Verdict | None = Verdict.ALLOW if options.audit else options.fail
    return verdict


def _gate_options(options: argparse.Namespace) -> dict[str, object]:
    return {
        "hold_timeout": options.hold,
        "fail": _fail(options),
        "check_before_release": options.check_before_release,
    }


def _machine_gate(options: argparse.Namespace) -> Gate:
    gate: Gate = options.gates.driver(**_gate_options(options))
    return gate


def _session(
    options: argparse.Namespace,
    gate: Gate,
    policy: Policy | None,
    log: AuditLog | None,
    keyboard: Keyboard | None,
    answers: Answers | None = None,
    *,
    results: Results | None = None,
    goes_on: bool = False,
    allow_all: AllowAll | None = None,
    sinks: Iterable[Sink] = (),
) -> Session:
    return Session(
        gate,
        options.screen,
        policy=policy,
        log=log,
        audit=options.audit,
        show_exits=options.exits,
        keyboard=keyboard,
        fail=_fail(options) or Verdict.ALLOW,
        results=results,
        goes_on=goes_on,
        allow_all=allow_all,
        answers=answers,
        inspect=options.gates.inspect,
        sinks=sinks,
    )


def _live(
    session: Session,
    tick: Callable[[], None],
    *,
    patience: int,
    ready: Callable[[], None] = lambda: None,
    stop: threading.Event | None = None,
) -> bool:
    """Run a session, and print its counts; True when Ctrl+C ended it. The first `patience` Ctrl+C do not."""
    interrupted = False
    try:
        session.run(tick, patience=patience, ready=ready, stop=stop)
    except KeyboardInterrupt:
        interrupted = True
    finally:
        session.print_summary()  # also of a gate that failed: what was held has been answered
    return interrupted


def _until_interrupted(
    session: Session,
    tick: Callable[[], None],
    ready: Callable[[], None] = lambda: None,
    stop: threading.Event | None = None,
) -> int:
    interrupted = _live(session, tick, patience=0, ready=ready, stop=stop)
    if interrupted:
        return INTERRUPTED
    if stop is not None and stop.is_set():
        return 0
    if session.screen.broken:
        return BROKEN_PIPE
    name = session.monitor.gate.name
    raise ProcmonError(
        f"{name} ended, and nothing is held any more: was the driver stopped? `procmon-gate driver start`"
    )


def _wait(command: "subprocess.Popen[bytes] | subprocess.Popen[str]") -> int:
    while True:
        with suppress(subprocess.TimeoutExpired):
            return command.wait(WAIT_SLICE_S)
