"""What the project's commands stand on: packages, a virtual environment, CPython for Windows, Wine prefixes.

Everything lies in the ignored folder ``.dev`` and is made when it is first needed. Each part carries a stamp, written
last, with the hash of its recipe: a part that is half made, or made by an older recipe, is made again. Nothing here
is needed to use procmon, only to work on it; the standard library is enough.

    .dev/venv              pytest, hypothesis, mypy, for this machine's Python
    .dev/windows           CPython for Windows with pytest and hypothesis; src and tests are on its path
    .dev/windows32         the same of 32 bits
    .dev/wine32            Windows' own 32-bit files, as Wine has them: its 64-bit loader runs 32-bit programs with them
    .dev/wine-pristine     a Wine prefix as Wine makes it
    .dev/wine              a copy of it: the Windows of `dev.py wine`
    .dev/runs/...          a copy of it for one run of `dev.py test` or `demo`, deleted at its end
"""

import contextlib
import ctypes
import hashlib
import os
import selectors
import shutil
import signal
import subprocess
import sys
import tarfile
import time
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO

import python32

ROOT = Path(__file__).resolve().parent.parent
DEV = ROOT / ".dev"
PINS = Path(__file__).resolve().parent / "pins"

VENV_PACKAGES = ["python3-venv"]
WINE_PACKAGES = ["wine64"]
WINE32_FILES = [
    "cmd.exe", "hostname.exe", "whoami.exe",
    "rundll32.exe", "setupapi.dll", "atl100.dll",  # wineboot sets 32-bit Windows up by these
    "advapi32.dll", "bcrypt.dll", "combase.dll", "crypt32.dll", "cryptnet.dll", "dbghelp.dll", "dnsapi.dll",
    "gdi32.dll", "imagehlp.dll", "imm32.dll", "iphlpapi.dll", "kernel32.dll", "kernelbase.dll", "msvcrt.dll", "nsi.dll",
    "ntdll.dll", "ole32.dll", "oleaut32.dll", "rpcrt4.dll", "rsaenh.dll", "sechost.dll", "secur32.dll", "shcore.dll",
    "shell32.dll", "shlwapi.dll", "ucrtbase.dll", "user32.dll", "version.dll", "win32u.dll", "wintrust.dll",
    "ws2_32.dll",
]  # fmt: skip
DRIVER_PACKAGES = [
    "gcc-mingw-w64-x86-64", "g++-mingw-w64-x86-64", "gcc-mingw-w64-i686", "g++-mingw-w64-i686",
    "g++", "openssl", "osslsigncode",
]  # fmt: skip
TEST_PACKAGES = ["clang", "libclang-rt-dev", "lld", "spin", "python3-tk", "xvfb", "xauth"]

# An embeddable CPython reads its path from this file alone, relative to itself, so that the tree can be moved.
WINDOWS_PATH = "python313.zip\n.\nsite\n../../src\n../../tests\nimport site\n"


class Stop(Exception):
    """Work cannot go on; the message says why, and what to do."""


def say(text: str) -> None:
    """Tell in one line, on standard error, what is being done: standard output belongs to what is run."""
    print(f"dev: {text}", file=sys.stderr, flush=True)


# ------------------------------------------------------------------------------------------------------- locks


