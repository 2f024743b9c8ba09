"""What a plan says, against sums that can be done by hand; what is counted without data, against the same with it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from torch import nn

from unclip.bench import plan
from unclip.bench.counts import ALWAYS, counts, made, step
from unclip.bench.plan import AGAIN, AHEAD, CAST, GATHERED, STATE, calibrated, exchanged, of_stage
from unclip.config.compose import compose

ASKED: dict[str, Any] = {
    "pairs": 10_000, "epochs": None, "gpus": 8, "gpus_per_node": 8, "strategy": "auto", "peak": 1e12, "mfu": 0.5,
    "memory": 1e12, "filled": 1.0, "link": 1e18, "network": 1e18, "overlap": 0.5, "decode": 1e18, "loaders": 1,
    "jpeg": 8.0, "caption": 100, "storage": 1e18, "writer": 1e9, "host": 1e12, "vocabulary": 300, "context": 16,
    "calibrate": [],
}  # fmt: skip
STAGE = {"batch": 64, "steps": 100}
NET: dict[str, Any] = {
    "stage": "decoder", "parameters": 1_000_000, "largest": 100_000, "rest": 50_000, "flop": 1e9,
    "forward_flop": 0.3e9, "activations": 1e6, "recomputed": 2e5, "image_size": 32, "values": 3072,
}  # fmt: skip
FIXED = 4 * 64 * 3072  # noise of the whole batch
KNOWN = {"vocabulary": 300, "context_length": 16, "embedding_dim": 32, "token_width": 48}


def row(net: dict[str, Any] | None = None, stage: dict[str, Any] | None = None, **asked: Any) -> Any:
    return of_stage("decoder", {**STAGE, **(stage or {})}, {**NET, **(net or {})}, {**ASKED, **asked})


def test_a_step_takes_its_flop_at_the_share_of_the_peak_that_is_reached() -> None:
    found = row()
    assert found["step"] == found["compute"] == pytest.approx(64 / 8 * 1e9 / 0.5e12)
    assert found["seconds"] == pytest.approx(100 * found["step"])
    assert row(gpus=16)["step"] == pytest.approx(found["step"] / 2)
    assert row(mfu=0.25)["step"] == pytest.approx(2 * found["step"])
    assert row(epochs=3)["steps"] == pytest.approx(3 * 10_000 / 64)


def test_a_ring_moves_each_gradient_there_and_back() -> None:
    assert exchanged(1000, 1, False) == exchanged(1000, 1, True) == 0
    assert exchanged(1000, 4, False) == 2 * 4 * 1000 * 3 / 4
    assert exchanged(1000, 4, True, pieces=3) == 3 * exchanged(1000, 4, True) == 3 * 8 * 1000 * 3 / 4


def test_what_travels_beside_computing_is_not_waited_for() -> None:
    """Beyond half the computing, which is what ASKED says may hide it; between nodes at their network's pace."""
    compute, moved = row()["compute"], exchanged(1_000_000, 8, False)
    for travel in (0.4 * compute, 2 * compute):
        found = row(link=moved / travel)
        assert found["travel"] == pytest.approx(travel)
        assert found["exposed"] == pytest.approx(max(0, travel - 0.5 * compute))
        assert found["step"] == pytest.approx(compute + found["exposed"])
    assert row(link=1.0, network=1e18, gpus_per_node=4)["exposed"] == 0


def test_a_step_takes_as_long_as_loading_where_that_takes_longer() -> None:
    assert row(decode=1e5)["step"] == pytest.approx(8 * 32**2 / 1e5)
    assert row(decode=1e5, loaders=4)["step"] == pytest.approx(8 * 32**2 / 4e5)
    stored = 32**2 + 100  # eight bits a pixel, and the caption
    assert row(storage=1e6)["step"] == pytest.approx(64 * stored / 1e6)
    assert row()["stored_bytes"] == stored * 10_000


def test_the_fastest_way_that_fits_is_taken() -> None:
    """Where exchanging costs nothing: as it is, else sharded, in pieces, and only then with blocks computed again."""
    whole = (STATE + CAST) * 1e6 + FIXED
    shares = STATE * 1e6 / 8 + GATHERED * (50_000 + AHEAD * 100_000) + FIXED
    for room, sharded, recomputed, pieces in (
        (whole + 8e6, False, False, 1),
        (whole + 8e6 - 1, True, False, 1),
        (shares + 8e6 - 1, True, False, 2),
        (shares + 1e6, True, False, 8),
        (shares + 1e6 - 1, True, True, 2),
    ):
        found = row(memory=room)
        assert (found["sharded"], found["recomputed"], found["pieces"]) == (sharded, recomputed, pieces)
        assert found["memory"] <= room
    assert row(memory=whole + 8e6 - 1, strategy="ddp")["pieces"] == 2
    assert row(memory=shares)["pieces"] is None


