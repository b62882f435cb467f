"""The last steps of the program, run by an exit hook that `import procmon` registers.

Python does not call an exit function that is registered while exit functions run. An exit function may import a module
of procmon, so the modules register no exit functions: they append to `last_steps`, which the hook reads when it runs.
"""

import atexit
from collections.abc import Callable

__all__ = ["last_steps"]

last_steps: list[Callable[[], None]] = []
"""Called in this order, after the exit functions that were registered after `import procmon`."""


@atexit.register
def _take_last_steps() -> None:
    for step in last_steps:
        step()