class Lock:
    """A file that one process holds at a time; the system lets go of it when that process ends, however it ends."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file: IO[bytes] = open(path, "a+b")

    def take(self, waiting_for: str | None = None) -> bool:
        """Take the lock. If another holds it, wait and say for what, or answer False if `waiting_for` is None."""
        told = False
        while not self._try():
            if waiting_for is None:
                return False
            if not told:
                say(f"waiting for another dev.py: {waiting_for}")
                told = True
            time.sleep(0.2)
        return True

    def _try(self) -> bool:
        try:
            if sys.platform == "win32":
                import msvcrt

                self._file.seek(0)
                msvcrt.locking(self._file.fileno(), msvcrt.LK_NBLCK, 1)
            else:
                import fcntl

                fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return False
        return True

    def close(self) -> None:
        """Let go of it."""
        self._file.close()


@contextlib.contextmanager
def locked(name: str, waiting_for: str) -> Iterator[None]:
    """Hold a lock by name; another dev.py that wants it says what it is waiting for."""
    lock = Lock(DEV / f"{name}.lock")
    lock.take(waiting_for)
    try:
        yield
    finally:
        lock.close()


def set_up() -> contextlib.AbstractContextManager[None]:
    """Hold the one lock under which anything in ``.dev`` is made."""
    return locked("set-up", "it sets up the environment")


# --------------------------------------------------------------------------------------------- stamps and tools


def recipe(*parts: str) -> str:
    """The hash under which a part made from these texts is known."""
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()


def is_made(folder: Path, wanted: str, *needed: str) -> bool:
    """Whether `folder` was made, to its end, by this recipe, and still has the files it cannot do without."""
    with contextlib.suppress(OSError):
        return (folder / ".stamp").read_text() == wanted and all((folder / name).exists() for name in needed)
    return False


def stamp(folder: Path, wanted: str) -> None:
    """Say that `folder` is whole. It is the last thing done, in one step: a part without a stamp is made again."""
    temporary = folder / ".stamp.new"
    temporary.write_text(wanted)
    temporary.replace(folder / ".stamp")


def start_over(folder: Path) -> None:
    """Leave an empty `folder`, whatever was there."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)


def run_quietly(
    command: Sequence[str | Path],
    why: str,
    environment: Mapping[str, str] | None = None,
    folder: Path | None = None,
) -> None:
    """Run a tool, in `folder` or where we are, and show what it said only if it failed.

    Raises: Stop with its last lines.
    """
    null, pipe = subprocess.DEVNULL, subprocess.PIPE
    try:
        done = subprocess.run(command, stdin=null, stdout=pipe, stderr=subprocess.STDOUT, env=environment, cwd=folder)
    except OSError as error:
        raise Stop(f"{why}: {command[0]} does not start ({error.strerror})") from error
    if done.returncode:
        said = done.stdout.decode(errors="replace").strip().splitlines()[-25:]
        raise Stop("\n    ".join([f"{why}: {command[0]} ended with status {done.returncode}", *said]))


def packages(names: Sequence[str]) -> None:
    """Install the Debian packages of `names` that are missing; on Windows there is nothing to do.

    Raises: Stop where apt-get is not to be had, is not allowed, or fails.
    """
    if sys.platform == "win32":
        return
    if not shutil.which("dpkg-query") or not shutil.which("apt-get"):
        raise Stop(f"this needs Debian or one of its kin, with these packages: {' '.join(names)}")
    query = ["dpkg-query", "-W", "-f=${db:Status-Status} ${Package}\n", *names]
    answer = subprocess.run(query, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True).stdout
    installed = {line.split()[1] for line in answer.splitlines() if line.startswith("installed ")}
    missing = [name for name in names if name not in installed]
    if not missing:
        return
    by_hand = f"apt-get install --no-install-recommends {' '.join(missing)}"
    prefix: list[str] = []
    if os.geteuid() != 0:
        if not shutil.which("sudo"):
            raise Stop(f"Debian packages are missing, and there is no sudo; as root:\n    {by_hand}")
        prefix = ["sudo", "DEBIAN_FRONTEND=noninteractive"]
    say(f"installing {' '.join(missing)}")
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    with set_up():
        run_quietly([*prefix, "apt-get", "-q", "update"], "the package lists were not updated", environment)
        install = [*prefix, "apt-get", "-q", "-y", "-o", "DPkg::Lock::Timeout=300", "install"]
        run_quietly([*install, "--no-install-recommends", *missing], f"try by hand: {by_hand}", environment)


# --------------------------------------------------------------------------------------------- the two Pythons


def base_python() -> str:
    """The Python that the virtual environment is made from: on Debian its own, which python3-tk goes with."""
    debian = "/usr/bin/python3"
    if sys.platform != "win32" and os.access(debian, os.X_OK):
        probe = [debian, "-c", "import sys; sys.exit(sys.version_info < (3, 11))"]
        if subprocess.run(probe).returncode == 0:
            return debian
    return sys.executable


