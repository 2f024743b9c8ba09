"""Judging embeddings: how well a CLIP aligns images and captions, and how true and how varied a prior's samples are.
Embeddings in, numbers out; rows of any length, compared by cosine. Distances of distributions are in distances.py."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Annotated

import torch
from torch import Tensor
from torch.nn import functional as F

from unclip.diffusion.bounds import bounded

ENTRIES = 2**24  # of a similarity matrix at a time: 128 MiB


@bounded
def recall_at_k(
    queries: Tensor, candidates: Tensor, positives: Tensor, k: Annotated[int, "k >= 1"] = 1
) -> float:
    """Part of the queries (N,D) with a positive among the k most similar candidates (M,D).

    positives: (N,M) bool, which candidates are right. For a CLIP's class-positive recall: images, captions and which
    captions are the image's; the other way, captions, images and the transpose, all images of a caption being right.
    Raises ValueError for more than there are, and for queries without a right one.
    """
    if positives.shape != (len(queries), len(candidates)) or positives.dtype != torch.bool:
        raise ValueError(
            f"positives of {positives.dtype} {tuple(positives.shape)}: must be bool "
            f"({len(queries)}, {len(candidates)}), a row a query"
        )
    return _recall(queries, candidates, lambda part: positives[part], k)


@bounded
def retrieval(
    queries: Tensor,
    candidates: Tensor,
    query_ids: Tensor,
    candidate_ids: Tensor,
    k: Annotated[int, "k >= 1"] = 1,
) -> float:
    """Part of the queries (N,D) with a candidate (M,D) of their own id, (N,) and (M,), among the k most similar. For a
    prior: its samples, true image embeddings, and the captions of both."""
    if len(query_ids) != len(queries) or len(candidate_ids) != len(candidates):
        raise ValueError(
            f"{len(query_ids)} and {len(candidate_ids)} ids: must be one for each of "
            f"{len(queries)} queries and {len(candidates)} candidates"
        )
    return _recall(queries, candidates, lambda part: query_ids[part].unsqueeze(1) == candidate_ids, k)


def zero_shot_accuracy(image: Tensor, prompts: Sequence[Tensor], labels: Tensor) -> float:
    """Part of the images (N,D) whose most similar class is their own, labels (N,).

    prompts: one (P,D) a class, embeddings of the class's name in P wordings. A class is the mean of its embeddings of
    length 1 (prompt ensembling in embedding space, Radford et al. 2021, sec. 3.1.4).
    """
    if len(labels) != len(image) or len(image) == 0:
        raise ValueError(f"{len(labels)} labels of {len(image)} images: must be one each, at least one")
    if labels.min() < 0 or labels.max() >= len(prompts):
        raise ValueError(f"labels up to {int(labels.max())}: must be from 0 to {len(prompts) - 1}")
    classes = torch.stack([_units(wordings).mean(0) for wordings in prompts])
    verdicts = (_units(image) @ _units(classes).T).argmax(1)
    return (verdicts == labels).double().mean().item()


def modality_gap(image: Tensor, text: Tensor) -> float:
    """Distance between the centres of image (N,D) and text (M,D) embeddings of length 1 (Liang et al. 2022, sec. 3):
    from 0 to 2."""
    return (_units(image).mean(0) - _units(text).mean(0)).norm().item()


def diversity(embeddings: Tensor, groups: Tensor | None = None) -> float:
    """Mean cosine distance, 1 - cos, over all pairs of embeddings (N,D); with groups (N,), such as caption ids, over
    the pairs within a group, then over the groups that have any.

    From sums, not pairs: the cosines of all pairs add up to (|sum of unit vectors|^2 - N) / 2.
    Raises ValueError where there is no pair.
    """
    x = _units(embeddings)
    parts = [x] if groups is None else [x[groups == group] for group in groups.unique()]
    values = [
        1 - (part.sum(0).square().sum() - len(part)) / (len(part) * (len(part) - 1))
        for part in parts
        if len(part) > 1
    ]
    if not values:
        raise ValueError(f"{len(x)} embeddings, no two in one group: there is no pair to compare")
    return torch.stack(values).mean().item()


def _recall(queries: Tensor, candidates: Tensor, right: Callable[[slice], Tensor], k: int) -> float:
    if k > len(candidates):
        raise ValueError(f"k = {k}: must be at most the number of candidates, {len(candidates)}")
    x, y = _units(queries), _units(candidates)
    rows, hits, hopeless = max(ENTRIES // len(y), 1), 0, 0
    for start in range(0, len(x), rows):
        part = slice(start, start + rows)
        positive = right(part)  # (B,M)
        hopeless += int((~positive.any(1)).sum())
        hits += int(positive.gather(1, (x[part] @ y.T).topk(k).indices).any(1).sum())
    if hopeless:
        raise ValueError(f"{hopeless} of {len(x)} queries have no positive: they can never be found")
    return hits / len(x)


def _units(x: Tensor) -> Tensor:
    if x.ndim != 2 or len(x) == 0:
        raise ValueError(f"embeddings of shape {tuple(x.shape)}: must be (N, D) with N >= 1")
    lengths = x.double().norm(dim=1)
    if not (lengths.isfinite().all() and (lengths > 0).all()):
        raise ValueError("embeddings contain rows that are 0 or not finite")
    return F.normalize(x.double(), dim=1)
