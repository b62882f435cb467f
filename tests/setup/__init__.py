"""The set-up of dev.py: Debian packages, Python environments, Wine prefixes.

Everything is in the ignored folder ``.dev`` and is made when a command first needs it. Each part has a stamp, written
last, with the hash of its recipe. A part that is incomplete, or made by an older recipe, is made again. procmon needs
none of this at run time. These modules need only the standard library.

    .dev/venv              pytest, hypothesis, mypy and ruff for this machine's Python      venv
    .dev/sigma             pySigma and sigma-cli, for the tests of examples/sigma           venv
    .dev/bench             psutil and PythonForWindows, for dev.py bench alone              windows_python
    .dev/windows           CPython for Windows with pytest and hypothesis                   windows_python
    .dev/windows32         the same for 32-bit Windows                                      windows_python32
    .dev/wine32            Wine's 32-bit Windows files: 64-bit Wine runs 32-bit programs    wine32
    .dev/wine-pristine     a Wine prefix as Wine makes it                                   wine
    .dev/wine              a copy of it, which `dev.py wine` uses                           wine
    .dev/runs/...          a copy of it for one run, deleted at the end of that run         wine
"""
