"""Each example prints the output in its docstring, and each has a test."""

import ast
import re
from pathlib import Path

import pytest

from examples import samples
from examples.samples import Sample

TESTS = Path(__file__).resolve().parents[1]
HERE = [sample for name in samples.names() for sample in samples.samples(name) if sample.system == "$"]
LINES = 60
"""Of code, in an example; the window's is more of a tool, and main_job a program of its own."""


@pytest.mark.parametrize("sample", HERE, ids=str)
def test_an_example_prints_what_its_docstring_shows(sample: Sample) -> None:
    got = samples.run(sample.name, *sample.arguments.split(), typed=sample.typed)
    samples.check(sample.expected, got)


@pytest.mark.parametrize("name", samples.names())
def test_every_example_has_a_test(name: str) -> None:
    """Its sample is run here or on Windows, or there is a test of its name, or the demo is its test."""
    tested = {path.stem.removeprefix("test_") for path in TESTS.glob("*/test_*.py")}
    assert samples.samples(name) or name in tested or name == "main_job"  # `dev.py demo` runs that one


@pytest.mark.parametrize("name", samples.names())
def test_every_example_is_in_the_list(name: str) -> None:
    assert f"[{name}.py]({name}.py)" in (samples.EXAMPLES / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", samples.names())
def test_every_example_says_what_it_needs(name: str) -> None:
    text = ast.get_docstring(ast.parse((samples.EXAMPLES / f"{name}.py").read_text(encoding="utf-8"))) or ""
    assert re.search(r"^Needs", text, re.MULTILINE)


@pytest.mark.parametrize("name", sorted({*samples.names()} - {"main_job"}))
def test_an_example_is_one_screen(name: str) -> None:
    code = (samples.EXAMPLES / f"{name}.py").read_text(encoding="utf-8").split('"""', 2)[2]
    assert len(code.strip().splitlines()) <= (95 if name == "window" else LINES)


def test_the_samples_are_found() -> None:
    assert len(HERE) >= 7


def test_a_wrong_promise_is_seen() -> None:
    with pytest.raises(AssertionError, match="whoami"):
        samples.check("allow  c:...cmd.exe\nblock  whoami.exe\n", "allow  c:\\tools\\cmd.exe\nallow  whoami.exe\n")


def test_an_example_without_a_command_for_its_gate_says_so() -> None:
    with pytest.raises(AssertionError, match="needs a command to run"):
        samples.run("block_by_name", "--gate", "debug")
