"""The command line, ``procmon-gate``."""
