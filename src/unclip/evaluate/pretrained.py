"""Extractors whose weights come from elsewhere: an evaluation CLIP, Inception, DINOv2.
Weights are read, never trained; whoever asks for a file that is not there is told where to get it."""

from __future__ import annotations

import pickle
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from http.client import HTTPException
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from unclip.config.problems import Failure
from unclip.data.embeddings import text_features
from unclip.data.images import resized, to_float
from unclip.data.tokenizer import ByteTokenizer, Tokenizer
from unclip.evaluate.extractors import Extractor, with_channels
from unclip.nets.clip import CLIP
from unclip.nets.dinov2 import DinoV2ViT
from unclip.nets.open_clip import OpenClip

DINOV2_URL = "https://dl.fbaipublicfiles.com/dinov2/dinov2_vitl14/dinov2_vitl14_pretrain.pth"
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class WeightsUnavailable(Failure):
    """Weights that are neither at a path nor to be fetched; the message names both."""


class EvaluationClip(Extractor):
    """A CLIP of this project that judges images and captions, never the one that conditions what is judged: whoever
    evaluates calls `extractors.check_independent`.

    Features: image embeddings of unit length. image_size, image_channels, tokenizer: what the CLIP was trained on.
    """

    preprocessing = "pad 28 to 32 with 0, else bilinear to the CLIP's size, grey repeated to RGB, to [-1,1]"

    def __init__(self, net: CLIP, image_size: int, image_channels: int, tokenizer: Tokenizer | None = None):
        self.net: CLIP = net.eval()
        self.tokenizer = tokenizer or ByteTokenizer()
        self.image_size, self.image_channels = image_size, image_channels
        self.num_features = net.embedding_dim

    def preprocess(self, images: Tensor) -> Tensor:
        images = with_channels(images, self.image_channels, "this CLIP")
        pads = images.shape[-2:] == (28, 28) and self.image_size == 32
        return to_float(resized(images, self.image_size, "pad" if pads else "bilinear"))

    def embed(self, x: Tensor) -> Tensor:
        return self.net.encode_image(x)

    def text(self, captions: Sequence[str]) -> Tensor:
        """-> float64 (n, num_features), unit length, on the CPU: compared with `features` by their dot product."""
        return text_features(self.net, self.tokenizer, captions)["text"].double()


class OpenClipJudge(EvaluationClip):
    """A published CLIP by the library open_clip: ViT-L-14-336 with weights `openai` for CMMD as published (Jayasumana
    et al. 2024). weights: a tag, which is downloaded once, or a file; None: random ones."""

    preprocessing = (
        "grey repeated to RGB, resized and normalised as this model's own preprocessing does, in float32"
    )

    def __init__(self, name: str, weights: str | None = None):
        net = OpenClip(name, weights)
        super().__init__(net, net.image.size[0], 3, net.tokenizer)

    def preprocess(self, images: Tensor) -> Tensor:
        return to_float(with_channels(images, 3, "this CLIP"))


class Inception(Extractor):
    """torch-fidelity's InceptionV3, the network of published FIDs; its last pooled layer, 2048 features.

    It resizes to 299x299 as TensorFlow 1 did, so numbers are comparable with those of torch-fidelity at equal N and
    reference. weights: the file that torch-fidelity publishes, as a path; None: from its download, once.
    """

    num_features = 2048
    batch = 32  # 299x299 each: half a gigabyte of activations

    def __init__(self, weights: str | None = None) -> None:
        from torch_fidelity import __version__  # here: it takes seconds to import
        from torch_fidelity import feature_extractor_inceptionv3 as published
        from torch_fidelity.feature_extractor_inceptionv3 import URL_INCEPTION_V3

        self.preprocessing = f"grey repeated to RGB; then torch-fidelity {__version__} to 299, float32"
        path = None if weights is None else str(Path(weights).expanduser())
        if path is not None:
            _safely_loaded(path, URL_INCEPTION_V3)  # torch-fidelity itself would run what a pickle says
        try:
            with _tensors_only(published):
                self.net: nn.Module = published.FeatureExtractorInceptionV3("inception", ["2048"], path)
        except (OSError, HTTPException) as error:
            raise WeightsUnavailable(_unavailable(weights, URL_INCEPTION_V3, _why(error))) from error
        except (RuntimeError, EOFError, pickle.UnpicklingError) as error:
            place = "" if weights else f" in {torch.hub.get_dir()}"
            why = f"not the weights of this network{place}"
            raise WeightsUnavailable(_unavailable(weights, URL_INCEPTION_V3, why)) from error

    def preprocess(self, images: Tensor) -> Tensor:
        return with_channels(images, 3, "Inception").contiguous()

    def embed(self, x: Tensor) -> Tensor:
        return self.net(x)[0]


