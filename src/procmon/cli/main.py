"""procmon-gate: what its commands do. `_cli_parser` has their options, and the exit statuses."""

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager, closing, nullcontext, suppress
from dataclasses import dataclass
from typing import Protocol, TextIO, runtime_checkable

from ..audit import AuditLog
from ..driver.protocol import MAX_RULES
from ..errors import ProcmonError, UnsupportedPlatform
from ..gates.base import Gate
from ..policy.policy import Policy
from ..records import Verdict, printable
from .parser import parse
from .policy_commands import check, explain, replay
from .prompts import Keyboard, open_keyboard
from .screen import Screen
from .session import Reloader, Session, in_words
from .text import short_path

__all__ = ["Gates", "main"]

FAILED, NEEDS_WINDOWS, NOT_FOUND, INTERRUPTED = 125, 126, 127, 130
FOUND = 1

SLICE = 0.1
"""Seconds of one wait for the command: Ctrl+C does not interrupt one on Windows."""


class RunsCommand(Gate, Protocol):
    """A gate over a command that it has started."""

    @property
    def popen(self) -> "subprocess.Popen[bytes] | subprocess.Popen[str] | None":
        """The command."""


@runtime_checkable
class TakesRules(Protocol):
    """A gate that answers exact paths by itself."""

    def set_rules(self, rules: Iterable[tuple[str, Verdict]]) -> None: ...


class RunGate(Protocol):
    """Makes the gate of ``run``."""

    def __call__(self, command: Sequence[str], *, hold_timeout: float | None, otherwise: Verdict) -> RunsCommand: ...


class MachineGate(Protocol):
    """Makes the gate of ``guard`` and ``watch``."""

    def __call__(self, *, hold_timeout: float | None, otherwise: Verdict) -> Gate: ...


def _debug_gate(command: Sequence[str], *, hold_timeout: float | None, otherwise: Verdict) -> RunsCommand:
    from ..gates.debug import DebugGate

    return DebugGate.run(list(command), hold_timeout=hold_timeout, on_timeout=otherwise)


def _driver_gate(*, hold_timeout: float | None, otherwise: Verdict) -> Gate:
    from ..gates.driver import DriverGate

    return DriverGate(hold_timeout=hold_timeout, on_timeout=otherwise, on_disconnect=otherwise)


@dataclass(frozen=True)
class Gates:
    """Where the gates come from; tests put their own here."""

    run: RunGate = _debug_gate
    driver: MachineGate = _driver_gate
    keyboard: Callable[[Screen], Keyboard | None] = open_keyboard


