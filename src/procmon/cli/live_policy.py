r"""The policy of a live command: loads it, reloads it when its files change, and records the version that decides.

`guard` writes that version to ``%ProgramData%\procmon-gate\guard.json``, where `doctor` finds it.
"""

import json
import os
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

from ..errors import ProcmonError, UnsupportedPlatform
from ..policy.files import stamp
from ..policy.policy import Policy
from ..util.log import WARNING, log
from ..util.printable import printable
from .allow_all import folder, safe_folder
from .screen import Screen

__all__ = ["GuardState", "Reloader", "in_words", "read_guard_state", "write_guard_state"]

LOOK_EVERY_S = 1.0

SETTLE_S = 0.25
"""Time without a change after which changed files are read."""


def in_words(policy: Policy) -> str:
    """``office.toml: 3 rules, enforced, no default, version 24e4748882d4``"""
    return f"{repr(policy).removeprefix('<Policy ').removesuffix('>')}, version {policy.version}"


class Reloader:
    """Reloads a policy when its files have changed, in a thread of its own, because a read from a share may hang.

    Call it a few times a second. `loaded` gets the policy after each change. If the files are broken or gone, the old
    rules stay, and a line reports that.
    """

    def __init__(
        self,
        policy: Policy,
        screen: Screen,
        loaded: Callable[[Policy], None] = lambda _: None,
        *,
        paths: Sequence[Path] = (),
    ) -> None:
        self._policy = policy
        self._screen = screen
        self._loaded = loaded
        self._paths = paths
        self._gone: list[Path] = []
        self._failed = ""  # the last error that was reported
        self._next = time.monotonic() + LOOK_EVERY_S
        self._looking = threading.Thread()

    def __call__(self) -> None:
        """Begin to check the files, at most once a second; returns at once."""
        if time.monotonic() >= self._next and not self._looking.is_alive():
            self._next = time.monotonic() + LOOK_EVERY_S
            self._looking = threading.Thread(target=self.look, name="procmon policy files", daemon=True)
            self._looking.start()

    def look(self) -> None:
        """Check whether the files have changed, and read them again if so."""
        gone = [path for path in self._paths if not path.exists()]
        if gone != self._gone:
            self._gone = gone
            for path in gone:
                self._report(f"{path} is gone; the rules stay, version {self._policy.version}")
        if not self._policy.has_changed():
            return
        self._let_settle()
        try:
            self._policy.reload()
            self._failed = ""
            self._report(f"reloaded: {in_words(self._policy)}")
            self._loaded(self._policy)
        except (ProcmonError, ValueError) as error:  # a broken file, or rules that the driver does not take
            if str(error) != self._failed:  # a file that cannot be read is tried at each look
                self._failed = str(error)
                self._report(f"{error}: version {self._policy.version}")

    def _let_settle(self) -> None:
        """Wait until the files stay as they are: an editor empties a file, and then writes it. An empty or cut file may
        be a valid policy, without the rules that block."""
        before, now = None, stamp(self._paths)
        while now != before:
            time.sleep(SETTLE_S)
            before, now = now, stamp(self._paths)

    def _report(self, text: str) -> None:
        data = {"message": text, "version": self._policy.version}
        self._screen.event("policy", "\n".join(map(printable, text.split("\n"))), data)


@dataclass(frozen=True)
class GuardState:
    """The policy by which the running `guard` decides."""

    pid: int
    version: str
    policy: str
    """In words."""
    at: str
    """When it was loaded, in ISO 8601."""


def write_guard_state(policy: Policy, path: Path | None = None) -> None:
    """Write the policy that decides, for `doctor`. A disk error is ignored: the decisions do not depend on it.

    A folder that others can change is left alone, and a line of the log reports that.
    """
    state = GuardState(os.getpid(), policy.version, in_words(policy), datetime.now(UTC).isoformat(timespec="seconds"))
    try:
        path = path or safe_folder() / "guard.json"
        new = path.with_suffix(".new")
        new.unlink(missing_ok=True)
        with new.open("x", encoding="utf-8") as file:  # never into a file that is there, nor where a link leads
            file.write(json.dumps(asdict(state)))
        os.replace(new, path)
    except (OSError, UnsupportedPlatform):
        pass
    except ProcmonError as error:
        log(WARNING, "doctor does not see the policy of this guard: %s", error)


def read_guard_state(path: Path | None = None) -> GuardState | None:
    """The state that the last `guard` wrote; None where there is no file.

    Raises: OSError, ValueError.
    """
    path = path or folder() / "guard.json"
    if not path.exists():
        return None
    data = json.loads(path.read_text(encoding="utf-8"))
    try:
        return GuardState(int(data["pid"]), str(data["version"]), str(data["policy"]), str(data["at"]))
    except (KeyError, TypeError) as error:
        raise ValueError(f"{path} is damaged: {error!r}") from error
