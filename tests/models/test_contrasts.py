"""Differences paired by seed, and what they say of the paper's orders."""

import itertools
import math

import numpy as np
import pytest
from scipy import stats

from models.paper import reading
from models.paper.contrasts import holm, paired, within
from models.paper.results import Result
from models.paper.suites import CLAIMS, ERRORS, ERRORS_350, ERRORS_CIFAR100


def test_paired_differences_are_those_of_scipy():
    differences = np.random.default_rng(0).normal(0.4, 1, 9)
    found, wanted = paired(differences), stats.ttest_1samp(differences, 0)
    assert found.p == pytest.approx(wanted.pvalue) and found.seeds == 9
    interval = wanted.confidence_interval(0.95)
    assert (found.low, found.high) == pytest.approx((interval.low, interval.high))
    assert math.isnan(paired([1.0]).p) and math.isnan(paired([1.0]).low)
    assert paired([1.0, 1.0]).p == 0 and paired([0.0, 0.0]).p == 1


def test_two_one_sided_tests_are_those_of_scipy():
    differences = np.random.default_rng(1).normal(0.1, 0.3, 8)
    above = stats.ttest_1samp(differences, -0.5, alternative="greater").pvalue
    below = stats.ttest_1samp(differences, 0.5, alternative="less").pvalue
    assert within(differences, 0.5) == pytest.approx(max(above, below))
    assert within([0.4, 0.4], 0.5) == 0 and within([0.6, 0.6], 0.5) == 1
    assert math.isnan(within([0.1], 0.5))


def test_holms_method_by_hand():
    adjusted = holm([0.01, 0.04, 0.03, math.nan])
    assert adjusted[:3] == pytest.approx([0.03, 0.06, 0.06]) and math.isnan(adjusted[3])
    assert holm([0.6, 0.7]) == [1, 1]


def result(*errors):
    return Result(dict(enumerate(errors)), min(errors), 1)


def read(**results):
    return {(of.better, of.worse): of for of in reading.readings(results)}


def test_orders():
    good, bad = result(5.0, 5.2, 5.1, 5.3), result(8.0, 8.3, 8.1, 8.2)
    found = read(basecnn_3_cc=good, basecnn_3=bad, basecnn_2_cc=result(5.9, 5.1, 5.3, 5.0))
    width = found["basecnn_3_cc", "basecnn_3"]
    assert width.difference.mean == pytest.approx(3) and width.verdict == "shows"
    assert width.adjusted == pytest.approx(2 * width.p)  # of two that are looked at
    assert found["basecnn_3_cc", "basecnn_2_cc"].verdict == "does not show"
    assert len(found) == 2
    found = read(basecnn_3_cc=bad, basecnn_3=good)
    assert found["basecnn_3_cc", "basecnn_3"].verdict == "reversed"
    found = read(basecnn_3_cc=result(5.0), basecnn_3=good)
    assert found["basecnn_3_cc", "basecnn_3"].verdict == "one trial says nothing"


def test_pairs_are_of_the_same_seed():
    """Seeds that are hard for both say nothing of their difference."""
    one, other = result(5.0, 9.0, 7.0), result(5.3, 9.4, 7.2)
    of = read(basecnn_3_cc=one, basecnn_3=other)["basecnn_3_cc", "basecnn_3"]
    assert of.p < 0.05 and of.difference.seeds == 3
    other = Result({2: 7.2, 3: 6.0}, 6.0, 1)
    of = read(basecnn_3_cc=one, basecnn_3=other)["basecnn_3_cc", "basecnn_3"]
    assert of.difference.seeds == 1 and of.difference.mean == pytest.approx(0.2)


def test_equal_networks_need_evidence():
    same = {"basecnn_4_cc": result(5.0, 5.2, 5.1, 5.3), "basecnn_3_cc": result(5.1, 5.1, 5.2, 5.2)}
    assert read(**same)["basecnn_4_cc", "basecnn_3_cc"].verdict == "equal within 0.5"
    noisy = {"basecnn_4_cc": result(4.0, 6.2, 5.1), "basecnn_3_cc": result(5.1, 5.1, 5.2)}
    assert read(**noisy)["basecnn_4_cc", "basecnn_3_cc"].verdict == "does not show"


def test_networks_that_have_not_converged_count_and_show_nothing():
    good, deep = result(5.0, 5.1, 5.0), result(9.0, 9.12, 9.01)
    results = {"basecnn_3_cc": good, "deepcnn": deep, "all_ensemble": deep}
    assert read(**results)["basecnn_3_cc", "deepcnn"].verdict == "shows"
    results["basecnn"] = result(8.0, 8.1, 8.02)
    found = read(**results)
    assert found["basecnn_3_cc", "deepcnn"].verdict == "has not converged"
    assert found["basecnn_3_cc", "all_ensemble"].verdict == "has not converged"  # a member has not
    shallow = found["basecnn_3_cc", "basecnn"]
    assert shallow.verdict == "shows" and len(found) == 3
    # Of all three that were looked at.
    assert [of.adjusted for of in found.values()] == holm([of.p for of in found.values()])
    assert shallow.adjusted > shallow.p
    text = "\n".join(reading.section(results))
    assert (
        "Orders that show: 1 of 3" in text and "no order with it is said to show: deepcnn." in text
    )
    assert reading.section({"deepcnn": good}) == []


@pytest.mark.parametrize("errors", [ERRORS, ERRORS_350, ERRORS_CIFAR100])
def test_the_papers_own_figures_have_its_orders(errors):
    for claim in CLAIMS:
        for better, worse in itertools.product(claim.better, claim.worse):
            if {better, worse} <= errors.keys() and not claim.equal:
                assert errors[better] < errors[worse], claim.text
