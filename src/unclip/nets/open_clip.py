"""Published CLIPs of the open_clip library behind the interface of our own: a CLIP whose towers, preprocessing and
tokenizer are theirs. Frozen, never trained here; how a configuration names one is in runs/pretrained_clip.py.

B batch, L tokens of a caption, W width of the text tower, D embedding.
"""

from __future__ import annotations

import logging
import pickle
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPException
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from unclip.data.tokenizer import PADDING, Tokenizer
from unclip.nets.clip import CLIP, TextFeatures

SEED = 0  # of the weights of a model without any
BATCH = 64  # images a forward pass: they are large
LONGEST = 2048  # tokens of a caption that are counted before it is cut
FAILURES = (
    OSError,
    HTTPException,
    ImportError,
    RuntimeError,
    ValueError,
    EOFError,
    KeyError,
    pickle.PickleError,
)


class OpenClip(CLIP):
    """A model of open_clip by name, with the weights of a tag or a file; None: random ones from a fixed seed.

    Raises ValueError, in one line, where the library or the weights are not there, or do not fit.
    """

    image: Images  # type: ignore[assignment]
    text: Captions  # type: ignore[assignment]

    def __init__(self, name: str, weights: str | None = None):
        nn.Module.__init__(self)  # not CLIP's own, which builds other towers
        library = _library()
        model = _model(library, name, weights)
        last = getattr(getattr(model, "text", model), "ln_final", None)
        if last is None or getattr(getattr(model, "text", model), "cls_emb", None) is not None:
            why = "its text tower has no token features of the kind that prior and decoder read"
            raise ValueError(f"clip = open_clip:{name}: {why}; possible: ViT-B-32, ViT-L-14 and the like")
        self.model = model  # the only holder of its weights: the towers below keep their parts in lists
        self.embedding_dim: int = library.get_model_config(name)["embed_dim"]
        self.token_width: int = last.normalized_shape[0]
        self.context_length: int = model.context_length
        with _one_line(name, "its tokenizer"):
            self.tokenizer = OpenClipTokenizer(library.get_tokenizer(name), self.context_length)
        self.image = Images(model.visual)
        self.text = Captions(model, last, self.tokenizer.padding, self.context_length)

    @property
    def logit_scale(self) -> Tensor:
        scale: Tensor = self.model.logit_scale.exp()
        return scale


class Images(nn.Module):
    """The image tower: floats in [-1,1] of any size, grey or colour, as its own preprocessing would hand them on."""

    mean: Tensor
    std: Tensor

    def __init__(self, visual: nn.Module):
        super().__init__()
        settings: Any = visual.preprocess_cfg
        size = settings["size"]
        self.size: tuple[int, int] = (size, size) if isinstance(size, int) else tuple(size)
        self.interpolation = "bilinear" if settings["interpolation"] == "bilinear" else "bicubic"
        self.visual = [visual]
        self.register_buffer("mean", torch.tensor(settings["mean"]).view(3, 1, 1))
        self.register_buffer("std", torch.tensor(settings["std"]).view(3, 1, 1))

    def preprocess(self, x: Tensor) -> Tensor:
        """(B,C,Y,X) in [-1,1] -> (B,3,*size), normalised. Raises ValueError for other than 1 or 3 channels."""
        if x.shape[1] not in (1, 3):
            raise ValueError(f"images of {x.shape[1]} channels: this CLIP reads images of 1 or 3 channels")
        x = ((x + 1) / 2).expand(-1, 3, -1, -1)
        if x.shape[2:] != self.size:
            x = F.interpolate(x, self.size, mode=self.interpolation, antialias=True)
        return (x.clamp(0, 1) - self.mean) / self.std

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self.visual[0](self.preprocess(part)) for part in x.split(BATCH)])  # (B,D)


