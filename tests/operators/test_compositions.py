"""A hundred random compositions of transforms equal those of `mpkernels.eager`."""

import random

import pytest

from proof.compositions import composition
from proof.problems.functions import FUNCTIONS, ROUTERS, problem
from proof.transforms import assert_same


@pytest.mark.filterwarnings("ignore:Attempted to insert a get_attr Node")
@pytest.mark.parametrize("seed", range(100))
def test_compositions_equal_those_of_the_definition(seed, backend):
    name = random.Random(seed).choice([*FUNCTIONS, *ROUTERS])
    function, definition, flat = problem(name)
    _, apply = composition(seed, len(flat))
    assert_same(apply(function)(*flat), apply(definition)(*flat))
