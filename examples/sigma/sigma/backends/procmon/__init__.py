"""The pySigma backend ``procmon``: Sigma rules for process creations become a policy of procmon-gate."""

from .backend import ProcmonBackend

__all__ = ["ProcmonBackend"]
