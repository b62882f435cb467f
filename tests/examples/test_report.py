"""The report in a browser: views, typing and clicks, by mouse and by keyboard, in light and in dark."""

from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from browser import Browser
from procmon import ALLOW, BLOCK, DecidedBy, Decision, ProcessHelper, Verdict
from procmon.cli.report import Report, page

NOON = datetime(2026, 1, 31, 12, tzinfo=UTC)

HOSTILE = "c:\\<img src=x onerror=document.title='broken'>.exe"


def decision(
    pid: int, parent: int, image: str, verdict: Verdict = ALLOW, *, after: float = 0, who: str = ""
) -> Decision:
    return Decision(
        process=ProcessHelper(
            pid=pid, parent_pid=parent, image_name=image, start_key=pid, command_line=f"{image} --number {pid}"
        ),
        verdict=verdict,
        by=DecidedBy.RULE if who else DecidedBy.DEFAULT,
        who=who,
        at=NOON + timedelta(seconds=after),
        held_for=0.05,
    )


def small() -> Report:
    report = Report()
    report.begin_log("audit.jsonl")
    shell = decision(8, 4, "c:\\windows\\explorer.exe")
    report.add(shell)
    report.add(decision(12, 8, "c:\\windows\\system32\\cmd.exe", after=1))
    report.add(decision(16, 12, "c:\\users\\ada\\downloads\\chess.exe", BLOCK, after=2, who="no games"))
    report.add(decision(20, 12, HOSTILE, after=3))
    report.add_exit(replace(shell.process, exited_at=NOON + timedelta(seconds=10)))
    return report


def large() -> Report:
    report = Report()
    report.begin_log("audit.jsonl")
    report.add(decision(8, 4, "c:\\windows\\explorer.exe"))
    for number in range(1, 100_000):
        verdict, who = (BLOCK, "no games") if number % 1000 == 0 else (ALLOW, "")
        tool = f"c:\\tools\\tool-{number % 7}.exe"
        report.add(decision(8 + 4 * number, 8, tool, verdict, after=number / 50, who=who))
    return report


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with Browser() as browser:
        yield browser


@pytest.fixture
def show(browser: Browser, tmp_path: Path) -> "Iterator[Browser]":
    """The small report, open; nothing on it may complain."""
    _open(browser, small(), tmp_path)
    yield browser
    assert browser.console() == []


def _open(browser: Browser, report: Report, folder: Path) -> None:
    path = folder / "report.html"
    path.write_text(page(report), "utf-8")
    browser.open(path)


def names(browser: Browser) -> list[str]:
    return browser.texts("#rows .image")


def test_the_tree_shows_each_process_below_its_parent(show: Browser) -> None:
    assert names(show) == ["explorer.exe", "cmd.exe", "chess.exe", HOSTILE[3:]]
    levels = show.run("return [...document.querySelectorAll('[role=treeitem]')].map(row => row.ariaLevel)")
    assert levels == ["1", "2", "3", "3"]
    assert show.text("#shown") == "4 of 4 decisions match"


def test_a_name_is_shown_and_never_becomes_part_of_the_page(show: Browser) -> None:
    assert show.run("return document.title") == "procmon report"
    assert show.run("return document.querySelectorAll('img').length") == 0


def test_the_summary_counts_and_names_what_was_blocked(show: Browser) -> None:
    tiles = dict(zip(show.texts(".tile dt"), show.texts(".tile dd"), strict=True))
    assert (tiles["decisions"], tiles["allowed"], tiles["blocked"], tiles["longest hold"]) == ("4", "3", "1", "50 ms")
    assert show.texts("#blocked .name") == ["chess.exe"]
    assert show.texts("#by .count") == ["3", "1"]


def test_a_search_shows_what_matches_and_its_parents(show: Browser) -> None:
    show.type("#text", "CHESS")
    assert names(show) == ["explorer.exe", "cmd.exe", "chess.exe"]
    assert show.text("#shown") == "1 of 4 decisions match"


@pytest.mark.parametrize(("text", "matching"), [("--number 16", 1), ("no games", 1), ("20", 1), ("none of these", 0)])
def test_a_search_looks_at_command_lines_rules_and_pids(show: Browser, text: str, matching: int) -> None:
    show.type("#text", text)
    assert show.text("#shown").startswith(f"{matching} of 4")


def test_verdicts_and_deciders_filter(show: Browser) -> None:
    show.click("#verdicts input[value=allow]")
    assert show.text("#shown").startswith("1 of 4")
    show.click("#verdicts input[value=allow]")
    show.run("who.value = 'rule'; who.dispatchEvent(new Event('input', {bubbles: true}))")
    assert show.text("#shown").startswith("1 of 4")


def test_the_keyboard_moves_opens_closes_and_shows_a_record(show: Browser) -> None:
    down, left, enter = "\ue015", "\ue012", "\ue007"
    show.type("#rows", down * 2 + enter)
    assert show.text("#details h3") == "chess.exe"
    record = dict(zip(show.texts("#details dt"), show.texts("#details dd"), strict=True))
    assert (record["decided by"], record["name"], record["verdict"]) == ("rule", "no games", "block")
    assert show.texts("#details .link") == ["cmd.exe (12)", "explorer.exe (8)"]
    show.type("#rows", "\ue013" + left)  # up to cmd, and close it
    assert names(show) == ["explorer.exe", "cmd.exe"]
    assert show.run("return rows[current].process") == 1


def test_a_click_on_a_parent_shows_its_record(show: Browser) -> None:
    show.click(".row:nth-child(3)")
    show.click("#details .link")
    record = dict(zip(show.texts("#details dt"), show.texts("#details dd"), strict=True))
    assert show.text("#details h3") == "cmd.exe" and record["pid"] == "12"


def test_the_page_follows_the_readers_preference_and_a_button_overrules_it(show: Browser) -> None:
    def background() -> str:
        return str(show.run("return getComputedStyle(document.body).backgroundColor"))

    show.media(prefers_color_scheme="light")
    light = background()
    show.media(prefers_color_scheme="dark")
    dark = background()
    assert light != dark
    show.click("#theme")
    assert background() == light
    show.media(prefers_color_scheme="light")


def test_the_page_may_load_nothing_from_anywhere(show: Browser) -> None:
    refused = show.run(
        "return new Promise(done => {"
        " addEventListener('securitypolicyviolation', event => done(event.violatedDirective));"
        " const image = new Image(); image.src = 'http://127.0.0.1:9/x.png'; })"
    )
    assert refused == "img-src"
    assert len(show.console()) == 1  # the refusal


def test_an_empty_log_makes_a_page_that_says_so(browser: Browser, tmp_path: Path) -> None:
    report = Report()
    report.begin_log("audit.jsonl")
    _open(browser, report, tmp_path)
    assert browser.text("#shown") == "0 of 0 decisions match"
    assert browser.texts("#blocked span") == ["no program was blocked"]
    assert browser.console() == []


def test_100_000_decisions_are_joined_and_only_rows_in_sight_are_drawn(browser: Browser, tmp_path: Path) -> None:
    _open(browser, large(), tmp_path)
    assert browser.text("#shown").startswith("100,000 of 100,000 decisions match; siblings of one program")
    assert len(names(browser)) == 15  # explorer, then seven programs, each allowed or blocked
    assert sum(int(text.split()[0].replace(",", "")) for text in browser.texts("#rows .many")) == 99_999
    browser.click("#expand")
    assert browser.run("return rows.length") == 100_014
    assert len(names(browser)) < 60
    browser.type("#rows", "\ue010")  # the End key
    assert browser.run("return current") == 100_013
    assert browser.console() == []
