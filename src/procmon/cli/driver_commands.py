"""``procmon-gate driver``: the driver's service, and a test signature for its file."""

import argparse
import base64
import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TextIO

from ..driver.driver_file import find_driver, plain_path, read_driver
from ..driver.service import DriverService
from ..errors import AccessDenied, ProcmonError, UnsupportedPlatform
from ..util.pages import page
from ..win32 import files, machine
from .statuses import FOUND

__all__ = ["SIGN", "STATE", "driver", "sign"]

SIGN = """\
$ErrorActionPreference = 'Stop'
$subject = 'CN=procmon-gate test signing'
$cert = Get-ChildItem Cert:\\LocalMachine\\My -CodeSigningCert |
    Where-Object { $_.Subject -eq $subject -and $_.HasPrivateKey -and $_.NotAfter -gt (Get-Date).AddDays(1) } |
    Select-Object -First 1
if (-not $cert) {
    $cert = New-SelfSignedCertificate -Type CodeSigningCert -Subject $subject -KeyExportPolicy NonExportable `
        -CertStoreLocation Cert:\\LocalMachine\\My -NotAfter (Get-Date).AddYears(1)
}
$signed = Set-AuthenticodeSignature -LiteralPath '{path}' -Certificate $cert -HashAlgorithm SHA256
if ($signed.SignerCertificate.Thumbprint -ne $cert.Thumbprint) { throw $signed.StatusMessage }
"signed with $($cert.Subject), $($cert.Thumbprint)"
"""
"""Makes a certificate for tests, unless there is one, and signs a file with it. ``{path}`` is the file."""

QUOTES = re.compile("(['\u2018\u2019\u201a\u201b])")
"""What PowerShell reads as a single quote. Doubled, each is itself: ``O\u2019Brien`` must not end the text."""

STATE = """\
function Ask([scriptblock] $question) { try { & $question } catch { "unknown ($($_.Exception.Message))" } }
"Secure Boot: $(Ask { Confirm-SecureBootUEFI })"
"BitLocker: $(Ask { (Get-BitLockerVolume -MountPoint $env:SystemDrive -ErrorAction Stop).ProtectionStatus })"
"Smart App Control: $(Ask { (Get-MpComputerStatus -ErrorAction Stop).SmartAppControlState })"
"""
"""Prints the settings that decide whether a test-signed driver loads, and that Windows reports in no other way."""

ADVICE = {
    ("test signing", "off"): "`bcdedit /set testsigning on`, then restart (Shut down may not be enough)",
    ("memory integrity", "on"): "it may refuse a driver with a test signature: turn it off on this test machine",
    ("Secure Boot", "True"): "bcdedit refuses test signing while it is on: turn it off in the firmware",
    ("BitLocker", "On"): "suspend it before you change Secure Boot or bcdedit, and have the recovery key at hand",
    ("Smart App Control", "On"): "it may refuse a driver with a test signature; once off, it stays off",
}

Run = Callable[[str], str]
"""Runs PowerShell lines; returns their output. Raises: ProcmonError."""


def driver(options: argparse.Namespace) -> int:
    """Do one step of ``procmon-gate driver``, and print the state after it."""
    service = DriverService()
    step = options.command.removeprefix("driver ")
    if step == "install":
        service.install(options.file, copy=not options.no_copy)
    elif step != "status":
        getattr(service, step)()
    status = service.status()
    if options.json:
        print(json.dumps({"name": status.name, "state": status.state.value, "path": status.path}))
    else:
        print(f"{status.name}: {status.state.value}" + (f", {status.path}" if status.path else ""))
    return 0


def sign(options: argparse.Namespace, out: TextIO | None = None, run: Run | None = None) -> int:
    """Sign the driver for a machine in test mode: show the PowerShell lines, ask, run them, and print the next steps.

    Untried: the project's tests have no PowerShell, so the lines were only parsed.

    Raises: AccessDenied without an administrator; ProcmonError when PowerShell fails; what `find_driver` raises.
    """
    out, run = out or sys.stdout, run or powershell
    path = plain_path(options.file or find_driver())
    read_driver(path)
    lines = SIGN.replace("{path}", QUOTES.sub(r"\1\1", path))
    if not options.json:
        print(f"These PowerShell lines sign {path} with a certificate that only this machine knows:\n", file=out)
        print("".join(f"    {line}\n" for line in lines.splitlines()), file=out)
    if not options.yes and not _agreed(out):
        print("nothing was signed", file=out)
        return FOUND
    if not machine.is_elevated():
        raise AccessDenied("driver sign needs an administrator: open the terminal with `Run as administrator`")
    signed, integrity = run(lines).strip(), machine.code_integrity()
    state = {
        "test signing": "on" if integrity.test_signing else "off",
        "memory integrity": "on" if integrity.memory_integrity else "off",
        **dict(line.split(": ", 1) for line in run(STATE).splitlines() if ": " in line),
    }
    if options.json:
        print(json.dumps({"file": path, "signed": signed, "machine": state}), file=out)
        return 0
    print(f"{path}: {signed}", file=out)
    for name, value in state.items():
        advice = ADVICE.get((name, value))
        print(f"  {name + ':':19}{value}" + (f"; {advice}" if advice else ""), file=out)
    print("next: `procmon-gate driver install`, `procmon-gate driver start`", file=out)
    print(f"{page('windows-setup.md')} has the rest", file=out)
    return 0


def _agreed(out: TextIO) -> bool:
    print("Run them? [y/N] ", end="", file=out, flush=True)
    return sys.stdin.readline().strip().lower() in ("y", "yes")


def powershell(lines: str) -> str:
    """Run lines in the PowerShell that is part of Windows. Raises: ProcmonError, with its output."""
    if sys.platform != "win32":
        raise UnsupportedPlatform("driver sign needs Windows: the certificate belongs to the machine with the driver")
    program = Path(files.system_folder(), "WindowsPowerShell", "v1.0", "powershell.exe")
    encoded = base64.b64encode(("[Console]::OutputEncoding = [Text.Encoding]::UTF8\n" + lines).encode("utf-16-le"))
    command = [str(program), "-NoProfile", "-NonInteractive", "-ExecutionPolicy", "Bypass", "-OutputFormat", "Text"]
    try:
        with files.whole_system():
            done = subprocess.run(
                [*command, "-EncodedCommand", encoded.decode()], capture_output=True, encoding="utf-8", errors="replace"
            )
    except OSError as error:
        raise ProcmonError(f"{program} does not start ({error.strerror}): run the lines yourself") from error
    if done.returncode:
        raise ProcmonError(f"PowerShell ended with status {done.returncode}:\n{(done.stderr or done.stdout).strip()}")
    return done.stdout
