"""Calls CreateProcess and StartService again where Wine fails: on a busy machine, now and then, with error 1359.

The new process (for a driver, the one in which Wine loads it) has ended before it spoke to Wine's server, so there is
none. Windows has no such error there. A program that imports this module retries; under Windows the import changes
nothing. If it was services.exe that Wine could not start, there is no service control manager: the import starts it.
"""

import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

INTERNAL_ERROR = 1359
RPC_SERVER_UNAVAILABLE = 1722
TRIES = 5
SERVICES = r"c:\windows\system32\services.exe"

if sys.platform == "win32":
    import _winapi

    from patience import PATIENCE
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

    def start_services() -> None:
        """Start Wine's service control manager if there is none; Wine starts it once, with its first program."""
        services: subprocess.Popen[bytes] | None = None
        end = time.monotonic() + PATIENCE
        while True:
            try:
                with scm._manager():
                    return
            except OSError as error:
                if error.winerror != RPC_SERVER_UNAVAILABLE or time.monotonic() > end:
                    raise
            if services is None or services.poll() is not None:
                print("wine: there is no service control manager, so services.exe is started", file=sys.stderr)
                null = subprocess.DEVNULL  # it stays, and would keep this program's output open
                services = subprocess.Popen(SERVICES, stdin=null, stdout=null, stderr=null)
            time.sleep(0.05)

    if is_wine():
        _winapi.CreateProcess = _retried(_winapi.CreateProcess, "CreateProcess")
        scm._StartServiceW = _retried(scm._StartServiceW, "StartService")
        start_services()
