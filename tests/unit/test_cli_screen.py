"""The output of procmon-gate: fitted to a terminal, unshortened elsewhere, in colour where allowed, never harmful."""

import io
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import procmon
from procmon import SimulatedGate
from procmon.cli import main, statuses, text
from procmon.cli.screen import Screen, exit_line, question_lines
from procmon.cli.text import arguments_of, cut, fit, short_path, width, wrap
from procmon.util.printable import printable

COMPILER = "c:/program files/microsoft visual studio/2022/vc/tools/14.38.33130/bin/hostx64/x64/cl.exe"
RULES = '[[rule]]\nname = "no compilers before the release is out"\nimage = "cl.exe"\nverdict = "block"'
MOMENT = datetime(2026, 3, 1, 12, 30, tzinfo=UTC)


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def consoles(monkeypatch: pytest.MonkeyPatch) -> None:
    """On Windows a StringIO is no console, whatever its isatty returns."""
    monkeypatch.setattr("procmon.cli.screen.is_console", lambda stream: stream.isatty())
    monkeypatch.setattr("procmon.cli.screen.enable_escape_sequences", lambda _: True)


def shown(stream: io.StringIO, environment: dict[str, str], image: str = COMPILER, arguments: str = "") -> str:
    screen = Screen(stream, environment=environment)
    process = SimulatedGate().start(image, command_line=f"{image} {arguments}")
    screen.write(procmon.Policy.parse(RULES).decide(process))
    return stream.getvalue()


class TestColours:
    def test_on_a_terminal_only(self) -> None:
        assert "\x1b[31mblock\x1b[0m" in shown(Terminal(), {})
        assert "\x1b" not in shown(io.StringIO(), {})

    @pytest.mark.parametrize("environment", [{"NO_COLOR": "1"}, {"TERM": "dumb"}])
    def test_not_where_the_user_wants_none(self, environment: dict[str, str]) -> None:
        assert "\x1b" not in shown(Terminal(), environment)

    def test_an_empty_no_color_says_nothing(self) -> None:
        assert "\x1b" in shown(Terminal(), {"NO_COLOR": ""})


