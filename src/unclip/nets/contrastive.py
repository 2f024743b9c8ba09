"""Losses that bring images and their captions together: InfoNCE, its form with several positives, SigLIP.

Each is f(image (B,D), text (B,D), caption (B,), logit_scale) -> scalar; embeddings have unit norm, `caption`
numbers the distinct captions, row i of image and text belong together.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def infonce(image: Tensor, text: Tensor, caption: Tensor, logit_scale: Tensor) -> Tensor:
    """Symmetric InfoNCE (CLIP, Radford et al. 2021, fig. 3): every other row is a negative, same caption or
    not."""
    logits = logit_scale * image @ text.T  # (B,B)
    own = torch.arange(len(image), device=image.device)
    return (F.cross_entropy(logits, own) + F.cross_entropy(logits.T, own)) / 2


def multi_positive(image: Tensor, text: Tensor, caption: Tensor, logit_scale: Tensor) -> Tensor:
    """InfoNCE in which all pairs of one caption are positives, each caption counted once in the batch.

    Both directions are the divergence of the softmax from the uniform distribution over the positives
    (L_out of SupCon, Khosla et al. 2020, eq. 2, up to a constant): 0 when the batch is perfectly sorted.
    """
    distinct, position = torch.unique(caption, return_inverse=True)  # (U,), (B,)
    positive = F.one_hot(position, len(distinct))  # (B,U)
    rows = torch.arange(len(caption), device=caption.device).unsqueeze(1)  # (B,1)
    one_each = (positive * rows).amax(0)  # (U,): the last row that has the caption
    logits = logit_scale * image @ text[one_each].T  # (B,U)
    positive = positive.to(logits.dtype)
    share = positive / positive.sum(0)  # (B,U): each caption's positives weigh 1 together
    image_to_text = F.cross_entropy(logits, position)
    text_to_image = -(share * (logits.log_softmax(0) + positive.sum(0).log())).sum(0).mean()
    return (image_to_text + text_to_image) / 2


def siglip(image: Tensor, text: Tensor, caption: Tensor, logit_scale: Tensor, bias: float = -10.0) -> Tensor:
    """Each pair judged alone by a sigmoid (Zhai et al. 2023, eq. 1); pairs of one caption are positives. bias stays
    what it is; the paper learns it from -10 on."""
    logits = logit_scale * image @ text.T + bias  # (B,B)
    same = caption.unsqueeze(0) == caption.unsqueeze(1)  # (B,B)
    sign = torch.where(same, 1.0, -1.0).to(logits.dtype)
    return -F.logsigmoid(sign * logits).sum() / len(image)
