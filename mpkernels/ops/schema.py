"""The operators' schemas: `torch.ops.mpkernels`, whether or not a compiled library loads."""

from __future__ import annotations

import re

import torch

from mpkernels.ops import native, record

# By the name of the operator.
SCHEMAS = {
    schema.partition("(")[0]: schema
    for schema in re.findall(r'^OPERATOR\("(.+)"\)$', record.SCHEMAS.read_text(), re.MULTILINE)
}
OPERATORS = tuple(SCHEMAS)

library = torch.library.Library("mpkernels", "FRAGMENT")
if native.why_no_cpu is not None:  # else the library has defined them
    for _schema in SCHEMAS.values():
        library.define(_schema)
# What runs in Python while a backend is forced: see csrc/cpu/switched.h, which calls these.
for _name, _schema in SCHEMAS.items():
    library.define(_schema.replace(_name, f"{_name}_by_python", 1))
library.define("served_by(str name) -> str")
library.define("error_of_python() -> str")
