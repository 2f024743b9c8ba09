"""Weights & Biases without network: what its records say of a sweep, and what its own agent would type for us."""

from __future__ import annotations

import json
import struct
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import wandb.wandb_agent
import yaml
from tests.conftest import SMALL
from wandb.proto.wandb_internal_pb2 import Record, RunRecord

from unclip.config.compose import compose
from unclip.runs import loggers, process
from unclip.runs.store import Run
from unclip.runs.upstream import request, resolve

ROOT = Path(__file__).parents[2]
BLOCK, HEADER = 32768, 7  # of LevelDB's log format, which a .wandb file has after seven bytes of its own


def run_records(folder: Path) -> Iterator[RunRecord]:
    """What each offline folder says of its run."""
    for path in sorted(folder.glob("wandb/offline-run-*/run-*.wandb")):
        content, at, body = path.read_bytes(), HEADER, b""
        while at + HEADER <= len(content):
            _, length, kind = struct.unpack_from("<IHB", content, at)
            if kind == 0 or BLOCK - at % BLOCK < HEADER:
                at += BLOCK - at % BLOCK
                continue
            body += content[at + HEADER : at + HEADER + length]
            at += HEADER + length
            if kind in (1, 4):  # whole, or the last part
                record, body = Record.FromString(body), b""
                if record.WhichOneof("record_type") == "run":
                    yield record.run
                    break


def logged(run: Run, config: dict[str, Any]) -> None:
    logger = loggers.logger_of(config["logger"]["wandb"], config, run)
    logger.log_metrics({"train/loss": 1.0}, step=1)
    logger.experiment.finish()


def test_names_that_the_configuration_gives_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made: dict[str, Any] = {}
    monkeypatch.setattr("unclip.build.make", lambda node, **known: made.update(known))
    request = ["stage=clip", "+logger.wandb.group=mine", "+logger.wandb.entity=us"]
    config = {**compose("train", request).config, "experiment": "demo"}
    loggers.logger_of(config["logger"]["wandb"], config, Run(tmp_path))
    assert made.keys() & {"group", "name", "job_type", "entity"} == {"name", "job_type"}, (
        "others are the node's own"
    )


def test_a_sweeps_runs_have_ids_of_their_own_one_group_and_the_resolved_configuration(tmp_path: Path) -> None:
    runs = []
    for seed in (0, 1):
        overrides = [o for o in SMALL["prior"] if not o.startswith("logger")]
        composed = request([*overrides, f"seed={seed}", "sweep=mine", f"paths.outputs={tmp_path}"])
        config = {**resolve(composed)[0], "experiment": composed.experiment}
        run = Run.of(config, composed.experiment)
        run.folder.mkdir(parents=True)
        logged(run, config)
        runs.append((run, config))
    time.sleep(1.1)  # an offline folder is named by its second
    logged(*runs[1])  # as after an interruption
    wandb.teardown()  # what its service has not written yet is written now
    first, second, resumed = [*run_records(runs[0][0].folder), *run_records(runs[1][0].folder)]
    assert [first.run_id, second.run_id] == [run.signature for run, _ in runs]
    assert first.run_id != second.run_id
    assert resumed.run_id == second.run_id
    assert {r.run_group for r in (first, second, resumed)} == {"mine"}
    assert {r.job_type for r in (first, second)} == {"prior"}
    assert first.project == "unclip"
    for record, (_, config) in zip((first, second), runs, strict=True):
        said = {update.key: json.loads(update.value_json) for update in record.config.update}
        assert said["seed"] == config["seed"]
        assert {key: said[key] for key in config} == config


def test_the_documented_sweep_is_what_an_agent_can_type(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The agent's own code makes the command; here it is composed instead of carried out."""
    asked = yaml.safe_load((ROOT / "docs" / "wandb_sweep.yaml").read_text())
    assert asked["metric"]["name"].startswith("val/")
    typed: list[list[str]] = []

    class Caught:
        def __init__(self, env: Any = None, command: Any = None, **_: Any):
            typed.append(command)

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WANDB_SWEEP_ID", "sweep")
    for name in ("WANDB_RUN_ID", "WANDB_SWEEP_PARAM_PATH"):
        monkeypatch.setenv(name, "")
    monkeypatch.setattr(wandb.wandb_agent, "AgentProcess", Caught)
    agent = object.__new__(wandb.wandb_agent.Agent)
    agent.__dict__ |= {"_in_jupyter": False, "_function": None, "_forward_signals": False}
    agent.__dict__ |= {"_sweep_command": asked["command"], "_run_processes": {}}
    for pick in (0, -1):
        values = {
            name: of["values"][pick] if "values" in of else of["max"]
            for name, of in asked["parameters"].items()
        }
        args = {name: {"value": value} for name, value in values.items()}
        agent._command_run({"run_id": f"run{pick}", "program": asked["program"], "args": args})
        env, *command = typed.pop()
        assert env == "/usr/bin/env"
        assert command[:2] == ["unclip", "train"]
        config = compose("train", command[2:]).config
        assert config["optim"]["lr"] == values["optim.lr"]
        assert config["seed"] == values["seed"]
        assert config["logger"]["wandb"]["offline"] is False


def test_upstream_runs_are_not_an_agents(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_SWEEP_ID", "sweep")
    monkeypatch.setenv("WANDB_RUN_ID", "agents")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setattr(process.subprocess, "Popen", lambda command, env, **_: env)
    given: Any = process.start_child("unclip", "train")
    assert "WANDB_SWEEP_ID" not in given
    assert "WANDB_RUN_ID" not in given
    assert given["WANDB_MODE"] == "offline"
