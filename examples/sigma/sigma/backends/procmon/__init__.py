"""The pySigma backend ``procmon``: converts Sigma rules for process creations to a policy of procmon-gate."""

from .backend import ProcmonBackend

__all__ = ["ProcmonBackend"]