def venv() -> Path:
    """The Python of ``.dev/venv``, which has pytest, hypothesis and mypy."""
    packages(VENV_PACKAGES)
    folder = DEV / "venv"
    python = "Scripts/python.exe" if sys.platform == "win32" else "bin/python"
    lists = [PINS / "pytest.txt", PINS / "tools.txt"]
    wanted = recipe("1", base_python(), *(path.read_text() for path in lists))
    with set_up():
        if not is_made(folder, wanted, python):
            say("making .dev/venv with pytest, hypothesis and mypy")
            start_over(folder)
            run_quietly([base_python(), "-m", "venv", folder], "no virtual environment")
            _pip(folder / python, "install", "--only-binary=:all:", *_requirements(lists))
            stamp(folder, wanted)
    return folder / python


def windows_python() -> Path:
    """CPython for Windows, to be run under Wine; on Windows the Python that runs this."""
    if sys.platform == "win32":
        return Path(sys.executable)
    tool = venv()
    folder = DEV / "windows"
    wanted = recipe("1", WINDOWS_PATH, *((PINS / name).read_text() for name in ("pytest.txt", "windows.txt")))
    with set_up():
        if not is_made(folder, wanted, "python.exe", "site/pytest"):
            say("making .dev/windows: CPython for Windows with pytest and hypothesis")
            start_over(folder)
            _unpack_python(tool, folder)
            (folder / "python313._pth").write_text(WINDOWS_PATH)
            wheels = ["--only-binary=:all:", "--platform=win_amd64", "--python-version=3.13", "--no-deps"]
            target = [f"--target={folder / 'site'}", "--no-compile"]
            _pip(tool, "install", *wheels, *target, *_requirements([PINS / "pytest.txt"]))
            stamp(folder, wanted)
    return folder / "python.exe"


def _unpack_python(tool: Path, folder: Path) -> None:
    """Unpack the pinned archive; pip has compared its sha256 before it looks into it."""
    source = ["--no-deps", "--no-binary=:all:", "--no-build-isolation"]
    _pip(tool, "download", *source, f"--dest={folder}", *_requirements([PINS / "windows.txt"]))
    (archive,) = folder.glob("*.tar.gz")
    shutil.unpack_archive(archive, folder / "archive")
    (data,) = (folder / "archive").rglob("data.zip")
    with zipfile.ZipFile(data) as unpacked:
        unpacked.extractall(folder / "archive")
    for item in (folder / "archive" / "cp313").iterdir():
        if item.name != "_wmi.pyd":  # Wine's WMI is too small for it: platform.uname() would crash
            item.replace(folder / item.name)
    shutil.rmtree(folder / "archive")
    archive.unlink()


def windows_python32() -> Path:
    """CPython for 32-bit Windows, to be run under Wine; it shares pytest with the other one."""
    tool = venv()
    packages(DRIVER_PACKAGES)
    folder = DEV / "windows32"
    source = Path(python32.__file__).read_text()
    wanted = recipe("1", WINDOWS_PATH, source, (PINS / "windows32.txt").read_text())
    with set_up():
        if not is_made(folder, wanted, "python.exe"):
            say("making .dev/windows32: 32-bit CPython for Windows")
            start_over(folder)
            wheel = ["--only-binary=:all:", "--platform=win_amd64", "--python-version=3.13", "--no-deps"]
            target = [f"--target={folder / 'wheel'}", "--no-compile"]
            _pip(tool, "install", *wheel, *target, *_requirements([PINS / "windows32.txt"]))
            (frozen,) = (folder / "wheel").rglob("server32-windows.exe")
            dll = python32.unpack(frozen, folder)
            shutil.rmtree(folder / "wheel")
            path = WINDOWS_PATH.replace("python313", Path(dll).stem).replace("site\n", "../windows/site\n", 1)
            (folder / dll).with_suffix("._pth").write_text(path)
            launcher = folder / "python.c"
            launcher.write_text(python32.LAUNCHER % dll)
            compiler: list[str | Path] = ["i686-w64-mingw32-gcc", "-municode", "-s", launcher]
            run_quietly([*compiler, "-o", folder / "python.exe"], "no launcher for a 32-bit Python")
            launcher.unlink()
            stamp(folder, wanted)
    return folder / "python.exe"


