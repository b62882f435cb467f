"""docs/guarantees.md is the output of tests/guarantees.py, and a malformed mark is an error."""

from pathlib import Path

import pytest

import guarantees


def test_the_page_is_what_the_marks_make() -> None:
    made = guarantees.page(guarantees.marks())
    assert guarantees.PAGE.read_text(encoding="utf-8") == made, "run python3 tests/guarantees.py"


def test_there_are_promises_and_faults_and_each_has_its_test() -> None:
    found = guarantees.marks()
    assert {mark.kind for mark in found} == {"promise", "fault"}
    for mark in found:
        path, _, name = mark.test.partition("::")
        text = (guarantees.ROOT / path).read_text(encoding="utf-8")
        assert name.rpartition("::")[2] in text


def _tree(root: Path, text: str) -> Path:
    (root / "tests" / "unit").mkdir(parents=True)
    (root / "tests" / "unit" / "test_x.py").write_text(text)
    return root


def test_a_mark_is_read_with_its_texts(tmp_path: Path) -> None:
    text = '@pytest.mark.promise("it holds", gate="all")\ndef test_y(): ...\n'
    (mark,) = guarantees.marks(_tree(tmp_path, text))
    assert (mark.text, mark.values, mark.test) == ("it holds", {"gate": "all"}, "tests/unit/test_x.py::test_y")


def test_a_scenario_of_the_made_up_kernel_is_read_from_its_comment(tmp_path: Path) -> None:
    folder = tmp_path / "driver" / "host" / "kernel"
    folder.mkdir(parents=True)
    (folder / "scenarios_x.cpp").write_text("// fault: no memory | runs | - | one | -\nvoid no_memory() {}\n")
    (mark,) = guarantees.marks(_tree(tmp_path, ""))
    assert mark.text == "no memory" and mark.values["counted"] == "one"
    assert mark.test == "driver/host/kernel/scenarios_x.cpp::no_memory"


@pytest.mark.parametrize(
    "text",
    [
        '@pytest.mark.fault("x", gate="all")\ndef test_y(): ...\n',
        '@pytest.mark.promise("x", gates="all")\ndef test_y(): ...\n',
        '@pytest.mark.promise(NAME, gate="all")\ndef test_y(): ...\n',
    ],
)
def test_a_mark_that_is_wrong_is_an_error_that_names_its_test(tmp_path: Path, text: str) -> None:
    with pytest.raises(ValueError, match="test_y"):
        guarantees.marks(_tree(tmp_path, text))
