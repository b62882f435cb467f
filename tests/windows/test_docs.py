"""On Windows the documents run completely, with the blocks that only Windows can run in their place."""

from pathlib import Path

import pytest

import documentation
from documentation import ROOT

DOCUMENTS = [
    pytest.param(path, id=path.relative_to(ROOT).as_posix())
    for path in documentation.documents()
    if any(block.mark == "windows" for block in documentation.blocks(path, "python", "pycon"))
]


@pytest.mark.parametrize("document", DOCUMENTS)
def test_a_document_runs_as_a_reader_types_it(document: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert documentation.run(document, windows=True) > 0


def test_the_readme_and_the_tutorial_show_windows() -> None:
    assert {"README.md", "docs/tutorial.md"} <= {str(document.id) for document in DOCUMENTS}


@pytest.mark.parametrize("name", documentation.module_doctests())
def test_the_doctests_of_a_module_pass(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    documentation.run_module(name, windows=True)
