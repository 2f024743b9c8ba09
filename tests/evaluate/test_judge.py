"""The numbers of pictures at the edges: few held-out images, more reference images than samples, a class nobody has."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

from unclip.data.synthetic import Synthetic
from unclip.evaluate import judge
from unclip.evaluate.extractors import RandomNetwork
from unclip.evaluate.seen import Reference, Seen
from unclip.report import evaluation, table

DATA = Synthetic(size=200, image_size=16)
REAL, TEST, SAMPLES = (DATA.split(name).images for name in ("train", "test", "validation"))


def reference(held_out: int) -> Reference:
    extractor = RandomNetwork()
    others = Seen(TEST[:held_out], extractor) if held_out else None
    return Reference(Seen(REAL, extractor), others, REAL, "first training images", "real test images")


@pytest.mark.parametrize("held_out", [0, 2, 3, 5, 6])
def test_few_held_out_images_lower_k_for_samples_and_floor_alike(held_out: int) -> None:
    names = ["fd", "kid", "prdc", "memorisation", "brightness"]
    found = judge.pictures(names, Seen(SAMPLES, RandomNetwork()), reference(held_out), judge.Settings())
    assert found["prdc"]["k"] == (min(5, held_out - 1) if held_out else 5)
    assert found["prdc"]["floor_n"] == held_out
    assert (found["prdc"]["floor"] is None) == (held_out == 0)
    assert table.rows(found)


def test_precision_and_recall_say_how_many_real_images_they_were_measured_against() -> None:
    found = judge.pictures(["fd", "prdc"], Seen(SAMPLES, RandomNetwork()), reference(9), judge.Settings())
    assert (found["fd"]["reference"], found["fd"]["reference_n"]) == ("first training images", len(REAL))
    said = f"{len(SAMPLES)} of the first training images"
    assert (found["prdc"]["reference"], found["prdc"]["reference_n"]) == (said, len(SAMPLES))


class Brightest(RandomNetwork):
    """Sees the class of the brightest quarter of the classes' grey levels."""

    def logits(self, images: Tensor) -> Tensor:
        level = images.double().mean((1, 2, 3)) / 64
        return -(level[:, None] - torch.arange(4) - 0.5).abs()


def test_a_class_without_real_test_images_has_no_accuracy_rather_than_none_right() -> None:
    grey = torch.arange(4, dtype=torch.uint8).mul(64).add(32).view(4, 1, 1, 1).expand(4, 1, 4, 4)
    names = tuple("abcd")
    asked = judge.Asked(
        torch.arange(4), names, names, torch.arange(4), Seen(grey[:3], Brightest()), torch.tensor([0, 1, 1])
    )
    found = judge.prompt_consistency(Seen(grey, Brightest()), asked)
    assert found["value"] == 1
    assert found["real_per_caption"] == {"a": 1.0, "b": 0.5, "c": None, "d": None}
    assert [bar["real"] for bar in evaluation._bars(found)] == [1.0, 0.5, None, None]


def test_a_caption_is_retrieved_by_what_lies_nearest() -> None:
    text = torch.eye(3, dtype=torch.float64)
    extractor = SimpleNamespace(text=lambda captions: text[: len(captions)], fingerprint="0" * 64)
    seen = Seen(torch.zeros(4, 1, 1, 1), extractor, known=text[[0, 1, 2, 2]])  # type: ignore[arg-type]
    asked = judge.Asked(torch.tensor([0, 1, 2, 0]), tuple("abc"), (), torch.zeros(0), seen, torch.zeros(0))
    found = judge.prompt_retrieval(seen, asked)
    assert (found["value"], found["n"], found["captions"]) == (0.75, 4, 3)
