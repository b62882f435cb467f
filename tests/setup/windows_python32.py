"""CPython for 32-bit Windows in ``.dev/windows32``."""

import shutil
from pathlib import Path

from . import debian, frozen, parts, programs, project
from .locks import set_up
from .venv import pip, requirements, venv
from .windows_python import PATH_FILE, WHEELS


def windows_python32() -> Path:
    """The path of CPython for 32-bit Windows, which runs under Wine. It uses the pytest of the 64-bit one."""
    tool = venv()
    debian.install(debian.DRIVER)
    folder = project.DEV / "windows32"
    source = Path(frozen.__file__).read_text()
    wanted = parts.recipe("1", PATH_FILE, source, (project.PINS / "windows32.txt").read_text())
    with set_up():
        if not parts.is_made(folder, wanted, "python.exe"):
            project.report("making .dev/windows32: 32-bit CPython for Windows")
            parts.start_over(folder)
            target = [f"--target={folder / 'wheel'}", "--no-compile"]
            pip(tool, "install", *WHEELS, *target, *requirements([project.PINS / "windows32.txt"]))
            (program,) = (folder / "wheel").rglob("server32-windows.exe")
            dll = frozen.unpack(program, folder)
            shutil.rmtree(folder / "wheel")
            path = PATH_FILE.replace("python313", Path(dll).stem).replace("site\n", "../windows/site\n", 1)
            (folder / dll).with_suffix("._pth").write_text(path)
            launcher = folder / "python.c"
            launcher.write_text(frozen.LAUNCHER % dll)
            compiler: list[str | Path] = ["i686-w64-mingw32-gcc", "-municode", "-s", launcher]
            programs.run_quietly([*compiler, "-o", folder / "python.exe"], "no launcher for a 32-bit Python")
            launcher.unlink()
            parts.stamp(folder, wanted)
    return folder / "python.exe"