class DinoV2(Extractor):
    """DINOv2's class token (Stein et al. 2023, arXiv:2306.04675: closer to people's judgement than Inception), 384,
    768 or 1024 features for ViT-S, B, L/14.

    weights: a published file of that size, without registers, such as dinov2_vitl14_pretrain.pth; nothing is fetched.
    Checked: the network against another implementation of the same transformer on random weights. Not checked, for
    want of the published weights here: the features they give.
    """

    preprocessing = "grey repeated to RGB, bicubic with antialiasing to 224, rounded, ImageNet's mean and std"
    batch = 50

    def __init__(self, weights: str) -> None:
        state = _safely_loaded(str(Path(weights).expanduser()), DINOV2_URL)
        try:
            self.net: DinoV2ViT = DinoV2ViT.from_state(state)
        except (KeyError, IndexError, ValueError, RuntimeError) as error:
            raise WeightsUnavailable(
                _unavailable(
                    weights, DINOV2_URL, "not the weights of a DINOv2 ViT-S, B or L without registers"
                )
            ) from error
        self.num_features = self.net.width
        self.net.requires_grad_(False)

    def preprocess(self, images: Tensor) -> Tensor:
        x = with_channels(images, 3, "DINOv2").to(torch.float32)
        x = F.interpolate(x, (224, 224), mode="bicubic", antialias=True).round_().clamp_(0, 255) / 255
        mean, std = (torch.tensor(v, device=x.device).view(3, 1, 1) for v in (IMAGENET_MEAN, IMAGENET_STD))
        return (x - mean) / std

    def embed(self, x: Tensor) -> Tensor:
        return self.net(x)


@contextmanager
def _tensors_only(published: Any) -> Iterator[None]:
    """Inside, torch-fidelity runs nothing of what it downloads."""
    download = published.load_state_dict_from_url
    published.load_state_dict_from_url = partial(download, weights_only=True)
    try:
        yield
    finally:
        published.load_state_dict_from_url = download


def _safely_loaded(path: str, url: str) -> Any:
    """A state dict from a file that may hold nothing but tensors."""
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise WeightsUnavailable(_unavailable(path, url, _why(error))) from error
    except Exception as error:  # whatever torch.load raises on arbitrary bytes
        raise WeightsUnavailable(_unavailable(path, url, "not a whole file of weights")) from error
    if not isinstance(state, dict) or not all(isinstance(x, Tensor) for x in state.values()):
        raise WeightsUnavailable(_unavailable(path, url, "not a dictionary of tensors"))
    return state


def _unavailable(weights: str | None, url: str, why: str) -> str:
    if weights is None:
        return f"extractor.weights = null: downloading {url} failed ({why}); fetch it and give extractor.weights=PATH"
    return f"extractor.weights = {weights}: {why}; give the path of the file that {url} is"


def _why(error: Exception) -> str:
    reason = getattr(error, "reason", None) or getattr(error, "strerror", None) or error
    return (str(reason) or type(error).__name__).splitlines()[0]
