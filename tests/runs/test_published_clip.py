"""`clip=open_clip:...` from a request to pictures, without the download; what is refused before anything is trained."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import yaml
from tests.conftest import SMALL
from tests.nets.test_open_clip import TINY

from unclip.cli import main
from unclip.config.compose import compose
from unclip.config.problems import Problems
from unclip.runs import job, pretrained_clip, process
from unclip.runs.pretrained_clip import identity
from unclip.runs.store import Run
from unclip.runs.upstream import resolve
from unclip.runs.whole import planned

library = pytest.importorskip("open_clip")
OTHERS = ("clip=", "callbacks.", "extractor=")  # of what a small decoder is told, not to be said here
STAGES = {stage: [a for a in SMALL[stage] if not a.startswith(OTHERS)] for stage in ("prior", "decoder")}


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder where open_clip knows one more model, tiny-run, and runs are trained in this very process."""
    path = tmp_path / "tiny-run.json"
    path.write_text(json.dumps(TINY))
    library.add_model_config(path)
    known = pretrained_clip.names
    monkeypatch.setattr(pretrained_clip, "names", lambda folder: known(folder) | {"tiny-run"})
    monkeypatch.setattr(job, "stop_at_once_when_asked", lambda: None)
    monkeypatch.setattr(process, "become", lambda module, folder: job.main(folder))
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def trained(here: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., Run]:
    def run(stage: str, *overrides: str) -> Run:
        few = ["trainer.max_steps=3", "trainer.accelerator=cpu", "callbacks=training"]
        status = main(["train", *STAGES[stage], *few, *overrides])
        said = capsys.readouterr()
        assert status == 0, said.err
        return Run(Path(said.out.splitlines()[-1].removeprefix("run: ")))

    return run


def test_prior_and_decoder_are_trained_on_it_and_draw(
    trained: Callable[..., Run], here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = library.create_model("tiny-run")
    torch.save(model.state_dict(), here / "weights.pt")
    prior = trained("prior", "clip=open_clip:tiny-run:weights.pt")
    decoder = trained("decoder", "clip=open_clip:tiny-run:weights.pt")
    assert yaml.safe_load((prior.folder / "config.yaml").read_text())["clip"].startswith(
        f"open_clip:tiny-run:{here / 'weights.pt'}#sha256="
    )
    request = [f"prior={prior.folder}", f"decoder={decoder.folder}", "accelerator=cpu"]
    assert main(["sample", *request, 'prompts=["a solid disc"]', "per_prompt=2", "out=first"]) == 0

    (here / "weights.pt").rename(here / "moved.pt")
    moved = "clip=open_clip:tiny-run:moved.pt"
    assert main(["sample", *request, moved, 'prompts=["a solid disc"]', "per_prompt=2", "out=second"]) == 0
    assert (here / "first/samples/00001.png").read_bytes() == (here / "second/samples/00001.png").read_bytes()

    other = trained("prior", "clip=open_clip:tiny-run")
    capsys.readouterr()
    assert main(["sample", *request[1:], f"prior={other.folder}"]) == 2
    said = capsys.readouterr().err
    assert "was trained on CLIP open_clip:tiny-run, the decoder" in said
    assert "on CLIP open_clip:tiny-run:/" in said
    model.positional_embedding.data += 1
    torch.save(model.state_dict(), here / "moved.pt")
    assert main(["sample", *request, moved]) == 2
    assert f"decoder {decoder.signature} was trained on CLIP open_clip" in capsys.readouterr().err


def test_what_names_no_model_or_weights_is_one_line(here: Path) -> None:
    for clip, line in {
        "open_clip": "of which model",
        "open_clip:ViT-B-31": "no such model; possible: ViT-B-3",
        "open_clip:ViT-B-32:none/such.pt": "no such file of weights",
        "none_such": "auto, random or open_clip:MODEL:WEIGHTS",
    }.items():
        with pytest.raises(Problems, match=line):
            resolve(compose("train", [*STAGES["prior"], f"clip={clip}"]))
    with pytest.raises(Problems, match="brings a tokenizer of its own"):
        compose("train", [*STAGES["prior"], "clip=open_clip:ViT-B-32", "tokenizer=bpe"])


def test_the_signature_is_of_model_tag_and_a_files_content(here: Path) -> None:
    def signature(clip: str) -> str:
        config, upstream = resolve(compose("train", [*STAGES["prior"], f"clip={clip}"]))
        assert not upstream
        return Run.of(config, "default").signature

    (here / "a.pt").write_bytes(b"weights")
    (here / "b.pt").write_bytes(b"weights")
    (here / "c.pt").write_bytes(b"other weights")
    base = "open_clip:ViT-B-32"
    assert signature(f"{base}:a.pt") == signature(f"{base}:b.pt")
    given = [base, f"{base}:openai", "open_clip:ViT-B-16:openai", f"{base}:a.pt", f"{base}:c.pt", "random"]
    assert len({signature(clip) for clip in given}) == len(given)
    assert identity("auto") == "auto"


def test_a_whole_run_has_no_clip_stage_then_and_no_prior_without_one(here: Path) -> None:
    """And both go to those alone who know them."""
    whole = planned(["experiment=smoke", "clip=open_clip:ViT-B-32:openai"])
    assert [(s.stage, s.config["clip"]) for s in whole.steps] == [
        (stage, "open_clip:ViT-B-32:openai") for stage in ("prior", "decoder")
    ]
    without = planned(["experiment=smoke", "prior=none"])
    assert [s.stage for s in without.steps] == ["clip", "decoder"]
    assert without.record["sample"]["prior"] == without.record["evaluate"]["prior"] == "none"
    assert without.steps[1].run.signature == planned(["experiment=smoke"]).steps[2].run.signature