class TestWidth:
    def test_a_line_fits_the_terminal(self) -> None:
        line = shown(Terminal(), {"NO_COLOR": "1", "COLUMNS": "80"}, arguments="/nologo /O2 /c " + "x" * 300)
        assert line[9:] == "block   1000 c:\\...\\x64\\cl.exe  /nologo /O2 ...  [rule no compiler...]\n"
        assert len(line) <= 80

    def test_elsewhere_it_is_whole(self) -> None:
        line = shown(io.StringIO(), {"COLUMNS": "80"}, arguments="x" * 300)
        assert COMPILER.replace("/", "\\") in line
        assert "x" * 300 in line
        assert line.endswith("[rule no compilers before the release is out]\n")

    def test_a_wide_terminal_cuts_nothing(self) -> None:
        line = shown(Terminal(), {"NO_COLOR": "1", "COLUMNS": "300"}, arguments="/O2")
        assert COMPILER.replace("/", "\\") + "  /O2  [rule no compilers before the release is out]" in line

    def test_wide_characters_take_two_columns(self) -> None:
        line = shown(Terminal(), {"NO_COLOR": "1", "COLUMNS": "60"}, image="c:/" + "試験" * 40 + "/cl.exe")
        assert 40 < width(line.rstrip("\n")) <= 59

    def test_a_question_shows_all_that_there_is_to_know(self) -> None:
        screen = Screen(Terminal(), environment={"NO_COLOR": "1", "COLUMNS": "80"})
        process = SimulatedGate().start(COMPILER, command_line="cl " + "/D" * 300)
        printed = question_lines(process, MOMENT, "explorer.exe (3120)", "rule ask about all", screen)
        lines = printed.split("\n")
        assert max(map(len, lines)) <= 79
        assert lines[0][9:].startswith("ask     1000 c:\\program files\\")
        texts = [line[22:] for line in lines]
        assert COMPILER.replace("/", "\\") + "/D" * 300 == "".join(texts[:-1])
        assert texts[-1] == "started by explorer.exe (3120)  [rule ask about all]"

    def test_what_a_rule_says_stands_below_what_it_blocks_and_asks(self) -> None:
        stream = Terminal()
        screen = Screen(stream, environment={"NO_COLOR": "1", "COLUMNS": "60"})
        process = SimulatedGate().start("c:/games/chess.exe")
        rule = "[[rule]]\nimage = 'chess.exe'\nmessage = 'Ask the help desk: 4711, or read the page about games.\x1b'"
        for verdict, lines in (("block", 3), ("allow", 1)):
            stream.truncate(0)
            stream.seek(0)
            screen.write(procmon.Policy.parse(f"{rule}\nverdict = '{verdict}'".replace("\x1b", "")).decide(process))
            printed = stream.getvalue().splitlines()
            assert len(printed) == lines
            assert verdict == "allow" or "".join(line.strip() for line in printed[1:]).startswith("Ask the help desk")
            assert max(map(width, printed)) < 60
        asked = question_lines(process, MOMENT, "a (8)", "rule 1", screen, "Why?\x1b[2J").split("\n")
        assert asked[-1].strip() == "Why?\\x1b[2J"

    def test_a_question_does_not_fill_the_screen(self) -> None:
        screen = Screen(io.StringIO())
        process = SimulatedGate().start("c:/a.exe", command_line="a " + "x" * 32000)
        lines = question_lines(process, MOMENT, "a (8)", "", screen).split("\n")
        assert lines[1].endswith("x... and 31,000 more characters")

    def test_verdicts_stay_in_one_column(self) -> None:
        stream = io.StringIO()
        screen = Screen(stream)
        process = SimulatedGate().start("c:/windows/cl.exe")
        for mode in ("audit", "enforce"):
            screen.write(procmon.Policy.parse(f"mode = '{mode}'\n{RULES}").decide(process))
        screen.line(exit_line(process, MOMENT, screen))
        assert len({line.index("c:\\windows") for line in stream.getvalue().splitlines()}) == 1

    @pytest.mark.parametrize(
        ("path", "columns", "short"),
        [
            ("c:\\windows\\system32\\cmd.exe", 27, "c:\\windows\\system32\\cmd.exe"),
            ("c:\\windows\\system32\\cmd.exe", 26, "c:\\windows\\...\\cmd.exe"),
            ("c:\\users\\ada\\temp\\is-4f.tmp\\setup.exe", 35, "c:\\users\\...\\is-4f.tmp\\setup.exe"),
            ("c:\\users\\ada\\temp\\is-4f.tmp\\setup.exe", 20, "c:\\...\\setup.exe"),
            ("c:\\users\\ada\\temp\\is-4f.tmp\\setup.exe", 10, "setup.exe"),
            ("c:\\invoice.pdf                    .exe", 20, "invoice.p...    .exe"),
            ("\\device\\mup\\server\\share\\a.exe", 24, "\\device\\...\\share\\a.exe"),
        ],
    )  # fmt: skip
    def test_a_path_keeps_its_ends(self, path: str, columns: int, short: str) -> None:
        assert short_path(path, columns) == short

    def test_only_as_many_folders_as_can_fit_are_tried(self, monkeypatch: pytest.MonkeyPatch) -> None:
        tried: list[str] = []

        def noted_width(shown: str) -> int:
            tried.append(shown)
            return width(shown)

        monkeypatch.setattr(text, "width", noted_width)
        assert short_path("c:\\" + "f\\" * 16_000 + "a.exe", 20) == r"c:\f\...\f\f\f\a.exe"
        assert len(tried) < 50, "each is as long as what is left of the path"

    @given(st.text(st.characters(exclude_categories=["C", "Z", "M"])), st.text(), st.integers(20, 200))
    def test_whatever_it_is_it_fits(self, path: str, arguments: str, columns: int) -> None:
        arguments = printable(arguments)
        short, shown = fit(path, arguments, columns)
        assert width(short) + (2 + width(shown) if shown else 0) <= columns
        assert width(cut(path, columns)) <= columns
        lines = wrap(path, columns)
        assert "".join(lines) == path
        assert max(map(width, lines)) <= columns


