"""Ranges in signatures are enforced when called, and say what was given and what is possible."""

from __future__ import annotations

from typing import Annotated

import pytest

from unclip.config import hints
from unclip.diffusion import bounded, bounds


@bounded
def scale(
    x: float, rate: Annotated[float, "0 <= rate < 1"] = 0.5, *, n: Annotated[int, "n >= 2"] | None = None
):
    """Times the rate."""
    return x * rate


class Layer:
    @bounded
    def __init__(self, width: Annotated[int, "width >= 1"]):
        self.width = width


def test_values_inside_the_range_pass_through():
    assert scale(4.0, 0.25, n=2) == 1.0
    assert scale(4.0) == 2.0
    assert Layer(3).width == 3


def test_none_means_not_set():
    assert scale(4.0, n=None) == 2.0


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: scale(1.0, 1), r"rate = 1: must satisfy 0 <= rate < 1"),
        (lambda: scale(1.0, rate=float("nan")), r"rate = nan: must satisfy"),
        (lambda: scale(1.0, "half"), r"rate = 'half': must satisfy"),
        (lambda: scale(1.0, n=1), r"n = 1: must satisfy n >= 2"),
        (lambda: Layer(0), r"width = 0: must satisfy width >= 1"),
    ],
)
def test_a_value_outside_is_named_with_its_range(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_a_wrong_call_keeps_pythons_own_message_and_the_name_and_docs_survive():
    with pytest.raises(TypeError, match=r"scale\(\)"):
        scale()
    assert (scale.__name__, scale.__doc__) == ("scale", "Times the rate.")


@bounded
def blur(kernel: Annotated[list[float], "len(kernel) % 2 and all(0 <= k <= max(kernel) for k in kernel)"]):
    """A list that a bound speaks of as a whole."""


def test_a_bound_of_a_list_uses_the_functions_that_the_configuration_knows():
    assert bounds.FUNCTIONS == hints.FUNCTIONS
    blur([0.25, 0.5, 0.25])
    for kernel in ([0.5, 0.5], [-1.0, 2.0, 0.0], 3):
        with pytest.raises(ValueError, match="must satisfy len"):
            blur(kernel)
