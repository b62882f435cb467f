"""``procmon-gate service``: `guard` as a Windows service that starts with the machine, after the driver."""

import argparse
import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from contextlib import redirect_stderr, redirect_stdout, suppress
from pathlib import Path
from typing import Protocol

from ..errors import (
    AccessDenied,
    DriverNotInstalled,
    ProcmonError,
    UnsupportedPlatform,
)
from ..monitor.event_log import EventLogSink
from ..policy.policy import Policy
from ..records import Verdict
from ..util.printable import printable
from ..win32 import codes, scm, service_host
from ..win32.codes import code_of
from ..win32.event_log import ERROR, EventSource
from ..win32.file_access import writers
from .allow_all import folder, safe_folder
from .service_files import (
    PythonLayout,
    check_files,
    log_files,
    package_files,
    policy_files,
    python_files,
    python_layout,
    warning_of_readers,
)

__all__ = ["NAME", "GuardService", "service"]

NAME = "procmon-guard"
DRIVER = "ProcMonGate"

DISPLAY_NAME = "procmon guard"
DESCRIPTION = "Decides by a policy which processes may start. See docs/service.md of procmon-gate."

STATES = {
    scm.STOPPED: "stopped",
    scm.START_PENDING: "starting",
    scm.RUNNING: "running",
    scm.STOP_PENDING: "stopping",
}


class Manager(Protocol):
    """The calls of Windows that the service needs: `procmon.win32.scm`, or a test's own. Failures are OSErrors."""

    def create_program(self, name: str, display: str, command: str, *, after: str, description: str) -> None: ...
    def start(self, name: str) -> None: ...
    def stop(self, name: str) -> scm.ServiceState: ...
    def query(self, name: str) -> scm.ServiceState: ...
    def image_path(self, name: str) -> str: ...
    def delete(self, name: str) -> None: ...


class GuardService:
    """The service: install, start, stop, delete, status. `manager`, `others` and `layout` are for tests.

    Every change needs an administrator. The service runs as the system, so `install` refuses a Python, a package or
    a policy that a user could replace: whoever can do that could run code as the system.
    """

    def __init__(
        self,
        *,
        manager: Manager = scm,
        others: Callable[[str], dict[str, list[str]]] = writers,
        python: str = sys.executable,
        layout: Callable[[str], PythonLayout] = python_layout,
    ) -> None:
        if manager is scm and sys.platform != "win32":
            raise UnsupportedPlatform(f"services need Windows, this is {sys.platform}")
        self._manager = manager
        self._others = others
        self._python = python
        self._layout = layout

    def install(self, policies: Sequence[Path], arguments: Sequence[str], *, fail: Verdict | None) -> None:
        """Make the service, which runs ``guard`` with these policies and arguments.

        Raises: PolicyError; ProcmonError when a policy asks and there is no `fail`, when the driver is not installed,
        when the service exists already, or when others can change the files that it runs; AccessDenied.
        """
        if not policies:
            raise ProcmonError("a service decides by rules: give --policy FILE")
        policy = Policy.load(*policies)
        if policy.asks and fail is None:
            raise ProcmonError(
                "the policy has rules that ask, and a service has no terminal to ask on: give their verdict with"
                " --fail allow or --fail block"
            )
        layout = self._layout(self._python)
        check_files([self._python, *python_files(layout), *package_files()], self._others)
        check_files(policy_files(policies), self._others, private=True)
        self._check_driver()
        command = [self._python, "-I", "-m", "procmon", "service", "run"]
        for path in policies:
            command += ["--policy", str(path.resolve())]
        line = subprocess.list2cmdline([*command, *arguments])
        try:
            self._manager.create_program(NAME, DISPLAY_NAME, line, after=DRIVER, description=DESCRIPTION)
        except OSError as error:
            if code_of(error) == codes.ERROR_SERVICE_EXISTS:
                raise ProcmonError(f"the service {NAME} is installed already; delete it first to change it") from error
            raise _refused(error, "install") from error

    def start(self) -> None:
        """Start it, and the driver before it. Raises: ProcmonError, AccessDenied."""
        self._do(self._manager.start, "start")

    def stop(self) -> None:
        """Stop it; held processes get the verdict of ``--fail``. Raises: ProcmonError, AccessDenied."""
        self._do(self._manager.stop, "stop")

    def delete(self) -> None:
        """Remove it; a running service is stopped first. Raises: ProcmonError, AccessDenied."""
        with suppress(ProcmonError):  # it does not run, or does not exist, which the next step reports
            self.stop()
        self._do(self._manager.delete, "delete")

    def status(self) -> dict[str, object]:
        """Its name, state, and command line. Raises: ProcmonError."""
        try:
            state = self._manager.query(NAME)
        except OSError as error:
            if code_of(error) == codes.ERROR_SERVICE_DOES_NOT_EXIST:
                return {"name": NAME, "state": "not installed", "command": None, "exit_code": 0}
            raise _refused(error, "query") from error
        return {
            "name": NAME,
            "state": STATES.get(state.state, str(state.state)),
            "command": self._manager.image_path(NAME),
            "exit_code": state.exit_code,
        }

    def _do(self, step: Callable[[str], object], name: str) -> None:
        try:
            step(NAME)
        except OSError as error:
            raise _refused(error, name) from error

    def _check_driver(self) -> None:
        try:
            self._manager.query(DRIVER)
        except OSError as error:
            if code_of(error) != codes.ERROR_SERVICE_DOES_NOT_EXIST:
                raise _refused(error, "query") from error
            raise DriverNotInstalled(
                "the driver is not installed, and the service starts after it: procmon-gate driver install"
            ) from error


