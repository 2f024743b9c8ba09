"""What benchmarks stand on: turns, counted FLOP and bytes, the tutorial's twin of our decoder, tables."""

from __future__ import annotations

import time

import pytest
import torch
from torch import nn

from unclip.bench import fit, prior, training
from unclip.bench.machine import Peak, described
from unclip.bench.measure import Absent, Contest, Way, compared, looped
from unclip.bench.memory import Memory
from unclip.bench.peers import of_size, peers
from unclip.bench.tables import cells, figure, markdown, plain
from unclip.bench.tutorial import TutorialDecoder, TutorialTraining
from unclip.diffusion import Discrete
from unclip.diffusion.betas import cosine_betas
from unclip.nets.decoder import DecoderNet

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def small_peak(monkeypatch):
    """Matrices and copies that take no time."""
    monkeypatch.setattr("unclip.bench.machine.SIDE", {"cpu": 64})
    monkeypatch.setattr("unclip.bench.machine.COPIED", {"cpu": 1 << 16})


def test_ways_take_turns_forth_and_back_and_the_slower_one_is_said_to_be_slower():
    turns: list[str] = []

    def sleeper(name: str, seconds: float) -> Way:
        def run(steps: int) -> float:
            turns.append(name)
            time.sleep(seconds * steps)
            return seconds * steps

        return Way(name, run, items=10)

    contest = Contest(CPU, rounds=4, seconds=0.0, counts=False)
    contest.enter(lambda: sleeper("ours", 0.001))
    contest.enter(lambda: sleeper("theirs", 0.003))
    contest.enter(lambda: Absent("nobody's", "not installed: pip install it"))
    result = contest.measured()
    assert turns[-8:] == ["ours", "theirs", "theirs", "ours"] * 2
    ours, theirs, absent = result["rows"]
    assert (ours["rate"], ours["times"]) == (pytest.approx(10_000), pytest.approx(1))
    assert (theirs["rate"], theirs["times"]) == (pytest.approx(10 / 0.003), pytest.approx(3))
    assert absent == {"name": "nobody's", "absent": "not installed: pip install it"}


def test_the_ratio_is_of_rounds_so_that_a_machine_that_slows_down_does_not_change_it():
    ours, theirs = [1.0, 2.0, 4.0, 8.0, 16.0], [3.0, 6.0, 12.0, 24.0, 48.0]
    row = compared(theirs, 2, [s / 2 for s in ours])
    assert row["times"] == 3
    assert (row["rate"], row["low"], row["high"]) == (2 / 12, 2 / 48, 2 / 3)


def test_attention_counts_as_the_products_that_it_is_and_settling_steps_are_taken_off():
    q = torch.randn(2, 3, 16, 8, requires_grad=True)

    def step() -> None:
        nn.functional.scaled_dot_product_attention(q, q, q).sum().backward()

    contest = Contest(CPU, rounds=1, seconds=0.0)
    contest.enter(lambda: looped("once", step, CPU, items=2))
    contest.enter(lambda: Way("settled", lambda n: [step() for _ in range(n + 2)] and 1.0, 2, settling=2))
    products = 2 * (2 * 3) * 16 * 16 * 8 * 2  # q k and its product with v, two operations an entry
    assert [row["flop"] for row in contest.rows] == [3 * products / 2] * 2  # backward is twice as much


def test_memory_is_what_tensors_take_at_most_and_what_is_left():
    with Memory(CPU) as memory:
        kept = torch.zeros(1000)
        torch.zeros(5000).sum()
    assert memory.held == pytest.approx(4 * len(kept), abs=256)
    assert memory.peak == pytest.approx(4 * 6000, abs=512)


def test_a_net_of_nearly_as_many_parameters_is_found():
    found = of_size(lambda width: nn.Linear(width, width, bias=False), 40_000)
    assert found.in_features == 200


