"""The steps at the end of the program, taken by a hook that `import procmon` registers.

Python does not call an exit function that is registered while exit functions run. A module may be imported as late as
that, so the modules register no exit functions: they append to `last_steps`, which the hook reads when it runs.
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