def _requirements(lists: Sequence[Path]) -> list[str]:
    return ["--require-hashes", *(f"--requirement={path}" for path in lists)]


def _pip(python: Path, command: str, *arguments: str) -> None:
    pip: list[str | Path] = [python, "-m", "pip", command, "--quiet", "--disable-pip-version-check", "--no-input"]
    run_quietly([*pip, *arguments], "a pinned package could not be had as it is pinned in tests/pins")


# -------------------------------------------------------------------------------------------------------- Wine


def _installed_file(package: str, name: str) -> Path:
    """The path of a file, by the end of its path, of an installed Debian package."""
    listed = subprocess.run(["dpkg", "-L", package], stdout=subprocess.PIPE, text=True).stdout.splitlines()
    for path in map(Path, listed):
        if path.match(name) and path.is_file():
            return path
    raise Stop(f"the package {package} is installed, but it has no {name}")


def _wine_program(name: str) -> Path:
    """The path of ``wine64`` or ``wineserver64``: Debian keeps both off the PATH."""
    return _installed_file("wine64", name)


def _wine_environment(prefix: Path) -> dict[str, str]:
    environment = {name: value for name, value in os.environ.items() if name not in ("DISPLAY", "WAYLAND_DISPLAY")}
    # No offers to install Mono and Gecko, no entries in a desktop's menu.
    overrides = "mscoree,mshtml=;winemenubuilder.exe=d"
    ours = {"WINEPREFIX": prefix, "WINEDEBUG": "-all", "WINEDLLOVERRIDES": overrides, "WINEDLLPATH": DEV / "wine32"}
    return environment | {name: str(value) for name, value in ours.items()}


def _wine_server(prefix: Path, *arguments: str) -> None:
    """Speak to the server of one prefix; where none runs there is nothing to say, which is no error."""
    null = subprocess.DEVNULL
    command = [str(_wine_program("wineserver64")), *arguments]
    subprocess.run(command, env=_wine_environment(prefix), stdin=null, stdout=null, stderr=null)


def _copy_prefix(source: Path, target: Path) -> None:
    """Copy a Wine prefix in a moment: what nobody writes to in place, and that is nearly all of it, is linked."""

    def copy(old: str, new: str) -> None:
        if old.lower().endswith((".dll", ".exe")):
            os.link(old, new)
        else:
            shutil.copy2(old, new)

    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(source, target, symlinks=True, copy_function=copy, ignore=shutil.ignore_patterns(".stamp"))


def _wine32() -> str:
    """Have .dev/wine32, of the version of Wine that is installed; answers its recipe.

    Debian's Wine runs 32-bit programs in its 64-bit processes ("wow64 mode"), without a 32-bit Linux library, once it
    has the Windows half of its 32-bit package. That is taken out of it; no package or architecture is added.
    """
    version = subprocess.run(
        ["dpkg-query", "-W", "-f=${Version}", "libwine:amd64"], stdout=subprocess.PIPE, text=True
    ).stdout
    folder = DEV / "wine32"
    wanted = recipe("1", version, *WINE32_FILES)
    with set_up():
        if not is_made(folder, wanted, "i386-windows/ntdll.dll"):
            say("making .dev/wine32, for 32-bit programs under Wine (95 MB to download)")
            start_over(folder)
            _unpack_wine32(version, folder)
            stamp(folder, wanted)
    return wanted


