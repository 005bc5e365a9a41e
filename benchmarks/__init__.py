"""Benchmarks: `python -m benchmarks`. What is measured, and how, is in docs/benchmarks.md."""
