"""Checks the sample output in the docstrings of examples.

    $ python examples/NAME.py ...       runs on any system
    > python examples/NAME.py ...       runs on Windows

The following lines, up to the end of the indented text, are the output; ``...`` matches anything. The text after a
prompt (``[Y/n] y``) is typed.
"""

import ast
import doctest
import os
import re
import subprocess
import sys
import textwrap
from dataclasses import dataclass
from pathlib import Path

from patience import PATIENCE

__all__ = ["EXAMPLES", "Sample", "check", "names", "run", "samples"]

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = ROOT / "examples"
# As `python FILE ...` does; an embeddable Python for Windows would leave the folder of FILE out of the path.
AS_SCRIPT = "import os, runpy, sys; del sys.argv[0]; sys.path.insert(0, os.path.dirname(sys.argv[0])); "
if sys.platform == "win32":
    AS_SCRIPT += "import wine_creation; "
AS_SCRIPT += "runpy.run_path(sys.argv[0], run_name='__main__')"
PATHS = os.pathsep.join([str(ROOT / "src"), str(ROOT / "tests")])
PROMPT = re.compile(r"(\[Y/n\] ?)(.*)\n")


@dataclass(frozen=True)
class Sample:
    """One command, and its expected output."""

    name: str
    system: str
    arguments: str
    typed: str
    expected: str

    def __str__(self) -> str:
        return f"{self.name} {self.arguments}".strip()


def names() -> list[str]:
    """The examples, without their shared modules."""
    return sorted(path.stem for path in EXAMPLES.glob("*.py") if not path.stem.startswith("_"))


def samples(name: str) -> list[Sample]:
    """The samples in the docstring of an example."""
    text = ast.get_docstring(ast.parse((EXAMPLES / f"{name}.py").read_text(encoding="utf-8"))) or ""
    found = re.findall(rf"^    ([$>]) python examples/{name}\.py ?(.*)\n((?:    .*\n?)*)", text + "\n", re.MULTILINE)
    return [
        Sample(
            name, system, arguments,
            typed="".join(f"{answer}\n" for _, answer in PROMPT.findall(textwrap.dedent(output))),
            expected=PROMPT.sub("[Y/n] ", textwrap.dedent(output)),
        )
        for system, arguments, output in found
    ]  # fmt: skip


def run(
    name: str, *arguments: str, typed: str = "", status: int = 0, folder: Path = ROOT, timeout: float = PATIENCE
) -> str:
    """An example's output, with standard error; it must end with `status`."""
    process = subprocess.run(
        [sys.executable, "-c", AS_SCRIPT, str(EXAMPLES / f"{name}.py"), *arguments], cwd=folder, input=typed, text=True,
        encoding="utf-8", stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=timeout,
        env={**os.environ, "PYTHONPATH": PATHS, "PYTHONIOENCODING": "utf-8"},
    )  # fmt: skip
    assert process.returncode == status, process.stdout
    return process.stdout


def check(expected: str, got: str) -> None:
    """Fail unless the output matches."""
    flags = doctest.ELLIPSIS
    checker = doctest.OutputChecker()
    expected, got = expected.rstrip() + "\n", got.rstrip() + "\n"
    if not checker.check_output(expected, got, flags):
        raise AssertionError(checker.output_difference(doctest.Example("", expected), got, flags))
