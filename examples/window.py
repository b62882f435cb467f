"""The article's tool: a window for the driver and the monitoring, and a window for each held process.

    python examples/window.py                      every new process of the machine (driver, administrator)
    python examples/window.py --run cmd /c build   every process of one command (Windows)
    python examples/window.py --simulate           invented processes, on any system

docs/window.png shows it. The windows of held processes overlap so that the name and the buttons of each are visible; if
there is no place left, the process waits in the table. Enter or A allows, Escape or B blocks. A window ignores keys in
its first half second, because they were meant for another window. Closing a window allows. Closing the main window
stops the monitoring, which releases all held processes.

Needs tkinter: CPython for Windows has it; on Debian, apt install python3-tk. It is tested on X11, and untested on
Windows itself, because the Python that runs under Wine has no tkinter.
"""

import argparse
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

sys.path.append(str(Path(__file__).parent))  # an embeddable Python does not search here by itself
import _scene
import procmon

try:
    from _window.driver import state_of
    from _window.view import View
except ModuleNotFoundError as missing:
    sys.exit(f"window.py needs {missing.name}: CPython for Windows has it; on Debian: apt install python3-tk")


class Window:
    """Connects procmon and the view. `ask` and `write` run in the monitor's threads, all other methods in Tk's."""

    def __init__(self, make_gate: Callable[[], procmon.Gate], driver_file: str | None = None,
                 make_service: Callable[[], procmon.DriverService] = procmon.DriverService) -> None:  # fmt: skip
        self.make_gate, self.make_service, self.driver_file = make_gate, make_service, driver_file
        self.monitor = procmon.Monitor(procmon.SimulatedGate())  # holds nothing; replaced by Start
        self.shown: Exception | None = None
        self.view = View(self.change_driver, self.start, self.stop, self.answer, self.close)
        self.view.every(0.1, self.show_monitoring)
        self.view.every(0.5, self.show_driver)

    def start(self) -> None:
        """Start monitoring. The view shows an exception, as for every button."""
        monitor = procmon.Monitor(self.make_gate(), audit=self)
        monitor.subscribe(self.ask)
        monitor.on_exit(partial(self.view.later, self.view.exited))
        monitor.start()
        self.monitor = monitor
        self.show_monitoring()
        self.view.know(monitor.gate.snapshot())

    def ask(self, process: procmon.ProcessHelper) -> procmon.Verdict:
        """The callback. It does not wait for the user: DEFER holds the process, and the monitor goes on."""
        self.view.later(self.view.ask, process)
        return procmon.DEFER

    def write(self, decision: procmon.Decision) -> None:
        """The sink: gets every verdict, the user's, and the gate's own when its time limit has passed."""
        self.view.later(self.view.decided, decision)

    def answer(self, process: procmon.ProcessHelper, verdict: procmon.Verdict) -> None:
        """Allow or Block."""
        self.view.forget(process)
        (self.monitor.allow if verdict is procmon.ALLOW else self.monitor.block)(process)

    def stop(self) -> None:
        """Stop monitoring, which releases all held processes."""
        self.monitor.stop()

    def show_monitoring(self) -> None:
        """Show the state of the monitor, and, once, its failure."""
        self.view.show_monitoring(self.monitor.running, self.monitor.statistics)
        if self.monitor.error and self.monitor.error is not self.shown:
            self.shown = self.monitor.error
            self.view.say(self.shown)

    def change_driver(self, step: str) -> None:
        """Install, start, stop or delete the driver, which may take seconds."""
        service = self.make_service()
        install = partial(service.install, self.driver_file)
        self.view.in_thread(install if step == "install" else getattr(service, step))
        self.show_driver()

    def show_driver(self) -> None:
        """Show the state of the driver, which other programs can change, too."""
        self.view.show_driver(*state_of(self.make_service, self.driver_file))

    def close(self) -> None:
        """End; nothing stays held."""
        self.stop()
        self.view.close()


def make(arguments: Sequence[str] | None = None) -> Window:
    """Make the window for the options of a command line."""
    parser = argparse.ArgumentParser(description="Ask in a window about each new process.")
    parser.add_argument("--driver", metavar="FILE", help="the driver to install (default: the package's)")
    parser.add_argument("--simulate", action="store_true", help="invented processes, on any system")
    parser.add_argument("--run", nargs=argparse.REMAINDER, metavar="COMMAND", help="the processes of one command")
    options = parser.parse_args(arguments)
    real = partial(procmon.DebugGate.run, options.run) if options.run else procmon.DriverGate
    return Window(_scene.play if options.simulate else real, options.driver)


if __name__ == "__main__":
    window = make()
    window.view.root.mainloop()
