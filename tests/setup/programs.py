"""Running programs: quietly as a step of the set-up, or attached to the streams of dev.py."""

import ctypes
import os
import selectors
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from .project import ROOT, Stop


def run_quietly(
    command: Sequence[str | Path],
    why: str,
    environment: Mapping[str, str] | None = None,
    folder: Path | None = None,
) -> None:
    """Run a tool, in `folder` or the current one, and show its output only if it failed.

    Raises: Stop with the last lines of its output.
    """
    null, pipe = subprocess.DEVNULL, subprocess.PIPE
    try:
        done = subprocess.run(command, stdin=null, stdout=pipe, stderr=subprocess.STDOUT, env=environment, cwd=folder)
    except OSError as error:
        raise Stop(f"{why}: {command[0]} does not start ({error.strerror})") from error
    if done.returncode:
        output = done.stdout.decode(errors="replace").strip().splitlines()[-25:]
        raise Stop("\n    ".join([f"{why}: {command[0]} ended with status {done.returncode}", *output]))


def with_paths() -> dict[str, str]:
    """The environment variables of a Python that finds the package and the modules that tests share."""
    paths = [str(ROOT / "src"), str(ROOT / "tests"), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}


def run_attached(
    command: Sequence[str], environment: Mapping[str, str], timeout: float | None = None, silent_input: bool = False
) -> int:
    """Run a program on this process' standard streams and return its exit status (128 + n after signal n).

    With `silent_input` the program reads an empty input instead of this process' input.

    A terminal is passed on as it is. Anything else is written through a pipe: Wine's Python cannot write to a file,
    and a program that it leaves running must not keep the reader of our own output waiting.

    Raises: Stop when `timeout` (seconds) has passed.
    """
    stdin = subprocess.DEVNULL if silent_input or not sys.stdin else None
    if sys.platform == "win32":
        try:
            return subprocess.run(command, env=environment, timeout=timeout, stdin=stdin).returncode
        except subprocess.TimeoutExpired as error:
            raise Stop(f"not done after {timeout:.0f} s, and ended: {' '.join(command)}") from error
    sys.stdout.flush()
    deadline = None if timeout is None else time.monotonic() + timeout
    outer = [sys.stdout.fileno(), sys.stderr.fileno()]
    pipes: list[int | None] = [None if os.isatty(stream) else subprocess.PIPE for stream in outer]
    if None not in pipes and os.path.sameopenfile(*outer):
        pipes[1] = subprocess.STDOUT  # both go to one file: keep their order
    process = subprocess.Popen(
        command,
        env=environment,
        stdin=stdin,
        stdout=pipes[0],
        stderr=pipes[1],
        preexec_fn=_end_with_parent,
        # A terminal sends Ctrl+C to its whole group, this program included. Without one we pass it on.
        process_group=None if os.isatty(0) else 0,
    )
    copies = {pipe.fileno(): out for pipe, out in ((process.stdout, outer[0]), (process.stderr, outer[1])) if pipe}
    try:
        return _attend(process, copies, deadline, command)
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()


def _end_with_parent() -> None:
    """Ask Linux to kill this process (signal 9) when dev.py ends, even if dev.py is killed itself."""
    set_parent_death_signal = 1
    ctypes.CDLL(None).prctl(set_parent_death_signal, 9, 0, 0, 0)


def _attend(
    process: subprocess.Popen[bytes], copies: Mapping[int, int], deadline: float | None, command: Sequence[str]
) -> int:
    """Copy output until the program has ended and its pipes are empty, and pass Ctrl+C on."""
    with selectors.DefaultSelector() as selector:
        for pipe in copies:
            selector.register(pipe, selectors.EVENT_READ)
        interrupts = 0
        while True:
            try:
                ended = process.poll() is not None
                ready = selector.select(0.1) if selector.get_map() else []
                for key, _ in ready:
                    data = os.read(key.fd, 65536)
                    if not data:
                        selector.unregister(key.fd)
                    _write_all(copies[key.fd], data)
                if ended and not ready:
                    return process.returncode if process.returncode >= 0 else 128 - process.returncode
                if not selector.get_map() and not ended:
                    process.wait(0.1)
                if deadline is not None and time.monotonic() > deadline:
                    raise Stop(f"not done in time, and ended: {' '.join(command)}")
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


def _write_all(stream: int, data: bytes) -> None:
    while data:
        data = data[os.write(stream, data) :]
