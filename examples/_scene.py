"""The processes that `window.py --simulate` asks about: a small scene, played in a simulated gate."""

import contextlib
import threading
import time

import procmon

EXPLORER, SETUP = r"C:\Windows\explorer.exe", r"C:\Users\me\Downloads\setup-3.1.exe"
SCENE = (  # seconds to wait, image, image of the parent, command line, seconds until the gate lets it go
    (0.3, EXPLORER, None, EXPLORER, 60),
    (0.5, r"C:\Program Files\Git\cmd\git.exe", EXPLORER, "git.exe fetch --all --prune", None),
    (0.5, SETUP, EXPLORER, "setup-3.1.exe /quiet", 45),
    (0.7, r"C:\Windows\System32\WindowsPowerShell\v1.0\powershell.exe", SETUP,
     "powershell.exe -NoProfile -WindowStyle Hidden -Command Get-Service | Out-File services.txt", 30),
    (0.7, r"C:\Windows\System32\whoami.exe", SETUP, "whoami /all", 11),
    (0.7, r"C:\Windows\System32\notepad.exe", EXPLORER, r"notepad.exe C:\Users\me\notes.txt", None),
)  # fmt: skip


def play() -> procmon.SimulatedGate:
    """A gate in which the scene is played from now on."""
    gate = procmon.SimulatedGate()

    def run() -> None:
        pids: dict[str | None, int] = {None: 4}  # of each image
        limits: list[tuple[float, procmon.ProcessHelper]] = []
        with contextlib.suppress(procmon.GateClosed):  # the monitoring was stopped in mid-scene
            for pause, image, parent, command_line, limit in SCENE:
                time.sleep(pause)
                process = gate.start(image, parent_pid=pids[parent], command_line=command_line, hold_left=limit)
                pids[image] = process.pid
                limits += [(time.monotonic() + limit, process)] if limit else []
        for when, process in sorted(limits, key=lambda each: each[0]):
            time.sleep(max(0.0, when - time.monotonic()))
            with contextlib.suppress(ValueError, procmon.ProcmonError):  # it was answered in time
                gate.time_out(process)

    threading.Thread(target=run, daemon=True).start()
    return gate
