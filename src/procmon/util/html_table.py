"""Tables for notebooks, which show what an object's ``_repr_html_`` returns."""

from collections.abc import Iterable, Sequence

__all__ = ["html_table"]


def html_table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A table; every text is escaped, and keeps runs of blanks.

    >>> html_table(["NAME"], [["<a>"]])
    '<table><thead><tr><th>NAME</th></tr></thead><tbody><tr><td>&lt;a&gt;</td></tr></tbody></table>'
    """
    from html import escape

    def row(cells: Iterable[object], tag: str) -> str:
        shown = (escape(str(cell)).replace("  ", "&nbsp; ") for cell in cells)
        return "<tr>" + "".join(f"<{tag}>{text}</{tag}>" for text in shown) + "</tr>"

    body = "".join(row(cells, "td") for cells in rows)
    return f"<table><thead>{row(head, 'th')}</thead><tbody>{body}</tbody></table>"
