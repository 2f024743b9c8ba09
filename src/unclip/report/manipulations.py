"""What conf/manipulation/ targets: each a manipulation laid out as rows of pictures, and KIND.png and KIND.json of it.
The mathematics is in manipulations.py."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import Annotated, Any, Protocol

import torch
from einops import rearrange
from PIL.Image import Image
from torch import Tensor
from torch.nn import functional as F

from unclip import build
from unclip.config.problems import Problem, Problems
from unclip.data.embeddings import image_features
from unclip.evaluate.image_sets import ImageSetError, load_images
from unclip.evaluate.pixels import rms
from unclip.files import write_json
from unclip.manipulations import Manipulator
from unclip.nets.pca import PCA
from unclip.progress import Bar
from unclip.report.judges import classes_of
from unclip.report.pictures import grid, save
from unclip.report.samples import settings
from unclip.runs.trained import Trained, load

SHOWN = 5  # rows, where the request does not say which pictures
GREY = 128  # of what is not there


@dataclass(frozen=True)
class Given:
    """Pictures, uint8 (N,C,H,W), and a caption each."""

    images: Tensor
    prompts: tuple[str, ...]


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
        drawn = by.inpainted(given.images, kept, given.prompts, self.count, self.resample)
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
        drawn = by.outpainted(given.images, self.border, given.prompts, self.count, self.resample)
        framed = F.pad(given.images, (self.border,) * 4, value=GREY)
        return Strip(_beside(framed, drawn), _numbered(self.count), given.prompts)


@dataclass(frozen=True)
class Negative:
    """Pictures of captions, and the same kept away from another one."""

    negative: str
    count: Annotated[int, "count >= 1"] = 8
    inverts = False

    def __call__(self, by: Manipulator, trained: Trained, given: Given) -> Strip:
        plain, away = by.steered(given.prompts, self.negative, self.count)
        rows = [row for prompt in given.prompts for row in (prompt, f"  not: {self.negative}")]
        images = rearrange([plain, away], "two n m c h w -> (n two) m c h w")
        return Strip(images, _numbered(self.count)[1:], rows, None, {"negative": self.negative})


@dataclass(frozen=True)
class PriorSamples:
    """The prior's samples of a caption."""

    count: Annotated[int, "count >= 2"] = 10
    inverts = False

    def __call__(self, by: Manipulator, trained: Trained, given: Given) -> Strip:
        images, embeddings = by.prior_samples(given.prompts, self.count)
        text = trained.model.text(given.prompts)["text"].cpu()
        gram = torch.einsum("r m d, r k d -> r m k", embeddings, embeddings)
        others = gram.sum((1, 2)) - gram.diagonal(dim1=1, dim2=2).sum(1)
        numbers = {
            "cosine_to_text": torch.einsum("r m d, r d -> r m", embeddings, text).tolist(),
            "cosine_among_samples": (others / (self.count * (self.count - 1))).tolist(),
        }
        return Strip(images, _numbered(self.count)[1:], given.prompts, embeddings, numbers)


# ---- the verb ----------------------------------------------------------------------------------------------------


def deliver(kind: str, request: dict[str, Any], out: Path) -> None:
    """Make the pictures, write KIND.png and KIND.json, say what was made. Raises Problems."""
    trained = load(request)
    manipulation: Manipulation = build.part(request["manipulation"])
    given = pictures_of(request, trained)
    own = trained.model.sampler
    assert own is not None
    asked = request["guidance"]
    guidance = asked if asked is not None else 1.0 if manipulation.inverts else own.guidance
    name = classes_of(request, trained.data)
    by = Manipulator(trained.model, request["steps"], guidance, request["seed"], name)
    try:
        strip = manipulation(by, trained, given)
    except ValueError as error:
        raise Problems([Problem(kind, None, str(error))]) from None
    measured = _measured(strip, trained, by)
    save(laid_out(strip), out / f"{kind}.png")
    how = {**settings(trained), "sampler": "ddim", "steps": request["steps"], "guidance": guidance}
    asked_for = {k: v for k, v in request["manipulation"].items() if k != "_target_"}
    write_json(out / f"{kind}.json", {**asked_for, **strip.numbers, "rows": measured, "sampling": how})
    _show(strip, measured)
    print(f"\n{out / f'{kind}.png'}, {out / f'{kind}.json'}")


