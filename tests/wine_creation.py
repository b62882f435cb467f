"""Calls CreateProcess again where Wine fails: on a busy machine it gives ERROR_INTERNAL_ERROR now and then.

The child has ended before it spoke to Wine's server, so there is no process. Windows has no such error there. A program
that imports this module retries; under Windows the import changes nothing.
"""

import sys

INTERNAL_ERROR = 1359
TRIES = 5

if sys.platform == "win32":
    import _winapi

    from procmon.win32.kernel import is_wine

    _create_process = _winapi.CreateProcess

    def _again(*arguments: object) -> object:
        for left in reversed(range(TRIES)):
            try:
                return _create_process(*arguments)  # type: ignore[arg-type]
            except OSError as error:
                if error.winerror != INTERNAL_ERROR or not left:
                    raise
                print("wine: CreateProcess failed with error 1359, and is called again", file=sys.stderr)
        raise AssertionError("the last try returns or raises")

    if is_wine():
        _winapi.CreateProcess = _again  # type: ignore[assignment]
