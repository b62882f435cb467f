"""procmon-gate: hold every new process until a rule, or you, have said yes or no.

exit status:
  0    done; `run`: the status of the command itself (0xC0000364 when it was blocked)
  1    `policy check` found mistakes, `doctor` something that does not work
  2    the command line was wrong
  125  procmon could not do it; one line on standard error says why and what to do next
  126  this needs Windows, and here is none
  127  `run`: there is no such command
  130  stopped with Ctrl+C
"""

import argparse
import json
import subprocess
import sys
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager, closing, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TextIO, runtime_checkable

from . import __version__
from ._cli_live import Keyboard, Reloader, Session, open_keyboard
from ._cli_policy import check, explain, replay
from ._cli_screen import Screen
from .audit import AuditLog
from .errors import ProcmonError, UnsupportedPlatform
from .gates.base import Gate
from .policy import Policy
from .records import ProcessHelper, Verdict, printable
from .wire import MAX_RULES

__all__ = ["Gates", "main"]

FAILED, NEEDS_WINDOWS, NOT_FOUND, INTERRUPTED = 125, 126, 127, 130
FOUND = 1


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

    def __call__(self, command: Sequence[str], *, hold_timeout: float | None, on_timeout: Verdict) -> RunsCommand: ...


class MachineGate(Protocol):
    """Makes the gate of ``guard`` and ``watch``."""

    def __call__(self, *, hold_timeout: float | None, on_timeout: Verdict) -> Gate: ...


def _debug_gate(command: Sequence[str], *, hold_timeout: float | None, on_timeout: Verdict) -> RunsCommand:
    from .gates.debug import DebugGate

    return DebugGate.run(list(command), hold_timeout=hold_timeout, on_timeout=on_timeout)


def _driver_gate(*, hold_timeout: float | None, on_timeout: Verdict) -> Gate:
    from .gates.driver import DriverGate

    return DriverGate(hold_timeout=hold_timeout, on_timeout=on_timeout)


@dataclass(frozen=True)
class Gates:
    """Where the gates come from; tests put their own here."""

    run: RunGate = _debug_gate
    driver: MachineGate = _driver_gate
    keyboard: Callable[[Screen], Keyboard | None] = open_keyboard


