"""The drawn data set: deterministic, balanced, and its captions true."""

import torch

from unclip.data.synthetic import Synthetic


def test_the_same_arguments_give_the_same_images_whatever_the_global_seed():
    torch.manual_seed(1)
    one = Synthetic(64)
    expected = one.fingerprint
    torch.manual_seed(2)
    assert Synthetic(64, seed=5).fingerprint == expected
    assert Synthetic(64, channels=3).fingerprint != expected
    assert (
        one.split("train").fingerprint != one.split("validation").fingerprint != one.split("test").fingerprint
    )


def test_captions_are_balanced_and_name_the_class():
    split = Synthetic(96).split("train")
    assert split.caption_ids.bincount().tolist() == [12] * 8
    for caption, label in zip(split.caption_ids.tolist(), split.labels.tolist(), strict=True):
        assert split.captions[caption].split()[2] == split.class_names[label]


def test_hollow_shapes_are_black_inside_and_solid_ones_are_not():
    split = Synthetic(256, image_size=64).split("train")
    bright = (split.images[:, 0] > 0).float()
    rows, columns = torch.arange(64.0), torch.arange(64.0)
    for image, caption in zip(bright, split.caption_ids.tolist(), strict=True):
        y = int((image.sum(1) @ rows / image.sum()).round())
        x = int((image.sum(0) @ columns / image.sum()).round())
        assert bool(image[y, x]) == split.captions[caption].startswith("a solid")