def small(caption_layers: int, unshuffle: int = 1) -> dict[str, object]:
    return {
        "unshuffle": unshuffle,
        "image_channels": 1,
        "embedding_dim": 12,
        "token_width": 10,
        "channels": 8,
        "multipliers": [1, 2, 3],
        "blocks": 2,
        "attention": [1],
        "heads": 2,
        "groups": 4,
        "dropout": 0.0,
        "cond_width": 16,
        "image_tokens": 3,
        "caption_layers": caption_layers,
    }


@pytest.mark.parametrize(("caption_layers", "unshuffle"), [(0, 2), (2, 1)])
def test_the_tutorial_computes_what_our_decoder_computes(caption_layers: int, unshuffle: int):
    """The same weights in the same order give the same output: so the benchmark compares forms, not functions."""
    torch.manual_seed(0)
    settings = small(caption_layers, unshuffle)
    ours, theirs = DecoderNet(image_size=16, **settings).eval(), TutorialDecoder(**settings).eval()
    pairs = [
        ("time", "told.time"),
        ("embedding.null", "told.null_embedding"),
        ("embedding.to_vector", "told.to_vector"),
    ]
    pairs += [("embedding.to_tokens", "told.to_tokens"), ("unet.first", "first"), ("unet.down", "down")]
    pairs += [("unet.middle", "middle"), ("unet.up", "up"), ("unet.last.0", "last_norm")]
    pairs += [("unet.last.2", "last")]
    if caption_layers:
        pairs += [("caption.null", "told.null_token"), ("caption.project", "told.project")]
        pairs += [
            ("caption.transformer.blocks", "told.encoder"),
            ("caption.transformer.norm", "told.encoder_norm"),
        ]
    with torch.no_grad():
        for parameter in ours.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))  # what starts at zero would hide a difference
        for mine, other in pairs:
            copy(ours, mine, theirs, other)
        b = 5
        x, t = torch.randn(b, 1, 16, 16), torch.randint(0, 1000, (b,))
        embedding, tokens = torch.randn(b, 12), torch.randn(b, 7, 10)
        mask = torch.arange(7) < torch.randint(1, 8, (b, 1))
        keep, keep_text = torch.rand(2, b) > 0.5
        cond = {"embedding": embedding, "keep_embedding": keep}
        cond |= {"tokens": tokens, "token_mask": mask, "keep_tokens": keep_text}
        expected = ours(x, t, cond)
        found = theirs(x, t, embedding, tokens, mask, keep, keep_text)
    assert expected.std() > 0.01
    assert torch.allclose(expected, found, atol=1e-4 * expected.std().item())


def copy(ours: nn.Module, mine: str, theirs: nn.Module, other: str) -> None:
    """Weights from one to the other, by shape and order."""
    source = [p for name, p in ours.named_parameters() if name == mine or name.startswith(f"{mine}.")]
    target = [p for name, p in theirs.named_parameters() if name == other or name.startswith(f"{other}.")]
    assert source, mine
    for p in source:
        i = next(i for i, q in enumerate(target) if q.shape == p.shape)
        target.pop(i).copy_(p)
    assert not target, other


def test_the_tutorial_learns():
    torch.manual_seed(0)
    net = TutorialDecoder(**small(0))
    tutorial = TutorialTraining(net, Discrete(cosine_betas(1000)).alpha_bar, lr=3e-3, decay=0.5)
    x0, embedding = torch.full((16, 1, 16, 16), 0.5), torch.randn(16, 12)
    tokens, mask = torch.zeros(16, 1, 10), torch.ones(16, 1, dtype=torch.bool)
    losses = [tutorial.step(x0, embedding, tokens, mask) for _ in range(40)]
    assert sum(losses[-5:]) < 0.5 * sum(losses[:5])
    average, last = tutorial.average.told.to_vector.weight, net.told.to_vector.weight
    assert 0 < (average - last).abs().max() < 0.05