def laid_out(strip: Strip) -> Image:
    """With its captions and headings."""
    flat = rearrange(strip.images, "r m c h w -> (r m) c h w")
    return grid(flat, strip.images.shape[1], strip.rows, strip.headings)


def pictures_of(request: dict[str, Any], trained: Trained) -> Given:
    """The pictures that are named, with captions. Raises Problems."""
    test, path = trained.data.split("test"), str(request["images"])
    prompts: list[str] | None = request["prompts"]
    own: list[str] = []
    if path == "test" or path.startswith("test:"):
        chosen = _numbers(path.partition(":")[2], len(test)) or _one_a_class(test.labels)
        images = test.images[chosen]
        own = [test.captions[i] for i in test.caption_ids[chosen].tolist()]
        if prompts and path == "test" and len(prompts) != 1:
            images = images[: len(prompts)]
    else:
        try:
            images = load_images(path, at_least=1)
        except ImageSetError as error:
            raise Problems([Problem("images", path, str(error))]) from None
    if images.shape[1:] != test.images.shape[1:]:
        here, there = ("x".join(map(str, (*x.shape[2:], x.shape[1]))) for x in (images, test.images))
        raise Problems(
            [Problem("images", path, f"are {here} (height, width, channels), the model's {there}")]
        )
    if prompts is None and not own:
        raise Problems(
            [Problem("prompts", None, f"what do the {len(images)} pictures show? a caption each, or one")]
        )
    listed = own if prompts is None else prompts * len(images) if len(prompts) == 1 else prompts
    if len(listed) != len(images):
        why = f"{len(listed)} captions of {len(images)} pictures: give one each, or one for all"
        raise Problems([Problem("prompts", prompts, why)])
    return Given(images, tuple(listed))


def _numbers(listed: str, count: int) -> list[int]:
    found = [int(n) if n.strip().isdigit() else -1 for n in listed.split(",")] if listed else []
    if not all(0 <= n < count for n in found):
        raise Problems(
            [Problem("images", f"test:{listed}", f"must be numbers from 0 to {count - 1}, as in test:3,17")]
        )
    return found


def _one_a_class(labels: Tensor) -> list[int]:
    first = [int((labels == label).nonzero()[0]) for label in labels.unique()]
    return [first[round(i)] for i in torch.linspace(0, len(first) - 1, min(SHOWN, len(first))).tolist()]


def _measured(strip: Strip, trained: Trained, by: Manipulator) -> list[dict[str, Any]]:
    """Of each row: what a classifier sees, and the cosines of the pictures' embeddings with those aimed at."""
    rows, columns = strip.images.shape[:2]
    flat = rearrange(strip.images, "r m c h w -> (r m) c h w")
    names = by.names(flat)
    found: list[dict[str, Any]] = [{"caption": row} for row in strip.rows]
    for i, row in enumerate(found):
        if names is not None:
            row["class_path"] = names[i * columns : (i + 1) * columns]
    if strip.aims is not None:
        seen = rearrange(image_features(trained.model.clip, flat)["image"], "(r m) d -> r m d", r=rows)
        for row, cosines in zip(found, (seen * strip.aims).sum(-1).tolist(), strict=True):
            row["embedding_cosine"] = cosines
    return found


def _show(strip: Strip, measured: list[dict[str, Any]]) -> None:
    for row in measured:
        path = [f"{name} x{n}" if n > 1 else name for name, n in _runs(row.get("class_path", []))]
        said = [" > ".join(path)] if path else []
        if cosines := row.get("embedding_cosine"):
            said.append(f"cosine to the embedding aimed at: {', '.join(f'{c:.2f}' for c in cosines)}")
        if said:
            print(f"{row['caption']}\n  " + "\n  ".join(said))
    for name, value in strip.numbers.items():
        if isinstance(value, float):
            print(f"{name.replace('_', ' ')}: {value:.4g}")


def _runs(names: Sequence[str]) -> list[tuple[str, int]]:
    return [(name, len(list(same))) for name, same in groupby(names)]


def _beside(first: Tensor, others: Tensor) -> Tensor:
    """(N,C,H,W), (N,M,C,H,W) -> (N,1+M,C,H,W)."""
    return torch.cat([first.unsqueeze(1), others], dim=1)


def _numbered(count: int) -> list[str]:
    return ["picture", *(str(i + 1) for i in range(count))]
