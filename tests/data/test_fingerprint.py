"""Fingerprints differ wherever content does, and only there."""

import itertools

import pytest
import torch
from torch import nn

from unclip.data.fingerprint import fingerprint, module_fingerprint


def test_nothing_of_different_content_has_the_same_fingerprint():
    values = [
        ["ab", "c"], ["a", "bc"], ["abc"], [["ab"], "c"], 1, 1.0, "1", True, None, {}, [], {"a": 1}, {"a": 2},
        {"b": 1}, torch.zeros(2, 3), torch.zeros(3, 2), torch.zeros(6), torch.zeros(6, dtype=torch.int32),
        torch.zeros(0), torch.zeros(0, 1),
    ]  # fmt: skip
    for one, other in itertools.combinations(values, 2):
        assert fingerprint(one) != fingerprint(other), (one, other)


def test_the_order_of_keys_and_the_layout_in_memory_do_not_matter():
    assert fingerprint({"a": 1, "b": 2}) == fingerprint({"b": 2, "a": 1})
    x = torch.arange(6.0).view(2, 3)
    assert fingerprint(x.T) == fingerprint(x.T.contiguous()) != fingerprint(x)
    assert fingerprint(torch.tensor(1.5)) == fingerprint(torch.tensor(1.5, requires_grad=True))
    with pytest.raises(TypeError, match="no fingerprint for a set"):
        fingerprint({1})


def test_a_module_is_its_weights_and_settings_not_its_mode():
    def module(kernel=3, dilation=1, seed=0, slope=0.1):
        torch.manual_seed(seed)
        return nn.Sequential(nn.Conv2d(1, 2, kernel, dilation=dilation), nn.LeakyReLU(slope))

    expected = module_fingerprint(module())
    assert module_fingerprint(module().eval()) == expected
    for change in ({"kernel": 1}, {"seed": 1}, {"slope": 0.2}):
        assert module_fingerprint(module(**change)) != expected