def main(arguments: Sequence[str] | None = None, gates: Gates = Gates()) -> int:
    """Run one command; the exit status, which `_cli_parser` lists."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")  # a name that the console cannot show must not end the guard
    try:
        options = parse(arguments)
    except SystemExit as end:  # --help: 0; a wrong command line: 2, argparse has said what is wrong
        return int(end.code or 0)
    options.gates, options.screen = gates, None
    try:
        status = COMMANDS[options.command](options)
    except KeyboardInterrupt:
        status = INTERRUPTED
    except UnsupportedPlatform as error:
        status = _failed(error, NEEDS_WINDOWS)
    except (ProcmonError, OSError, ValueError) as error:
        status = _failed(error, FAILED)
    if options.screen is not None and options.screen.stuck:
        os._exit(status)  # Python would wait for what hangs, and then abort
    return status


def _failed(error: Exception, status: int) -> int:
    print("\n".join(map(printable, f"procmon-gate: {error}".split("\n"))), file=sys.stderr)
    return status


# ---------------------------------------------------------------------------------------------------- live commands


def _run(options: argparse.Namespace) -> int:
    policy = Policy.load(options.policy) if options.policy else None
    screen = _screen(options, sys.stderr)
    with _log(options) as log:
        try:
            gate = options.gates.run(options.argv, hold_timeout=options.hold, otherwise=_otherwise(options))
        except FileNotFoundError:
            error = ValueError(f"there is no command {options.argv[0]}; give its path, or look at PATH")
            return _failed(error, NOT_FOUND)
        with closing(gate):
            session = _session(options, gate, policy, log, options.gates.keyboard(screen))
            interrupted = _live(session, lambda: None, patience=1)  # the command has got the first Ctrl+C, too
    if interrupted or gate.popen is None:
        return INTERRUPTED
    return _exit_status(_wait(gate.popen))


def _guard(options: argparse.Namespace) -> int:
    screen = _screen(options, sys.stdout)
    keyboard = options.gates.keyboard(screen)
    policy, started = _rules_of_guard(options, keyboard)
    with _log(options) as log, closing(_machine_gate(options)) as gate:

        def push_driver_rules(policy: Policy) -> None:
            if options.driver_rules and not options.audit and isinstance(gate, TakesRules):
                exact = policy.driver_rules()[:MAX_RULES]
                try:
                    gate.set_rules(exact)
                except (ProcmonError, ValueError):
                    gate.set_rules([])  # those of an older policy must not speak against this one
                    raise
                screen.note(f"the driver itself answers for {len(exact):,} exact path{'s' if len(exact) != 1 else ''}")

        session = _session(options, gate, policy, log, keyboard)
        push_driver_rules(policy)
        screen.note(started)
        return _until_interrupted(session, Reloader(policy, screen, push_driver_rules))


def _rules_of_guard(options: argparse.Namespace, keyboard: Keyboard | None) -> tuple[Policy, str]:
    """The rules, and what to say of them; where there are none, every process is asked about."""
    if options.policy:
        policy = Policy.load(options.policy)
        return policy, f"{in_words(policy)}; {'all processes run; ' if options.audit else ''}Ctrl+C ends it"
    policy = Policy.parse('default = "ask"')
    if options.audit:
        return policy, "you would be asked about each of these; all of them run; Ctrl+C ends it"
    if keyboard is None:
        nobody = "with --json there is nobody to ask" if options.json else "there is no terminal to ask on"
        raise ProcmonError(
            f"without rules guard asks you about every process, and {nobody}: give --policy FILE, or --audit to see"
            " what it would ask about, or use `procmon-gate watch`"
        )
    return policy, "asking about each process that starts: y lets it run, n ends it; Ctrl+C to end"


def _watch(options: argparse.Namespace) -> int:
    screen = _screen(options, sys.stdout)
    with _log(options) as log, closing(_machine_gate(options)) as gate:
        session = _session(options, gate, None, log, None)
        screen.note("every process that starts is shown, and runs; Ctrl+C ends it")
        return _until_interrupted(session, lambda: None)


def _screen(options: argparse.Namespace, stream: TextIO) -> Screen:
    options.screen = screen = Screen(stream, json_lines=options.json)
    screen.show_default = bool(options.policy)
    return screen


def _log(options: argparse.Namespace) -> AbstractContextManager[AuditLog | None]:
    """The audit log, opened before anything is held, and each line written before its verdict: none without a line."""
    return AuditLog(options.log, write_ahead=True) if options.log else nullcontext()


def _otherwise(options: argparse.Namespace) -> Verdict:
    """What those get about whom nobody has decided; in audit mode nothing is kept from running."""
    return Verdict.ALLOW if options.audit else options.otherwise


def _machine_gate(options: argparse.Namespace) -> Gate:
    gate: Gate = options.gates.driver(hold_timeout=options.hold, otherwise=_otherwise(options))
    return gate


def _session(
    options: argparse.Namespace, gate: Gate, policy: Policy | None, log: AuditLog | None, keyboard: Keyboard | None
) -> Session:
    return Session(
        gate,
        options.screen,
        policy=policy,
        log=log,
        audit=options.audit,
        show_exits=options.exits,
        keyboard=keyboard,
        otherwise=_otherwise(options),
    )


def _live(session: Session, tick: Callable[[], None], *, patience: int) -> bool:
    """Run it, and tell what came of it; True when Ctrl+C ended it, after the first `patience` of them."""
    interrupted = False
    try:
        session.run(tick, patience=patience)
    except KeyboardInterrupt:
        interrupted = True
    session.print_summary()
    return interrupted


def _until_interrupted(session: Session, tick: Callable[[], None]) -> int:
    interrupted = _live(session, tick, patience=0)
    if not interrupted and not session.screen.broken:
        name = session.monitor.gate.name
        raise ProcmonError(
            f"{name} ended, nothing is held any more: was the driver stopped? `procmon-gate driver start`"
        )
    return INTERRUPTED if interrupted else 0


def _wait(command: "subprocess.Popen[bytes] | subprocess.Popen[str]") -> int:
    while True:
        with suppress(subprocess.TimeoutExpired):
            return command.wait(SLICE)


def _exit_status(status: int) -> int:
    """As `sys.exit` can give it to Windows: 0xC0000364 as the negative number of the same 32 bits."""
    return status - 2**32 if status >= 2**31 else status


# ------------------------------------------------------------------------------------------------ the other commands


def _ps(options: argparse.Namespace) -> int:
    from ..system.listing import ProcessTree, processes

    found = processes()
    if options.json:
        for process in found:
            print(json.dumps(process.as_dict(), separators=(",", ":")))
    else:
        columns = Screen(sys.stdout).columns
        shorten = (lambda image, taken: short_path(image, columns - taken)) if columns else None
        print(ProcessTree(found) if options.command == "tree" else found.table(shorten))
    return 0


def _driver(options: argparse.Namespace) -> int:
    from ..driver.service import DriverService

    service = DriverService()
    step = options.command.removeprefix("driver ")
    if step == "install":
        service.install(options.file)
    elif step != "status":
        getattr(service, step)()
    status = service.status()
    if options.json:
        print(json.dumps({"name": status.name, "state": status.state.value, "path": status.path}))
    else:
        print(f"{status.name}: {status.state.value}" + (f", {status.path}" if status.path else ""))
    return 0


def _doctor(options: argparse.Namespace) -> int:
    from .doctor import examine

    findings = examine()
    for finding in findings:
        print(json.dumps(finding.as_dict()) if options.json else finding)
    return FOUND if any(finding.good is False for finding in findings) else 0


def _report(options: argparse.Namespace) -> int:
    from .report import write_report

    made = write_report(options.log, options.output)
    print(json.dumps({"report": str(options.output), "summary": made}) if options.json else made)
    return 0


def _policy(command: Callable[[argparse.Namespace, TextIO], int]) -> Callable[[argparse.Namespace], int]:
    return lambda options: command(options, sys.stdout)


COMMANDS: dict[str, Callable[[argparse.Namespace], int]] = {
    "run": _run,
    "guard": _guard,
    "watch": _watch,
    "ps": _ps,
    "tree": _ps,
    "report": _report,
    "policy check": _policy(check),
    "policy explain": _policy(explain),
    "policy replay": _policy(replay),
    **{f"driver {step}": _driver for step in ("install", "start", "stop", "delete", "status")},
    "doctor": _doctor,
}
