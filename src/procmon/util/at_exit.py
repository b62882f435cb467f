"""What is done at the end of the program, by a hook that `import procmon` registers.

Python calls no exit function that another one registers. Modules that are imported late, perhaps by an exit function,
so cannot register their own; they append to `last_steps`, which the hook goes through when its turn comes.
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
