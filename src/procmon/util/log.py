"""The logger "procmon", and the functions by which threads log that held processes depend on."""

import logging
from contextlib import suppress
from logging import DEBUG, ERROR, WARNING

from .threads import Call, submit

__all__ = ["DEBUG", "ERROR", "WARNING", "log", "log_soon", "logger"]

logger = logging.getLogger("procmon")


def log(level: int, message: str, *args: object, error: BaseException | None = None) -> None:
    """Log a line, and the traceback of `error`. An exception of a handler is dropped: no verdict depends on it."""
    with suppress(Exception, SystemExit):
        logger.log(level, message, *args, exc_info=error, stacklevel=2)


def log_soon(level: int, message: str, *args: object, error: BaseException | None = None) -> Call[None]:
    """Have a helper thread log a line. Returns at once, also where a handler hangs.

    A handler hangs while a user selects text in its console, for example. Use this in each thread that other processes
    wait for: the one at the gate, the debug loop, the shutdown thread.
    """
    if not logger.isEnabledFor(level):  # a list of all processes has a line for each that cannot be opened
        nothing = Call(lambda: None)
        nothing.run()
        return nothing
    return submit(log, level, message, *args, error=error)
