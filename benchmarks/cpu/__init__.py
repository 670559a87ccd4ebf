"""The suites of `python -m benchmarks`: each has CONTENDERS, and rows(choice)."""
