"""Plays the kernel's part for the driver's Wine build, with real processes.

Wine notifies no driver of processes. So `WineKernel` runs real commands under the debug API (a `DebugGate`, which keeps
each process of the tree frozen before its first instruction) and does for each process what a kernel would:

    a process is created          NOTE_CREATED, in order, before any other note about that process
    its image is mapped           NOTE_IMAGE in a thread of its own: the driver keeps the request pending while it holds
                                  the process; then the verdict releases or terminates the real process
    it exits                      NOTE_EXITED

When no driver is loaded, processes run untouched, as on any kernel. As a program it runs one command, with its standard
streams and its exit status; a controller elsewhere decides which of its processes run:

    python driver/wine/kernel.py -- cmd /c "hostname & whoami"
"""

import logging
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from contextlib import closing
from types import TracebackType
from typing import Any, Self

from procmon import DebugGate, GateClosed, ProcessHelper
from procmon.driver import protocol, wine_notes
from procmon.driver.info import DEVICE
from procmon.util.filetime import to_filetime
from procmon.win32.codes import code_of
from procmon.win32.device import Device
from procmon.win32.kernel import native_drive

logger = logging.getLogger("procmon")

LAST_EXITS_S = 5.0
"""How long the command line waits, after the command, until the exits of its tree are reported to the driver."""

_NO_DRIVER = (2, 5, 21, 995, 1167)  # not there, removed (Wine), being stopped, request aborted by a stop, removed


class WineKernel:
    """Runs commands and reports each of their processes to the driver. `close`, or the end of ``with``, frees them."""

    def __init__(self, device: str = DEVICE) -> None:
        self.device = device
        self._trees: list[tuple[DebugGate, threading.Thread]] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def run(self, argv: str | Sequence[str], **popen_options: Any) -> "subprocess.Popen[Any]":
        """Start a command as `subprocess.Popen` would; the driver decides it and every process it starts."""
        gate = DebugGate.run(argv, **popen_options)
        thread = threading.Thread(target=self._play, args=(gate,), name=f"kernel of {gate.name}", daemon=True)
        self._trees.append((gate, thread))
        thread.start()
        assert gate.popen is not None
        return gate.popen

    def join(self, timeout: float) -> bool:
        """Wait until every process of every command has exited; False after `timeout` seconds."""
        end = time.monotonic() + timeout
        for _, thread in self._trees:
            thread.join(max(0.0, end - time.monotonic()))
        return not any(thread.is_alive() for _, thread in self._trees)

    def close(self) -> None:
        """Let every process run, and report nothing more to the driver."""
        for gate, thread in self._trees:
            gate.close()
            thread.join()

    # ------------------------------------------------------------------------------------------------------ inside

    def _play(self, gate: DebugGate) -> None:
        try:
            while not gate.ended:
                gate.wait()
                for process in gate.fetch():
                    if process.paused:
                        self._started(gate, process)
                    elif process.exited:
                        self._note(
                            protocol.NOTE_EXITED, wine_notes.encode_note_exited(process.pid, process.exit_status or 0)
                        )
        except GateClosed:
            pass  # by close(): nothing is held any more

    def _started(self, gate: DebugGate, process: ProcessHelper) -> None:
        native = native_name(process.image_name)
        created = wine_notes.encode_note_created(
            process.pid,
            process.parent_pid,
            creator_pid=process.creator_pid or process.parent_pid,
            creator_tid=process.creator_tid or 0,
            created=to_filetime(process.created),
            command_line=process.command_line or "",
            native_name=native,
        )
        reply = self._note(protocol.NOTE_CREATED, created, 4)
        if reply is not None and wine_notes.decode_note_created(reply):
            gate.block(process)  # a real kernel would have refused the creation; this is the closest here
            return
        threading.Thread(target=self._image, args=(gate, process, native), daemon=True).start()

    def _image(self, gate: DebugGate, process: ProcessHelper, native: str) -> None:
        """Play the new process' own thread in its image notification: wait, then die or go on."""
        reply = self._note(
            protocol.NOTE_IMAGE, wine_notes.encode_note_image(process.pid, native), protocol.NOTE_VERDICT.size
        )
        verdict = wine_notes.decode_note_image(reply)[0] if reply is not None else protocol.VERDICT_ALLOW
        try:
            (gate.block if verdict == protocol.VERDICT_BLOCK else gate.allow)(process)
        except GateClosed:
            pass

    def _note(self, code: int, data: bytes, reply_bytes: int = 0) -> bytes | None:
        """Send a note; None when there is no driver. Each note has its own handle, because a note may stay pending."""
        try:
            with closing(Device(self.device)) as device:
                return device.request(code, data, reply_bytes)
        except OSError as error:
            if code_of(error) not in _NO_DRIVER:
                logger.error("the driver refused a notification: %s", error)
            return None


def native_name(path: str) -> str:
    r"""The kernel's name for ``c:\a.exe``: ``\Device\HarddiskVolume1\a.exe``."""
    return native_drive(path[:2]) + path[2:] if path[1:2] == ":" else path


def main(argv: Sequence[str]) -> int:
    """Run one command through the driver and return its exit status."""
    command = argv[1:] if argv[:1] == ["--"] else argv
    if not command:
        print("usage: kernel.py -- COMMAND [ARGUMENT...]", file=sys.stderr)
        return 2
    with WineKernel() as kernel:
        status: int = kernel.run(list(command)).wait()
        kernel.join(LAST_EXITS_S)  # the command has exited before the debug API reports its exit
        return status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
