"""The fixed map between unit embeddings and the space of the prior's diffusion."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from unclip.nets.scaling import EmbeddingScaling


def embeddings() -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    mixed = torch.randn(500, 8, generator=generator) @ torch.randn(8, 8, generator=generator) + 2.0
    return F.normalize(mixed, dim=-1)


@pytest.mark.parametrize("kind", ["unit", "paper", "whiten", "none"])
def test_the_inverse_undoes_it(kind):
    scaling, e = EmbeddingScaling(8), embeddings()
    scaling.set(kind, e)
    torch.testing.assert_close(scaling.inverse(scaling(e)), e, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(("kind", "norm"), [("unit", 8**0.5), ("paper", 17.2), ("none", 1.0)])
def test_norms(kind, norm):
    scaling, e = EmbeddingScaling(8), embeddings()
    scaling.set(kind, e)
    torch.testing.assert_close(scaling(e).norm(dim=1), torch.full((500,), norm))


def test_whitening():
    scaling, e = EmbeddingScaling(8), embeddings()
    scaling.set("whiten", e)
    z = scaling(e)
    torch.testing.assert_close(z.mean(0), torch.zeros(8), atol=1e-4, rtol=0)
    torch.testing.assert_close(torch.cov(z.T), torch.eye(8), atol=1e-3, rtol=0)


def test_whitening_does_not_blow_up_empty_directions():
    e = embeddings()
    e[:, 0] = 0.5
    scaling = EmbeddingScaling(8)
    scaling.set("whiten", e)
    assert scaling.matrix.abs().max() < 1e4
    torch.testing.assert_close(scaling.inverse(scaling(e)), e, atol=1e-4, rtol=0)


def test_it_travels_with_the_weights():
    scaling, other = EmbeddingScaling(8), EmbeddingScaling(8)
    scaling.set("whiten", embeddings())
    other.load_state_dict(scaling.state_dict())
    torch.testing.assert_close(other(embeddings()), scaling(embeddings()))


def test_unknown_kinds_and_a_covariance_of_one_are_refused():
    with pytest.raises(ValueError, match="embedding_scale = 'papers'; possible: unit, paper, whiten, none"):
        EmbeddingScaling(8).set("papers", embeddings())
    with pytest.raises(ValueError, match="embedding_scale = whiten: 1 embeddings have no covariance"):
        EmbeddingScaling(8).set("whiten", embeddings()[:1])
