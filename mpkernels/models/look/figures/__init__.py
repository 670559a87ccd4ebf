"""The figures, each drawn from a log alone."""
