"""The state of the driver, and its words for the window."""

from collections.abc import Callable

import procmon

__all__ = ["state_of"]


def state_of(
    make_service: Callable[[], procmon.DriverService], file: str | None
) -> tuple[procmon.DriverState | None, str]:
    """Return the state and its text; None if no driver button can work. `file` is the driver to install."""
    try:
        state = make_service().status().state
        if state is procmon.DriverState.NOT_INSTALLED and file is None:
            procmon.find_driver()
    except procmon.UnsupportedPlatform:
        return None, "needs Windows"
    except procmon.DriverFileMissing:
        return None, "no driver file: give --driver FILE"
    except procmon.ProcmonError:
        return None, "not known"
    return state, state.value
