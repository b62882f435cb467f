"""Kept answers: rules in a file of their own, which are asked before the policy.

The file is an ordinary policy. A person may edit it, and `guard` reads it again when it changes.
"""

import errno
import os
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

from ..errors import PolicyError, ProcmonError
from ..policy.policy import Policy
from ..policy.rules import verdict_word
from ..policy.writer import rule_text
from ..records import DecidedBy, Decision, ProcessHelper, Verdict

__all__ = ["HOUR", "KINDS", "Answers", "Inspect", "look_up"]

HEADER = """\
# Answers given at the questions of procmon-gate: rules that are asked before those of --policy.
# The first rule that matches decides. Remove a rule to be asked again.
"""

HOUR = timedelta(hours=1)

KINDS = {"p": "path", "s": "signer", "h": "hash"}
"""The key of each answer, and the fact by which its rule identifies the program."""

Inspect = Callable[[ProcessHelper], object]
"""Looks up the details of a process; the attributes ``signer`` and ``sha256`` are read."""


def look_up(process: ProcessHelper) -> object:
    """The details that Windows knows of a process; the module is imported at the first call."""
    from ..system.details import inspect

    return inspect(process)


class Answers:
    """The rules of ``--answers FILE``; a missing file is created.

    Raises: PolicyError when the file cannot be read or written, or has mistakes.
    """

    def __init__(self, path: Path, inspect: Inspect) -> None:
        self.path = path
        self._inspect = inspect
        try:
            with path.open("x", encoding="utf-8") as new:
                new.write(HEADER)
        except FileExistsError:
            pass  # an earlier run made it
        except OSError as error:
            raise PolicyError(f"{path}: it cannot be written: {error.strerror or error}; give another file") from error
        self.policy = Policy.load(path, details=inspect)

    def __call__(self, process: ProcessHelper) -> Decision | None:
        """The decision of a kept answer; None where there is none."""
        decision = self.policy(process)
        return decision if decision is not None and decision.by is DecidedBy.RULE else None

    def keep(
        self, process: ProcessHelper, verdict: Verdict, kind: str, *, at: datetime, lasts: timedelta | None = None
    ) -> str:
        """Write a rule about the program, identified by one of `KINDS`, which decides from now on; return its name.

        Raises: PolicyError when the program has no such fact, or the file cannot be written or used.
        """
        until = None if lasts is None else at + lasts
        word = "always" if verdict is Verdict.ALLOW else "never"
        span = word if until is None else "for an hour"
        rule: dict[str, object] = {
            "name": self._new_name(f"{process.name} {span}, answered {at.astimezone(UTC):%Y-%m-%d %H:%M:%S}"),
            "verdict": verdict_word(verdict),
            **self._known_by(process, kind),
        }
        if until is not None:
            rule["until"] = until
        try:
            text = f"\n{rule_text(rule)}\n".replace("\n", os.linesep)
        except ValueError as error:
            raise PolicyError(f"this answer cannot be kept: {error}; answer y or n") from error
        Policy.parse(text)  # a rule that would break the file is not written
        try:
            self._append(text.encode())
        except OSError as error:
            raise PolicyError(f"{self.path}: it cannot be written: {error.strerror or error}") from error
        self.policy.reload()
        return str(rule["name"])

    def _append(self, data: bytes) -> None:
        """Write all of it or nothing: half a rule would make the file unusable."""
        with self.path.open("ab", buffering=0) as file:
            end = file.seek(0, os.SEEK_END)
            if file.write(data) < len(data):  # a full disk
                file.truncate(end)
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def _known_by(self, process: ProcessHelper, kind: str) -> dict[str, object]:
        if kind == "p":
            if not process.image_name:
                raise PolicyError("Windows gave this program no name; answer by its hash")
            return {"image": {"equals": process.image_name}}
        attribute, fact = ("signer", "signer") if kind == "s" else ("sha256", "hash")
        try:
            value = getattr(self._inspect(process), attribute, None)
        except (ProcmonError, OSError) as error:
            raise PolicyError(f"its {fact} is not known: {error}") from error
        if not isinstance(value, str):
            raise PolicyError(f"its {fact} is not known: answer by path" + (" or hash" if kind == "s" else ""))
        return {attribute: {"equals": value}}

    def _new_name(self, name: str) -> str:
        taken, number, unique = self.policy.hits, 1, name
        while unique in taken:
            number += 1
            unique = f"{name} ({number})"
        return unique
