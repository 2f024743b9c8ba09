"""Metrics of embeddings: by definition, at their ends, and at chance level for embeddings that know nothing."""

import pytest
import torch
from torch.nn.functional import cosine_similarity, normalize

from unclip.evaluate.embedding_metrics import (
    diversity,
    modality_gap,
    recall_at_k,
    retrieval,
    zero_shot_accuracy,
)


def random(n, d=16, seed=0):
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def by_definition(queries, candidates, positives, k):
    hits = 0
    for query, right in zip(queries, positives, strict=True):
        similar = cosine_similarity(query.unsqueeze(0), candidates)
        ranked = sorted(range(len(candidates)), key=lambda i: -similar[i])
        hits += any(right[i] for i in ranked[:k])
    return hits / len(queries)


@pytest.mark.parametrize("k", [1, 3, 10])
def test_recall_against_its_definition_both_ways(k):
    image, text = random(40, seed=1), random(10, seed=2) * 5
    captions = torch.arange(40) % 10
    image = image + 0.7 * text[captions]
    positives = captions.unsqueeze(1) == torch.arange(10)
    assert recall_at_k(image, text, positives, k) == by_definition(image, text, positives, k)
    assert recall_at_k(text, image, positives.T, k) == by_definition(text, image, positives.T, k)


def test_recall_at_all_is_one_and_at_chance_k_of_m():
    image, text = random(3000, seed=1), random(10, seed=2)
    positives = torch.arange(3000).unsqueeze(1) % 10 == torch.arange(10)
    assert recall_at_k(image, text, positives, 10) == 1
    assert recall_at_k(image, text, positives, 3) == pytest.approx(0.3, abs=0.04)


def test_retrieval_is_recall_with_ids_for_positives_in_blocks_too(monkeypatch):
    prior, true = random(60, seed=1), random(200, seed=2)
    asked, captions = torch.arange(60) % 7, torch.arange(200) % 7
    positives = asked.unsqueeze(1) == captions
    for k in (1, 5):
        expected = by_definition(prior, true, positives, k)
        assert retrieval(prior, true, asked, captions, k) == expected
        with monkeypatch.context() as small:
            small.setattr("unclip.evaluate.embedding_metrics.ENTRIES", 1000)
            assert retrieval(prior, true, asked, captions, k) == expected
    assert retrieval(true, true, torch.arange(200), torch.arange(200)) == 1


def test_lengths_change_nothing():
    a, b, scale = random(30, seed=1), random(30, seed=2), torch.linspace(0.1, 9, 30).unsqueeze(1)
    ids = torch.arange(30) % 5
    assert retrieval(a * scale, b, ids, ids) == retrieval(a, b * scale, ids, ids)
    assert modality_gap(a * scale, b) == pytest.approx(modality_gap(a, b * scale), rel=1e-12)
    assert diversity(a * scale, ids) == pytest.approx(diversity(a, ids), rel=1e-12)


def test_zero_shot_ensembles_wordings_of_length_one():
    # class 0: wordings (1,0) and, a thousand times longer, (0,1): their direction is (1,1), not (0,1)
    prompts = [torch.tensor([[1.0, 0], [0, 1000]]), torch.tensor([[-1.0, 0.2]])]
    image = torch.tensor([[1.0, 0.0], [-1.0, 0.0], [1.0, -0.5]])
    assert zero_shot_accuracy(image, prompts, torch.tensor([0, 1, 0])) == 1
    assert zero_shot_accuracy(image, prompts, torch.tensor([0, 0, 0])) == pytest.approx(2 / 3)


def test_wordings_average_the_noise_of_prompts_away():
    classes, labels = random(10, seed=1), torch.arange(1000) % 10
    image = classes[labels] + 0.5 * random(1000, seed=2)
    noise = random(10 * 32, seed=3).view(10, 32, 16)
    noisy = normalize(classes, dim=1).unsqueeze(1) + 0.8 * noise
    one, many = (zero_shot_accuracy(image, list(noisy[:, :p]), labels) for p in (1, 32))
    assert one < many - 0.2
    assert zero_shot_accuracy(random(3000), list(noisy), torch.arange(3000) % 10) == pytest.approx(
        0.1, abs=0.03
    )


def test_modality_gap_between_its_ends():
    x = random(50)
    assert modality_gap(x, x.flip(0)) == pytest.approx(0, abs=1e-12)
    one = torch.ones(4, 3)
    assert modality_gap(one, -one) == pytest.approx(2)
    mean = [normalize(e, dim=1).mean(0) for e in (x, x + 1)]
    assert modality_gap(x, x + 1) == pytest.approx((mean[0] - mean[1]).norm().item())


def test_diversity_is_the_mean_over_pairs():
    x, groups = random(30), torch.arange(30) % 4
    pairs = [(i, j) for i in range(30) for j in range(i)]
    distance = {(i, j): 1 - cosine_similarity(x[i], x[j], dim=0).item() for i, j in pairs}
    assert diversity(x) == pytest.approx(sum(distance.values()) / len(pairs), rel=1e-12)
    within = [[d for (i, j), d in distance.items() if groups[i] == g == groups[j]] for g in range(4)]
    assert diversity(x, groups) == pytest.approx(sum(sum(d) / len(d) for d in within) / 4, rel=1e-12)
    assert diversity(x[:1].expand(5, -1)) == pytest.approx(0, abs=1e-12)
    assert diversity(x, torch.arange(30).sub(1).clamp_min(0)) == pytest.approx(distance[1, 0])


def test_what_cannot_be_judged_is_refused():
    x, positives = random(4), torch.eye(4, dtype=torch.bool)
    with pytest.raises(ValueError, match="k = 5: must be at most the number of candidates, 4"):
        recall_at_k(x, x, positives, 5)
    with pytest.raises(ValueError, match=r"must be bool \(4, 3\), a row a query"):
        recall_at_k(x, x[:3], positives, 1)
    with pytest.raises(ValueError, match="1 of 4 queries have no positive"):
        retrieval(x, x, torch.tensor([0, 1, 2, 9]), torch.arange(4))
    with pytest.raises(ValueError, match="4 and 3 ids"):
        retrieval(x, x, torch.arange(4), torch.arange(3))
    with pytest.raises(ValueError, match="no two in one group"):
        diversity(x, torch.arange(4))
    with pytest.raises(ValueError, match="0 or not finite"):
        modality_gap(x * 0, x)
    with pytest.raises(ValueError, match="labels up to 4: must be from 0 to 3"):
        zero_shot_accuracy(x, list(x.split(1)), torch.tensor([0, 1, 2, 4]))
