"""Helpers that every layer uses: threads, logging, globs, paths, checks of arguments."""
