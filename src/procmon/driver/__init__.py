"""The kernel driver, seen from Python: its protocol, its state, its service."""