class Captions(nn.Module):
    """The text tower: ids of an OpenClipTokenizer -> embedding, and what its last layer norm gives for each token."""

    def __init__(self, model: Any, last: nn.Module, padding: int, context_length: int):
        super().__init__()
        self.encode, self.last = [model.encode_text], [last]
        self.padding, self.context_length = padding, context_length

    def forward(self, ids: Tensor) -> TextFeatures:
        length, mask = ids.shape[1], ids != PADDING  # (B,L)
        if length > self.context_length:
            raise ValueError(
                f"captions have {length} tokens, but this text tower reads {self.context_length}"
            )
        whole = ids.new_full((len(ids), self.context_length), self.padding)
        whole[:, :length] = torch.where(mask, ids - 1, self.padding)
        seen: list[Tensor] = []
        hook = self.last[0].register_forward_hook(lambda module, inputs, output: seen.append(output))
        try:
            embedding = self.encode[0](whole, normalize=True)  # (B,D)
        finally:
            hook.remove()
        return TextFeatures(embedding, seen[0][:, :length], mask)


class OpenClipTokenizer(Tokenizer):
    """The model's own tokens, each number one higher: 0 is padding here and a word there."""

    kind = "tokens"

    def __init__(self, tokenizer: Any, length: int):
        inner: Any = getattr(tokenizer, "tokenizer", None)  # of transformers
        self.tokenizer, self.length = tokenizer, length
        self.padding = int(getattr(inner, "pad_token_id", None) or 0)
        self.vocabulary = int(getattr(tokenizer, "vocab_size", None) or len(inner)) + 1

    def tokens(self, caption: str) -> list[int]:
        found = self.tokenizer([caption], context_length=LONGEST)[0].tolist()
        while len(found) > 1 and found[-1] == self.padding:
            found.pop()
        return [i + 1 for i in found]

    def decode(self, ids: Tensor) -> list[str]:
        """int64 (B, length) -> captions, in the words that the model reads: lower case, say."""
        special = {i + 1 for i in getattr(self.tokenizer, "tokenizer", self.tokenizer).all_special_ids} | {
            PADDING
        }
        rows = [[i - 1 for i in row if i not in special] for row in ids.tolist()]
        return [str(self.tokenizer.decode(row)).strip() for row in rows]


def _library() -> Any:
    try:
        import open_clip  # here: it is optional, and takes seconds to import
    except ImportError:
        raise ValueError('clip = open_clip: needs its library: pip install "unclip-lab[open_clip]"') from None
    return open_clip


def _model(library: Any, name: str, weights: str | None) -> Any:
    """The model in eval mode. Raises ValueError."""
    if name not in library.list_models():
        raise ValueError(
            f"clip = open_clip:{name}: open_clip has no such model; open_clip.list_models() has all"
        )
    tags = library.list_pretrained_tags_by_model(name)
    if weights and weights not in tags and not Path(weights).is_file():
        why = f"no such weights; possible: {', '.join(tags)}, or the path of a file"
        raise ValueError(f"clip = open_clip:{name}:{weights}: {why}")
    with _one_line(name, "its weights", weights), torch.random.fork_rng(devices=[]):
        torch.manual_seed(SEED)
        made = library.create_model(name, weights, pretrained_text=False)
    return made.eval().requires_grad_(False)


@contextmanager
def _one_line(name: str, what: str, weights: str | None = None) -> Iterator[None]:
    """The library's log kept quiet, and what it raises as one line that names both ways to the weights."""
    before = logging.root.manager.disable
    logging.disable(logging.ERROR)
    try:
        yield
    except FAILURES as error:
        lines = str(error).strip().splitlines() or [type(error).__name__]
        why, given = (
            textwrap.shorten(lines[0], 120, placeholder=" ..."),
            ":".join(filter(None, (name, weights))),
        )
        if weights and Path(weights).is_file():
            raise ValueError(f"clip = open_clip:{given}: not weights of this model ({why})") from error
        ways = "fetch them where there is a network, into the cache of HF_HOME, or give a file"
        line = f"{what} cannot be had ({why}): {ways}, clip=open_clip:{name}:PATH"
        raise ValueError(f"clip = open_clip:{given}: {line}") from error
    finally:
        logging.disable(before)
