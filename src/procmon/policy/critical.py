"""The Windows processes that no policy blocks, whatever its rules and its default are."""

import sys

from ..util.paths import lowercase
from ..win32.files import system_folder

__all__ = ["CRITICAL_NAMES", "CRITICAL_PATHS", "is_critical"]

CRITICAL_NAMES = (
    "smss.exe", "csrss.exe", "wininit.exe", "winlogon.exe", "services.exe", "lsass.exe", "logonui.exe", "dwm.exe",
    "fontdrvhost.exe", "conhost.exe", "werfault.exe", "wermgr.exe",
)  # fmt: skip
"""In the system directory: without these programs Windows, or every console program, stops. The driver never holds
them."""

_SYSTEM32 = lowercase(system_folder()) if sys.platform == "win32" else r"c:\windows\system32"
"""As Windows reports it: a user can set an environment variable, so none decides which processes are spared."""

CRITICAL_PATHS = [rf"{_SYSTEM32}\{name}" for name in sorted(CRITICAL_NAMES)]
"""Their images, in the spelling of `lowercase`."""

_TWINS = _SYSTEM32.rpartition("\\")[0] + r"\syswow64"
_SPARED = frozenset([*CRITICAL_PATHS, *(rf"{_TWINS}\{name}" for name in CRITICAL_NAMES)])


def is_critical(path: str) -> bool:
    """Whether a policy must not block the image, in the spelling of `lowercase`; its 32-bit twin counts, too."""
    return path in _SPARED
