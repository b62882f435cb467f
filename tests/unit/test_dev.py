"""dev.py and its set-up: an interrupted set-up is repaired, and a run without tests is no success."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from patience import PATIENCE
from setup import debian, parts, programs, project, wine32
from setup.locks import Lock
from setup.project import Stop

PROJECT = Path(__file__).resolve().parents[2]


# -------------------------------------------------------------------------------------------------- the set-up


def test_a_part_is_made_only_when_its_stamp_its_recipe_and_its_files_agree(tmp_path: Path) -> None:
    wanted = parts.recipe("1", "pytest==9")
    assert not parts.is_made(tmp_path, wanted)
    (tmp_path / "python.exe").touch()
    assert not parts.is_made(tmp_path, wanted, "python.exe"), "cut off before its stamp"
    parts.stamp(tmp_path, wanted)
    assert parts.is_made(tmp_path, wanted, "python.exe")
    assert not parts.is_made(tmp_path, parts.recipe("1", "pytest==10"), "python.exe"), "other pins"
    (tmp_path / "python.exe").unlink()
    assert not parts.is_made(tmp_path, wanted, "python.exe"), "a file was deleted"


def test_recipes_with_the_same_letters_in_other_parts_differ() -> None:
    assert parts.recipe("ab", "c") != parts.recipe("a", "bc")


def test_starting_over_leaves_nothing_of_what_was_there(tmp_path: Path) -> None:
    part = tmp_path / "part"
    (part / "deep").mkdir(parents=True)
    parts.stamp(part, "old")
    parts.start_over(part)
    assert list(part.iterdir()) == []


def test_every_download_is_pinned_by_version_and_sha256() -> None:
    lists = sorted(project.PINS.glob("*.txt"))
    assert [path.name for path in lists] == [
        "bench.txt",
        "fleet.txt",
        "pytest.txt",
        "sigma.txt",
        "tools.txt",
        "windows.txt",
        "windows32.txt",
    ]
    for path in lists:
        lines = [line for line in path.read_text().splitlines() if not line.startswith("#")]
        pinned = [line for line in lines if not line.startswith(" ")]
        assert pinned and all("==" in line and line.endswith("\\") for line in pinned)
        hashes = [line.removesuffix("\\").strip() for line in lines if line.startswith(" ")]
        assert all(line.startswith("--hash=sha256:") and len(line) == 14 + 64 for line in hashes)


def test_a_lock_is_held_by_one_at_a_time(tmp_path: Path) -> None:
    first, second = Lock(tmp_path / "x.lock"), Lock(tmp_path / "x.lock")
    assert first.take()
    assert not second.take()
    first.close()
    assert second.take()
    second.close()


def test_a_lock_ends_with_its_holder(tmp_path: Path) -> None:
    take = "import setup.locks, pathlib, time, sys; lock = setup.locks.Lock(pathlib.Path(sys.argv[1])); lock.take();"
    command = [sys.executable, "-c", take + "print('held', flush=True); time.sleep(60)", str(tmp_path / "x.lock")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=programs.with_paths()) as holder:
        assert holder.stdout and holder.stdout.readline().strip() == b"held"
        lock = Lock(tmp_path / "x.lock")
        assert not lock.take()
        holder.kill()
        holder.wait()
        assert lock.take("the holder that was killed")
        lock.close()


def test_a_tool_that_fails_stops_the_work_with_its_last_words() -> None:
    with pytest.raises(Stop, match="no venv: .*status 3\n    the reason"):
        programs.run_quietly([sys.executable, "-c", "print('the reason'); raise SystemExit(3)"], "no venv")
    with pytest.raises(Stop, match="no-such-tool does not start"):
        programs.run_quietly(["no-such-tool"], "no venv")


def test_a_step_that_takes_long_shows_the_last_line_of_its_output(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def report(text: str) -> None:
        reports.append(text)
        if text.endswith("  5 of 20"):
            shown.touch()

    reports: list[str] = []
    shown = tmp_path / "shown"
    monkeypatch.setattr(programs, "PROGRESS_S", 0.05)
    monkeypatch.setattr(programs, "report", report)
    wait = "for _ in range(6000): os.path.exists(sys.argv[1]) or time.sleep(0.01)"
    code = f"import os, sys, time\nprint('5 of 20', flush=True)\n{wait}"
    programs.run_quietly([sys.executable, "-c", code, str(shown)], "no download")
    assert reports[-1].endswith(" s  5 of 20")


if sys.platform != "win32":  # there packages come from nowhere, and programs get our streams as they are

    def _tools(folder: Path, **scripts: str) -> str:
        for name, script in scripts.items():
            (folder / name.replace("_", "-")).write_text(f"#!/bin/sh\n{script}\n")
            (folder / name.replace("_", "-")).chmod(0o755)
        return str(folder)

    def test_nothing_is_installed_when_nothing_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        path = _tools(tmp_path, dpkg_query="echo installed a; echo installed b", apt_get=f"touch {tmp_path}/asked")
        monkeypatch.setenv("PATH", path)
        debian.install(["a", "b"])
        assert not (tmp_path / "asked").exists()

    def test_only_what_is_missing_is_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        query, asked = "echo installed a; echo config-files c", tmp_path / "asked"
        path = _tools(tmp_path, dpkg_query=query, apt_get=f'echo "$DEBIAN_FRONTEND $@" >> {asked}')
        monkeypatch.setenv("PATH", path)
        monkeypatch.setattr(project, "DEV", tmp_path)
        monkeypatch.setattr(os, "geteuid", lambda: 0)
        debian.install(["a", "b", "c"])
        update, install = asked.read_text().splitlines()
        assert update.startswith("noninteractive") and update.endswith("update")
        assert install.endswith("install --no-install-recommends b c")

    def test_without_root_and_sudo_it_says_what_to_type(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("PATH", _tools(tmp_path, dpkg_query="exit 1", apt_get="exit 1"))
        monkeypatch.setattr(os, "geteuid", lambda: 1000)
        with pytest.raises(Stop, match="as root:\n    apt-get install --no-install-recommends wine64"):
            debian.install(["wine64"])

    def test_where_there_is_no_apt_it_names_the_packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("PATH", str(tmp_path))
        with pytest.raises(Stop, match="Debian .*: wine64 g"):
            debian.install(["wine64", "g++"])

    def test_the_32_bit_half_of_wine_is_of_the_version_that_is_installed_or_its_lack_is_reported(
        tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        asked = tmp_path / "asked"
        apt = f'echo "$@" >> {asked}; echo Unable to locate package; exit 100'
        monkeypatch.setenv("PATH", _tools(tmp_path, dpkg_query="printf 8.0-4", apt_get=apt))
        monkeypatch.setattr(project, "DEV", tmp_path / "dev")
        with pytest.raises(Stop, match="gives no libwine:i386 8.0-4(.|\n)*Unable to locate package"):
            wine32.wine32()
        update, download = asked.read_text().splitlines()
        assert update.endswith("update") and download.endswith("download libwine:i386=8.0-4")
        own = f"Dir::State::lists={tmp_path / 'dev'}"
        assert own in update and own in download, "this would change the system's own lists"
        assert not (tmp_path / "dev" / "wine32" / ".stamp").exists()

    # ------------------------------------------------------------------------------------- streams and statuses

    def _attached(script: str, options: str = "") -> list[str]:
        """A command that runs `script` by run_attached, in a process of its own so that its streams are real."""
        code = "import os, pathlib, sys; from setup.programs import Attachment, run_attached; "
        code += f"sys.exit(run_attached({['/bin/sh', '-c', script]!r}, os.environ, Attachment({options})))"
        return [sys.executable, "-c", code]

    def test_output_in_a_file_keeps_its_order_and_the_status_is_passed_on(tmp_path: Path) -> None:
        target = tmp_path / "out"
        script = "i=0; while [ $i -lt 500 ]; do echo out $i; echo err $i >&2; i=$((i+1)); done; exit 7"
        with open(target, "wb") as out:
            done = subprocess.run(_attached(script), stdout=out, stderr=out, env=programs.with_paths())
        assert done.returncode == 7
        assert target.read_text() == "".join(f"out {i}\nerr {i}\n" for i in range(500))

    def test_a_pipe_stands_before_a_file(tmp_path: Path) -> None:
        with open(tmp_path / "out", "wb") as out:
            done = subprocess.run(_attached("[ -p /dev/stdout ]"), stdout=out, env=programs.with_paths())
        assert done.returncode == 0

    def test_standard_error_stays_apart_where_it_goes_elsewhere() -> None:
        done = subprocess.run(_attached("echo a; echo b >&2"), capture_output=True, env=programs.with_paths())
        assert (done.stdout, done.stderr) == (b"a\n", b"b\n")

    def test_input_is_passed_on() -> None:
        done = subprocess.run(_attached("cat"), input=b"x" * 300_000, capture_output=True, env=programs.with_paths())
        assert done.stdout == b"x" * 300_000

    def test_a_file_is_read_through_a_pipe(tmp_path: Path) -> None:
        source = tmp_path / "in"
        source.write_bytes(b"x" * 300_000)
        for script, output in (("[ -p /dev/stdin ] && cat", source.read_bytes()), ("true", b"")):
            with open(source, "rb") as file:
                done = subprocess.run(_attached(script), stdin=file, capture_output=True, env=programs.with_paths())
            assert (done.returncode, done.stdout, done.stderr) == (0, output, b"")

    def test_what_a_program_leaves_running_delays_nothing() -> None:
        done = subprocess.run(_attached("sleep 600 & echo $!"), capture_output=True, env=programs.with_paths())
        left = int(done.stdout)
        assert _is_alive(left)
        os.kill(left, signal.SIGKILL)

    def test_a_program_that_dies_by_a_signal_has_a_status_as_in_a_shell() -> None:
        assert subprocess.run(_attached("kill -9 $$"), env=programs.with_paths()).returncode == 128 + 9

    def test_a_program_that_outlasts_its_time_is_ended() -> None:
        command = _attached("echo a; exec sleep 60", "timeout=0.5")
        done = subprocess.run(command, capture_output=True, env=programs.with_paths())
        assert b"not done in time, and killed: /bin/sh" in done.stderr
        assert (done.stdout, done.returncode) == (b"a\n", programs.TIMED_OUT)

    def test_lines_of_a_windows_program_end_as_on_this_system() -> None:
        script = r"printf 'a\r\nb\r'; sleep 0.1; printf '\nc\rd\n\r'"
        done = subprocess.run(_attached(script, "unix_lines=True"), capture_output=True, env=programs.with_paths())
        assert done.stdout == b"a\nb\nc\rd\n\r"
        done = subprocess.run(_attached(script), capture_output=True, env=programs.with_paths())
        assert done.stdout == b"a\r\nb\r\nc\rd\n\r"

    def test_output_and_errors_can_go_to_files(tmp_path: Path) -> None:
        out, err = tmp_path / "out", tmp_path / "err"
        files = f"output=pathlib.Path({str(out)!r}), errors=pathlib.Path({str(err)!r})"
        command = _attached("echo a; echo b >&2", files)
        done = subprocess.run(command, capture_output=True, env=programs.with_paths())
        assert (done.stdout, done.stderr) == (b"", b"")
        assert (out.read_text(), err.read_text()) == ("a\n", "b\n")

    def test_a_program_ends_with_a_dev_py_that_is_killed() -> None:
        command = _attached("echo $$; exec sleep 60")
        with subprocess.Popen(command, stdout=subprocess.PIPE, env=programs.with_paths()) as process:
            assert process.stdout
            program = int(process.stdout.readline())
            process.kill()
        deadline = time.monotonic() + PATIENCE
        while _is_alive(program) and time.monotonic() < deadline:
            time.sleep(0.05)
        assert not _is_alive(program)

    def _is_alive(pid: int) -> bool:
        try:
            return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
        except OSError:
            return False


# ----------------------------------------------------------------------------------------------- the command line


def test_help_names_every_command() -> None:
    done = subprocess.run([sys.executable, PROJECT / "dev.py", "--help"], capture_output=True, text=True, check=True)
    for command in ("demo", "test", "check", "driver", "wine", "bench", "wheel"):
        assert f"dev.py {command} " in done.stdout


def test_an_unknown_option_is_refused_and_the_way_out_named() -> None:
    command = [sys.executable, str(PROJECT / "dev.py"), "wine", "--fish"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 2
    assert "follow --" in done.stderr