def _refused(error: OSError, step: str) -> ProcmonError:
    advice = {
        codes.ERROR_ACCESS_DENIED: (AccessDenied, "run this as an administrator"),
        codes.ERROR_SERVICE_DOES_NOT_EXIST: (ProcmonError, "install it first: procmon-gate service install"),
        codes.ERROR_SERVICE_ALREADY_RUNNING: (ProcmonError, "it runs already"),
        codes.ERROR_SERVICE_NOT_ACTIVE: (ProcmonError, "it does not run"),
        codes.ERROR_SERVICE_MARKED_FOR_DELETE: (
            ProcmonError,
            "it is being deleted: close services.msc and whatever else has it open, or restart",
        ),
        codes.ERROR_SERVICE_REQUEST_TIMEOUT: (
            ProcmonError,
            f"it did not report in time; the event log, source {NAME}, may say why",
        ),
    }
    kind, text = advice.get(code_of(error), (ProcmonError, str(error)))
    return kind(f"{step} {NAME}: {text}")


def service(options: argparse.Namespace) -> int:
    """Do one step of ``procmon-gate service``, and print the state after it."""
    step = options.command.removeprefix("service ")
    if step == "run":
        return _run(options)
    made = GuardService()
    if step == "install":
        _prepare_machine(options.log)
        made.install(options.policy, _arguments(options), fail=options.fail)
        _warn(options)
    elif step != "status":
        getattr(made, step)()
    status = made.status()
    if options.json:
        print(json.dumps(status))
    else:
        print(f"{status['name']}: {status['state']}" + (f", {status['command']}" if status["command"] else ""))
    return 0


def _prepare_machine(log: Path | None) -> None:
    """Register the source of events, make the folder of the log and of ``allow-all``, and check where the log will be.

    Raises: ProcmonError when others can change the log or a folder.
    """
    EventLogSink.install(NAME)
    safe_folder()
    check_files(log_files(_log_path(log)), private=True)


def _log_path(given: Path | None) -> Path:
    return (given or folder() / "guard.jsonl").resolve()


def _warn(options: argparse.Namespace) -> None:
    """Warn of a log and of policies that users can read."""
    logs = log_files(_log_path(options.log))
    secrets = "it has the command lines of all users, with the passwords in them"
    closed = "who holds a policy open can keep the service from starting, and from reading a new version"
    for text in (*warning_of_readers(logs, secrets), *warning_of_readers(policy_files(options.policy), closed)):
        print(f"procmon-gate: {printable(text)}", file=sys.stderr)


def _arguments(options: argparse.Namespace) -> list[str]:
    """The options of ``service install`` as ``service run`` takes them."""
    arguments = [
        "--log",
        str(_log_path(options.log)),
        "--log-format",
        options.log_format,
        "--hold",
        str(options.hold or 0),
    ]
    if options.fail is not None:
        arguments += ["--fail", options.fail.value]
    flags = ("audit", "check-before-release")
    return arguments + [f"--{flag}" for flag in flags if getattr(options, flag.replace("-", "_"))]


def _run(options: argparse.Namespace) -> int:
    """Run as the service. Errors are in the event log, because there is no terminal."""
    from .hold_commands import guard

    def body(ready: Callable[[], None], stop: threading.Event) -> int:
        try:
            return guard(options, ready=ready, stop=stop, sinks=[EventLogSink(NAME)])
        except BaseException as error:
            with EventSource(NAME) as source:
                source.report(ERROR, 5, f"{NAME} stops: {type(error).__name__}: {error}")
            raise

    with open(os.devnull, "w", encoding="utf-8") as nowhere, redirect_stdout(nowhere), redirect_stderr(nowhere):
        try:
            service_host.serve(NAME, body)
        except OSError as error:
            if code_of(error) != codes.ERROR_FAILED_SERVICE_CONTROLLER_CONNECT:
                raise
            failure = error
        else:
            return 0
    raise ProcmonError("only Windows starts this: procmon-gate service start") from failure
