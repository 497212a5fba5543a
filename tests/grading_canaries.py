"""Checks that must fail: if one passes, comparisons were tampered with and no test counts.

`grading_child.py` runs them after every test of a student's file. They use what the graded tests
use: plain asserts, which pytest rewrites, and comparisons of pytest, torch and numpy.
"""

import math
import sys

import pytest

# Not imported here: a component may need neither.
np = sys.modules.get("numpy")
torch = sys.modules.get("torch")


def assert_of_numbers():
    assert len([0.0]) == 2


def assert_of_floats():
    assert math.sqrt(4.0) == 3.0


def assert_of_truth():
    assert not [0.0]


def assert_of_a_comparison():
    assert sum([1.0, 1.0]) < 1


def assert_of_sets():
    assert set("ab") == {"a"}


def equal():
    assert torch.equal(torch.zeros(3), torch.ones(3))


def equal_elements():
    assert (torch.zeros(3) == torch.ones(3)).all()


def allclose():
    assert torch.allclose(torch.zeros(3), torch.ones(3))


def assert_close():
    torch.testing.assert_close(torch.zeros(3), torch.ones(3))


def wrong_gradient():
    x = torch.ones(2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: x * x.detach(), x)


def numpy_allclose():
    assert np.allclose(np.zeros(3), np.ones(3))


def numpy_assert_allclose():
    np.testing.assert_allclose(np.zeros(3), np.ones(3))


def numpy_assert_array_equal():
    np.testing.assert_array_equal(np.zeros(3), np.ones(3))


def approx():
    assert 1.0 == pytest.approx(2.0)


def no_error():
    with pytest.raises(ValueError):
        pass


def another_error():
    with pytest.raises(ValueError):
        raise TypeError("not this one")


def another_message():
    with pytest.raises(ValueError, match="norms"):
        raise ValueError("cosines")


def fail():
    pytest.fail("always")


def chosen_element():
    assert torch.zeros(3)[0].item() == 1


CANARIES = [
    assert_of_numbers,
    assert_of_floats,
    assert_of_truth,
    assert_of_a_comparison,
    assert_of_sets,
    approx,
    no_error,
    another_error,
    another_message,
    fail,
]
if np is not None:
    CANARIES += [numpy_allclose, numpy_assert_allclose, numpy_assert_array_equal]
if torch is not None:
    CANARIES += [equal, equal_elements, allclose, assert_close, wrong_gradient, chosen_element]
