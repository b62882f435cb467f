"""procmon-gate: runs a command, and turns its failures into one line and an exit status."""

import argparse
import codecs
import errno
import json
import os
import sys
import warnings
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import TextIO

from ..errors import PolicyWarning, ProcmonError, UnsupportedPlatform
from ..util.printable import printable
from .hold_commands import CommandNotFound, Gates, guard, run, watch
from .parser import parse
from .policy_commands import check, explain, replay
from .policy_writers import import_applocker, init, learn_policy
from .screen import Screen
from .statuses import BROKEN_PIPE, FAILED, FOUND, INTERRUPTED, NEEDS_WINDOWS, NOT_FOUND
from .text import short_path

__all__ = ["Gates", "main"]


_DRAWN = {"├": "+", "└": "+", "─": "-", "│": "|"}


def _as_ascii(error: UnicodeError) -> tuple[str, int]:
    """Replace characters that an output cannot encode: the lines of a tree by ASCII, others by escapes."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    lost = error.object[error.start : error.end]
    text = "".join(_DRAWN.get(char) or char.encode("ascii", "backslashreplace").decode() for char in lost)
    return text, error.end


def main(arguments: Sequence[str] | None = None, gates: Gates | None = None) -> int:
    """Run one command; return its exit status, which ``procmon-gate --help`` explains."""
    codecs.register_error("procmon.ascii", _as_ascii)
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="procmon.ascii")  # a name that the console cannot show must not end the guard
    warnings.simplefilter("ignore", PolicyWarning)  # the commands show them, in lines of their own
    options = argparse.Namespace(gates=gates or Gates(), screen=None, to_close=None)
    try:
        status = _run(arguments, options)
        sys.stdout.flush()  # here: a failure at the end of the interpreter cannot be reported
    except KeyboardInterrupt:
        status = INTERRUPTED
    except (ProcmonError, OSError, ValueError) as error:
        status = BROKEN_PIPE if _reader_has_gone(error) else _failed(error)
    if status == BROKEN_PIPE:
        _drop_output()
    if options.screen is not None and options.screen.stuck:
        os._exit(status)  # the interpreter would wait for the thread that hangs, and then abort
    return status


def _run(arguments: Sequence[str] | None, options: argparse.Namespace) -> int:
    try:
        vars(options).update(vars(parse(arguments)))
    except SystemExit as end:  # --help: 0; a wrong command line: 2, and argparse has printed what is wrong
        return int(end.code or 0)
    try:
        return COMMANDS[options.command](options)
    finally:
        if options.to_close is not None and not options.screen.stuck:
            options.to_close.close()


def _failed(error: Exception) -> int:
    print("\n".join(map(printable, f"procmon-gate: {error}".split("\n"))), file=sys.stderr)
    if isinstance(error, UnsupportedPlatform):
        return NEEDS_WINDOWS
    return NOT_FOUND if isinstance(error, CommandNotFound) else FAILED


def _reader_has_gone(error: Exception) -> bool:
    """Whether a write to standard output failed because the reader of the pipe has gone; on Windows that is EINVAL."""
    if isinstance(error, BrokenPipeError):
        return True
    broken = isinstance(error, OSError) and error.errno == errno.EINVAL and error.filename is None
    return broken and error.args[1:] == (os.strerror(errno.EINVAL),)


def _drop_output() -> None:
    """Discard the buffer of a broken stream: otherwise the interpreter would report it at its end."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError):
            with suppress(OSError, ValueError):  # a stream without a file descriptor has no buffer below it
                nowhere = os.open(os.devnull, os.O_WRONLY)
                os.dup2(nowhere, stream.fileno())
                os.close(nowhere)


# ------------------------------------------------------------------------------------------------ the other commands


def _ps(options: argparse.Namespace) -> int:
    from ..system.listing import processes
    from ..system.tree import ProcessTree

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
    from .driver_commands import driver, sign

    return sign(options) if options.command == "driver sign" else driver(options)


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


def _service(options: argparse.Namespace) -> int:
    from .service_commands import service

    return service(options)


def _selftest(options: argparse.Namespace) -> int:
    from .selftest import selftest

    return selftest(options, sys.stdout)


def _policy(command: Callable[[argparse.Namespace, TextIO], int]) -> Callable[[argparse.Namespace], int]:
    return lambda options: command(options, sys.stdout)


COMMANDS: dict[str, Callable[[argparse.Namespace], int]] = {
    "run": run,
    "guard": guard,
    "watch": watch,
    "ps": _ps,
    "tree": _ps,
    "report": _report,
    "policy check": _policy(check),
    "policy explain": _policy(explain),
    "policy replay": _policy(replay),
    "policy import applocker": _policy(import_applocker),
    "policy learn": _policy(learn_policy),
    "policy init": _policy(init),
    **{f"driver {step}": _driver for step in ("install", "start", "stop", "delete", "status", "sign")},
    **{f"service {step}": _service for step in ("install", "start", "stop", "delete", "status", "run")},
    "selftest": _selftest,
    "doctor": _doctor,
}
