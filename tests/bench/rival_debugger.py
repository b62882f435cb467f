"""The tree of debug.py under PythonForWindows' debugger: ``python -m bench.rival_debugger``.

Prints how many processes the tree had, and the microseconds from its start to its end.
"""

import sys
import time
from importlib import import_module
from typing import Any

from .debug import TREE
from .rivals import PACKAGES

sys.path.append(str(PACKAGES))
windows: Any = import_module("windows.debug")
DEBUG_PROCESS = 0x1


class Debugger(windows.Debugger):  # type: ignore[misc]
    """It counts processes."""

    started = 0

    def on_create_process(self, information: object) -> None:
        """A new one, the first of the tree among them."""
        self.started += 1


begin = time.perf_counter()
create_process = import_module("windows.utils").create_process
debugger = Debugger(create_process("c:\\windows\\system32\\cmd.exe", TREE, dwCreationFlags=DEBUG_PROCESS))
debugger.loop()
print(debugger.started, int((time.perf_counter() - begin) * 1e6))
