#!/usr/bin/env python3
"""Make the pictures in docs/: the report, from invented decisions, and the window of the examples.

    python3 tests/pictures.py [report] [window]

This needs chromium-driver, Xvfb and python3-tk, which `python3 dev.py test` installs. Look at the pictures before you
commit them.
"""

import os
import random
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / folder) for folder in ("src", "tests", "examples")]

from browser import Browser  # noqa: E402 - found on the path that is set above
from procmon import ALLOW, BLOCK, DecidedBy, Decision, ProcessHelper  # noqa: E402
from procmon.cli.report import Report, page  # noqa: E402

TOOLS = ["cl.exe", "link.exe", "git.exe", "python.exe", "powershell.exe", "conhost.exe", "certutil.exe", "whoami.exe"]
FOLDERS = ["c:\\windows\\system32", "c:\\build\\bin", "c:\\users\\ada\\downloads"]


def decisions(count: int) -> Iterator[Decision]:
    """Invented activity: shells that start tools, one of them many times; some are blocked, some would be."""
    chance, at = random.Random(7), datetime(2026, 1, 31, 9, 30, tzinfo=UTC)
    shells, tool, folder = [996], TOOLS[0], FOLDERS[1]
    for number in range(count):
        pid = 1000 + 4 * number
        at += timedelta(seconds=chance.expovariate(2))
        is_shell = chance.random() < 0.03 or number < 2
        parent = shells[-1]
        if is_shell:
            parent = chance.choice(shells[-40:]) if number > 1 else 996
            tool, folder = "cmd.exe", FOLDERS[0]
        elif tool == "cmd.exe" or chance.random() < 0.2:
            tool, folder = chance.choice(TOOLS), chance.choices(FOLDERS, [6, 6, 1])[0]
        verdict, by, who, audited = ALLOW, DecidedBy.DEFAULT, "", False
        if folder == FOLDERS[2]:
            verdict, by, who = BLOCK, DecidedBy.RULE, "no programs from downloads"
        elif tool == "whoami.exe":
            verdict, by, who, audited = BLOCK, DecidedBy.RULE, "reconnaissance", True
        elif chance.random() < 0.05:
            by = DecidedBy.USER
        process = ProcessHelper(
            pid=pid,
            parent_pid=parent,
            image_name=f"{folder}\\{tool}",
            start_key=pid,
            command_line=f"{tool} /c step-{number % 400}.cpp",
        )
        held = chance.lognormvariate(1, 1) if by is DecidedBy.USER else chance.lognormvariate(-6, 1.3)
        if is_shell:
            shells.append(pid)
        yield Decision(
            process=process, verdict=verdict, by=by, who=who, audited=audited, at=at, held_for=min(held, 40.0)
        )


def report(count: int) -> Report:
    """A report of `count` decisions, with the exits of the tools."""
    made, chance = Report(), random.Random(8)
    made.begin_log("guard.jsonl")
    for decision in decisions(count):
        made.add(decision)
        if not decision.process.image_name.endswith("cmd.exe"):
            ended = decision.at + timedelta(seconds=chance.expovariate(0.8))
            made.add_exit(replace(decision.process, exited_at=ended))
    return made


def take_window() -> None:
    """Take the picture of the window, with its questions."""
    from examples import portrait
    from examples.screen import Screen

    picture = ROOT / "docs" / "window.png"
    with Screen() as screen:
        os.environ["DISPLAY"] = screen.display
        with portrait.scene(screen) as view:
            portrait.save(screen, view, picture)
    print(picture.relative_to(ROOT), flush=True)
    os._exit(0)  # a normal exit would make Tk wait for the screen, which is gone


def take_report() -> None:
    """Take the four pictures of the report."""
    with tempfile.TemporaryDirectory() as folder, Browser(1300, 1150) as browser:
        path = Path(folder, "report.html")
        for count, scheme, name in [
            (10, "light", "report-10"),
            (1000, "light", "report"),
            (1000, "dark", "report-dark"),
            (100_000, "light", "report-100000"),
        ]:
            path.write_text(page(report(count)), "utf-8")
            browser.media(prefers_color_scheme=scheme)
            browser.open(path)
            if count == 1000:
                browser.click(".row:nth-child(4)")
            picture = ROOT / "docs" / f"{name}.png"
            picture.write_bytes(browser.screenshot())
            print(picture.relative_to(ROOT))


if __name__ == "__main__":
    wanted = sys.argv[1:] or ["report", "window"]
    if "report" in wanted:
        take_report()
    if "window" in wanted:
        take_window()
