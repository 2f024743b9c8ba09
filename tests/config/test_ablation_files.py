"""The ablations as files: each says what it reproduces, speaks only of its own cells, and composes at every budget."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import pytest
import yaml

from unclip.config.compose import config_folder, many, options
from unclip.report.statistics import parse
from unclip.runs.whole import plan

NAMES = options("ablation")
BUDGETS = {"smoke": "smoke", "small": "demo", "full": "fashion_mnist/reference"}
REQUIRED = {
    "iddpm_schedule", "schedule_zoo", "ddim_steps_eta", "objective_weighting", "min_snr_gamma", "cfg_scale",
    "cfg_dropout", "chen_input_scale", "simple_diffusion_shift", "zero_terminal_snr", "edm_configs", "adm_architecture",
    "unclip_conditioning", "unclip_prior_objective", "unclip_rerank", "unclip_guidance_map", "clip_loss",
    "prior_sample_training",
}  # fmt: skip
ALIASES = {"vp", "jsd_continuous"}  # of schedules under other names
MEASURED = {
    "fd",
    "nll",
    "prdc",
    "prompt_consistency",
    "inception_score",
    "brightness",
    "round_trip",
    "prior",
    "clip",
}


def read(name: str) -> dict[str, Any]:
    return yaml.safe_load((config_folder() / "ablation" / f"{name}.yaml").read_text(encoding="utf-8"))


def cells_of(content: dict[str, Any]) -> dict[str, list[str]]:
    """Name -> overrides, in order."""
    if content["cells"]:
        return dict(content["cells"])
    axes = content["axes"]
    points = itertools.product(*axes.values())
    return {" ".join(map(str, p)): [f"{k}={v}" for k, v in zip(axes, p, strict=True)] for p in points}


def requests(content: dict[str, Any], budget: str) -> Iterator[tuple[str, list[str]]]:
    """(experiment, overrides) of each cell of a budget."""
    differs, cells = content["budgets"].get(budget, {}), cells_of(content)
    for name in differs.get("cells") or cells:
        yield BUDGETS[budget], [*content["overrides"], *cells[name], *differs.get("overrides", [])]


@contextmanager
def together() -> Iterator[None]:
    with ExitStack() as stack:
        for verb in ("train", "sample", "evaluate"):
            stack.enter_context(many(verb))
        yield


def test_none_is_missing() -> None:
    assert set(NAMES) >= REQUIRED


@pytest.mark.parametrize("name", NAMES)
def test_it_says_what_it_reproduces_and_speaks_of_its_own_cells(name: str) -> None:
    content = read(name)
    cells = cells_of(content)
    assert content["title"]
    assert content["paper"]
    assert content["claims"]
    assert len(cells) >= 2
    assert not any(set("<>") & set(cell) for cell in cells)
    assert content["baseline"] in cells
    for budget, differs in content["budgets"].items():
        assert budget in BUDGETS
        assert set(differs.get("cells", cells)) <= cells.keys(), budget
        assert len(differs.get("cells", cells)) >= 2, budget
    for claim in content["claims"]:
        assert claim["metric"] in content["metrics"]
        assert claim["note"], "where the paper says so"
        assert {word for left, _, right in parse(claim["claim"]) for word in (left, right)} <= cells.keys()
    for table in content["published"]:
        assert table["grade"] in ("V", "S", "M")
        assert table["metric"]
        assert table["on"]
        assert table["values"].keys() <= cells.keys()
        assert all(isinstance(value, int | float) for value in table["values"].values())


@pytest.mark.parametrize("name", NAMES)
def test_what_it_reports_is_what_it_measures(name: str) -> None:
    """The evaluation is asked for the metrics that are reported, and for no others."""
    content = read(name)
    (asked,) = (line for line in content["overrides"] if line.startswith("evaluate.metrics="))
    measured = set(asked.partition("=")[2].strip("[]").split(","))
    assert measured == {metric.partition(".")[0] for metric in content["metrics"]}
    assert measured <= MEASURED


def test_the_zoo_holds_every_schedule_under_every_prediction_but_where_it_says_why() -> None:
    found = {tuple(name.split()) for name in cells_of(read("schedule_zoo"))}
    expected = set(itertools.product(set(options("schedule")) - ALIASES, ("eps", "x0", "v")))
    ends_without_signal = {"jsd", "linear_zero_terminal", "scaled_linear_zero_terminal"}
    assert expected - found == {*((schedule, "eps") for schedule in ends_without_signal), ("edm", "v")}


@pytest.mark.parametrize("budget", BUDGETS)
def test_its_cells_compose(budget: str) -> None:
    """Through the checks of a real run: all of smoke, and the last of each at the other budgets."""
    with together():
        for name in NAMES:
            asked = list(requests(read(name), budget))
            for experiment, overrides in asked if budget == "smoke" else asked[-1:]:
                plan(experiment, overrides)


@pytest.mark.slow
@pytest.mark.parametrize("budget", BUDGETS)
def test_all_cells_compose_and_no_two_are_the_same_run(budget: str) -> None:
    with together():
        for name in NAMES:
            seen: dict[str, list[str]] = {}
            for experiment, overrides in requests(read(name), budget):
                steps, deliveries = plan(experiment, overrides)
                asked = [deliveries[verb].config for verb in ("sample", "evaluate")]
                whole = str(([step.run.signature for step in steps], asked))
                assert whole not in seen, (name, overrides, seen[whole])
                seen[whole] = overrides
