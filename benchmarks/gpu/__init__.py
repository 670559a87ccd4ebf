"""Everything that needs a GPU, by one command: `python -m benchmarks.gpu`.

`plan` lists the steps. Each step is a module that names its cases and runs one of them; `workers`
hands the cases to processes, so that a case that fails, hangs or breaks the card costs one row;
`rows` stores the rows, and `page` turns them into a page.
"""
