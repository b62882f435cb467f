"""Running programs: quietly as a step of the set-up, or attached to the streams of dev.py."""

import contextlib
import ctypes
import os
import selectors
import signal
import stat
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from .project import ROOT, Stop, report

PROGRESS_S = 15.0
"""A quiet step that takes longer shows the last line of its output this often."""

TIMED_OUT = 124
"""The exit status of a program that was killed because it took too long, as in timeout(1)."""

# Looked up before any fork: between fork and exec a process with threads may call nothing that takes a lock.
_prctl = None if sys.platform == "win32" else ctypes.CDLL(None).prctl


def run_quietly(
    command: Sequence[str | Path],
    why: str,
    environment: Mapping[str, str] | None = None,
    folder: Path | None = None,
) -> None:
    """Run a tool, in `folder` or the current one. Its output is shown if it fails, and a line of it if it takes long.

    Raises: Stop with the last lines of its output.
    """
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as made, open(Path(made) / "output", "wb") as output:
        try:
            process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT, env=environment, cwd=folder
            )
        except OSError as error:
            raise Stop(f"{why}: {command[0]} does not start ({error.strerror})") from error
        began = time.monotonic()
        with process:
            while True:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    status = process.wait(PROGRESS_S)
                    break
                last = _lines(Path(output.name))[-1:]
                report("  ".join([f"  {time.monotonic() - began:3.0f} s", *(line[:90] for line in last)]))
        if status:
            last = _lines(Path(output.name))[-25:]
            raise Stop("\n    ".join([f"{why}: {command[0]} ended with status {status}", *last]))


def _lines(output: Path) -> list[str]:
    """The lines that a program has written so far."""
    return output.read_bytes().decode(errors="replace").strip().splitlines()


def with_paths() -> dict[str, str]:
    """The environment variables of a Python that finds the package and the modules that tests share."""
    paths = [str(ROOT / "src"), str(ROOT / "tests"), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}


@dataclass(frozen=True)
class Attachment:
    """How a program is attached to this process."""

    timeout: float | None = None
    """Seconds after which the program is killed."""
    stopped: threading.Event | None = None
    """The program is killed when this is set."""
    silent_input: bool = False
    """It reads an empty input instead of this process' input."""
    output: Path | None = None
    """The file for its output, instead of this process' standard output and standard error."""
    errors: Path | None = None
    """The file for its standard error alone."""
    unix_lines: bool = False
    """Its lines end in CR LF, and are passed on with LF, except to a terminal."""


def run_attached(command: Sequence[str], environment: Mapping[str, str], attachment: Attachment = Attachment()) -> int:
    """Run a program on this process' standard streams and return its exit status (128 + n after signal n).

    A terminal is passed on as it is. A file is read through a pipe, and anything else is written through one: Wine's
    Python can neither read nor write a file, and a program that it leaves running must not keep the reader of our own
    output waiting. A program that takes too long, or that is stopped, is killed and has the status TIMED_OUT.
    """
    sys.stdout.flush()
    with contextlib.ExitStack() as files:
        outer = [sys.stdout.fileno(), sys.stderr.fileno()]
        if attachment.output is not None:
            outer = 2 * [files.enter_context(attachment.output.open("wb")).fileno()]
        if attachment.errors is not None:
            outer[1] = files.enter_context(attachment.errors.open("wb")).fileno()
        run = _run_on_windows if sys.platform == "win32" else _run_on_linux
        return run(command, environment, attachment, outer)


def _run_on_windows(
    command: Sequence[str], environment: Mapping[str, str], attachment: Attachment, outer: Sequence[int]
) -> int:
    stdin = subprocess.DEVNULL if attachment.silent_input or not sys.stdin else None
    end = None if attachment.timeout is None else time.monotonic() + attachment.timeout
    with subprocess.Popen(command, env=environment, stdin=stdin, stdout=outer[0], stderr=outer[1]) as process:
        while True:
            with contextlib.suppress(subprocess.TimeoutExpired):
                return process.wait(0.2)
            if _is_over(attachment, end, command):
                process.kill()
                return TIMED_OUT


