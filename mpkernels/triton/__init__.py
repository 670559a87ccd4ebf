"""Triton kernels and their launchers; imported at the first launch, never with the package."""
