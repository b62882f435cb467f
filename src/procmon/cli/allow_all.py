r"""The emergency switch for a policy that locks the machine: the file ``%ProgramData%\procmon-gate\allow-all``.

While the file exists, `guard` lets every process run. Only administrators can create it: `guard` and ``procmon-gate
service install`` make the folder with rights for them alone, and a file that others can write is ignored.
"""

import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

from ..errors import ProcmonError
from ..win32.file_access import how_to_protect, is_link, make_private_folder, writers
from ..win32.folders import program_data

__all__ = ["AllowAll", "folder", "safe_folder"]

LOOK_EVERY_S = 1.0


def folder() -> Path:
    r"""``C:\ProgramData\procmon-gate``. Raises: OSError; UnsupportedPlatform off Windows."""
    return Path(program_data(), "procmon-gate")


def safe_folder() -> Path:
    """The folder, made if it is missing. Every user can make it first, with links to other files in it.

    Raises: ProcmonError when others can change it, or when it is a link; OSError; UnsupportedPlatform off Windows.
    """
    place = folder()
    if not os.path.lexists(place):
        make_private_folder(str(place))
    if is_link(str(place)):
        raise ProcmonError(f'{place} is a link, and guard would write where it leads: delete it: rmdir "{place}"')
    for where, who in writers(str(place)).items():
        mend = how_to_protect(where, folder=True) if where != str(place) else f'delete it: rmdir /s "{where}"'
        raise ProcmonError(f"{', '.join(who)} can change {where}, where guard reads allow-all and writes: {mend}")
    return place


class AllowAll:
    """Whether the file exists; `has_changed` checks it once a second. `note` gets a line for people."""

    def __init__(
        self,
        note: Callable[[str], None],
        *,
        path: Path | None = None,
        others: Callable[[str], dict[str, list[str]]] = writers,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._path = path if path is not None or sys.platform != "win32" else folder() / "allow-all"
        self._note = note
        self._others = others
        self._clock = clock
        self._next = float("-inf")
        self._refused = ""
        self.active = False
        """Every process runs."""
        self.has_changed()

    def has_changed(self) -> bool:
        """Check, at most once a second; True when `active` has changed."""
        if self._path is None or self._clock() < self._next:
            return False
        self._next = self._clock() + LOOK_EVERY_S
        before, self.active = self.active, self._is_there(self._path)
        if self.active and not before:
            self._note(f"{self._path} is there: every process runs, and no rule decides, until it is removed")
        if before and not self.active:
            self._note(f"{self._path} is gone: the rules decide again")
        return self.active is not before

    def _is_there(self, path: Path) -> bool:
        try:
            if not path.exists():
                return False
            others = self._others(str(path))
        except OSError as error:
            return self._refuse(f"{path} is ignored: {error}")
        if not others:
            return True
        where, who = next(iter(others.items()))
        return self._refuse(f"{path} is ignored: {', '.join(who)} can change {where}")

    def _refuse(self, why: str) -> bool:
        if why != self._refused:
            self._refused = why
            self._note(why)
        return False
