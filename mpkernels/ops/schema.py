"""The operators' schemas: `torch.ops.mpkernels`, whether or not a compiled library loads."""

from __future__ import annotations

import re

import torch

from mpkernels.ops import native, record

# By the name of the operator.
SCHEMAS = {
    schema.partition("(")[0]: schema
    for schema in re.findall(
        r'^OPERATOR\("(.+)"\)$', record.SCHEMAS.read_text("utf-8"), re.MULTILINE
    )
}
OPERATORS = tuple(SCHEMAS)
# Types of the arguments, by the name of the operator.
KINDS = {
    name: [each.split()[0] for each in schema.partition("(")[2].partition(")")[0].split(", ")]
    for name, schema in SCHEMAS.items()
}

library = torch.library.Library("mpkernels", "FRAGMENT")
if native.why_no_cpu is not None:  # else the library has defined them, and what it asks Python
    for _schema in SCHEMAS.values():
        library.define(_schema)
