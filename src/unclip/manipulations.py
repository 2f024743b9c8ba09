"""What unCLIP can do with a picture beside drawing it (Ramesh et al. 2022, section 3, and its captions' edits): each
a function of a trained model. It writes no files; report/manipulations.py lays the pictures out.

A picture is a pair (e, x_T): its CLIP embedding, and the latent from which the decoder, told e, draws it back, found
by DDIM inversion. What varies is one of the two. N pictures, M of each, C channels, D embedding.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from einops import rearrange, repeat
from torch import Tensor
from torch.nn import functional as F

from unclip.data.embeddings import image_features
from unclip.data.images import to_float, to_uint8
from unclip.diffusion import ddim, inpaint, invert, slerp
from unclip.generate import UnCLIP, distinct
from unclip.nets.conditions import null
from unclip.nets.pca import PCA
from unclip.randomness import KeyedNoise, key
from unclip.sampling import Sampler

Cond = dict[str, Tensor]


@dataclass(frozen=True)
class Latents:
    """Pictures as a decoder sees them."""

    embedding: Tensor  # (N,D) unit norm
    x_T: Tensor  # (N,C,H,W), or as small as an autoencoder's latents
    prompts: tuple[str, ...]  # one each, for decoders that see captions

    def __len__(self) -> int:
        return len(self.x_T)

    def part(self, rows: slice) -> Latents:
        return Latents(self.embedding[rows], self.x_T[rows], self.prompts[rows])


class Manipulator:
    """A model with the settings of its manipulations: `steps` of DDIM, guidance s in u + s (c - u), 1 is off.

    Inversion is exact only in the limit of many steps and without guidance; guidance above 1 is for drawing.
    names: pictures uint8 (N,C,H,W) -> the class of each in words, or None where no classifier knows the data.
    """

    def __init__(
        self,
        model: UnCLIP,
        steps: int = 50,
        guidance: float = 1.0,
        seed: int = 0,
        names: Callable[[Tensor], list[str] | None] = lambda images: None,
    ):
        self.model, self.seed, self.names = model, seed, names
        own: Sampler = model.sampler or model.decoder.sampler
        self.sampler = Sampler(ddim, steps, guidance=guidance, clip=own.clip, **own.refinements)

    # ---- pictures and latents --------------------------------------------------------------------------

    def latents(self, images: Tensor, prompts: Sequence[str]) -> Latents:
        """Of uint8 (N,C,H,W) and a caption each."""
        model = self.model
        x0 = model.decoder.encoded(to_float(images).to(model.device))
        embedding = image_features(model.clip, images)["image"].to(model.device)
        cond = self._cond(embedding, prompts)
        plain, _ = replace(self.sampler, guidance=1.0).wrapped(model.decoder.denoiser, cond)
        x_T = invert(plain, x0, self.sampler.grid(model.decoder.denoiser), cond)
        return Latents(embedding, x_T, tuple(prompts))

    def decode(self, latents: Latents, eta: float = 0.0, draw: int = 0) -> Tensor:
        """uint8 (N,C,H,W): what DDIM makes of them; with eta > 0 by fresh noise, number `draw` of each seed."""
        cond = self._cond(latents.embedding, latents.prompts)
        denoiser = self.model.decoder.denoiser
        denoise, _ = self.sampler.wrapped(denoiser, null(cond))
        noise = KeyedNoise(key(self.seed, "manipulation", draw), range(len(latents)))
        x0 = ddim(denoise, latents.x_T, self.sampler.grid(denoiser), cond, noise=noise, eta=eta)
        return to_uint8(self.model.decoder.pixels(x0)).cpu()

    # ---- the paper's section 3 -------------------------------------------------------------------------

    def variations(self, latents: Latents, count: int, eta: float = 1.0) -> Tensor:
        """uint8 (N,M,C,H,W): what the embedding leaves open is drawn anew, the more the larger eta (3.1)."""
        drawn = [self.decode(latents, eta, draw) for draw in range(count)]
        return torch.stack(drawn, dim=1)

    def interpolated(self, a: Latents, b: Latents, shares: Sequence[float]) -> tuple[Tensor, Tensor]:
        """Pictures uint8 (N,M,C,H,W) from a at share 0 to b at 1, and the embeddings (N,M,D) they were drawn from:
        spherical in embedding and latent (3.2)."""
        on_the_way = [
            Latents(slerp(a.embedding, b.embedding, w), slerp(a.x_T, b.x_T, w), (a if w < 0.5 else b).prompts)
            for w in shares
        ]
        return self._columns(on_the_way)

    def text_diffs(
        self, latents: Latents, source: str, target: str, thetas: Sequence[float]
    ) -> tuple[Tensor, Tensor]:
        """Pictures uint8 (N,M,C,H,W) and embeddings (N,M,D), turned from the picture's own embedding at theta 0 towards
        the normalised difference of two captions' embeddings, reached at 1 (3.3; the paper takes .25 to .5). Where
        the two captions are one there is no difference, and the picture stays as it is."""
        if source == target:
            return self._columns([latents] * len(thetas))
        text = self.model.text([source, target])["text"]
        difference = F.normalize(text[1] - text[0], dim=-1).expand_as(latents.embedding)
        turned = [replace(latents, embedding=slerp(latents.embedding, difference, theta)) for theta in thetas]
        return self._columns(turned)

    def pca(
        self, embedding: Tensor, prompts: Sequence[str], basis: PCA, components: Sequence[int]
    ) -> tuple[Tensor, Tensor]:
        """Pictures uint8 (N,M,C,H,W) and the embeddings (N,M,D) they were drawn from, of which only the first principal
        components are kept (section 4, figure 7): what is coarse comes first. The same noise all along a row."""
        kept = torch.stack([F.normalize(basis.project(embedding, k), dim=-1) for k in components], dim=1)
        rows, columns = kept.shape[:2]
        which = [prompt for prompt in prompts for _ in range(columns)]
        cond = self._cond(rearrange(kept, "n m d -> (n m) d"), which)
        pictures = self._drawn(cond, None, [row for row in range(rows) for _ in range(columns)])
        return rearrange(pictures, "(n m) ... -> n m ...", m=columns), kept.cpu()

    # ---- parts of pictures, and prompts ----------------------------------------------------------------

    def inpainted(
        self,
        images: Tensor,
        mask: Tensor,
        prompts: Sequence[str],
        count: int,
        resample: int = 4,
        progress: Callable[[int], object] | None = None,
    ) -> Tensor:
        """uint8 (N,M,C,H,W): images (N,C,H,W) kept where the mask (H,W) is True, elsewhere drawn from the caption by
        way of the prior, `count` times; resample: RePaint's U; progress: called with how many times so far.

        In a latent space a latent is kept where all of its pixels are, and the kept pixels themselves are put in last.
        """
        decoder, mask = self.model.decoder, mask.to(self.model.device)
        x0 = decoder.encoded(to_float(images).to(self.model.device))
        cells = (
            -F.adaptive_max_pool2d(-mask[None].float(), x0.shape[-2:])[0] == 1
        )  # (h,w), the mask itself in pixels
        drawn = []
        for draw in range(count):
            cond = self._cond(self._imagined(prompts, draw), prompts)
            denoise, _ = self.sampler.wrapped(decoder.denoiser, null(cond))
            noise = KeyedNoise(key(self.seed, "inpainting", draw), range(len(x0)))
            grid = self.sampler.grid(decoder.denoiser)
            x = inpaint(denoise, x0, cells, grid, cond, noise=noise, resample=resample)
            drawn.append(torch.where(mask.cpu(), images.cpu(), to_uint8(decoder.pixels(x)).cpu()))
            if progress:
                progress(len(drawn))
        return torch.stack(drawn, dim=1)

    def outpainted(
        self,
        images: Tensor,
        border: int,
        prompts: Sequence[str],
        count: int,
        resample: int = 4,
        progress: Callable[[int], object] | None = None,
    ) -> Tensor:
        """uint8 (N,M,C,H+2b,W+2b): the images (N,C,H,W), and what may lie in a border of b pixels around them.

        Raises ValueError where the decoder's net takes no pictures of that size.
        """
        unet, latents = self.model.decoder.net.unet, self.model.decoder.latents
        size, factor = images.shape[-1] + 2 * border, unet.unshuffle * 2 ** (len(unet.down) - 1)
        factor *= 1 if latents is None else latents.autoencoder.factor
        if size % factor:
            possible = [b for b in range(1, images.shape[-1] + 1) if (images.shape[-1] + 2 * b) % factor == 0]
            raise ValueError(
                f"border = {border} makes pictures of {size} pixels, this decoder takes multiples of {factor}: "
                f"border may be {', '.join(map(str, possible))}"
            )
        mask = F.pad(torch.ones(images.shape[-2:], dtype=torch.bool), (border,) * 4)
        return self.inpainted(F.pad(images, (border,) * 4), mask, prompts, count, resample, progress)

    def steered(self, prompts: Sequence[str], negative: str, count: int) -> tuple[Tensor, Tensor]:
        """Pictures uint8 (N,M,C,H,W) of the prompts, without and with guidance away from a negative prompt: the
        same noise, the same embeddings."""
        which = tuple(p for p in prompts for _ in range(count))
        embedding = self._imagined(which, 0)
        unwanted = [negative] * len(which)
        cond = self._cond(embedding, which, also=unwanted)
        avoided = self._cond(self._imagined(unwanted, 1), unwanted, also=which)
        pictures = [self._drawn(cond, against, range(len(which))) for against in (None, avoided)]
        plain, away = (rearrange(x, "(n m) ... -> n m ...", m=count) for x in pictures)
        return plain, away

    def prior_samples(self, prompts: Sequence[str], count: int) -> tuple[Tensor, Tensor]:
        """Pictures uint8 (N,M,C,H,W), and the prior's samples (N,M,D) that they were drawn from with one and the same
        decoder noise a row: what varies is the prior's. Nearest to the text's embedding first."""
        which = tuple(p for p in prompts for _ in range(count))
        embedding = rearrange(self._imagined(which, 0), "(n m) d -> n m d", m=count)
        scores = (embedding * self.model.text(prompts)["text"][:, None]).sum(-1)  # (N,M)
        order = repeat(scores.argsort(1, descending=True), "n m -> n m d", d=embedding.shape[-1])
        embedding = embedding.gather(1, order)
        cond = self._cond(rearrange(embedding, "n m d -> (n m) d"), which)
        pictures = self._drawn(cond, None, [row for row in range(len(prompts)) for _ in range(count)])
        return rearrange(pictures, "(n m) ... -> n m ...", m=count), embedding.cpu()

    def same_class(self, before: Tensor, after: Tensor) -> float | None:
        """The share of pictures (N,C,H,W) that keep their class; None where no classifier knows the data."""
        a, b = self.names(before), self.names(after)
        return None if a is None or b is None else sum(map(str.__eq__, a, b)) / len(a)

    # ---- parts -----------------------------------------------------------------------------------------

    def _columns(self, states: Sequence[Latents]) -> tuple[Tensor, Tensor]:
        pictures = torch.stack([self.decode(state) for state in states], dim=1)
        return pictures, torch.stack([state.embedding for state in states], dim=1).cpu()

    def _drawn(self, cond: Cond, against: Cond | None, indices: Sequence[int]) -> Tensor:
        which = torch.tensor(indices)
        return to_uint8(
            self.model.decoder.sample(cond, which, self.seed, self.sampler, against=against)
        ).cpu()

    def _imagined(self, prompts: Sequence[str], draw: int) -> Tensor:
        """(n,D) by the prior, a sample a prompt."""
        named, which = distinct(prompts)
        return self.model.embed(named, which, key(self.seed, draw) % 2**32).to(self.model.device)

    def _cond(self, embedding: Tensor, prompts: Sequence[str], also: Sequence[str] = ()) -> Cond:
        """also: captions of other conditions that are to have token sequences of the same length."""
        named, which = distinct([*prompts, *also])
        which = which[: len(prompts)].to(embedding.device)
        text = {name: x[which] for name, x in self.model.text(named).items()}
        return self.model.decoder.condition(embedding, text)