def _unpack_wine32(version: str, folder: Path) -> None:
    work = folder / "download"
    (work / "partial").mkdir(parents=True)
    own = [f"Dir::State::lists={work}", f"Dir::Cache={work}", "Acquire::Languages=none"]
    both = ["APT::Architectures::=amd64", "APT::Architectures::=i386"]
    apt = ["apt-get", "-q", *(f"-o={option}" for option in [*own, *both])]
    with contextlib.suppress(Stop):  # one list of many may fail; whether ours is there shows next
        run_quietly([*apt, "update"], "", folder=work)
    why = f"Debian's archive gives no libwine:i386 {version}: is it in reach, and Wine up to date (apt-get upgrade)?"
    run_quietly([*apt, "download", f"libwine:i386={version}"], why, folder=work)
    (package,) = work.glob("*.deb")
    target = folder / "i386-windows"
    target.mkdir()
    with subprocess.Popen(["dpkg-deb", "--fsys-tarfile", package], stdout=subprocess.PIPE) as unpacked:
        with tarfile.open(fileobj=unpacked.stdout, mode="r|") as members:
            for member in members:
                path = Path(member.name)
                if path.parent.name == target.name and path.name in WINE32_FILES:
                    if content := members.extractfile(member):
                        (target / path.name).write_bytes(content.read())
    shutil.rmtree(work)
    if missing := [name for name in WINE32_FILES if not (target / name).exists()]:
        raise Stop(f"libwine:i386 {version} is another than was expected: it has no {', '.join(missing)}")
    library = _installed_file("libwine:amd64", "x86_64-unix/ntdll.so").parent
    (folder / library.name).symlink_to(library)  # the Linux half, which they share with 64-bit programs
    shutil.copy2(library.parent / target.name / "zlib1.dll", target)
    # A debugged process stops in its loader at a breakpoint, and Wine 8 dies of any breakpoint in 32-bit code.
    ntdll = target / "ntdll.dll"
    breakpoint_ = b"\xcc\xc3" + b"\x90" * 14  # int 3; ret: DbgBreakPoint and DbgUserBreakPoint
    ntdll.write_bytes(ntdll.read_bytes().replace(breakpoint_, b"\x90" + breakpoint_[1:]))


def wine_prefix() -> Path:
    """The Windows of `dev.py wine`: it keeps what is done to it."""
    packages(WINE_PACKAGES)
    pristine, prefix = DEV / "wine-pristine", DEV / "wine"
    wanted = recipe("2", str(_wine_program("wine64")), _wine32())
    with set_up():
        if not is_made(pristine, wanted, "system.reg", "drive_c/windows/system32/ntdll.dll"):
            say("making .dev/wine-pristine, a Wine prefix")
            _wine_server(pristine, "-k")
            start_over(pristine)
            environment = _wine_environment(pristine)
            run_quietly([_wine_program("wine64"), "wineboot", "-i"], "Wine makes no prefix", environment)
            _wine_server(pristine, "-w")  # only then is the registry written
            stamp(pristine, wanted)
        if not is_made(prefix, wanted, "system.reg", "drive_c/windows/system32/ntdll.dll"):
            _wine_server(prefix, "-k")
            _copy_prefix(pristine, prefix)
            stamp(prefix, wanted)
    return prefix


@contextlib.contextmanager
def private_prefix() -> Iterator[Path]:
    """A Wine prefix of one run's own: no leftovers before it, none after it, and none in the way of another run.

    Runs that were killed and left theirs behind are cleared away first, with the processes in them.
    """
    wine_prefix()
    runs = DEV / "runs"
    prefix = runs / f"{time.time_ns():x}"
    with set_up():
        for lock_path in runs.glob("*.lock"):
            stale = Lock(lock_path)
            if stale.take():
                say(f"clearing away what a killed run left in {lock_path.with_suffix('').relative_to(ROOT)}")
                _remove_prefix(lock_path.with_suffix(""))
            stale.close()
        lock = Lock(prefix.with_suffix(".lock"))
        lock.take()
        _copy_prefix(DEV / "wine-pristine", prefix)
    try:
        yield prefix
    finally:
        _remove_prefix(prefix)
        lock.close()


def _remove_prefix(prefix: Path) -> None:
    if prefix.exists():
        _wine_server(prefix, "-k")
        _wine_server(prefix, "-w")
    shutil.rmtree(prefix, ignore_errors=True)
    prefix.with_suffix(".lock").unlink(missing_ok=True)


# --------------------------------------------------------------------------------------------- running programs


def with_paths() -> dict[str, str]:
    """The environment of a Python that finds the package and what the tests share."""
    paths = [str(ROOT / "src"), str(ROOT / "tests"), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}


