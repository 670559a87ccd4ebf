"""Measurements on CPUs and GPUs. The networks' shapes and the error bounds are those of `proof`.

`python -m benchmarks` runs the suites of `cpu`, `python -m benchmarks.gpu` the steps of `gpu`.
"""
