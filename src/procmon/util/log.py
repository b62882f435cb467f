"""The log "procmon", and how the engine writes to it."""

import logging
from contextlib import suppress
from logging import ERROR, WARNING

__all__ = ["ERROR", "WARNING", "log", "logger"]

logger = logging.getLogger("procmon")


def log(level: int, message: str, *args: object, error: BaseException | None = None) -> None:
    """Log a line, and the traceback of `error`. A handler that raises must cost no process its answer, nor a thread."""
    with suppress(Exception):
        logger.log(level, message, *args, exc_info=error, stacklevel=2)
