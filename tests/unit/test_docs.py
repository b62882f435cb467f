"""The documentation is true: documents run as a reader types them, links have targets, doctests pass."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

import documentation
from documentation import ROOT, Block
from patience import PATIENCE
from procmon import ALLOW, BLOCK, Policy, SimulatedGate, Verdict
from procmon.util import pages

WINDOWS = sys.platform == "win32"
DOCUMENTS = [pytest.param(path, id=path.relative_to(ROOT).as_posix()) for path in documentation.documents()]
BLOCKS = [block for path in documentation.documents() for block in documentation.blocks(path, "python")]
TEST_FILES = [block for block in BLOCKS if block.mark == "pytest"]


@pytest.mark.parametrize("document", DOCUMENTS)
def test_a_document_runs_as_a_reader_types_it(document: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    documentation.run(document, windows=WINDOWS)


@pytest.mark.parametrize("block", TEST_FILES, ids=str)
def test_a_test_file_in_a_document_passes(block: Block, tmp_path: Path) -> None:
    file = tmp_path / "test_document.py"
    file.write_text(block.text, encoding="utf-8")
    options = ["-q", "-p", "no:cacheprovider", "-c", str(ROOT / "pyproject.toml")]
    result = subprocess.run(
        [sys.executable, "-m", "pytest", *options, str(file)],
        cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=PATIENCE,
    )  # fmt: skip
    assert result.returncode == 0, result.stdout


@pytest.mark.parametrize("document", DOCUMENTS)
def test_policies_in_a_document_have_no_mistakes(document: Path) -> None:
    for block in documentation.blocks(document, "toml"):
        problems = documentation.policy_problems(block)
        assert bool(problems) == (block.mark == "wrong"), problems


@pytest.mark.parametrize(
    ("image", "verdict"),
    [
        ("c:/windows/system32/cmd.exe", ALLOW),
        ("c:/windows/temp/a.exe", BLOCK),
        ("c:/windows/temp:a.exe", BLOCK),
        ("c:/windows/temp::$index_allocation/a.exe", BLOCK),
        ("c:/program files/x/readme.txt:a.exe", BLOCK),
        ("c:/users/alice/a.exe", BLOCK),
    ],
)
def test_the_list_of_allowed_programs_trusts_no_folder_where_users_can_write(image: str, verdict: Verdict) -> None:
    [block] = [
        block
        for block in documentation.blocks(ROOT / "docs" / "policy.md", "toml")
        if "folders of Windows where users can write" in block.text
    ]
    gate = SimulatedGate()
    policy = Policy.parse(block.text.replace('"audit"', '"enforce"'), details=lambda _: None)
    assert policy.decide(gate.start(image)).verdict is verdict


@pytest.mark.parametrize("document", DOCUMENTS)
def test_each_command_of_a_document_has_a_line_of_its_own(document: Path) -> None:
    joined = re.compile(r"^    (?:[>$] )?\S.*\S (?:procmon-gate|sigma convert)\b.*$", re.MULTILINE)
    assert joined.findall(document.read_text(encoding="utf-8")) == []


def test_every_link_leads_somewhere() -> None:
    assert documentation.broken_links() == []


def test_every_document_can_be_reached_from_the_readme() -> None:
    assert documentation.orphans() == []


@pytest.mark.parametrize("name", documentation.module_doctests())
def test_the_doctests_of_a_module_pass(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    documentation.run_module(name, windows=WINDOWS)


# ------------------------------------------------------------------------------------------ the tests of these tests


def document(folder: Path, text: str) -> Path:
    path = folder / "document.md"
    path.write_text(text, encoding="utf-8")
    return path


@pytest.fixture
def as_root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty project."""
    monkeypatch.setattr(documentation, "ROOT", tmp_path)
    return tmp_path


def test_a_wrong_output_is_seen_with_its_line(as_root: Path) -> None:
    path = document(as_root, "# A\n\n```python\n>>> 1 + 1\n2\n```\n\nthen\n\n```python\n>>> 1 + 1\n3\n```\n")
    with pytest.raises(AssertionError, match=r"line 11,(.|\n)*Expected:\n    3\nGot:\n    2"):
        documentation.run(path, windows=False)


def test_names_go_from_block_to_block_and_a_script_without_prompts_runs(as_root: Path) -> None:
    path = document(as_root, "```python\na = 20\n```\n\n```python\n>>> a + 1\n21\n```\n")
    assert documentation.run(path, windows=False) == 2
    with pytest.raises(ZeroDivisionError):
        documentation.run(document(as_root, "```python\n1 / 0\n```\n"), windows=False)


def test_a_block_for_windows_runs_there_and_only_there(as_root: Path) -> None:
    path = document(as_root, "<!-- windows -->\n```python\n>>> 1\n2\n```\n")
    assert documentation.run(path, windows=False) == 0
    with pytest.raises(AssertionError):
        documentation.run(path, windows=True)


def test_a_block_that_is_only_shown_must_be_python(as_root: Path) -> None:
    path = document(as_root, "<!-- shown: needs the driver -->\n```python\n>>> with\n```\n")
    with pytest.raises(SyntaxError):
        documentation.run(path, windows=False)


def test_an_unknown_mark_is_refused(as_root: Path) -> None:
    with pytest.raises(ValueError, match="document.md:3: there is no mark 'wnidows'"):
        documentation.run(document(as_root, "<!-- wnidows -->\n```python\n>>> 1\n1\n```\n"), windows=False)


def test_broken_links_and_orphans_are_found(as_root: Path) -> None:
    (as_root / "docs").mkdir()
    (as_root / "driver").mkdir()
    for name in ("CHANGELOG.md", "driver/README.md", "docs/alone.md"):
        (as_root / name).write_text("# Has a heading: this\n", encoding="utf-8")
    (as_root / "README.md").write_text(
        "[a](CHANGELOG.md#has-a-heading-this) [b](driver/README.md) [c](docs/gone.md) [d](CHANGELOG.md#no)\n"
        "[e](https://example.org)\n",
        encoding="utf-8",
    )
    assert documentation.broken_links() == [
        "README.md: (docs/gone.md) leads nowhere", "README.md: (CHANGELOG.md#no) leads nowhere",
    ]  # fmt: skip
    assert documentation.orphans() == ["docs/alone.md"]


def test_a_policy_with_a_mistake_is_found(as_root: Path) -> None:
    path = document(as_root, '```toml\n[[rule]]\nimgae = "a"\nverdict = "block"\n```\n')
    [block] = documentation.blocks(path, "toml")
    assert "imgae" in documentation.policy_problems(block)[0]


def test_the_pages_that_messages_name_are_there() -> None:
    """Messages of the program name pages of docs/, which the wheel contains."""
    named: set[str] = set()
    for path in (ROOT / "src" / "procmon").rglob("*.py"):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        docstrings = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
        for node in ast.walk(tree):
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docstrings:
                named |= set(re.findall(r"[\w/-]+\.md\b", node.value))
    assert {"windows-setup.md", "service.md"} <= named
    assert [name for name in named if not (ROOT / "docs" / name.removeprefix("docs/")).is_file()] == []


def test_a_page_is_found_in_the_wheel_and_in_the_source_tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert pages.page("windows-setup.md") == str(ROOT / "docs" / "windows-setup.md")
    package = tmp_path / "site-packages" / "procmon"
    (package / "docs").mkdir(parents=True)
    (package / "docs" / "service.md").touch()
    monkeypatch.setattr(pages, "_PACKAGE", package)
    assert pages.page("service.md") == str(package / "docs" / "service.md")
    assert pages.page("windows-setup.md") == "docs/windows-setup.md"