def test_training_is_measured_with_our_own_steps_and_trainer():
    request = {"rounds": 2, "seconds": 0.01, "peers": ["tutorial"]}
    tiny = ["experiment=smoke/decoder", "model.channels=8", "data.batch_size=4", "callbacks=training"]
    (table,) = training.measure({**request, "training": tiny})["tables"]
    ours, tutorial = table["rows"]
    assert ours["flop"] == pytest.approx(tutorial["flop"], rel=0.1)  # ours may pad tokens
    assert ours["parameters"] == tutorial["parameters"]
    for row in (ours, tutorial):
        assert len(row["seconds"]) == 2
        assert row["share"] == pytest.approx(row["flop"] * row["rate"] / table["peak"]["product"]["flops"])
        assert row["held_bytes"] > 4 * 4 * row["parameters"]  # weights, average, two moments


@pytest.mark.parametrize(
    ("precision", "dtype"),
    [
        ("16-mixed", torch.float16),
        ("bf16-mixed", torch.bfloat16),
        ("32-true", torch.float32),
        (32, torch.float32),
    ],
)
def test_nobody_is_measured_in_another_precision_than_ours(precision, dtype):
    ours = fit.Training.__new__(fit.Training)
    ours.config = {"trainer": {"precision": precision}}
    assert ours.dtype == dtype
    if dtype == torch.float16:
        rows = {name: make() for name, make in peers(ours).items() if name != "checkpointing"}
        assert len(rows) == 4
        assert all((row.name, "bf16-mixed" in row.why) == (name, True) for name, row in rows.items())
        assert isinstance(prior.dalle2(ours), Absent)


def test_blocks_that_are_computed_again_are_measured_beside_those_that_are_kept():
    tiny = ["experiment=smoke/decoder", "data.batch_size=16", "callbacks=training"]
    request = {"rounds": 1, "seconds": 0.01, "peers": ["checkpointing"], "training": tiny}
    kept, again = training.measure(request)["tables"][0]["rows"]
    assert 1.1 < again["flop"] / kept["flop"] < 4 / 3  # a forward pass more, or most of it
    assert again["held_bytes"] == pytest.approx(kept["held_bytes"], rel=0.05)
    assert again["step_bytes"] < kept["step_bytes"]


def test_a_peak_is_measured_and_the_machine_named():
    peak = Peak(CPU, torch.float32)
    assert 1e6 < peak.flops(0.01) < 1e14
    assert 1e6 < peak.bandwidth(0.01) < 1e14
    machine = described(CPU, ["no-such-package"])
    assert machine["threads"] == torch.get_num_threads()
    assert machine["processor"]
    assert torch.__version__.startswith(machine["versions"]["torch"])
    assert "no-such-package" not in machine["versions"]


@pytest.mark.parametrize(
    ("x", "text"),
    [(0, "0"), (0.01234, "0.0123"), (1, "1.00"), (12.345, "12.3"), (999.6, "1,000"), (123456, "123,000")],
)
def test_figures_have_three_digits(x: float, text: str):
    assert figure(x) == text


def test_tables_leave_out_what_nothing_is_known_of_and_name_what_is_missing():
    row = {
        "name": "ours",
        "note": "eager",
        "rate": 20.0,
        "low": 19.0,
        "high": 21.0,
        "times": 1.0,
        "parameters": None,
    }
    table = {"title": "A thing", "unit": "images/s", "rows": [{**row, "seconds": [1.0] * 5}]}
    table["rows"].append({"name": "other", "absent": "not installed: pip install other"})
    assert cells(table) == [
        ["", "images/s (least - most)", "ours is x times"],
        ["ours (eager)", "20.0 (19.0 - 21.0)", "1.00"],
    ]
    result = {"command": "unclip bench thing", "machine": described(CPU), "tables": [table]}
    for text in (plain(result), markdown(result)):
        assert "Medians of 5 rounds" in text
        assert "other: not installed: pip install other" in text
    assert "| ours (eager) | 20.0 (19.0 - 21.0) | 1.00 |" in markdown(result)