def _run_on_linux(
    command: Sequence[str], environment: Mapping[str, str], attachment: Attachment, outer: Sequence[int]
) -> int:
    pipes: list[int | None] = [None if os.isatty(stream) else subprocess.PIPE for stream in outer]
    if None not in pipes and os.path.sameopenfile(*outer):
        pipes[1] = subprocess.STDOUT  # both go to one file: keep their order
    silent = attachment.silent_input or not sys.stdin
    is_file = not silent and stat.S_ISREG(os.fstat(0).st_mode)
    reader = subprocess.Popen(["cat"], stdout=subprocess.PIPE) if is_file else None
    process = subprocess.Popen(
        command,
        env=environment,
        stdin=reader.stdout if reader else subprocess.DEVNULL if silent else None,
        stdout=pipes[0],
        stderr=pipes[1],
        preexec_fn=_end_with_parent,
        # A terminal sends Ctrl+C to its whole group, this program included. Without one we pass it on.
        process_group=None if os.isatty(0) else 0,
    )
    try:
        if reader is not None and reader.stdout is not None:
            reader.stdout.close()  # so that `cat` ends with the program
        with selectors.DefaultSelector() as selector:
            for pipe, to in ((process.stdout, outer[0]), (process.stderr, outer[1])):
                if pipe is not None:
                    selector.register(pipe, selectors.EVENT_READ, _Copy(to, attachment.unix_lines))
            return _attend(process, selector, attachment, command)
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
        if reader is not None:
            reader.kill()
            reader.wait()


def _end_with_parent() -> None:
    """Ask Linux to kill this process (signal 9) when dev.py ends, even if dev.py is killed itself."""
    set_parent_death_signal = 1
    if _prctl is not None:
        _prctl(set_parent_death_signal, 9, 0, 0, 0)


def _is_over(attachment: Attachment, end: float | None, command: Sequence[str]) -> bool:
    """Must the program be killed now? Reports a timeout."""
    if end is not None and time.monotonic() > end:
        report(f"not done in time, and killed: {' '.join(command)}")
        return True
    return attachment.stopped is not None and attachment.stopped.is_set()


@dataclass
class _Copy:
    """The destination of the output from one pipe."""

    to: int
    unix_lines: bool
    held_back: bytes = b""
    """A CR at the end of the data read so far: an LF may follow."""

    def write(self, data: bytes) -> None:
        """Write `data`; empty `data` means the end of the output."""
        if self.unix_lines:
            is_end, data = not data, self.held_back + data
            self.held_back = b"\r" if data.endswith(b"\r") and not is_end else b""
            data = data.removesuffix(self.held_back).replace(b"\r\n", b"\n")
        while data:
            data = data[os.write(self.to, data) :]


def _attend(
    process: subprocess.Popen[bytes], selector: selectors.BaseSelector, attachment: Attachment, command: Sequence[str]
) -> int:
    """Copy output until the program has ended and its pipes are empty, and pass Ctrl+C on."""
    end = None if attachment.timeout is None else time.monotonic() + attachment.timeout
    interrupts = 0
    while True:
        try:
            ended = process.poll() is not None
            ready = selector.select(0.1) if selector.get_map() else []
            for key, _ in ready:
                data = os.read(key.fd, 65536)
                if not data:
                    selector.unregister(key.fileobj)
                key.data.write(data)
            if ended and not ready:
                return process.returncode if process.returncode >= 0 else 128 - process.returncode
            if not selector.get_map() and not ended:
                process.wait(0.1)
            if _is_over(attachment, end, command):
                return TIMED_OUT
        except subprocess.TimeoutExpired:
            continue
        except KeyboardInterrupt:
            interrupts += 1
            if interrupts > 2:
                raise
            if not os.isatty(0):
                process.send_signal(signal.SIGINT)
        except BrokenPipeError:
            return 128 + 13  # SIGPIPE
