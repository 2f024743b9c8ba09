"""What conf/manipulation/ targets: each a manipulation as rows of pictures. The mathematics is in manipulations.py, the
files are strips.py's business."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, Protocol

import torch
from einops import rearrange
from torch import Tensor
from torch.nn import functional as F

from unclip.data.embeddings import image_features
from unclip.evaluate.pixels import rms
from unclip.manipulations import Manipulator
from unclip.nets.pca import PCA
from unclip.progress import Bar
from unclip.runs.trained import Trained

GREY = 128  # of what is not there


@dataclass(frozen=True)
class Given:
    """Pictures, uint8 (N,C,H,W), and a caption each."""

    images: Tensor
    prompts: tuple[str, ...]

    @property
    def captions(self) -> tuple[str, ...]:
        """Each once, for what is drawn from captions alone."""
        return tuple(dict.fromkeys(self.prompts))


@dataclass(frozen=True)
class Strip:
    """Rows of pictures and what is known of them."""

    images: Tensor  # uint8 (R,M,C,H,W)
    headings: Sequence[str]  # (M)
    rows: Sequence[str]  # (R)
    aims: Tensor | None = None  # (R,M,D) or (R,1,D): the embeddings that the pictures were to have
    numbers: dict[str, Any] = field(default_factory=dict)


class Manipulation(Protocol):
    """inverts: it starts from the latents of pictures, which is exact without guidance."""

    inverts: bool

    def __call__(self, by: Manipulator, trained: Trained, given: Given) -> Strip: ...


@dataclass(frozen=True)
class Variations:
    """Other pictures with the same embedding."""

    count: Annotated[int, "count >= 1"] = 6
    eta: Annotated[float, "0 <= eta <= 1"] = 1.0
    inverts = True

    def __call__(self, by: Manipulator, trained: Trained, given: Given) -> Strip:
        latents = by.latents(given.images, given.prompts)
        images = _beside(given.images, by.variations(latents, self.count, self.eta))
        return Strip(images, _numbered(self.count), given.prompts, latents.embedding[:, None].cpu())


@dataclass(frozen=True)
class Reconstruct:
    """Picture -> latent -> the same picture; the error over n test images."""

    n: Annotated[int, "n >= 1"] = 200
    inverts = True

    def __call__(self, by: Manipulator, trained: Trained, given: Given) -> Strip:
        latents = by.latents(given.images, given.prompts)
        spread = latents.x_T.std()
        noise = (latents.x_T / spread * 42 + GREY).clamp(0, 255).to(torch.uint8).cpu()  # 3 deviations fit
        images = torch.stack([given.images, noise, by.decode(latents)], dim=1)
        aims = latents.embedding[:, None].cpu()
        headings = ["picture", "latent", "decoded"]
        return Strip(images, headings, given.prompts, aims, self._error(by, trained))

    def _error(self, by: Manipulator, trained: Trained) -> dict[str, Any]:
        test = trained.data.split("test").head(self.n)
        captions = [test.captions[i] for i in test.caption_ids.tolist()]
        parts: list[Tensor] = []
        with Bar("inverting", len(test)) as bar:
            for images in test.images.split(trained.model.batch_size):
                done = sum(map(len, parts))
                parts.append(by.decode(by.latents(images, captions[done : done + len(images)])))
                bar.update(done + len(images))
        back = torch.cat(parts)
        error = rms(test.images, back)
        kept = by.same_class(test.images, back)
        found = {
            "n": len(test),
            "pixel_error": float(error.mean()),
            "pixel_error_unit": "grey levels of 255, RMS",
        }
        return found if kept is None else {**found, "class_kept": kept}


@dataclass(frozen=True)
class Interpolate:
    """The way from each picture to the next."""

    count: Annotated[int, "count >= 2"] = 8
    inverts = True

    def __call__(self, by: Manipulator, trained: Trained, given: Given) -> Strip:
        if len(given.images) < 2:
            raise ValueError("one picture: an interpolation goes from one to another, give two or more")
        latents = by.latents(given.images, given.prompts)
        shares = torch.linspace(0, 1, self.count).tolist()
        pictures, aims = by.interpolated(latents.part(slice(0, -1)), latents.part(slice(1, None)), shares)
        images = torch.cat([given.images[:-1, None], pictures, given.images[1:, None]], dim=1)
        headings = ["from", *(f"{share:.2f}" for share in shares), "to"]
        return Strip(
            images, headings, given.prompts[:-1], torch.cat([aims[:, :1], aims, aims[:, -1:]], dim=1)
        )


@dataclass(frozen=True)
class TextDiff:
    """A picture turned by the difference of two captions."""

    target: str
    source: str | None = None
    thetas: Sequence[float] = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5)
    inverts = True

    def __call__(self, by: Manipulator, trained: Trained, given: Given) -> Strip:
        latents = by.latents(given.images, given.prompts)
        rows = [
            by.text_diffs(latents.part(slice(i, i + 1)), self.source or own, self.target, self.thetas)
            for i, own in enumerate(given.prompts)
        ]
        images = _beside(given.images, torch.cat([pictures for pictures, _ in rows]))
        aims = torch.cat([aims for _, aims in rows])
        headings = ["picture", *(f"{theta:g}" for theta in self.thetas)]
        said = {"source": self.source, "target": self.target}
        return Strip(
            images, headings, given.prompts, torch.cat([latents.embedding[:, None].cpu(), aims], dim=1), said
        )


@dataclass(frozen=True)
class PrincipalComponents:
    """What the first principal components of an embedding know."""

    components: Sequence[int] = (1, 2, 5, 10, 20, 40, 80)
    n: Annotated[int, "n >= 2"] = 5000
    inverts = False

    def __call__(self, by: Manipulator, trained: Trained, given: Given) -> Strip:
        data, clip = trained.data, trained.model.clip
        train = image_features(clip, data.split("train").head(self.n).images, "embedding")["image"]
        test = image_features(clip, data.split("test").head(self.n).images)["image"]
        basis = PCA.fitted(train)
        explained = (basis.variance.cumsum(0) / basis.variance.sum()).tolist()
        numbers = {
            "fitted_to": len(train),
            "components": list(self.components),
            "explained_variance": [explained[k - 1] if k else 0.0 for k in self.components],
            # the mean squared length of what is lost of a test image's embedding, whose length is 1
            "embedding_error": [
                float((basis.project(test, k) - test).square().sum(1).mean()) for k in self.components
            ],
        }
        own = image_features(clip, given.images)["image"].to(trained.model.device)
        pictures, _ = by.pca(own, given.prompts, basis.to(trained.model.device), self.components)
        headings = ["picture", *(str(k) for k in self.components)]
        return Strip(_beside(given.images, pictures), headings, given.prompts, own[:, None].cpu(), numbers)


@dataclass(frozen=True)
class Inpaint:
    """A part drawn anew, after the caption."""

    count: Annotated[int, "count >= 1"] = 6
    box: Annotated[
        Sequence[float], "len(box) == 4 and 0 <= box[0] < box[1] <= 1 and 0 <= box[2] < box[3] <= 1"
    ] = (0.5, 1.0, 0.0, 1.0)
    resample: Annotated[int, "resample >= 1"] = 4
    inverts = False

    def __call__(self, by: Manipulator, trained: Trained, given: Given) -> Strip:
        height, width = given.images.shape[-2:]
        top, bottom, left, right = self.box
        kept = torch.ones(height, width, dtype=torch.bool)
        kept[round(top * height) : round(bottom * height), round(left * width) : round(right * width)] = False
        with Bar("drawing", self.count) as bar:
            drawn = by.inpainted(given.images, kept, given.prompts, self.count, self.resample, bar.update)
        shown = torch.where(kept, given.images, GREY).to(torch.uint8)
        images = _beside(given.images, _beside(shown, drawn))
        return Strip(images, ["picture", "kept", *_numbered(self.count)[1:]], given.prompts)


@dataclass(frozen=True)
class Outpaint:
    """What lies around the picture, after the caption."""

    count: Annotated[int, "count >= 1"] = 6
    border: Annotated[int, "border >= 1"] = 8
    resample: Annotated[int, "resample >= 1"] = 4
    inverts = False

    def __call__(self, by: Manipulator, trained: Trained, given: Given) -> Strip:
        with Bar("drawing", self.count) as bar:
            drawn = by.outpainted(
                given.images, self.border, given.prompts, self.count, self.resample, bar.update
            )
        framed = F.pad(given.images, (self.border,) * 4, value=GREY)
        return Strip(_beside(framed, drawn), _numbered(self.count), given.prompts)


@dataclass(frozen=True)
class Negative:
    """Pictures of captions, and the same kept away from another one."""

    negative: str
    count: Annotated[int, "count >= 1"] = 8
    inverts = False

    def __call__(self, by: Manipulator, trained: Trained, given: Given) -> Strip:
        plain, away = by.steered(given.captions, self.negative, self.count)
        rows = [row for prompt in given.captions for row in (prompt, f"  not: {self.negative}")]
        images = rearrange([plain, away], "two n m c h w -> (n two) m c h w")
        return Strip(images, _numbered(self.count)[1:], rows, None, {"negative": self.negative})


@dataclass(frozen=True)
class PriorSamples:
    """The prior's samples of a caption."""

    count: Annotated[int, "count >= 2"] = 10
    inverts = False

    def __call__(self, by: Manipulator, trained: Trained, given: Given) -> Strip:
        images, embeddings = by.prior_samples(given.captions, self.count)
        text = trained.model.text(given.captions)["text"].cpu()
        gram = torch.einsum("r m d, r k d -> r m k", embeddings, embeddings)
        others = gram.sum((1, 2)) - gram.diagonal(dim1=1, dim2=2).sum(1)
        numbers = {
            "cosine_to_text": torch.einsum("r m d, r d -> r m", embeddings, text).tolist(),
            "cosine_among_samples": (others / (self.count * (self.count - 1))).tolist(),
        }
        return Strip(images, _numbered(self.count)[1:], given.captions, embeddings, numbers)


def _beside(first: Tensor, others: Tensor) -> Tensor:
    """(N,C,H,W), (N,M,C,H,W) -> (N,1+M,C,H,W)."""
    return torch.cat([first.unsqueeze(1), others], dim=1)


def _numbered(count: int) -> list[str]:
    return ["picture", *(str(i + 1) for i in range(count))]