class TestArguments:
    @pytest.mark.parametrize(
        ("command_line", "shown"),
        [
            (None, ""),
            ('"C:\\Tools\\Make.exe" -j2', "-j2"),
            ("make -j2", "-j2"),
            ("MAKE", ""),
            ("c:/tools/make.exe  all ", "all"),
            ("C:/tools/make.exe -j2", "-j2"),
            ("C:/tools/make.exe-j2", "C:/tools/make.exe-j2"),
            ("gmake -j2", "gmake -j2"),  # not the program it claims to be
            ('"C:\\Tools\\Make.exe"-j2', '"C:\\Tools\\Make.exe"-j2'),
            ('"unclosed make', '"unclosed make'),
            ('"c:\\tools\\make.exe -j2', '"c:\\tools\\make.exe -j2'),  # Windows takes all of it as the name
            ('"c:\\tools\\make.exe', ""),
            ("make\u00a0-j2", "make\\xa0-j2"),  # Windows splits at blank and tab only
            ("c:\\tools\\make.exe\u00a0-j2", "c:\\tools\\make.exe\\xa0-j2"),
            ("make\t-j2\u2003", "-j2\\u2003"),
            ('c:\\"tools"\\make.exe -j2', "-j2"),
            ("make \x1b[2J", "\\x1b[2J"),
        ],
    )
    def test_the_program_is_left_out_where_the_image_names_it(self, command_line: str | None, shown: str) -> None:
        assert arguments_of(SimulatedGate().start("c:/tools/make.exe", command_line=command_line)) == shown

    def test_also_where_it_holds_blanks_and_no_quotes(self) -> None:
        process = SimulatedGate().start("c:/my tools/make.exe", command_line="C:\\My Tools\\make.exe -j2")
        assert arguments_of(process) == "-j2"


class TestQuestionLine:
    def test_lines_go_above_the_question(self) -> None:
        stream = io.StringIO()
        screen = Screen(stream)
        screen.ask("sure? ")
        screen.line("news")
        screen.ask("")
        assert stream.getvalue() == "sure? \r      \rnews\nsure? \r      \r"

    def test_a_terminal_is_asked_to_clear_the_line(self) -> None:
        stream = Terminal()
        screen = Screen(stream, environment={"NO_COLOR": "1"})
        screen.ask("sure? ")
        screen.ask("")
        assert stream.getvalue() == "sure? \r\x1b[K"


class TestNothingHarmful:
    def test_nothing_that_is_read_reaches_the_terminal_unescaped(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """C1 controls and marks that reverse the writing are valid in Windows' file names, and all is in TOML."""
        evil = "c:/a\x9b2J\u202e\x1b.exe"
        policy, log = tmp_path / "policy.toml", tmp_path / "audit.jsonl"
        policy.write_text('[[rule]]\nname = "\\u001b]0;"\nimage = "c:/a*"\nverdict = "block"\n', encoding="utf-8")
        with procmon.AuditLog(log) as audit_log:
            audit_log.write(procmon.Policy.parse("default = 'allow'").decide(SimulatedGate().start(evil)))
        assert main.main(["policy", "explain", str(policy), evil]) == 0
        assert main.main(["policy", "replay", str(policy), str(log)]) == 0
        policy.write_text('mode = "\\u001b[2J"\n', encoding="utf-8")
        assert main.main(["policy", "check", str(policy)]) == 1
        assert main.main(["policy", "explain", str(policy), evil]) == statuses.FAILED
        print(procmon.ProcessTree([SimulatedGate().start(evil)]))
        shown = "".join(capsys.readouterr())
        assert shown.replace("\n", "").isprintable()
        assert shown.count("\\x9b2j") == 4  # explained twice, replayed, in the tree

    def test_names_cannot_move_the_cursor(self) -> None:
        line = shown(io.StringIO(), {}, image="c:/\x1b[2Jnice\u202eexe.txt\n")
        assert "\\x1b[2jnice\\u202eexe.txt\\n" in line
        assert printable("größe ok") == "größe ok"

    def test_nor_can_those_in_a_question(self) -> None:
        evil = SimulatedGate().start("c:/\x1b[2J.exe", command_line="a \x9b2J")
        lines = question_lines(evil, MOMENT, "a (8)", "rule \x1b]0;", Screen(io.StringIO()))
        assert lines.replace("\n", "").isprintable()
