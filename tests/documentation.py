"""Runs the documents: their Python blocks, their policies, their links, and the package's doctests.

A comment on the line before a fenced block tells where it runs:

    (nothing)                 on every system: with prompts (>>>) as a doctest, without them as a script
    <!-- windows -->          on Windows, with all blocks of the document before it
    <!-- pytest -->           as a test file of its own, on every system; its tests must pass
    <!-- shown: WHY -->       nowhere (for example because it needs the driver); it must still be Python, or TOML

The blocks of one document run in order and share their names, as if a reader typed them. A ```toml block with rules
must be a policy without mistakes, or be marked ``<!-- wrong -->``.
"""

import contextlib
import doctest
import importlib
import io
import os
import pkgutil
import re
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import procmon

__all__ = ["Block", "blocks", "broken_links", "documents", "module_doctests", "orphans", "run", "run_module"]

ROOT = Path(__file__).resolve().parent.parent
FENCE = re.compile(
    r"^(?:<!-- *(?P<mark>[^>]*?) *-->\n+)?^```(?P<language>\w*)\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL
)
LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")
FLAGS = doctest.ELLIPSIS
WINDOWS_ONLY = doctest.register_optionflag("WINDOWS")
"""``# doctest: +WINDOWS`` in a docstring: that line runs on Windows."""


@dataclass(frozen=True)
class Block:
    """One fenced block of a document."""

    document: Path
    line: int
    """The number of its first line, from 1."""
    language: str
    mark: str
    """``windows``, ``pytest``, ``shown: ...``, ``wrong`` or nothing."""
    text: str

    def __str__(self) -> str:
        return f"{self.document.relative_to(ROOT).as_posix()}:{self.line}"


def documents() -> list[Path]:
    """The documents for people."""
    places = (ROOT.glob("*.md"), *((ROOT / folder).rglob("*.md") for folder in ("docs", "driver", "examples")))
    return sorted(path for place in places for path in place)


def blocks(document: Path, *languages: str) -> Iterator[Block]:
    """The fenced blocks of a document in these languages, in order.

    Raises: ValueError when a block has an unknown mark.
    """
    text = document.read_text(encoding="utf-8")
    for match in FENCE.finditer(text):
        mark, language = match["mark"] or "", match["language"]
        block = Block(document, text.count("\n", 0, match.start("text")) + 1, language, mark, match["text"])
        if language in languages:
            if mark not in ("", "windows", "pytest", "wrong") and not mark.startswith("shown: "):
                raise ValueError(f"{block}: there is no mark {mark!r}; tests/documentation.py lists them")
            yield block


def run(document: Path, *, windows: bool) -> int:
    """Run the Python of a document as a reader would, in the current folder; return how many examples and scripts ran.

    Raises: AssertionError with the place, the expected and the actual output.
    """
    count, names = 0, {"__name__": "__main__"}
    report = io.StringIO()
    runner = doctest.DocTestRunner(optionflags=FLAGS)
    for block in blocks(document, "python", "pycon"):
        if block.mark == "windows" and not windows:
            continue
        if block.mark.startswith("shown") or block.mark == "pytest":
            compile(source(block), str(block), "exec")
        elif ">>> " in block.text:
            examples = doctest.DocTestParser().get_examples(block.text, str(block))
            test = doctest.DocTest(examples, names, str(block), str(document), block.line - 1, block.text)
            count += len(examples)
            if runner.run(test, out=report.write, clear_globs=False).failed:
                raise AssertionError(report.getvalue())
            names = test.globs
        else:
            count += 1
            with contextlib.redirect_stdout(report):
                exec(compile("\n" * (block.line - 1) + block.text, str(document), "exec"), names)
    return count


def source(block: Block) -> str:
    """The Python of a block, without prompts and output."""
    examples = doctest.DocTestParser().get_examples(block.text)
    return "".join(example.source for example in examples) if examples else block.text


def policy_problems(block: Block) -> list[str]:
    """The mistakes in a TOML block: as TOML, and if it has rules, as a policy."""
    try:
        has_rules = "rule" in tomllib.loads(block.text)
    except tomllib.TOMLDecodeError as error:
        return [f"{block}: {error}"]
    return [f"{block}: {problem}" for problem in procmon.Policy.check(block.text)] if has_rules else []


# -------------------------------------------------------------------------------------------------------- links


def prose(document: Path) -> str:
    """A document without its blocks."""
    return re.sub(r"^```.*?^```$", "", document.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)


def anchors(document: Path) -> set[str]:
    """The anchors of a document: its headings, as GitHub spells them in addresses."""
    headings = re.findall(r"^#+ +(.*)$", prose(document), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}


def links(document: Path) -> Iterator[tuple[str, Path, str]]:
    """The links of a document into this project: as written, the file, the anchor."""
    for target in LINK.findall(prose(document)):
        if not re.match(r"[a-z]+:", target):
            path, _, anchor = target.partition("#")
            yield target, Path(os.path.normpath(document.parent / path)) if path else document, anchor


def broken_links() -> list[str]:
    """Links that lead nowhere."""
    return [
        f"{document.relative_to(ROOT).as_posix()}: ({target}) leads nowhere"
        for document in documents()
        for target, path, anchor in links(document)
        if not path.exists() or (anchor and anchor not in anchors(path))
    ]


def orphans() -> list[str]:
    """Documents that no chain of links from the README reaches."""
    reached, new = set[Path](), {ROOT / "README.md"}
    while new:
        reached |= new
        new = {path for document in new if document.suffix == ".md" for _, path, _ in links(document) if path.is_file()}
        new -= reached
    return [path.relative_to(ROOT).as_posix() for path in documents() if path not in reached and path.parent != ROOT]


# ------------------------------------------------------------------------------------------------------ doctests


def module_doctests() -> list[str]:
    """The modules of the package, by name, except `__main__`, which runs when it is imported."""
    names = [module.name for module in pkgutil.walk_packages(procmon.__path__, "procmon.")]
    return ["procmon", *(name for name in names if not name.endswith("__main__"))]


def run_module(name: str, *, windows: bool) -> int:
    """Run the doctests of a module; return how many examples ran.

    Raises: AssertionError with the place, the expected and the actual output.
    """
    module, report, count = importlib.import_module(name), io.StringIO(), 0
    if module is procmon:  # public names are loaded on first use, and then belong to this module
        for public in procmon.__all__:
            getattr(procmon, public)
    elif ">>> " not in Path(str(module.__file__)).read_text("utf-8"):
        return 0  # the finder looks up the source of each function, which takes seconds under Wine
    for test in doctest.DocTestFinder(exclude_empty=True).find(module, name):
        if not windows:
            test.examples = [example for example in test.examples if not example.options.pop(WINDOWS_ONLY, False)]
        count += len(test.examples)
        if doctest.DocTestRunner(optionflags=FLAGS).run(test, out=report.write).failed:
            raise AssertionError(report.getvalue())
    return count
