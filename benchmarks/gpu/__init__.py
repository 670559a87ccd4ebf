"""Everything that needs a GPU, by one command: `python -m benchmarks.gpu`.

`plan` lists the steps. Each step is a module that names its cases and runs one; `workers` gives the
cases to processes, so that what fails, hangs or breaks the card costs one row; `rows` keeps them;
`page` writes what they say.
"""
