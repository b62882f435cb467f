"""The files that the service runs, reads and writes as the system: a user must not be able to replace one."""

import json
import os
import subprocess
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from ..errors import ProcmonError
from ..policy.files import files_of
from ..win32.file_access import how_to_protect, is_link, readers, writers

__all__ = [
    "PythonLayout",
    "check_files",
    "log_files",
    "package_files",
    "policy_files",
    "python_files",
    "python_layout",
    "warning_of_readers",
]


class PythonLayout(NamedTuple):
    """Where a Python finds its code."""

    places: Sequence[str]
    """Its folders, and the files and folders of ``sys.path``. Not all need exist."""
    library: str
    """The folder of the standard library, or the zip file in which it is."""


# A virtual environment's python.exe only starts the one that its pyvenv.cfg names: `sys._base_executable`.
_ASK = """
import json, os, sys
programs = [os.path.dirname(program) for program in (sys.executable, sys._base_executable)]
print(json.dumps([[*programs, sys.prefix, sys.base_prefix, *sys.path], os.path.dirname(os.__file__)]))
"""


def python_layout(python: str) -> PythonLayout:
    """Ask a Python where its code is. It runs with ``-I``, as in the service. Raises: ProcmonError."""
    try:
        answer = subprocess.check_output([python, "-I", "-c", _ASK], stdin=subprocess.DEVNULL)
        return PythonLayout(*json.loads(answer))
    except (OSError, subprocess.SubprocessError, ValueError) as error:
        raise ProcmonError(f"{python} does not run, and the service would need it: {error}") from error


def python_files(layout: PythonLayout) -> Iterator[str]:
    """The places of a Python with the files in them, such as DLLs and pyvenv.cfg, and the whole standard library.

    Of site-packages only the files, such as those whose names end in .pth: the service imports no other package.
    """
    for place in dict.fromkeys(layout.places):
        yield from _with_files(place)
    yield from _tree(layout.library)


def package_files() -> Iterator[str]:
    """The package with its compiled files, and the folder around it, site-packages."""
    root = Path(__file__).resolve().parents[1]
    yield str(root.parent)
    yield from _tree(str(root))


def policy_files(policies: Iterable[Path]) -> Iterator[str]:
    """The files and folders of the policies, and the files in these folders."""
    for path in (path.resolve() for path in policies):
        yield str(path)
        if path.is_dir():
            yield from map(str, files_of(path))


def log_files(log: Path) -> Iterator[str]:
    """The folder of the log, the log, and its older files. Raises: ProcmonError."""
    if not log.parent.is_dir() or (log.exists() and not log.is_file()):
        raise ProcmonError(f"{log}: the service cannot write it: give --log the path of a file in a folder that exists")
    yield str(log.parent)
    yield from sorted(str(path) for path in log.parent.iterdir() if path.name.startswith(log.name))


def check_files(
    paths: Iterable[str],
    others: Callable[[str], dict[str, list[str]]] = writers,
    *,
    private: bool = False,
) -> None:
    """Refuse files and folders that others than administrators can change, and links.

    With `private` the advice is to let no one else read them, too. Raises: ProcmonError; OSError.
    """
    for path in paths:
        if (link := next(filter(is_link, [path, *map(str, Path(path).parents)]), None)) is not None:
            raise ProcmonError(
                f"{link} is a link, and who changes it changes what the service uses: give the path to which it leads,"
                f" {os.path.realpath(link)}"
            )
        for where, who in others(path).items():
            near = where in (path, os.path.dirname(path))  # folders further up have files of other programs
            mend = how_to_protect(where, folder=os.path.isdir(where), private=private and near)
            raise ProcmonError(
                f"{', '.join(who)} can change {where}, and the service would use it as the system. Leave it to"
                f" administrators: {mend}"
            )


def warning_of_readers(paths: Iterable[str], what: str, reading: Callable[[str], list[str]] = readers) -> Iterator[str]:
    """A warning about the first of these that others can read; `what` says what that means. Raises: OSError."""
    for path in paths:
        if who := reading(path):
            mend = how_to_protect(path, folder=os.path.isdir(path), private=True)
            yield f"{', '.join(who)} can read {path}: {what}. To keep it from them: {mend}"
            return


def _tree(top: str) -> Iterator[str]:
    for folder, below, _ in os.walk(top):
        below[:] = sorted(name for name in below if name != "site-packages")
        yield from _with_files(folder)


def _with_files(path: str) -> Iterator[str]:
    """A file, or a folder, its files and its links. Of what does not exist the folder in which others could make it."""
    while not os.path.exists(path) and os.path.dirname(path) != path:
        path = os.path.dirname(path)
    yield path
    if os.path.isdir(path):
        yield from sorted(entry.path for entry in os.scandir(path) if entry.is_file() or is_link(entry.path))
