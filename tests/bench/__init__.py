"""Benchmarks: ``python3 dev.py bench [NAME ...]``. docs/performance.md explains each."""
