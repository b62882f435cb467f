"""The pages of the documentation that messages name. The wheel and the source tree both contain them."""

from pathlib import Path

__all__ = ["page"]

_PACKAGE = Path(__file__).resolve().parents[1]


def page(name: str) -> str:
    """The path of a page on this machine, or its path in the project where this machine does not have it.

    >>> page("no-such-page.md")
    'docs/no-such-page.md'
    """
    for folder in (_PACKAGE / "docs", _PACKAGE.parents[1] / "docs"):
        if (folder / name).is_file():
            return str(folder / name)
    return f"docs/{name}"