def main(arguments: Sequence[str] | None = None, gates: Gates = Gates()) -> int:
    """Run one command; the exit status. The module's text lists them."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")  # a name that the console cannot show must not end the guard
    try:
        options = _parser().parse_args(arguments)
    except SystemExit as end:  # --help: 0; a wrong command line: 2, argparse has said what is wrong
        return int(end.code or 0)
    options.gates = gates
    try:
        status: int = options.command(options)
        return status
    except KeyboardInterrupt:
        return INTERRUPTED
    except UnsupportedPlatform as error:
        return _failed(error, NEEDS_WINDOWS)
    except (ProcmonError, OSError, ValueError) as error:
        return _failed(error, FAILED)


def _failed(error: Exception, status: int) -> int:
    print("\n".join(map(printable, f"procmon-gate: {error}".split("\n"))), file=sys.stderr)
    return status


# ---------------------------------------------------------------------------------------------------- live commands


def _run(options: argparse.Namespace) -> int:
    command = options.argv[1:] if options.argv[:1] == ["--"] else options.argv
    if not command:
        raise ValueError("run needs a command: procmon-gate run -- cmd /c hostname")
    policy = Policy.load(options.policy) if options.policy else None
    screen = Screen(sys.stderr, json_lines=options.json)
    with _audit(options) as audit:
        try:
            gate = options.gates.run(command, hold_timeout=options.hold, on_timeout=options.otherwise)
        except FileNotFoundError:
            return _failed(ValueError(f"there is no command {command[0]}; give its path, or look at PATH"), NOT_FOUND)
        with closing(gate):
            session = _session(options, gate, screen, policy, audit)
            interrupted = _live(session, lambda: None, patient=True)
    screen.note(session.summary())
    if interrupted or gate.popen is None:
        return INTERRUPTED
    return _exit_status(gate.popen.wait())


def _guard(options: argparse.Namespace) -> int:
    policy = Policy.load(options.policy)
    screen = Screen(sys.stdout, json_lines=options.json)
    gate_options = {"hold_timeout": options.hold, "on_timeout": options.otherwise}
    with _audit(options) as audit, closing(options.gates.driver(**gate_options)) as gate:

        def hand_over(policy: Policy) -> None:
            if options.driver_rules and not options.audit_mode and isinstance(gate, TakesRules):
                exact = policy.exact_rules()[:MAX_RULES]
                try:
                    gate.set_rules(exact)
                except (ProcmonError, ValueError):
                    gate.set_rules([])  # those of an older policy must not speak against this one
                    raise
                screen.note(f"the driver itself answers for {len(exact):,} exact paths")

        session = _session(options, gate, screen, policy, audit)
        hand_over(policy)
        screen.note(f"{policy!r}; Ctrl+C ends it")
        return _until_interrupted(session, screen, Reloader(policy, screen, hand_over))


def _watch(options: argparse.Namespace) -> int:
    screen = Screen(sys.stdout, json_lines=options.json)
    with _audit(options) as audit, closing(options.gates.driver(hold_timeout=60.0, on_timeout=Verdict.ALLOW)) as gate:
        session = _session(options, gate, screen, None, audit)
        screen.note("every process that starts is shown, and let run; Ctrl+C ends it")
        return _until_interrupted(session, screen, lambda: None)


def _audit(options: argparse.Namespace) -> AbstractContextManager[AuditLog | None]:
    """The audit log, opened before anything is held, and each line written before its verdict: none without a line."""
    return AuditLog(options.audit, ahead=True) if options.audit else nullcontext()


def _session(
    options: argparse.Namespace, gate: Gate, screen: Screen, policy: Policy | None, audit: AuditLog | None
) -> Session:
    return Session(
        gate,
        screen,
        policy=policy,
        audit=audit,
        audit_mode=getattr(options, "audit_mode", False),
        show_exits=options.exits,
        keyboard=options.gates.keyboard(screen) if policy is not None else None,
        otherwise=getattr(options, "otherwise", Verdict.ALLOW),
    )


def _live(session: Session, tick: Callable[[], None], *, patient: bool) -> bool:
    """Run it; True when Ctrl+C ended it. `patient`: the command has got the first Ctrl+C, too, and may go on."""
    try:
        session.run(tick, patience=1 if patient else 0)
    except KeyboardInterrupt:
        return True
    return False


def _until_interrupted(session: Session, screen: Screen, tick: Callable[[], None]) -> int:
    interrupted = _live(session, tick, patient=False)
    screen.note(session.summary())
    if not interrupted and not screen.broken:
        name = session.monitor.gate.name
        raise ProcmonError(
            f"{name} ended, nothing is held any more: was the driver stopped? `procmon-gate driver start`"
        )
    return INTERRUPTED if interrupted else 0


def _exit_status(status: int) -> int:
    """As `sys.exit` can give it to Windows: 0xC0000364 as the negative number of the same 32 bits."""
    return status - 2**32 if status >= 2**31 else status


# ------------------------------------------------------------------------------------------------ the other commands


def _ps(options: argparse.Namespace) -> int:
    from .processes import ProcessTree, processes

    found = processes()
    if options.json:
        for process in found:
            print(json.dumps(process.as_dict(), separators=(",", ":")))
    else:
        print(ProcessTree(found) if options.name == "tree" else _table(found))
    return 0


def _table(processes: list[ProcessHelper]) -> str:
    """One line a process: pid, parent, since when, image."""
    lines = [f"{'PID':>6} {'PARENT':>6}  {'STARTED':<16}  IMAGE"]
    for process in processes:
        created = process.created.astimezone().strftime("%Y-%m-%d %H:%M") if process.created else ""
        lines.append(f"{process.pid:>6} {process.parent_pid:>6}  {created:<16}  {printable(process.image_name)}")
    return "\n".join(lines)


def _driver(options: argparse.Namespace) -> int:
    from .service import DriverService

    service = DriverService()
    if options.step == "install":
        service.install(options.file)
    elif options.step != "status":
        getattr(service, options.step)()
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


def _policy(command: Callable[[argparse.Namespace, TextIO], int]) -> Callable[[argparse.Namespace], int]:
    return lambda options: command(options, sys.stdout)


# --------------------------------------------------------------------------------------------------- the command line


def _parser() -> argparse.ArgumentParser:
    about, _, statuses = (__doc__ or "").partition("\n\n")
    parser = argparse.ArgumentParser(
        "procmon-gate", description=about, epilog=statuses, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--version", action="version", version=f"procmon-gate {__version__}")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)

    run = _command(commands, "run", _run, "run a command and hold each process of its tree; needs no driver")
    run.add_argument("--policy", metavar="FILE", help="the rules; without them every process is shown and allowed")
    _asking(run)
    _live_options(run)
    run.add_argument("argv", nargs=argparse.REMAINDER, metavar="-- COMMAND ...", help="what to run")

    guard = _command(commands, "guard", _guard, "hold each new process of the machine and decide by a policy")
    guard.add_argument("--policy", metavar="FILE", required=True, help="the rules; read again when the file changes")
    guard.add_argument("--audit-mode", action="store_true", help="say what would be done, and let everything pass")
    guard.add_argument(
        "--driver-rules", action="store_true", help="let the driver itself answer what rules with exact paths say"
    )
    _asking(guard)
    _live_options(guard)

    watch = _command(commands, "watch", _watch, "show each new process of the machine, and allow it")
    _live_options(watch)

    for name, what in (("ps", "list the running processes"), ("tree", "show the running processes as a tree")):
        _command(commands, name, _ps, what).set_defaults(name=name)

    policy = commands.add_parser(
        "policy", help="look into a policy, without any process", description="Look into a policy."
    )
    questions = policy.add_subparsers(metavar="QUESTION", required=True)
    asked = _command(questions, "check", _policy(check), "every mistake, with its line and what to write instead")
    asked.add_argument("file", type=Path)
    asked = _command(questions, "explain", _policy(explain), "why a process would be allowed or blocked, rule by rule")
    asked.add_argument("file", type=Path)
    asked.add_argument("image", help="its path, c:/tools/a.exe")
    asked.add_argument("--command-line", metavar="TEXT")
    asked.add_argument("--parent", metavar="IMAGE", action="append", default=[], help="again for the parent's parent")
    asked.add_argument("--user", metavar="NAME")
    asked.add_argument("--session", metavar="NUMBER", type=int)
    asked.add_argument("--sha256", metavar="HEX")
    asked.add_argument("--signer", metavar="NAME")
    asked = _command(questions, "replay", _policy(replay), "what it would have decided about a log of --audit")
    asked.add_argument("file", type=Path)
    asked.add_argument("log", type=Path)

    driver = commands.add_parser(
        "driver", help="install, start, stop, delete, status", description="The driver's service."
    )
    steps = driver.add_subparsers(metavar="STEP", required=True)
    for step, what in (
        ("install", "make the service; the file stays where it is"),
        ("start", "load the driver"),
        ("stop", "unload it; what it holds goes on"),
        ("delete", "remove the service"),
        ("status", "what it is doing"),
    ):
        parser_of_step = _command(steps, step, _driver, what)
        parser_of_step.set_defaults(step=step)
        if step == "install":
            parser_of_step.add_argument("file", nargs="?", help="the .sys file, if it is not the one that came along")

    _command(commands, "doctor", _doctor, "what is missing here, and what to do about it")
    return parser


def _command(
    commands: "argparse._SubParsersAction[argparse.ArgumentParser]",
    name: str,
    function: Callable[[argparse.Namespace], int],
    what: str,
) -> argparse.ArgumentParser:
    parser = commands.add_parser(name, help=what, description=what[0].upper() + what[1:] + ".")
    parser.add_argument("--json", action="store_true", help="one JSON object a line, for machines")
    parser.set_defaults(command=function)
    return parser


def _live_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--audit", metavar="FILE", help="write each decision to this audit log")
    parser.add_argument("--exits", action="store_true", help="also show processes that exit")


def _asking(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--hold",
        metavar="SECONDS",
        type=_seconds,
        default=60.0,
        help="how long a process is held, and a question asked; 0: for ever (default 60)",
    )
    parser.add_argument(
        "--otherwise",
        metavar="VERDICT",
        type=_verdict,
        default=Verdict.ALLOW,
        help="allow or block: what an unanswered question comes to (default allow)",
    )


def _seconds(text: str) -> float | None:
    seconds = float(text)
    if not 0 <= seconds < 4_000_000:
        raise argparse.ArgumentTypeError(f"{text} is not a number of seconds; 0 is for ever")
    return seconds or None


def _verdict(text: str) -> Verdict:
    verdicts = {"allow": Verdict.ALLOW, "block": Verdict.BLOCK}
    if text not in verdicts:
        raise argparse.ArgumentTypeError(f"{text} is neither allow nor block")
    return verdicts[text]
