"""Training a prior from embeddings that were computed once, beside running the CLIP inside the step, and beside
dalle2-pytorch's DiffusionPrior."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor, nn

from unclip.bench.fit import Training
from unclip.bench.machine import described
from unclip.bench.measure import Absent, Contest, Way, looped
from unclip.bench.peers import UNSCALED, absent, count, mixed
from unclip.data.embeddings import Embeddings, frozen
from unclip.data.image_text import Split
from unclip.data.images import to_float
from unclip.data.module import ImageTextData
from unclip.nets.clip import CLIP

SPLITS: tuple[Split, Split] = ("train", "validation")
PACKAGES = ("open_clip_torch", "dalle2-pytorch")


def measure(request: dict[str, Any]) -> dict[str, Any]:
    """Of the experiment's own CLIP, then of a published one by its architecture."""
    ours = Training(request["training"])
    title = f"Training {_name(ours)} on the embeddings of the experiment's CLIP, batches of {ours.batch}"
    assert ours.clip is not None
    made: list[Callable[[], Way | Absent]] = [
        partial(inside, request["training"], ours.clip),
        partial(dalle2, ours),
    ]
    tables = [_table(title, ours, made, request)]
    if name := request["published"]:
        few = [o for o in request["training"] if not o.startswith("data.batch_size=")]
        few.append(f"data.batch_size={request['published_batch']}")
        title = (
            f"On those of {name}, of open_clip, with random weights, batches of {request['published_batch']}"
        )
        if find_spec("open_clip") is None:
            why = "not installed: pip install 'unclip-lab[open_clip]'"
            tables.append({"title": title, "unit": "samples/s", "rows": [{"name": name, "absent": why}]})
        else:
            from unclip.nets.open_clip import OpenClip

            clip = OpenClip(name)
            tables.append(_table(title, Training(few, clip), [partial(inside, few, clip)], request))
    return {"machine": described(ours.device, PACKAGES), "tables": tables}


def _name(ours: Training) -> str:
    return str(ours.config["model"]["_target_"].rpartition(".")[2])


def _table(
    title: str, ours: Training, others: list[Callable[[], Way | Absent]], request: dict[str, Any]
) -> dict[str, Any]:
    contest = Contest(ours.device, ours.dtype, request["rounds"], request["seconds"])
    contest.enter(partial(ours.way, note="cached embeddings"))
    for make in others:
        contest.enter(make)
    return {"title": title, "unit": "samples/s", **contest.measured()}


def inside(overrides: list[str], clip: CLIP) -> Way:
    """The same training, with CLIP's two towers at every step."""
    return Training(overrides, clip, Live).way(note="CLIP inside the step")


class Live:
    """What stands for `Embeddings` and computes them each time it is asked."""

    def __init__(self, clip: CLIP, source: ImageTextData, known: Embeddings):
        self.clip, self.ids = clip, clip.tokenizer.encode_short(source.captions)
        self.image = {split: Seen(clip, source.split(split).images) for split in SPLITS}

    def to(self, device: torch.device | str) -> Live:
        self.clip.to(device)
        return self

    def captions(self, ids: Tensor) -> dict[str, Tensor]:
        tokens = self.ids[ids.cpu()].to(ids.device)
        text = frozen(self.clip, partial(self.clip.encode_text, tokens))
        return {"text": text.embedding, "tokens": text.tokens, "token_mask": text.mask}


class Seen:
    """Images of a split that give their embeddings when they are indexed."""

    def __init__(self, clip: CLIP, images: Tensor):
        self.clip, self.images = clip, images

    def __getitem__(self, index: Tensor) -> Tensor:
        images = to_float(self.images[index.cpu()]).to(index.device)
        found: Tensor = frozen(self.clip, partial(self.clip.encode_image, images))
        return found


def dalle2(ours: Training) -> Way | Absent:
    """DiffusionPrior on the same cached embeddings, as deep as ours, with its library's usual step."""
    name = "dalle2-pytorch DiffusionPrior"
    if ours.dtype == torch.float16:
        return Absent(name, UNSCALED)
    if missing := absent("dalle2_pytorch", name):
        return missing
    from dalle2_pytorch import DiffusionPrior, DiffusionPriorNetwork
    from ema_pytorch import EMA

    assert ours.clip is not None
    assert ours.embeddings is not None
    if ours.clip.embedding_dim != ours.clip.token_width:
        return Absent("dalle2-pytorch DiffusionPrior", "its text encodings are as wide as its embeddings")
    model, width = ours.config["model"], ours.clip.embedding_dim
    heads = model["heads"]
    net = DiffusionPriorNetwork(
        dim=width,
        depth=model["layers"],
        heads=heads,
        dim_head=model["width"] // heads,
        num_timesteps=1000,
        max_text_len=ours.clip.context_length,
    )
    prior: nn.Module = DiffusionPrior(net, image_embed_dim=width, timesteps=1000, cond_drop_prob=0.1)
    prior = prior.to(ours.device)
    optimizer = torch.optim.Adam(prior.parameters(), lr=1e-4)
    average = EMA(prior, beta=0.99, update_every=10).to(ours.device)
    batches, known = ours.batches(), ours.embeddings.to(ours.device)

    def step() -> None:
        batch = next(batches)
        text = known.captions(batch["caption"])
        image = known.image["train"][batch["index"]]
        with mixed(ours):
            loss = prior(text_embed=text["text"], image_embed=image, text_encodings=text["tokens"])
        loss.backward()
        nn.utils.clip_grad_norm_(prior.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        average.update()

    note = "cached embeddings"
    return looped(name, step, ours.device, items=ours.batch, parameters=count(net), note=note)
