"""The wheel in a bare CPython for Windows, as a user has it after `pip install`: no sources, no dev.py, no pytest.

On Debian it is the embeddable CPython, under Wine. A message must name a part that is missing there, such as tkinter.
"""

import contextlib
import html.parser
import json
import os
import shutil
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

import procmon
from examples import samples
from examples.samples import Sample
from patience import PATIENCE
from setup import distribution, programs, wine
from setup.project import ROOT
from setup.venv import venv
from setup.windows_python import windows_python

DRIVERS = {name: ROOT / "build" / "driver" / name / "procmon.sys" for name in ("x64", "x86", "arm64")}
SAMPLES = [sample for name in samples.names() for sample in samples.samples(name) if sample.system == "$"]
DOCUMENT = "import sys; sys.path.append(sys.argv[1]); import documentation; "
DOCUMENT += "print(documentation.run(documentation.ROOT / sys.argv[2], windows=True))"
TYPED = "import io, runpy, sys; sys.stdin = io.StringIO(sys.argv.pop(1)); del sys.argv[0]; "
TYPED += "runpy.run_path(sys.argv[0], run_name='__main__')"
COMMANDS = "run guard watch ps tree report selftest doctor policy driver service".split()
HELP = "import sys; from procmon.cli.main import main; [main([each, '--help']) for each in sys.argv[1:]]"


@dataclass(frozen=True)
class Python:
    """A Python for Windows with the wheel installed, and a way to run it."""

    executable: Path
    site: Path
    before: tuple[str, ...]
    environment: Mapping[str, str]

    def run(self, *arguments: object, folder: Path, status: int = 0) -> str:
        """Its output, with standard error; it must end with `status`, of which Wine passes on 8 bits."""
        output = folder / "printed"
        command = [*self.before, str(self.executable), "-X", "utf8", *map(str, arguments)]
        attachment = programs.Attachment(PATIENCE, silent_input=True, output=output, unix_lines=True)
        with contextlib.chdir(folder):
            ended = programs.run_attached(command, self.environment, attachment)
        printed = output.read_text(encoding="utf-8")
        assert ended == status, printed
        return printed


def bare(folder: Path, wheel: Path) -> tuple[Path, Path]:
    """Make a Python with only the wheel in a folder; return its program and its packages' folder."""
    python, site = folder / "python.exe", folder / "site"
    if sys.platform == "win32":
        programs.run_quietly([sys.executable, "-m", "venv", folder], "no environment was made")
        python, site = folder / "Scripts" / "python.exe", folder / "Lib" / "site-packages"
    else:
        shutil.copytree(windows_python().parent, folder, ignore=shutil.ignore_patterns("site", "*._pth", ".stamp"))
        (folder / "python313._pth").write_text("python313.zip\n.\nsite\nimport site\n")
    pip = ["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-index", "--no-deps"]
    programs.run_quietly([venv(), *pip, "--target", site, wheel], "the wheel was not installed")
    return python, site


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Python]:
    """The Python, in a Windows of its own."""
    wheel, _ = distribution.make(DRIVERS, tmp_path_factory.mktemp("dist"))
    executable, site = bare(tmp_path_factory.mktemp("bare") / "python", wheel)
    if sys.platform == "win32":
        yield Python(executable, site, (), os.environ)
        return
    with wine.private_prefix() as prefix, contextlib.ExitStack() as stack:
        wine.server(prefix, "-p")  # it stays until the end, so that the programs do not each start Wine anew
        stack.callback(wine.server, prefix, "-k")
        yield Python(executable, site, (str(wine.program("wine64")),), wine.environment(prefix))


def test_it_is_the_wheel_that_is_tried(python: Python, tmp_path: Path) -> None:
    printed = python.run("-c", "import procmon; print(procmon.__file__, procmon.__version__)", folder=tmp_path)
    assert os.path.join("site", "procmon") in printed.replace("\\", os.sep) or str(python.site) in printed
    assert printed.split()[-1] == procmon.__version__


@pytest.mark.parametrize("document", ["README.md", "docs/tutorial.md"])
def test_a_document_runs_as_a_reader_types_it(document: str, python: Python, tmp_path: Path) -> None:
    printed = python.run("-c", DOCUMENT, ROOT / "tests", document, folder=tmp_path)
    assert int(printed) > 0


@pytest.mark.parametrize("sample", SAMPLES, ids=str)
def test_an_example_prints_what_its_docstring_shows(sample: Sample, python: Python, tmp_path: Path) -> None:
    typed = ["-c", TYPED, sample.typed] if sample.typed else []
    script = samples.EXAMPLES / f"{sample.name}.py"
    samples.check(sample.expected, python.run(*typed, script, *sample.arguments.split(), folder=tmp_path))


def test_an_example_decides_about_real_processes(python: Python, tmp_path: Path) -> None:
    command = ["--gate", "debug", "cmd", "/c", "hostname & whoami"]
    printed = python.run(samples.EXAMPLES / "block_by_name.py", *command, folder=tmp_path)
    assert "2 allowed, 1 blocked, 0 pending>" in printed


@pytest.mark.parametrize(("example", "missing"), [("no_processes", "pytest"), ("window", "tkinter")])
def test_an_example_names_the_package_that_it_needs(example: str, missing: str, python: Python, tmp_path: Path) -> None:
    printed = python.run(samples.EXAMPLES / f"{example}.py", folder=tmp_path, status=1)
    last = printed.strip().splitlines()[-1]
    assert missing in last, printed


def test_the_main_job_does_what_it_can_and_says_what_is_missing(python: Python, tmp_path: Path) -> None:
    if not python.before:
        pytest.fail("written for Wine: on Windows the demo needs a signed driver")
    printed = python.run(samples.EXAMPLES / "main_job.py", folder=tmp_path, status=1)
    assert "4 programs say that they ran; the build ended with 0" in printed and "NOT SO" not in printed
    assert "demo: stopped: DriverFileMissing: " in printed


def test_three_commands_lead_to_a_held_process_and_two_more_to_its_report(python: Python, tmp_path: Path) -> None:
    (tmp_path / "rules.toml").write_text('[[rule]]\nname = "no whoami"\nimage = "whoami.exe"\nverdict = "block"\n')
    run = ["run", "--policy", "rules.toml", "--log", "run.jsonl", "--", "cmd", "/c", "hostname & whoami & exit 3"]
    printed = python.run("-m", "procmon", *run, folder=tmp_path, status=3)
    assert "[rule no whoami]" in printed and "3 held: 2 allowed, 1 blocked" in printed
    python.run("-m", "procmon", "report", "run.jsonl", "-o", "report.html", folder=tmp_path)
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    html.parser.HTMLParser().feed(page)
    assert "whoami.exe" in page and "no whoami" in page


def test_the_selftest_passes_and_writes_its_file(python: Python, tmp_path: Path) -> None:
    printed = python.run("-m", "procmon", "selftest", "--output", "selftest.json", folder=tmp_path)
    report = json.loads((tmp_path / "selftest.json").read_text(encoding="utf-8"))
    assert {check["result"] for check in report["checks"]} == {"ok"}, printed


def test_every_command_explains_itself(python: Python, tmp_path: Path) -> None:
    printed = python.run("-c", HELP, *COMMANDS, folder=tmp_path)
    assert [line.split()[2] for line in printed.splitlines() if line.startswith("usage: procmon-gate ")] == COMMANDS
