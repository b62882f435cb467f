"""Wine's 32-bit Windows files in ``.dev/wine32``, without a 32-bit Linux library or a foreign architecture."""

import contextlib
import shutil
import subprocess
import tarfile
from pathlib import Path

from . import debian, parts, programs, project
from .locks import set_up
from .project import Stop

FILES = [
    "cmd.exe", "hostname.exe", "whoami.exe",
    "rundll32.exe", "setupapi.dll", "atl100.dll",  # wineboot needs these to set up 32-bit Windows
    "advapi32.dll", "bcrypt.dll", "combase.dll", "crypt32.dll", "cryptnet.dll", "dbghelp.dll", "dnsapi.dll",
    "gdi32.dll", "imagehlp.dll", "imm32.dll", "iphlpapi.dll", "kernel32.dll", "kernelbase.dll", "msvcrt.dll", "nsi.dll",
    "ntdll.dll", "ole32.dll", "oleaut32.dll", "rpcrt4.dll", "rsaenh.dll", "sechost.dll", "secur32.dll", "shcore.dll",
    "shell32.dll", "shlwapi.dll", "ucrtbase.dll", "user32.dll", "version.dll", "win32u.dll", "wintrust.dll",
    "ws2_32.dll",
]  # fmt: skip

NEWER_FILES = ["coml2.dll"]
"""Files that others import in newer versions; Wine 8 does not have them (coml2.dll: a part of ole32.dll in Wine 10)."""


def wine32() -> str:
    """Make ``.dev/wine32`` for the installed version of Wine, and return its recipe.

    Debian's Wine runs 32-bit programs in its 64-bit processes ("wow64 mode") if it has the Windows half of its 32-bit
    package. Only those files are extracted from that package; no package or architecture is added to the system.
    """
    version = debian.version("libwine:amd64")
    folder = project.DEV / "wine32"
    wanted = parts.recipe("1", version, *FILES, *NEWER_FILES)
    with set_up():
        if not parts.is_made(folder, wanted, "i386-windows/ntdll.dll"):
            project.report("making .dev/wine32, for 32-bit programs under Wine (95 MB to download)")
            parts.start_over(folder)
            _unpack(version, folder)
            parts.stamp(folder, wanted)
    return wanted


def _unpack(version: str, folder: Path) -> None:
    work = folder / "download"
    (work / "partial").mkdir(parents=True)
    own = [f"Dir::State::lists={work}", f"Dir::Cache={work}", "Acquire::Languages=none"]
    both = ["APT::Architectures::=amd64", "APT::Architectures::=i386"]
    apt = ["apt-get", "-q", *(f"-o={option}" for option in [*own, *both])]
    with contextlib.suppress(Stop):  # one list of many may fail; the download shows whether ours is there
        programs.run_quietly([*apt, "update"], "", folder=work)
    why = f"Debian's archive gives no libwine:i386 {version}: is it in reach, and Wine up to date (apt-get upgrade)?"
    programs.run_quietly([*apt, "download", f"libwine:i386={version}"], why, folder=work)
    (package,) = work.glob("*.deb")
    target = folder / "i386-windows"
    target.mkdir()
    with subprocess.Popen(["dpkg-deb", "--fsys-tarfile", package], stdout=subprocess.PIPE) as unpacked:
        with tarfile.open(fileobj=unpacked.stdout, mode="r|") as members:
            for member in members:
                path = Path(member.name)
                if path.parent.name == target.name and path.name in (*FILES, *NEWER_FILES):
                    if content := members.extractfile(member):
                        (target / path.name).write_bytes(content.read())
    shutil.rmtree(work)
    if missing := [name for name in FILES if not (target / name).exists()]:
        raise Stop(f"libwine:i386 {version} lacks {', '.join(missing)}; tests/setup/wine32.py lists what is needed")
    library = debian.installed_file("libwine:amd64", "x86_64-unix/ntdll.so").parent
    (folder / library.name).symlink_to(library)  # the Linux half, which 32-bit and 64-bit programs share
    shutil.copy2(library.parent / target.name / "zlib1.dll", target)
    # A debugged process hits a breakpoint in its loader, and Wine 8 crashes at any breakpoint in 32-bit code.
    ntdll = target / "ntdll.dll"
    breakpoint_ = b"\xcc\xc3" + b"\x90" * 14  # int 3; ret: DbgBreakPoint and DbgUserBreakPoint
    ntdll.write_bytes(ntdll.read_bytes().replace(breakpoint_, b"\x90" + breakpoint_[1:]))