def test_blocks_that_are_computed_again_take_a_third_more() -> None:
    found = row({"activations": 1e9}, memory=(STATE + CAST) * 1e6 + FIXED + 8 * 2e5, strategy="ddp")
    assert found["recomputed"]
    assert found["compute"] == pytest.approx(AGAIN * row()["compute"])


def test_a_contrastive_batch_is_in_one_piece_and_every_gpu_has_all_its_pairs() -> None:
    clip = {"stage": "clip", "embedding": 32}
    assert row(clip)["fixed_bytes"] == 4 * 4 * 64**2
    tight = row()["memory"] - 1e6
    assert row({"recomputed": 1e6}, memory=tight, strategy="ddp")["pieces"] > 1
    assert row({**clip, "recomputed": 1e6}, memory=tight, strategy="ddp")["pieces"] is None


def test_a_batch_that_the_gpus_do_not_divide_is_refused() -> None:
    with pytest.raises(ValueError, match=r"stages\.decoder\.batch = 65: must be divisible by gpus = 8"):
        row(stage={"batch": 65})


def test_measurements_take_the_place_of_assumptions(tmp_path: Path) -> None:
    training, exchange = tmp_path / "training.json", tmp_path / "exchange.json"
    table = {"rows": [{"share": 0.31}], "peak": {"product": {"flops": 7e14}}}
    training.write_text(json.dumps({"bench": "training", "tables": [table]}))
    exchange.write_text(json.dumps({"bench": "exchange", "nodes": 2, "bandwidth": 3e10}))
    names = [str(training), str(exchange)]
    found, sources = calibrated({**ASKED, "calibrate": names})
    assert (found["mfu"], found["peak"], found["network"]) == (0.31, 7e14, 3e10)
    assert found["link"] == ASKED["link"]
    assert sources == {"mfu": names[0], "peak": names[0], "network": names[1]}
    exchange.write_text("{}")
    with pytest.raises(ValueError, match=r"exchange\.json: is no bench\.json of"):
        calibrated({**ASKED, "calibrate": names})


def config(*overrides: str) -> dict[str, Any]:
    return compose("train", [*ALWAYS, *overrides]).config


SMALL = {
    "clip": config("stage=clip", "model=clip/small", "data.image_size=16", "model.dropout=0"),
    "decoder": config("stage=decoder", "model=decoder/small", "data.image_size=16", "model.dropout=0"),
    "upsampler": config("stage=upsampler", "model=upsampler/small", "data.image_size=32", "stage.crop=0.5"),
}


@pytest.mark.parametrize("name", SMALL)
def test_tensors_without_data_are_counted_as_those_with_it(name: str) -> None:
    net = made(SMALL[name], KNOWN)
    one, two = (step(SMALL[name], net, KNOWN, samples) for samples in (1, 2))
    found = counts(SMALL[name], KNOWN)
    assert found["parameters"] == sum(p.numel() for p in net.parameters())
    for key in ("flop", "forward_flop"):
        assert found[key] == two[key] - one[key] > 0
    for key in ("activations", "recomputed"):  # in real memory some begin at multiples of 64 bytes
        assert found[key] == pytest.approx(two[key] - one[key], rel=0.01)
    assert found["recomputed"] < found["activations"]
    assert found["largest"] + found["rest"] < found["parameters"]


def test_flop_of_a_transformer_are_two_a_weight_and_token_and_those_of_attention() -> None:
    own = config("stage=prior", "model=prior/small", "model.dropout=0")
    net, L, W = made(own, KNOWN), KNOWN["context_length"], own["model"]["width"]
    N = L + 4
    linear = {n: m.weight.numel() for n, m in net.named_modules() if isinstance(m, nn.Linear)}
    tokens = {name: N if "blocks" in name else L if name == "from_tokens" else 1 for name in linear}
    forward = sum(2 * size * tokens[name] for name, size in linear.items())
    forward += own["model"]["layers"] * 4 * N**2 * W
    found = counts(own, KNOWN)
    assert found["forward_flop"] == forward
    assert found["flop"] == pytest.approx(3 * forward, rel=0.02)  # inputs have no gradients
    assert found["values"] == KNOWN["embedding_dim"]
    assert plan.bytes_of_pair(found, ASKED) == 4 * 32 + 100


def test_a_stage_that_is_not_of_unclip_is_refused() -> None:
    with pytest.raises(ValueError, match="stage = classifier: a plan is of clip, prior, decoder, upsampler"):
        counts(config("stage=classifier"), {**KNOWN, "num_classes": 2})


@pytest.mark.slow
def test_a_decoder_of_three_billion_parameters_is_counted_in_no_memory() -> None:
    own = config("stage=decoder", "model=decoder/paper", "stage.loss=hybrid", "data.image_size=64")
    found = counts(own, {**KNOWN, "embedding_dim": 1024, "token_width": 1280, "context_length": 77})
    assert found["parameters"] == pytest.approx(3.5e9, rel=0.15)
