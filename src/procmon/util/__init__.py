"""Helpers without knowledge of processes: threads, logging, globs, paths."""
