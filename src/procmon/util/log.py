"""The logger "procmon", and the function by which the engine logs."""

import logging
from contextlib import suppress
from logging import ERROR, WARNING

__all__ = ["ERROR", "WARNING", "log", "logger"]

logger = logging.getLogger("procmon")


def log(level: int, message: str, *args: object, error: BaseException | None = None) -> None:
    """Log a line, and the traceback of `error`. An exception of a handler is dropped: no verdict depends on it."""
    with suppress(Exception):
        logger.log(level, message, *args, exc_info=error, stacklevel=2)
