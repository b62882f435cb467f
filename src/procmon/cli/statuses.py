"""The exit statuses of procmon-gate; ``procmon-gate --help`` lists them."""

__all__ = ["BROKEN_PIPE", "FAILED", "FOUND", "INTERRUPTED", "NEEDS_WINDOWS", "NOT_FOUND"]

FOUND = 1
FAILED, NEEDS_WINDOWS, NOT_FOUND = 125, 126, 127
INTERRUPTED, BROKEN_PIPE = 130, 141  # 128 + SIGINT, 128 + SIGPIPE, as shells give them
