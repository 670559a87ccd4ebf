"""Measurements. The networks' shapes and the error bounds are those of `proof`."""
