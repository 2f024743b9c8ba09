"""The autoregressive prior's network: tokens and back, what each logit may depend on, and one token at a time."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from unclip.nets.autoregressive import AutoregressivePrior, drawn
from unclip.nets.component_tokens import ComponentTokens
from unclip.nets.conditions import null

D, W, L, BUCKETS = 8, 6, 5, 32


def pairs(n: int = 400, dim: int = D, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Unit embeddings of images, whose spread falls from dimension to dimension, and of their texts."""
    generator = torch.Generator().manual_seed(seed)
    spread = 0.6 ** torch.arange(dim)
    image = F.normalize(0.5 + spread * torch.randn(n, dim, generator=generator), dim=1)
    return image, F.normalize(image + 0.2 * torch.randn(n, dim, generator=generator), dim=1)


def tokens_of(dim: int = D, buckets: int = BUCKETS, explained: float = 1.0, seed: int = 0) -> ComponentTokens:
    found = ComponentTokens(dim, buckets)
    found.fit(*pairs(dim=dim, seed=seed), explained)
    return found


@settings(max_examples=25, deadline=None)
@given(st.integers(2, 24), st.integers(2, 1024), st.floats(0.3, 1.0), st.integers(0, 1000))
def test_tokens_round_trip_within_half_a_bucket(dim: int, buckets: int, explained: float, seed: int):
    """Every training embedding, in every component that is kept; and tokens to tokens exactly."""
    image = pairs(dim=dim, seed=seed)[0]
    tokens = tokens_of(dim, buckets, explained, seed)
    k = tokens.components
    encoded = tokens.encode(image)
    assert encoded.shape == (len(image), k)
    assert encoded.min() >= 0
    assert encoded.max() < buckets
    back = tokens.pca.coordinates(tokens.decode(encoded))[:, :k]
    error = (back - tokens.pca.coordinates(image)[:, :k]).abs()
    half = (tokens.high - tokens.low)[:k] / buckets / 2
    assert (error <= half * 1.001 + 2e-6).all()
    middle = encoded[(half > 1e-5).expand_as(encoded).all(1)]
    assert torch.equal(tokens.encode(tokens.decode(middle)), middle)


def test_components_come_in_decreasing_order_of_variance_and_as_many_as_explain_it():
    image, text = pairs()
    tokens = tokens_of()
    spread = tokens.pca.coordinates(image).var(0)
    assert (spread.diff() <= 1e-9).all()
    shares = spread.cumsum(0) / spread.sum()
    for explained in (0.5, 0.9, 0.99, 1.0):
        tokens.fit(image, text, explained)
        k = tokens.components
        assert shares[k - 1] >= explained - 1e-5
        assert k == 1 or shares[k - 2] < explained
    tokens.fit(image, text, 0.8)
    left_out = image - tokens.decode(tokens.encode(image))
    assert left_out.square().sum(1).mean() < 0.25 * spread.sum()
    with pytest.raises(ValueError, match="must satisfy 0 < share <= 1"):
        tokens.fit(image, text, 0.0)


def test_what_is_beyond_the_training_range_goes_to_the_outermost_bucket():
    tokens = tokens_of()
    far = tokens.pca.inverse(torch.diag(torch.full((D,), 50.0)))
    assert tokens.encode(far).diagonal().tolist() == [BUCKETS - 1] * D
    assert tokens.encode(-far).diagonal().tolist() == [0] * D


def test_a_level_is_the_percentile_of_a_dot_product():
    image, text = pairs(2000)
    tokens = ComponentTokens(D, BUCKETS)
    tokens.fit(image, text, 1.0)
    dot = (image * text).sum(1)
    counts = tokens.level(dot).bincount(minlength=BUCKETS)
    assert (counts - len(dot) / BUCKETS).abs().max() <= 2  # as many pairs at every level
    order = dot.argsort()
    assert (tokens.level(dot[order]).diff() >= 0).all()
    assert tokens.level(torch.tensor([-2.0, 2.0])).tolist() == [0, BUCKETS - 1]
    assert tokens.level_of(torch.tensor([0.0, 0.5, 1.0])).tolist() == [0, BUCKETS // 2, BUCKETS - 1]
    upper = dot[dot > dot.median()]
    assert (tokens.level(upper) >= BUCKETS // 2 - 1).all()


def net(**changes) -> AutoregressivePrior:
    torch.manual_seed(0)
    made = AutoregressivePrior(
        D, W, L, **{"width": 16, "layers": 2, "heads": 2, "dropout": 0.0, "buckets": BUCKETS, **changes}
    )
    made.tokens.fit(*pairs(), 1.0)
    with torch.no_grad():  # the null vectors start at zero
        for parameter in made.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape))
    return made.eval()


