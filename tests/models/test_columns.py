"""Columns of text never run together."""

import re

from hypothesis import given
from hypothesis import strategies as st

from models.columns import columns

CELL = st.text("ab[1.5,]", min_size=1, max_size=40)


@given(st.integers(1, 6).flatmap(lambda n: st.lists(st.tuples(*[CELL] * n), min_size=1)), st.data())
def test_cells_of_any_length_stay_apart(rows, draw):
    right = draw.draw(st.sets(st.integers(0, len(rows[0]) - 1)))
    lines = columns(rows, right).splitlines()
    assert [tuple(line.split()) for line in lines] == rows
    # A column begins, or ends, at the same place in every line.
    found = [[(m.start(), m.end()) for m in re.finditer(r"\S+", line)] for line in lines]
    for at, places in enumerate(zip(*found)):
        assert len({place[at in right] for place in places}) == 1


def test_a_column_without_text_takes_its_place():
    assert columns([["", "a"], ["bb", "c"]]) == "    a\nbb  c"
