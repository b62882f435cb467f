"""The policy that ``procmon-gate policy init`` writes: safe to enforce, and a place to begin."""

__all__ = ["STARTER"]

STARTER = """\
# A policy for procmon-gate. The first rule that matches decides; docs/policy.md explains the language.
#
#   procmon-gate policy check policy.toml                      find mistakes
#   procmon-gate guard --policy policy.toml --audit            only log; every process runs
#   procmon-gate guard --policy policy.toml                    enforce
#
# There is no default, so a process that no rule matches runs.

# Put your exceptions first. An example; change it and remove its # signs:
#
# [[rule]]
# name = "our own tools"
# signer = "Example Ltd"
# verdict = "allow"

[[rule]]
name = "system programs run from the system folder alone"
message = "A program with the name of a part of Windows was started from another folder."
image = [
  "csrss.exe", "lsass.exe", "lsm.exe", "services.exe", "smss.exe", "spoolsv.exe", "svchost.exe", "taskhostw.exe",
  "userinit.exe", "wininit.exe", "winlogon.exe",
]
verdict = "block"
  [[rule.unless]]
  image = ["c:/windows/system32/*", "c:/windows/syswow64/*", "c:/windows/winsxs/**", "c:/$windows.~bt/**"]

[[rule]]
name = "nothing runs from the recycle bin"
message = "A program was started from the recycle bin."
image = "?:/$recycle.bin/**"
verdict = "block"

[[rule]]
name = "a document's name with a program's ending"
message = "The name of this program pretends to be that of a document."
image.ends_with = [
  ".doc.exe", ".docx.exe", ".xls.exe", ".xlsx.exe", ".pdf.exe", ".txt.exe", ".jpg.exe", ".png.exe",
  ".doc.scr", ".docx.scr", ".xls.scr", ".xlsx.scr", ".pdf.scr", ".txt.scr", ".jpg.scr", ".png.scr",
]
verdict = "block"

[[rule]]
name = "Office starts no script hosts"
message = "A document tried to start a program that runs scripts."
image = ["cscript.exe", "mshta.exe", "powershell.exe", "pwsh.exe", "regsvr32.exe", "wscript.exe"]
parent = ["excel.exe", "onenote.exe", "outlook.exe", "powerpnt.exe", "winword.exe"]
verdict = "block"

# These rules only log: they match many harmful programs, and some harmless ones.

[[rule]]
name = "hidden PowerShell with an encoded command"
image = ["powershell.exe", "pwsh.exe"]
command_line.contains = [" -enc", " -ec ", " -encodedcommand "]
verdict = "block"
audit = true
  [[rule.all]]
  command_line.contains = [" hidden", " -w h"]

[[rule]]
name = "unsigned programs from the internet"
origin = "internet"
signer.known = false
verdict = "ask"
audit = true
"""
