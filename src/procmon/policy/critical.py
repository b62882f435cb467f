"""The Windows processes that a policy spares."""

import sys

from ..util.paths import lowercase
from ..win32.files import system_folder

__all__ = ["CRITICAL_PATHS", "is_critical", "is_indispensable"]

INDISPENSABLE = ("smss.exe", "csrss.exe", "wininit.exe", "services.exe", "lsass.exe")
"""In the system directory: without these programs Windows stops. The driver never holds them, and no rule blocks them.
"""

SYSTEM_PROGRAMS = (
    "winlogon.exe", "logonui.exe", "dwm.exe", "fontdrvhost.exe", "conhost.exe", "werfault.exe", "wermgr.exe",
)  # fmt: skip
"""In the system directory: without these programs a user cannot log on, or console programs do not start. An attacker
can start one and replace its code. So the driver holds them below unusual creators, and a rule that names one acts."""

_SYSTEM32 = lowercase(system_folder()) if sys.platform == "win32" else r"c:\windows\system32"
"""As Windows reports it: a user can set an environment variable, so none decides which processes are spared."""

CRITICAL_PATHS = [rf"{_SYSTEM32}\{name}" for name in sorted(INDISPENSABLE + SYSTEM_PROGRAMS)]
"""Their images, in the spelling of `lowercase`."""

_TWINS = _SYSTEM32.rpartition("\\")[0] + r"\syswow64"
_SPARED = frozenset(rf"{folder}\{name}" for folder in (_SYSTEM32, _TWINS) for name in INDISPENSABLE + SYSTEM_PROGRAMS)
_NEVER_BLOCKED = frozenset(rf"{folder}\{name}" for folder in (_SYSTEM32, _TWINS) for name in INDISPENSABLE)


def is_critical(path: str) -> bool:
    """Whether a default, and a rule that does not name the image, spares it. Takes the spelling of `lowercase`; 32-bit
    twins count, too."""
    return path in _SPARED


def is_indispensable(path: str) -> bool:
    """Whether no rule blocks the image at all. Takes the spelling of `lowercase`."""
    return path in _NEVER_BLOCKED
