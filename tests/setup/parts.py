"""The stamps of the parts of ``.dev``: a part with the current stamp is complete and made by the current recipe."""

import contextlib
import hashlib
import shutil
from pathlib import Path


def recipe(*texts: str) -> str:
    """The hash that identifies a part made from these texts."""
    return hashlib.sha256("\0".join(texts).encode()).hexdigest()


def is_made(folder: Path, wanted: str, *needed: str) -> bool:
    """Whether `folder` was completed by the recipe `wanted` and still has the files in `needed`."""
    with contextlib.suppress(OSError):
        return (folder / ".stamp").read_text() == wanted and all((folder / name).exists() for name in needed)
    return False


def stamp(folder: Path, wanted: str) -> None:
    """Mark `folder` as complete: the last step, and atomic. A part without a stamp is made again."""
    temporary = folder / ".stamp.new"
    temporary.write_text(wanted)
    temporary.replace(folder / ".stamp")


def start_over(folder: Path) -> None:
    """Make `folder` an empty folder, whatever was there."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
