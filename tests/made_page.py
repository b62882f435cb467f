"""A docs page that a script makes from the sources: the script writes it, or with `--check` compares it."""

import argparse
from pathlib import Path

__all__ = ["main"]

ROOT = Path(__file__).resolve().parents[1]


def main(script: str, page: Path, made: str) -> int:
    """Write `made` to `page`; with ``--check``, write nothing, and return 1 if the page differs.

    `script` is the path of the calling script, for the message of a failed check.
    """
    parser = argparse.ArgumentParser(description=f"Makes {page.relative_to(ROOT)} from the sources.")
    parser.add_argument("--check", action="store_true", help="compare the page with the sources, and write nothing")
    name = page.relative_to(ROOT).as_posix()
    if not parser.parse_args().check:
        page.write_text(made, encoding="utf-8", newline="\n")
        print(name)
        return 0
    if page.read_text(encoding="utf-8") == made:
        return 0
    script_name = Path(script).resolve().relative_to(ROOT).as_posix()
    print(f"{name}: differs from what the sources say; run `python3 {script_name}` and commit the page")
    return 1
