"""The decoder's negative log-likelihood of test images, in bits per dimension: a number for metrics.json.
The bound itself is unclip.diffusion.likelihood's."""

from __future__ import annotations

from typing import Any

import torch

from unclip.data.embeddings import image_features
from unclip.progress import Bar
from unclip.randomness import key
from unclip.runs.trained import Trained

PART = 100  # images that share the steps drawn for them: not the batch size, which changes no number
CONTINUOUS_STEPS = 1000  # of the bound, where the schedule is no table


def nll(trained: Trained, n: int, seed: int, drawn: int | None) -> dict[str, Any]:
    """Of the first n test images under their own embedding and caption, guidance off.

    drawn: how many of the bound's steps are evaluated, other ones for every hundred images; None: all.
    """
    model, data = trained.model, trained.data
    decoder, train, test = model.decoder, data.split("train").images, data.split("test").head(n)
    counts = train.amax(0) > train.amin(0)  # (C,H,W): what never varies is padding
    used, which = test.caption_ids.unique(return_inverse=True)
    text = model.text([data.captions[i] for i in used.tolist()])
    steps = decoder.schedule.T or CONTINUOUS_STEPS
    partly = drawn is not None and drawn < steps - 1
    bounds = []
    with Bar("likelihood", len(test)) as bar:
        for number, indices in enumerate(torch.arange(len(test)).split(PART)):
            images, captions = test.images[indices], which[indices].to(model.device)
            embeddings = image_features(model.clip, images)["image"].to(model.device)
            cond = decoder.condition(embeddings, {name: x[captions] for name, x in text.items()})
            generator = torch.Generator().manual_seed(key(seed, "steps of the bound", number))
            bound = decoder.bits_per_dim(
                images.to(model.device),
                cond,
                indices,
                seed,
                steps,
                mask=counts.to(model.device),
                u=torch.rand(drawn, generator=generator) if drawn and partly else None,
            )
            bounds.append(torch.stack([*bound, bound.total], dim=1).double().cpu())  # (B,4)
            bar.update(int(indices[-1]) + 1)
    per_image = torch.cat(bounds)
    prior, terms, last, total = per_image.mean(0).tolist()
    return {
        "value": total,
        "n": len(test),
        "standard_error": float(per_image[:, 3].std() / len(test) ** 0.5) if len(test) > 1 else None,
        "unit": "bits per dimension, an upper bound",
        "prior_term": prior,
        "step_terms": terms,
        "decoder_term": last,
        "images": f"first {len(test)} test images",
        "dimensions": int(counts.sum()),
        "steps": steps,
        "steps_drawn": drawn if partly else steps - 1,
        "x0_clipped_to": 1.0,
    }
