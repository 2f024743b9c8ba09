"""Extractors with weights from elsewhere, on weights made on the spot: each loads its file format, and computes what
another implementation computes from the same numbers."""

from functools import partial
from urllib.error import URLError

import pytest
import torch
from safetensors.torch import save_file
from tests.conftest import SMALL
from torch import nn
from torch_fidelity import feature_extractor_inceptionv3 as published
from torchvision.models import VisionTransformer

from unclip import build
from unclip.config.compose import compose
from unclip.config.problems import Problems
from unclip.data.images import to_float
from unclip.data.synthetic import Synthetic
from unclip.data.tokenizer import ByteTokenizer
from unclip.evaluate.extractors import check_independent
from unclip.evaluate.pretrained import DinoV2, EvaluationClip, Inception, WeightsUnavailable
from unclip.nets.clip import CLIP
from unclip.nets.dinov2 import DinoV2ViT
from unclip.runs.store import Run


@pytest.fixture(scope="module")
def grey():
    return torch.randint(
        0, 256, (3, 1, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
    )


@pytest.fixture(scope="module")
def net():
    """torch-fidelity's network before it has read its weights."""

    class Untrained(published.FeatureExtractorInceptionV3):
        def load_state_dict(self, *_):
            pass

    torch.manual_seed(0)
    original, published.load_state_dict_from_url = published.load_state_dict_from_url, lambda *_, **__: {}
    try:
        net = Untrained("untrained", ["2048"])
    finally:
        published.load_state_dict_from_url = original
    for part in net.modules():
        if isinstance(part, nn.Conv2d):
            nn.init.kaiming_normal_(part.weight)  # PyTorch's own fades out over so many layers
    return net


@pytest.fixture(scope="module")
def path(net, tmp_path_factory):
    path = tmp_path_factory.mktemp("inception") / "weights.pth"
    torch.save(net.state_dict(), path)
    return path


class TestInception:
    def test_a_file_gives_torch_fidelitys_features(self, net, path, grey):
        extractor = Inception(str(path))
        found = extractor.features(grey)
        assert found.dtype == torch.float64
        assert found.shape == (3, extractor.num_features)
        assert torch.equal(found.float(), net(grey.repeat(1, 3, 1, 1))[0])
        assert found.std(0).mean() > 1e-2
        assert torch.equal(extractor.features(grey.repeat(1, 3, 1, 1)), found)

    def test_its_own_download_gives_the_same(self, net, path, grey, monkeypatch):
        asked = []
        monkeypatch.setattr(
            published, "load_state_dict_from_url", lambda url, **_: asked.append(url) or net.state_dict()
        )
        downloaded = Inception()
        assert asked == [published.URL_INCEPTION_V3]
        assert downloaded.fingerprint == Inception(str(path)).fingerprint

    def test_neither_path_nor_download_is_one_line_that_names_both(self, monkeypatch):
        def unreachable(*_, **__):
            raise URLError("Name or service not known")

        monkeypatch.setattr(published, "load_state_dict_from_url", unreachable)
        with pytest.raises(WeightsUnavailable) as error:
            Inception()
        message = str(error.value)
        assert published.URL_INCEPTION_V3 in message
        assert "extractor.weights=PATH" in message
        assert "Name or service not known" in message
        assert "\n" not in message

    def test_what_is_no_file_of_it_is_refused(self, tmp_path):
        other, damaged, popped = (tmp_path / f"{name}.pth" for name in ("other", "damaged", "popped"))
        torch.save({"fc.weight": torch.zeros(3)}, other)
        damaged.write_bytes(b"PK\x03\x04 half of something")
        popped.write_bytes(b"u.")  # sets the items of a dictionary that was never begun
        for path, why in (
            (tmp_path / "none.pth", "No such file"),
            (other, "not the weights of this network"),
            (damaged, "not a whole file of weights"),
            (popped, "not a whole file of weights"),
        ):
            with pytest.raises(WeightsUnavailable) as error:
                Inception(str(path))
            assert str(error.value).startswith(f"extractor.weights = {path}: {why}")
            assert published.URL_INCEPTION_V3 in str(error.value)

    def test_a_file_that_would_run_code_is_not_run(self, tmp_path):
        torch.save({"fc.weight": partial(print, "executed")}, tmp_path / "evil.pth")
        with pytest.raises(WeightsUnavailable, match="not a whole file of weights"):
            Inception(str(tmp_path / "evil.pth"))


def torchvisions(side, layers=2, heads=2):
    """Another implementation of the same transformer, without layer scale, with nothing left at its initial zero."""
    torch.manual_seed(0)
    net = VisionTransformer(14 * side, 14, layers, heads, 64 * heads, 256).eval()
    for parameter in net.parameters():
        nn.init.normal_(parameter, std=0.1)
    net.heads = nn.Identity()
    return net


def as_published(net):
    """The state of torchvision's transformer under DINOv2's names; layer scales are drawn, and divided out of what
    they multiply."""
    state = {
        "cls_token": net.class_token,
        "pos_embed": net.encoder.pos_embedding,
        "mask_token": torch.zeros(1, net.hidden_dim),
        "patch_embed.proj.weight": net.conv_proj.weight,
        "patch_embed.proj.bias": net.conv_proj.bias,
        "norm.weight": net.encoder.ln.weight,
        "norm.bias": net.encoder.ln.bias,
    }
    for i, block in enumerate(net.encoder.layers):
        scale1, scale2 = torch.rand(2, net.hidden_dim) + 0.1
        parts = {
            "norm1.weight": block.ln_1.weight, "norm1.bias": block.ln_1.bias,
            "attn.qkv.weight": block.self_attention.in_proj_weight, "attn.qkv.bias": block.self_attention.in_proj_bias,
            "attn.proj.weight": block.self_attention.out_proj.weight / scale1[:, None],
            "attn.proj.bias": block.self_attention.out_proj.bias / scale1,
            "ls1.gamma": scale1,
            "norm2.weight": block.ln_2.weight, "norm2.bias": block.ln_2.bias,
            "mlp.fc1.weight": block.mlp[0].weight, "mlp.fc1.bias": block.mlp[0].bias,
            "mlp.fc2.weight": block.mlp[3].weight / scale2[:, None], "mlp.fc2.bias": block.mlp[3].bias / scale2,
            "ls2.gamma": scale2,
        }  # fmt: skip
        state |= {f"blocks.{i}.{name}": x for name, x in parts.items()}
    return {name: x.detach() for name, x in state.items()}


class TestDinoV2:
    def test_it_computes_what_torchvisions_transformer_computes(self, tmp_path, grey):
        other = torchvisions(side=16)  # of 224 pixels: positions are used as they are
        torch.save(as_published(other), tmp_path / "weights.pth")
        extractor = DinoV2(str(tmp_path / "weights.pth"))
        with torch.no_grad():
            expected = other(extractor.preprocess(grey))
        found = extractor.features(grey)
        assert found.shape == (3, extractor.num_features) == (3, 128)
        torch.testing.assert_close(found.float(), expected, rtol=1e-4, atol=1e-5)
        assert expected.std(0).mean() > 1e-3

    def test_positions_of_another_grid_are_resized_as_published(self):
        net = DinoV2ViT.from_state(
            as_published(torchvisions(side=37))
        )  # of 518 pixels, as the published files
        found = net.positions(16, 16)
        assert torch.equal(found[:, 0], net.pos_embed[:, 0])
        # bicubic at scale 16.1 / 37: place i reads the weights' grid at (i + 1/2) 37 / 16.1 - 1/2
        ramp = torch.arange(37.0).repeat(37)
        with torch.no_grad():
            net.pos_embed[0, 1:] = ramp.unsqueeze(1)
        read = net.positions(16, 16)[0, 1:].view(16, 16, -1)[:, 1:-1, 0]
        places = (torch.arange(16) + 0.5) * 37 / 16.1 - 0.5
        # inside, PyTorch's cubic keeps a line to 0.05; without the offset the last would be read 0.2 away
        torch.testing.assert_close(read, places[1:-1].expand(16, -1), rtol=0, atol=0.06)

    def test_pixels_are_scaled_as_imagenets(self, tmp_path):
        torch.save(as_published(torchvisions(side=16, layers=1)), tmp_path / "weights.pth")
        x = DinoV2(str(tmp_path / "weights.pth")).preprocess(
            torch.full((1, 1, 28, 28), 51, dtype=torch.uint8)
        )
        expected = [(0.2 - mean) / std for mean, std in ((0.485, 0.229), (0.456, 0.224), (0.406, 0.225))]
        torch.testing.assert_close(x, torch.tensor(expected).view(1, 3, 1, 1).expand(1, 3, 224, 224))

    def test_what_is_no_file_of_it_is_refused(self, tmp_path):
        state = as_published(torchvisions(side=16, layers=1))
        torch.save({**state, "register_tokens": torch.zeros(1, 4, 128)}, tmp_path / "registers.pth")
        torch.save({}, tmp_path / "empty.pth")
        for name, why in (
            ("registers.pth", "without registers"),
            ("empty.pth", "without registers"),
            ("none.pth", "No such file"),
        ):
            with pytest.raises(
                WeightsUnavailable, match=f"{name}: .*{why}.*give the path of the file that https://"
            ):
                DinoV2(str(tmp_path / name))


@pytest.fixture(scope="module")
def clip():
    torch.manual_seed(0)
    return CLIP(
        32, 1, 256, 64, embedding_dim=8, width=16, image_layers=1, text_layers=1, heads=2, dropout=0.5
    )


class TestEvaluationClip:
    def test_features_and_text_are_the_towers(self, clip, grey):
        judge = EvaluationClip(clip, 32, 1)
        clip.train()
        found = judge.features(grey)
        clip.eval()
        with torch.no_grad():
            torch.testing.assert_close(found.float(), clip.encode_image(to_float(grey)))
            text = clip.encode_text(ByteTokenizer().encode(["a bag", "a coat"])).embedding
        torch.testing.assert_close(judge.text(["a bag", "a coat"]).float(), text)
        torch.testing.assert_close(judge.features(grey[:, :, 2:30, 2:30]), judge.features(
            nn.functional.pad(grey[:, :, 2:30, 2:30], (2, 2, 2, 2))))  # fmt: skip

    def test_the_conditioning_clip_is_no_judge_whatever_its_settings(self, clip):
        judge = EvaluationClip(clip, 32, 1)
        sizes = {"embedding_dim": 8, "width": 16, "image_layers": 1, "text_layers": 1, "heads": 2}
        same, other = (CLIP(32, 1, 256, 64, dropout=0.0, **sizes) for _ in range(2))
        same.load_state_dict(clip.state_dict())
        check_independent(judge, other)
        with pytest.raises(
            ValueError, match="extractor = clip: its weights are those of the CLIP that conditions"
        ):
            check_independent(judge, same)

    def test_a_finished_run_is_a_judge_by_folder_and_by_signature(self, tmp_path):
        config = compose("train", [*SMALL["clip"], f"paths.outputs={tmp_path}"]).config
        source = build.data(config)
        net = build.net(config, source).eval()
        run = Run.of(config, "default")
        run.prepare(config, "")
        save_file(net.state_dict(), run.weights)
        with pytest.raises(Problems, match="not finished"):
            build.evaluation_clip(run.signature, str(tmp_path))
        run.mark("finished")
        images = source.split("test").images
        with torch.no_grad():
            expected = net.encode_image(to_float(images)).double()
        for named in (run.signature, str(run.folder)):
            node = compose(
                "train",
                ["stage=decoder", "extractor=clip", f"extractor.run={named}", f"paths.outputs={tmp_path}"],
            ).config["extractor"]
            torch.testing.assert_close(build.part(node).features(images), expected, rtol=1e-5, atol=1e-6)

    def test_a_run_of_another_stage_is_no_clip(self, tmp_path):
        config = compose("train", [*SMALL["prior"], f"paths.outputs={tmp_path}"]).config
        run = Run.of(config, "default")
        run.prepare(config, "")
        save_file({"x": torch.zeros(1)}, run.weights)
        run.mark("finished")
        with pytest.raises(Problems, match="is a run of stage prior; a judge is a CLIP"):
            build.evaluation_clip(run.signature, str(tmp_path))


def test_data_sets_are_found_by_their_names():
    found = build.named_data("synthetic").split("test").images
    assert torch.equal(found, Synthetic(512).split("test").images)
    with pytest.raises(Problems, match="no_such_data"):
        build.named_data("no_such_data")
