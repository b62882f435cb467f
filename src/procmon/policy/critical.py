"""The processes of Windows that no policy blocks, whatever its rules and its default say."""

import sys

from ..util.paths import lowercase
from ..win32.files import system_folder

__all__ = ["CRITICAL_NAMES", "CRITICAL_PATHS", "is_critical"]

CRITICAL_NAMES = (
    "smss.exe", "csrss.exe", "wininit.exe", "winlogon.exe", "services.exe", "lsass.exe", "logonui.exe", "dwm.exe",
    "fontdrvhost.exe", "conhost.exe", "werfault.exe", "wermgr.exe",
)  # fmt: skip
"""Of the system directory: without these Windows, or every console program, stops. The driver never holds them."""

_SYSTEM32 = lowercase(system_folder()) if sys.platform == "win32" else r"c:\windows\system32"
"""By Windows' own answer: an environment variable is for the user to set, and decides nothing that is spared."""

CRITICAL_PATHS = [rf"{_SYSTEM32}\{name}" for name in sorted(CRITICAL_NAMES)]
"""Their images, in the spelling of `lowercase`."""

_TWINS = _SYSTEM32.rpartition("\\")[0] + r"\syswow64"
_SPARED = frozenset([*CRITICAL_PATHS, *(rf"{_TWINS}\{name}" for name in CRITICAL_NAMES)])


def is_critical(path: str) -> bool:
    """The image, in the spelling of `lowercase`, is one that a policy must not block, or its 32-bit twin."""
    return path in _SPARED
