"""Searches: their target, what is shared, taken up again, stopped on the way; fronts, grids, wrong requests."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.conftest import ROOT
from tests.runs.quick_jobs import STEPS, begin, loss

from unclip.cli import main
from unclip.config.problems import Problems
from unclip.config.tree import OWN_FOLDER, options
from unclip.report.search import deliver
from unclip.runs import search_jobs
from unclip.runs.search import _first_trial, request
from unclip.runs.search_study import Ledger, Trial
from unclip.runs.store import Run

QUICK: dict[str, Any] = {
    "title": "Quick jobs",
    "overrides": ["stage=prior", "data=synthetic", "clip=random", "logger=none"],
    "space": {"lr": {"of": "optim.lr", "low": 1e-5, "high": 1e-1, "log": True}},
    "objectives": [{"metric": "val/loss", "direction": "minimize"}],
    "trials": 4,
}
RATES = {"of": "optim.lr", "choices": [1e-3, 1e-5]}
WIDTHS = {"of": "model.width", "low": 32, "high": 64, "step": 32}


def there_is(name: str, **changes: Any) -> None:
    """Write the search `name`: quick, but for these changes."""
    path = Path(os.environ[OWN_FOLDER], "search", f"{name}.yaml")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"# @package _global_\n{yaml.safe_dump(QUICK | changes)}")


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder in which trials are quick; there is a search `quick`."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv(OWN_FOLDER, str(tmp_path / "mine"))
    there_is("quick")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]))
    monkeypatch.setattr(search_jobs.Jobs, "_job", begin)
    monkeypatch.setattr(search_jobs, "LOOK_SECONDS", 0.05)
    monkeypatch.setattr("unclip.report.search.deliver", lambda *_: "no page")  # it takes a second to draw
    return tmp_path


def started() -> list[tuple[int, float, int]]:
    """The jobs in the order of their start: who started them, their learning rate, the step they went on from."""
    if not Path("started").exists():
        return []
    rows = (line.split() for line in Path("started").read_text().splitlines())
    return [(int(parent), float(lr), int(step)) for parent, lr, step in rows]


def trials(name: str = "quick", *arguments: str) -> list[Trial]:
    return Ledger(request(name, list(arguments))).trials()


def worker(*arguments: str, **environment: str) -> subprocess.Popen[str]:
    """A process of its own that takes part in a search."""
    command = [sys.executable, "-m", "tests.runs.quick_jobs", "search", "quick", *arguments]
    pipe = subprocess.PIPE
    return subprocess.Popen(
        command, env={**os.environ, **environment}, stdout=pipe, stderr=subprocess.STDOUT, text=True
    )


def wait_for(condition: Any) -> None:
    end = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


def test_the_number_of_trials_is_a_target_that_a_restart_completes(capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["search", "quick", "trials=2"]) == 0
    assert len(started()) == 2
    assert main(["search", "quick", "trials=4", "n_jobs=2"]) == 0
    out, _ = capfd.readouterr()
    assert "search quick: 2 of 4 trials: 2 complete" in out
    found = trials()
    assert [t.state for t in found] == ["complete"] * 4
    rates = [lr for _, lr, _ in started()]
    assert sorted(rates) == sorted(t.point["lr"] for t in found)
    assert len(set(rates)) == 4, "a restart draws new values, not the first ones again"
    for trial in found:
        assert trial.values == [loss(trial.point["lr"])]
    (best,) = (t for t in found if t.best)
    assert best.values[0] == min(t.values[0] for t in found)
    assert f"optim.lr={best.point['lr']!r}" in out.splitlines()[-3], "the command line of the best"
    assert main(["search", "quick", "trials=4"]) == 0
    assert len(started()) == 4, "nothing is left to do"


@pytest.mark.slow
def test_two_processes_share_the_trials_and_none_is_trained_twice() -> None:
    both = [worker("trials=6", "suggest=random", TICK="0.03") for _ in range(2)]
    said = [process.communicate(timeout=60)[0] for process in both]
    assert [process.returncode for process in both] == [0, 0], said
    assert [t.state for t in trials()] == ["complete"] * 6
    assert len({lr for _, lr, _ in started()}) == len(started()) == 6
    assert {parent for parent, *_ in started()} == {process.pid for process in both}, "each had a part"


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_a_trial_whose_process_is_gone_is_taken_up_again_from_its_checkpoint(number: int) -> None:
    first = worker("trials=2", TICK="0.2")
    wait_for(lambda: list(Path("outputs/default").glob("*/checkpoint.ckpt")))
    os.kill(first.pid, number)
    first.communicate(timeout=30)
    ((_, lr, _),) = started()
    (before,) = trials()
    assert before.state == "running"
    assert main(["search", "quick", "trials=2"]) == 0
    _, again, done = started()[1]
    assert again == lr
    assert done > 0
    found = trials()
    assert [t.state for t in found] == ["complete"] * 2
    assert found[0].point == before.point
    assert found[0].values == [loss(lr)], "the value of an undisturbed run"


@pytest.mark.slow
def test_a_living_process_keeps_its_trial_and_is_waited_for() -> None:
    first = worker("trials=1", TICK="0.1")
    wait_for(started)
    assert main(["search", "quick", "trials=1"]) == 0
    assert len(started()) == 1
    assert [t.state for t in trials()] == ["complete"]
    first.communicate(timeout=30)
    assert first.returncode == 0


def test_a_hopeless_trial_is_stopped_on_the_way_and_keeps_its_checkpoint(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("TICK", "0.05")
    there_is("two", space={"lr": RATES})
    median = ["prune=median", "prune.n_startup_trials=1", "prune.n_warmup_steps=2"]
    assert main(["search", "two", "suggest=grid", *median]) == 0
    good, bad = trials("two")
    assert (good.state, bad.state) == ("complete", "pruned")
    assert 2 <= max(bad.course) < STEPS
    assert bad.course[2] == loss(1e-5, 2)
    assert bad.values == []
    assert bad.folder is not None
    run = Run(Path(bad.folder))
    assert run.state == "interrupted"
    assert 2 <= int(run.checkpoint.read_text()) < STEPS, "gently: what it had is saved"


def test_a_trial_waits_until_as_many_gpus_are_free_as_it_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[tuple[int, list[str]]] = []

    def noted(self: search_jobs.Jobs, cell: Any, devices: list[str]) -> Any:
        given.append((len(self.jobs), devices))
        return begin(self, cell, devices)

    monkeypatch.setattr(search_jobs.Jobs, "_job", noted)
    monkeypatch.setattr("unclip.config.rules.gpus", lambda: 2)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,7")
    assert main(["search", "quick", "trials=2", "n_jobs=2", "suggest=random", "trainer.devices=2"]) == 0
    assert given == [(0, ["4", "7"])] * 2
    assert [t.state for t in trials("quick", "trainer.devices=2")] == ["complete"] * 2


def test_trials_of_a_search_that_broke_off_are_taken_up_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(self: search_jobs.Jobs) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as broken:
        broken.setattr(search_jobs.Jobs, "_watch", full)
        broken.setattr(search_jobs.Jobs, "_until_done", lambda self: (self._begin(), self._watch()))
        assert main(["search", "quick", "trials=1"]) == 1
    assert [t.state for t in trials()] == ["running"]
    assert main(["search", "quick", "trials=1"]) == 0
    assert [t.state for t in trials()] == ["complete"]


@pytest.mark.slow
def test_a_failed_trial_is_recorded_and_ends_no_other(capfd: pytest.CaptureFixture[str]) -> None:
    there_is("seeds", space={"seed": {"choices": [0, 1, 2]}})
    assert main(["search", "seeds", "suggest=grid"]) == 0
    err = capfd.readouterr().err
    assert [t.state for t in trials("seeds")] == ["complete", "failed", "complete"]
    assert trials("seeds")[1].error == "it broke"
    assert "1 trial failed:\n  [1] seed=1: it broke" in err
    assert "retry=true" in err
    assert main(["search", "seeds", "suggest=grid"]) == 0
    assert len(started()) == 3, "not again by itself"
    assert main(["search", "seeds", "suggest=grid", "retry=true"]) == 0
    assert [t.state for t in trials("seeds")] == ["complete"] * 3


@pytest.mark.slow
def test_the_same_values_are_not_trained_twice() -> None:
    there_is("two", space={"lr": RATES})
    assert main(["search", "two", "suggest=random", "trials=6"]) == 0
    assert [t.state for t in trials("two")] == ["complete"] * 6
    assert sorted(lr for _, lr, _ in started()) == [1e-5, 1e-3]


@pytest.mark.slow
def test_a_grid_is_each_combination_once() -> None:
    there_is("both", space={"lr": RATES, "width": WIDTHS})
    assert main(["search", "both", "suggest=grid", "trials=50", "n_jobs=2"]) == 0
    points = [(t.point["lr"], t.point["width"]) for t in trials("both")]
    assert sorted(points) == [(lr, width) for lr in (1e-5, 1e-3) for width in (32, 64)]


@pytest.mark.slow
def test_nsga2_finds_the_front_of_two_objectives() -> None:
    """Against a comparison of all pairs."""
    ways = {"val/loss": "minimize", "parameters": "maximize"}
    objectives = [{"metric": metric, "direction": way} for metric, way in ways.items()]
    rates = {"of": "optim.lr", "choices": [1e-5, 1e-4, 1e-3]}
    there_is("front", space={"lr": rates, "width": WIDTHS}, objectives=objectives)
    asked = ["suggest=nsga2", "suggest.population_size=3", "trials=7", "n_jobs=2"]
    assert main(["search", "front", *asked]) == 0
    found = trials("front")
    values = {t.number: (t.values[0], -t.values[1]) for t in found}

    def beaten(one: tuple[float, float]) -> bool:
        return any(o != one and o[0] <= one[0] and o[1] <= one[1] for o in values.values())

    assert [t.best for t in found] == [not beaten(values[t.number]) for t in found]
    assert any(t.best for t in found)


@pytest.mark.slow
@pytest.mark.parametrize("storage", ["elsewhere/trials.log", "sqlite:///trials.db"])
def test_trials_are_kept_where_one_says(storage: str) -> None:
    assert main(["search", "quick", "trials=1", f"storage={storage}"]) == 0
    assert main(["search", "quick", "trials=2", f"storage={storage}"]) == 0
    assert len(started()) == 2
    assert not list(Path("outputs/searches").glob("*.journal"))


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["nope"], r"search = nope: no such option; possible: .*quick"),
        ([], r"give one NAME; possible: .*quick"),
        (
            ["quick", "prune=none", "+prune.low=3"],
            r"prune.low = 3: .*NopPruner takes no such parameter; possible: none",
        ),
        (["quick", "suggest=anneal"], r"suggest = anneal: no such option.*; possible: cmaes, grid, nsga2"),
        (["quick", "suggest.sed=1"], r"suggest\.sed = 1: no such key; nearest: suggest\.seed"),
        (["quick", "space.lr.low=1"], r"space\.lr = .*: is empty: low = 1 must not exceed high = 0\.1"),
        (["quick", "space.lr.low=0"], r"space\.lr = .*: log needs low > 0, not 0"),
        (["empty"], r"space = \{\}: must name values to search"),
        (["quick", "objectives=[{metric:a,direction:up}]"], r"objectives = .*direction: minimize\|maximize"),
        (["quick", "trials=0"], r"trials = 0: must satisfy trials >= 1"),
        (["quick", "n_jobs=0"], r"n_jobs = 0: must satisfy n_jobs >= 1"),
        (["quick", "suggest=grid"], r"suggest = .*Grid: a grid needs a step for space\.lr, or choices"),
        (["quick", "optim.lrr=1"], r"optim\.lrr = 1: no such key; nearest: optim\.lr"),
        (["quick", "report=true"], r"report = quick: this search has no trials yet"),
        (["decoder_size", "prune=median"], r"prune: has no order to go by with two objectives"),
    ],
)
def test_wrong_requests_are_one_line_before_anything_starts(
    arguments: list[str], said: str, capfd: pytest.CaptureFixture[str]
) -> None:
    there_is("empty", space={})
    assert main(["search", *arguments]) == 2
    err = capfd.readouterr().err.strip().splitlines()
    assert len(err) <= 2
    assert re.search(said, err[-1]), err
    assert not Path("outputs").exists()


@pytest.mark.slow
def test_a_metric_that_nobody_logs_ends_the_search_and_what_was_trained_is_kept(
    capfd: pytest.CaptureFixture[str],
) -> None:
    named = "objectives=[{metric:NAME,direction:minimize}]"
    assert main(["search", "quick", named.replace("NAME", "val/los")]) == 2
    err = capfd.readouterr().err
    assert re.search(r"objectives = val/los: is not among .*: .*val/fd_n64, .*val/loss", err)
    assert len(started()) == 1
    asked = [named.replace("NAME", "fd"), "trials=1"]
    assert main(["search", "quick", *asked]) == 0
    assert len(started()) == 1, "the same first values: its run is there"
    assert trials("quick", *asked)[0].values == [1.0], "of most samples"


@pytest.mark.slow
def test_a_damaged_journal_is_named_and_a_torn_last_line_is_not_damage(
    capfd: pytest.CaptureFixture[str],
) -> None:
    assert main(["search", "quick", "trials=1"]) == 0
    journal = Path("outputs/searches/quick.journal")
    whole = journal.read_text()
    journal.write_text(whole + '{"op_code":4,"worker')
    assert main(["search", "quick", "trials=2"]) == 0
    assert [t.state for t in trials()] == ["complete"] * 2
    journal.write_text("nonsense\n" + whole)
    assert main(["search", "quick", "trials=2"]) == 2
    assert re.search(r"storage = .*quick\.journal: cannot be read .*: repair it", capfd.readouterr().err)
    assert journal.read_text() == "nonsense\n" + whole


@pytest.mark.slow
def test_trials_are_only_compared_with_those_of_the_same_search(
    capfd: pytest.CaptureFixture[str],
) -> None:
    assert request("quick", ["seed=3"]).folder != request("quick", []).folder
    assert request("quick", ["trials=9", "suggest=random"]).folder == request("quick", []).folder
    assert main(["search", "quick", "trials=1"]) == 0
    there_is("quick", space={"lr": RATES})
    assert main(["search", "quick", "trials=2"]) == 2
    assert "has it with other space" in capfd.readouterr().err


def test_a_plan_and_the_list_start_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["search", "quick", "dry_run=true"]) == 0
    out = capfd.readouterr().out
    assert "lr  optim.lr  1e-05 to 0.1, log" in out
    assert "a trial: unclip train stage=prior" in out
    assert main(["search", "quick", "trials=1"]) == 0
    assert main(["search", "--list"]) == 0
    assert re.search(r"quick +Quick jobs +train +val/loss +1 of 4 trials: 1 complete", capfd.readouterr().out)
    assert len(started()) == 1


@pytest.mark.parametrize("name", options("search"))
def test_the_searches_that_ship_are_sound(name: str) -> None:
    asked = request(name, [])
    Ledger(asked)._try()
    _first_trial(asked)


@pytest.mark.slow
@pytest.mark.parametrize("way", [f"{g}={o}" for g in ("suggest", "prune") for o in options(g) if o != "grid"])
def test_every_way_to_suggest_and_prune_can_be_made(way: str) -> None:
    Ledger(request("quick", [way]))


def test_a_request_is_answered_without_torch() -> None:
    script = "import sys; from unclip.cli import main; main(sys.argv[1:]); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script, "search", "quick", "dry_run=true"]).returncode == 0


def test_without_optuna_one_line_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    import importlib.util

    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda n, *a: None if n == "optuna" else found(n, *a))
    from unclip.runs.search import _needs_optuna

    with pytest.raises(Problems, match=re.escape("pip install 'unclip-lab[search]'")):
        _needs_optuna()


def test_the_page_is_one_file_with_what_each_kind_of_search_shows() -> None:
    ways = [{"metric": m, "direction": "minimize"} for m in ("fd", "parameters")]
    for number, objectives in enumerate((ways[:1], ways)):
        there_is(f"shown{number}", space={"lr": RATES, "width": WIDTHS}, objectives=objectives, title="<b>")
        asked = request(f"shown{number}", [])
        found = [
            Trial(
                i,
                "complete",
                {"lr": 1e-3, "width": 32 * i},
                [4.0 - i, 2.0 * i][: number + 1],
                None,
                "f",
                9.0,
                {},
                i > 1,
            )
            for i in (1, 2, 3)
        ]
        found.append(Trial(4, "pruned", {"lr": 1e-3, "width": 32}, [], None, "f", 1.0, {1: 9.0, 2: 8.5}))
        found.append(Trial(5, "failed", {"lr": 1e-3}, [], "<i>no</i>", None, 0.0, {}))
        shares = [{"lr": 0.2, "width": 0.8}] * (number + 1)
        page = deliver(asked, found, shares).read_text()
        pictures = {p.stem for p in asked.folder.glob("*.png")}
        assert {"history", "importance", "slices0", "parallel", "courses"} <= pictures
        assert ("front" in pictures) == (number == 1)
        assert not re.findall('(?:src|href)="(?!data:)', page), "self-contained"
        assert "&lt;i&gt;no" in page
        assert "8.5 at step 2" in page
        assert "model.width=96" in page


@pytest.mark.slow
def test_real_trainings_searched_and_a_killed_search_gone_on_with(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.undo()
    command = [sys.executable, "-m", "unclip", "search", "smoke", "trials=3"]
    first = subprocess.Popen(command, cwd=place)
    wait_for(lambda: list(place.glob("outputs/default/*/config.yaml")))
    first.kill()
    first.wait()
    done = subprocess.run(command, cwd=place, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    assert "3 of 3 trials: 3 complete" in done.stdout
    assert (place / "outputs/searches/smoke/report.html").is_file()
    assert len(list(place.glob("outputs/default/*/weights.safetensors"))) == 3
