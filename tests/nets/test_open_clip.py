"""A published CLIP behind our interface: what its library gives for what its library would be given."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from unclip.data.embeddings import image_features, text_features
from unclip.data.fingerprint import module_fingerprint
from unclip.evaluate.extractors import check_independent
from unclip.evaluate.pretrained import OpenClipJudge
from unclip.nets.open_clip import OpenClip

library = pytest.importorskip("open_clip")
TINY = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": 32, "layers": 1, "width": 32, "head_width": 16, "patch_size": 16},
    "text_cfg": {"context_length": 24, "vocab_size": 49408, "width": 48, "heads": 2, "layers": 1},
}
CAPTIONS = ["a bag", "An image of a t-shirt/top", "wow !!!! a !", "", "a long dress " * 20]


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> OpenClip:
    """Of one layer, with random weights."""
    path = tmp_path_factory.mktemp("models") / "tiny-net.json"
    path.write_text(json.dumps(TINY))
    library.add_model_config(path)
    return OpenClip("tiny-net")


def test_captions_are_encoded_as_the_library_does(clip: OpenClip, capsys: pytest.CaptureFixture[str]) -> None:
    ids = clip.tokenizer.encode(CAPTIONS)
    theirs = library.get_tokenizer("tiny-net")(CAPTIONS)
    assert torch.equal(
        ids > 0, (theirs == 49407).cumsum(1) - (theirs == 49407).long() == 0
    )  # up to the first end
    expected = clip.model.encode_text(theirs, normalize=True)
    assert torch.equal(clip.encode_text(ids).embedding, expected)
    assert "1 caption(s) truncated to 22 tokens by length=24" in capsys.readouterr().err
    assert clip.tokenizer.decode(ids)[:3] == ["a bag", "an image of a t - shirt / top", "wow !!!! a !"]


def test_a_caption_is_the_same_beside_any_other(clip: OpenClip) -> None:
    """Shorter batches have fewer columns; the tower reads all of its context whatever it is given."""
    alone = text_features(clip, clip.tokenizer, CAPTIONS[:1])
    beside = text_features(clip, clip.tokenizer, CAPTIONS)
    length = alone["tokens"].shape[1]
    assert length == 4  # start, a, bag, end
    assert alone["text"].norm(dim=1).item() == pytest.approx(1)
    torch.testing.assert_close(alone["text"], beside["text"][:1])
    torch.testing.assert_close(alone["tokens"], beside["tokens"][:1, :length])
    assert alone["tokens"].shape[2] == clip.token_width == 48
    assert beside["token_mask"].sum(1).tolist() == [4, 11, 6, 2, 24]


@pytest.mark.parametrize(("channels", "size"), [(3, 32), (3, 20), (1, 64)])
def test_images_are_encoded_as_by_the_librarys_own_preprocessing(
    clip: OpenClip, channels: int, size: int
) -> None:
    from torchvision.transforms.functional import to_pil_image

    smooth = torch.nn.functional.interpolate(
        torch.rand(4, channels, 4, 4, generator=torch.Generator().manual_seed(0)),
        (size, size),
        mode="bilinear",
    )
    images = (smooth * 255).round().to(torch.uint8)
    preprocess = library.transform.image_transform_v2(
        library.transform.PreprocessCfg(**clip.model.visual.preprocess_cfg), is_train=False
    )
    theirs = torch.stack([preprocess(to_pil_image(image)) for image in images])
    ours = clip.image.preprocess(images / 127.5 - 1)
    assert (ours - theirs).abs().max() < (1e-5 if size == 32 else 2.1 / 255 / 0.26)  # PIL rounds, twice
    expected = clip.model.encode_image(theirs, normalize=True)
    found = image_features(clip, images)["image"]
    torch.testing.assert_close(found.norm(dim=1), torch.ones(4))
    assert (found * expected).sum(1).min() > 0.999
    assert found.shape == (4, clip.embedding_dim)


def test_random_weights_are_the_same_ones_always_and_files_are_read(clip: OpenClip, tmp_path: Path) -> None:
    assert module_fingerprint(OpenClip("tiny-net")) == module_fingerprint(clip)
    torch.save({name: x + 0.01 for name, x in clip.model.state_dict().items()}, tmp_path / "w.pt")
    other = OpenClip("tiny-net", str(tmp_path / "w.pt"))
    torch.testing.assert_close(other.model.text_projection, clip.model.text_projection + 0.01)


def test_as_a_judge_it_is_never_the_one_that_conditions(clip: OpenClip) -> None:
    judge = OpenClipJudge("tiny-net")
    images = torch.randint(0, 256, (3, 1, 28, 28), dtype=torch.uint8)
    torch.testing.assert_close(judge.features(images).float(), image_features(clip, images)["image"])
    assert judge.text(["a bag"]).shape == (1, judge.num_features)
    with pytest.raises(ValueError, match="possible: a CLIP of another seed"):
        check_independent(judge, clip)


def test_what_cannot_be_had_is_one_line(
    clip: OpenClip, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    damaged = tmp_path / "damaged.pt"
    damaged.write_bytes(b"no weights")

    def offline(*_: object, **__: object) -> None:
        raise RuntimeError("no route to host\nand a page about it")

    monkeypatch.setattr(library.factory, "download_pretrained", offline)
    for name, weights, line in (
        (
            "ViT-B-32",
            "openai",
            r"its weights cannot be had \(.*no route to host\): fetch them .* clip=.*:PATH",
        ),
        ("ViT-B-32", "opennai", "no such weights; possible: openai, .* or the path of a file"),
        ("ViT-B-33", None, "open_clip has no such model"),
        ("tiny-net", str(damaged), "not weights of this model"),
    ):
        with pytest.raises(ValueError, match=line) as raised:
            OpenClip(name, weights)
        assert "\n" not in str(raised.value)
    with pytest.raises(ValueError, match="images of 2 channels"):
        clip.encode_image(torch.zeros(1, 2, 8, 8))
