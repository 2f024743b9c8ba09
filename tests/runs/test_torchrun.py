"""torchrun's processes as the ranks of one run: who leads, who follows, who writes; and really started."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tests.conftest import SMALL
from torch.distributed import PrefixStore, TCPStore

from unclip.cli import main
from unclip.runs import process, torchrun

STEPS = ["model.dropout=0", "trainer.max_steps=4"]
Started = Callable[[list[str], list[str]], list[str]]


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch) -> TCPStore:
    """Torchrun's, and the environment of the first of its four processes on two nodes."""
    kept = TCPStore("localhost", 0, is_master=True, wait_for_workers=False, timeout=timedelta(seconds=10))
    numbers = {"RANK": 0, "LOCAL_RANK": 0, "WORLD_SIZE": 4, "LOCAL_WORLD_SIZE": 2, "MASTER_PORT": kept.port}
    words = {"MASTER_ADDR": "localhost", "TORCHELASTIC_RUN_ID": "none", "TORCHELASTIC_RESTART_COUNT": "0"}
    for name, value in {**numbers, **words, "TORCHELASTIC_USE_AGENT_STORE": "True"}.items():
        monkeypatch.setenv(name, str(value))
    monkeypatch.setattr(process, "before_becoming", process.before_becoming)
    monkeypatch.setenv(process.RANKS, "")
    return kept


def test_devices_and_nodes_are_those_that_torchrun_started(
    store: TCPStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert torchrun.layout() == {"devices": 2, "num_nodes": 2}
    monkeypatch.delenv("TORCHELASTIC_RUN_ID")
    assert torchrun.layout() == {}


def test_the_others_end_as_the_first_does_where_nothing_is_to_be_trained(
    store: TCPStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert torchrun.together("train", [], lambda: 3) == 3
    monkeypatch.setenv("RANK", "2")
    assert torchrun.together("train", [], lambda: pytest.fail("only the first leads")) == 3


def test_the_others_become_ranks_of_the_run_that_the_first_begins(
    store: TCPStore, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    became: list[tuple[list[str], dict[str, str]]] = []
    monkeypatch.setattr(
        os, "execve", lambda path, words, environment: became.append((words[2:], environment))
    )

    def lead() -> int:
        environment = process._alone()
        assert not {"RANK", "TORCHELASTIC_RUN_ID", "LOCAL_WORLD_SIZE"} & environment.keys(), (
            "upstream is alone"
        )
        process.become("unclip.runs.job", str(tmp_path))
        return 0

    assert torchrun.together("train", [], lead) == 0
    monkeypatch.setenv("RANK", "3")
    monkeypatch.setattr(process, "before_becoming", lambda *_: None)
    torchrun.together("train", [], lambda: pytest.fail("only the first leads"))
    for rank, (words, environment) in zip("03", became, strict=True):
        assert words == ["unclip.runs.job", str(tmp_path)]
        assert (environment["RANK"], environment["WORLD_SIZE"]) == (rank, "4")


def test_a_finished_run_is_measured_by_the_first_alone(
    store: TCPStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    became: list[dict[str, str]] = []
    monkeypatch.setattr(os, "execve", lambda path, words, environment: became.append(environment))
    torchrun.together("train", [], lambda: process.become("unclip.runs.measure", "folder") or 0)
    assert "RANK" not in became[0]
    told = PrefixStore("unclip/0", store).get("told")
    assert json.loads(told) == {"folder": None, "status": 0}


@pytest.mark.parametrize("words", [["run", "experiment=demo"], ["train", "-m", "stage=clip,prior"]])
def test_what_is_no_training_of_one_run_is_refused(
    words: list[str], store: TCPStore, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(words) == 2
    assert "starts the processes of one training: torchrun ... -m unclip train" in capsys.readouterr().err


@pytest.fixture
def torchrun_each(tmp_path: Path) -> Started:
    """Start a torchrun a node with its options, all of the same words, and give what each of them printed."""

    def start(nodes: list[str], words: list[str]) -> list[str]:
        command = [sys.executable, "-m", "torch.distributed.run"]
        settings = {"cwd": tmp_path, "text": True, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
        started = [
            subprocess.Popen([*command, *options.split(), "-m", *words], **settings)  # type: ignore[call-overload]
            for options in nodes
        ]
        said = [node.communicate(timeout=240)[0] for node in started]
        assert [node.returncode for node in started] == [0] * len(nodes), said
        return said

    return start


def same(a: Path, b: Path) -> None:
    """The same runs, by their signatures, with the same weights to rounding."""
    files, others = (sorted(folder.glob("*/*/weights.safetensors")) for folder in (a, b))
    assert [f.relative_to(a) for f in files] == [f.relative_to(b) for f in others] != []
    for file, other in zip(files, others, strict=True):
        for name, weight in load_file(file).items():
            torch.testing.assert_close(load_file(other)[name], weight, rtol=1e-3, atol=1e-4)


@pytest.mark.slow
def test_two_processes_of_a_machine(
    unclip: Callable[..., subprocess.CompletedProcess[str]], torchrun_each: Started, tmp_path: Path
) -> None:
    request = [*SMALL["decoder"], *STEPS]
    alone = unclip("train", *request, "trainer=cpu", "paths.outputs=alone")
    assert alone.returncode == 0, alone.stderr
    both = ["unclip", "train", *request, "trainer=cpu", "trainer.strategy=ddp", "paths.outputs=both"]
    (said,) = torchrun_each(["--standalone --nproc-per-node=2"], both)
    assert said.count("run: ") == said.count("M parameters") == 1, "only the first speaks"
    same(tmp_path / "alone", tmp_path / "both")
    (again,) = torchrun_each(["--standalone --nproc-per-node=2"], both)
    assert "nothing to do" in again
    assert "M parameters" not in again


@pytest.mark.slow
def test_two_nodes_of_a_process_each_share_a_net_out_and_its_upstream_is_trained_once(
    unclip: Callable[..., subprocess.CompletedProcess[str]], torchrun_each: Started, tmp_path: Path
) -> None:
    clip = [o for o in SMALL["clip"] if o.startswith("model.")]
    mine = tmp_path / "mine" / "experiment" / "tiny"
    mine.mkdir(parents=True)
    head = "# @package _global_\ndefaults:\n  - override /stage: "
    values = "".join(f"  {o.removeprefix('model.').replace('=', ': ')}\n" for o in clip)
    shape = f"clip\n  - override /logger: none\nmodel:\n{values}trainer:\n  max_steps: 2\ndata:\n  batch_size: 16\n"
    (mine / "clip.yaml").write_text(head + shape)
    (mine / "prior.yaml").write_text(f"{head}prior\n")
    own = [o for o in SMALL["prior"] if not o.startswith(("stage=", "clip="))]
    request = ["--config-dir=mine", "experiment=tiny/prior", *own, *STEPS]
    with socket.create_server(("localhost", 0)) as free:
        port = free.getsockname()[1]
    where = f"--nnodes=2 --nproc-per-node=1 --master-addr=localhost --master-port={port}"
    nodes = [f"{where} --node-rank={rank}" for rank in (0, 1)]
    said = torchrun_each(nodes, ["unclip", "train", *request, "trainer=fsdp_cpu", "paths.outputs=nodes"])
    assert "this prior needs its clip first" in said[0]
    assert said[0].count("M parameters") == 2, "the first trains the CLIP, and both the prior"
    assert "M parameters" not in said[1]
    alone = unclip("train", *request, "trainer=cpu", "paths.outputs=alone")
    assert alone.returncode == 0, alone.stderr
    same(tmp_path / "alone", tmp_path / "nodes")