def run_windows(
    arguments: Sequence[str], prefix: Path | None = None, timeout: float | None = None, silent_input: bool = False
) -> int:
    """Run the Windows Python with these arguments, on this process' standard streams, and return its exit status.

    Under Wine the status has 8 bits: what Windows programs return above 255 arrives cut to its lowest byte. Ctrl+C
    ends the program as it would on Windows. `timeout` is in seconds.

    Raises: Stop when the timeout has passed.
    """
    command = [str(windows_python()), "-X", "utf8", *arguments]
    if sys.platform == "win32":
        return run_attached(command, with_paths(), timeout, silent_input)
    prefix = prefix or wine_prefix()
    _wine_server(prefix, "-p60")  # a driver that one command started is there for the next one, for a minute
    wine = str(_wine_program("wine64"))
    return run_attached([wine, *command], _wine_environment(prefix), timeout, silent_input)


def run_attached(
    command: Sequence[str], environment: Mapping[str, str], timeout: float | None = None, silent_input: bool = False
) -> int:
    """Run a program on this process' standard streams and return its exit status (128 + n after signal n).

    With `silent_input` it reads an empty input instead of ours.

    A terminal is handed over as it is. Anything else is reached through a pipe, and copied: Wine's Python cannot
    write to a file, and programs it leaves running must not keep the reader of our own output waiting.

    Raises: Stop when `timeout` (seconds) has passed.
    """
    stdin = subprocess.DEVNULL if silent_input or not sys.stdin else None
    if sys.platform == "win32":
        try:
            return subprocess.run(command, env=environment, timeout=timeout, stdin=stdin).returncode
        except subprocess.TimeoutExpired as error:
            raise Stop(f"not done after {timeout:.0f} s, and ended: {' '.join(command)}") from error
    sys.stdout.flush()
    deadline = None if timeout is None else time.monotonic() + timeout
    outer = [sys.stdout.fileno(), sys.stderr.fileno()]
    pipes: list[int | None] = [None if os.isatty(stream) else subprocess.PIPE for stream in outer]
    if None not in pipes and os.path.sameopenfile(*outer):
        pipes[1] = subprocess.STDOUT  # what shares a file keeps its order
    process = subprocess.Popen(
        command,
        env=environment,
        stdin=stdin,
        stdout=pipes[0],
        stderr=pipes[1],
        preexec_fn=_end_with_parent,
        # A terminal sends Ctrl+C to all of its group, the program among them. Without one it is ours to pass on.
        process_group=None if os.isatty(0) else 0,
    )
    copies = {pipe.fileno(): out for pipe, out in ((process.stdout, outer[0]), (process.stderr, outer[1])) if pipe}
    try:
        return _attend(process, copies, deadline, command)
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()


def _end_with_parent() -> None:
    """Ask Linux to kill this process (signal 9) when dev.py ends, even if dev.py is killed itself."""
    set_parent_death_signal = 1
    ctypes.CDLL(None).prctl(set_parent_death_signal, 9, 0, 0, 0)


def _attend(
    process: subprocess.Popen[bytes], copies: Mapping[int, int], deadline: float | None, command: Sequence[str]
) -> int:
    """Copy output until the program has ended and its pipes are empty, and pass Ctrl+C on."""
    with selectors.DefaultSelector() as selector:
        for pipe in copies:
            selector.register(pipe, selectors.EVENT_READ)
        interrupts = 0
        while True:
            try:
                ended = process.poll() is not None
                ready = selector.select(0.1) if selector.get_map() else []
                for key, _ in ready:
                    data = os.read(key.fd, 65536)
                    if not data:
                        selector.unregister(key.fd)
                    _write_all(copies[key.fd], data)
                if ended and not ready:
                    return process.returncode if process.returncode >= 0 else 128 - process.returncode
                if not selector.get_map() and not ended:
                    process.wait(0.1)
                if deadline is not None and time.monotonic() > deadline:
                    raise Stop(f"not done in time, and ended: {' '.join(command)}")
            except subprocess.TimeoutExpired:
                continue
            except KeyboardInterrupt:
                interrupts += 1
                if interrupts > 2:
                    raise
                if not os.isatty(0):
                    process.send_signal(signal.SIGINT)
            except BrokenPipeError:
                return 128 + 13  # SIGPIPE


def _write_all(stream: int, data: bytes) -> None:
    while data:
        data = data[os.write(stream, data) :]
