"""Calls CreateProcess and StartService again where Wine fails: on a busy machine, now and then, with error 1359.

The new process (for a driver, the one in which Wine loads it) has ended before it spoke to Wine's server, so there is
none. Windows has no such error there. A program that imports this module retries; under Windows the import changes
nothing.
"""

import sys
from collections.abc import Callable
from typing import Any

INTERNAL_ERROR = 1359
TRIES = 5

if sys.platform == "win32":
    import _winapi

    from procmon.win32 import scm
    from procmon.win32.kernel import is_wine

    def _retried(call: Callable[..., Any], name: str) -> Callable[..., Any]:
        def again(*arguments: object) -> Any:
            for left in reversed(range(TRIES)):
                try:
                    return call(*arguments)
                except OSError as error:
                    if error.winerror != INTERNAL_ERROR or not left:
                        raise
                    print(f"wine: {name} failed with error 1359, and is called again", file=sys.stderr)
            raise AssertionError("the last try returns or raises")

        return again

    if is_wine():
        _winapi.CreateProcess = _retried(_winapi.CreateProcess, "CreateProcess")
        scm._StartServiceW = _retried(scm._StartServiceW, "StartService")