def condition(n: int) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    mask = torch.arange(L) < torch.randint(1, L + 1, (n, 1), generator=generator)
    return {
        "text_embedding": F.normalize(torch.randn(n, D, generator=generator), dim=1),
        "tokens": torch.randn(n, L, W, generator=generator),
        "token_mask": mask,
        "level": torch.randint(0, BUCKETS, (n,), generator=generator),
        "keep_text": torch.arange(n) % 3 > 0,
    }


def sequence(n: int, k: int = D) -> torch.Tensor:
    return torch.randint(0, BUCKETS, (n, k), generator=torch.Generator().manual_seed(4))


@torch.no_grad()
def test_a_token_changes_only_the_logits_after_it():
    model, cond, tokens = net(), condition(6), sequence(6, D - 1)
    before = model(tokens, cond)
    assert before.shape == (6, D, BUCKETS)
    for j in range(D - 1):
        changed = tokens.clone()
        changed[:, j] = (changed[:, j] + BUCKETS // 2) % BUCKETS
        after = model(changed, cond)
        assert torch.equal(after[:, : j + 1], before[:, : j + 1])
        assert (after[:, j + 1 :] - before[:, j + 1 :]).abs().flatten(1).amax(1).min() > 1e-4


@torch.no_grad()
def test_every_part_of_the_condition_reaches_every_logit_unless_it_is_dropped():
    model, cond, tokens = net(), condition(6), sequence(6, D - 1)
    kept, before = cond["keep_text"], model(tokens, cond)
    for name in ("text_embedding", "tokens", "level"):
        changed = {**cond, name: cond[name].flip(0) if name != "level" else BUCKETS - 1 - cond[name]}
        difference = (model(tokens, changed) - before).abs().amax((1, 2))
        assert (difference[kept] > 1e-4).all(), name
        assert (difference[~kept] == 0).all(), name
    padding = cond["tokens"] + 5.0 * ~cond["token_mask"].unsqueeze(-1)
    torch.testing.assert_close(model(tokens, {**cond, "tokens": padding}), before)


@torch.no_grad()
@pytest.mark.parametrize("sizes", [[1] * (D - 1), [3, 1, 3]])
def test_with_remembered_keys_and_values_the_logits_are_the_same_step_by_step(sizes: list[int]):
    """Teacher forcing in one pass, and the same tokens a few at a time."""
    model, cond, tokens = net(), condition(5), sequence(5, D - 1)
    whole, past = model(tokens, cond), model.past()
    parts = [model(tokens[:, :0], cond, past)]
    for part in tokens.split(sizes, dim=1):
        parts.append(model(part, cond, past))
    torch.testing.assert_close(torch.cat(parts, dim=1), whole)


@torch.no_grad()
@pytest.mark.parametrize("guidance", [1.0, 2.5])
def test_generated_tokens_are_those_that_the_whole_sequence_would_draw(guidance: float):
    model, cond = net(), condition(5)
    u = torch.rand(5, D, generator=torch.Generator().manual_seed(5))
    tokens = model.generate(cond, u, guidance, temperature=0.7)
    assert len(tokens.unique()) > 5
    c, unconditional = model(tokens[:, :-1], cond), model(tokens[:, :-1], null(cond))
    logits = unconditional + guidance * (c - unconditional)
    again = [drawn(logits[:, j], u[:, j], 0.7) for j in range(D)]
    assert (torch.stack(again, dim=1) == tokens).float().mean() > 0.97  # but for rounding at a bucket's edge


def test_draws_follow_the_distribution_and_temperature_sharpens_it():
    logits = torch.tensor([[0.0, 1.0, 2.0, -30.0]]).expand(4000, 4)
    u = (torch.arange(4000) + 0.5) / 4000
    for temperature in (0.5, 1.0, 2.0):
        shares = drawn(logits, u, temperature).bincount(minlength=4) / 4000
        torch.testing.assert_close(shares, (logits[0] / temperature).softmax(0), atol=1e-3, rtol=0)
    assert drawn(logits, u, 0.0).unique().tolist() == [2]
    ends = drawn(torch.zeros(2, 4), torch.tensor([0.0, 1.0]))
    assert ends.tolist() == [0, 3]


def test_half_dropped_captions_train_the_null_text_too():
    """A step's gradient reaches the learned stand-ins and the caption's own layers, and not the fixed tokens."""
    model, cond = net(), condition(6)
    F.cross_entropy(model(sequence(6, D - 1), cond).flatten(0, 1), sequence(6).flatten()).backward()
    for name in (
        "null_text.vector",
        "null_tokens.token",
        "null_level.vector",
        "from_text.weight",
        "from_tokens.weight",
    ):
        assert model.get_parameter(name).grad.abs().max() > 0, name
    assert not list(model.tokens.parameters())
