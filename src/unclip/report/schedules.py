"""The page of `unclip schedules`: what each noise schedule does to data, to the loss and to a sampler's steps.
Draws and measures; the formulas are unclip.diffusion's."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from unclip import build
from unclip.data.images import to_float, to_uint8
from unclip.data.module import ImageTextData
from unclip.diffusion import Objective, Schedule, add_noise, log_snr, make_grid, over
from unclip.diffusion.grid import Spacing
from unclip.diffusion.schedule import LOG_SNR_LIMIT, variance_preserving
from unclip.diffusion.times import RESOLUTION, Uniform
from unclip.diffusion.weighting import Weighting
from unclip.files import write_bytes
from unclip.progress import Bar
from unclip.report import figures, page, pictures
from unclip.runs.store import Run

POINTS = 400  # of a curve
LEVELS = 8  # noised pictures
MEASURED = 20  # noise levels at which a trained model's loss is measured
COLOURS = ("blue", "orange", "green", "red", "purple", "brown", "pink", "gray", "olive", "cyan")
Figure = Any


@dataclass(frozen=True)
class Curve:
    """A trained model's mean squared errors at MEASURED noise levels, each (MEASURED,)."""

    name: str
    log_snr: Tensor
    x0: Tensor
    eps: Tensor


@torch.no_grad()  # a learned schedule has parameters
def deliver(request: Mapping[str, Any], runs: Sequence[Run], out: Path) -> list[str]:
    """Write schedules.html and its pictures into `out`; -> the pictures' names. `compare` and `weightings` of the
    request are configuration nodes by name."""
    schedules = {name: build.part(node) for name, node in request["compare"].items()}
    weightings = {name: build.part(node) for name, node in request["weightings"].items()}
    objective = build.part(request["objective"])
    source = build.data({"data": request["data"], "seed": request["seed"]})
    drawn = {
        "alpha_sigma.png": _alpha_sigma(schedules),
        "log_snr.png": _log_snr(schedules),
        "noised.png": noised(schedules, source, request["seed"]),
        "weights.png": _weights(schedules, weightings, objective),
        "grids.png": _grids(schedules, request["spacings"], request["steps"]),
    }
    if runs:
        drawn["loss.png"] = _losses([measure(run, request["n"], request["seed"]) for run in runs])
    out.mkdir(parents=True, exist_ok=True)
    for name, png in drawn.items():
        write_bytes(out / name, png)
    page.write(
        out / "schedules.html",
        "schedules.html",
        title="Noise schedules",
        rows=[row(name, schedule) for name, schedule in schedules.items()],
        pictures={name.removesuffix(".png"): png for name, png in drawn.items()},
        objective=request["objective_name"],
        steps=request["steps"],
        n=request["n"],
    )
    return list(drawn)


def row(name: str, schedule: Schedule) -> dict[str, str]:
    """A schedule in numbers."""
    levels = log_snr(schedule, _times(schedule, 10_001)).clamp(-99, 99)
    drawn = log_snr(schedule, schedule.from_uniform(torch.linspace(0, 1, 10_002, dtype=torch.float64)[1:-1]))
    quarter, half, three = drawn.quantile(torch.tensor([0.75, 0.5, 0.25], dtype=torch.float64)).tolist()
    return {
        "name": name,
        "time": f"T = {schedule.T}" if schedule.T else "continuous",
        "data_end": _ended(levels[0]),
        "noise_end": _ended(levels[-1]),
        "quartiles": ", ".join(f"{q + 0.0:.1f}".replace("-0.0", "0.0") for q in (quarter, half, three)),
        "signal": f"{variance_preserving(levels[-1])[0].item():.2g}" if levels[-1] > -99 else "0",
    }


def noised(schedules: Mapping[str, Schedule], source: ImageTextData, seed: int) -> bytes:
    """PNG: one real image on each schedule at equal steps of its training times, the same noise everywhere. Shown at
    unit variance where the schedule does not preserve it."""
    train = source.split("train")
    image = to_float(train.images[:1])
    eps = torch.randn(image.shape, generator=torch.Generator().manual_seed(seed))
    u = (torch.arange(LEVELS, dtype=torch.float64) + 1) / LEVELS * (1 - 1e-6)
    rows = []
    for schedule in schedules.values():
        alpha, sigma = schedule(schedule.from_uniform(u))
        size = torch.hypot(alpha, sigma)
        x_t = add_noise(image.expand(LEVELS, -1, -1, -1), eps.expand(LEVELS, -1, -1, -1), alpha, sigma)
        rows.append(to_uint8((x_t / over(size, x_t)).float()))
    return pictures.png(
        torch.cat(rows), LEVELS, list(schedules), [f"{k + 1}/{LEVELS}" for k in range(LEVELS)]
    )


def effective_weight(schedule: Schedule, weighting: Weighting, objective: Objective) -> tuple[Tensor, Tensor]:
    """log_snr and the weight of the squared error of eps there, density included, of mean 1 over the schedule's
    log-SNR range within +-20: what L = 1/2 int w(lambda) E|eps - eps_hat|^2 d lambda calls w (Kingma & Gao 2023,
    eq. 4). At every entry of a table; else at draws as near to 0 and 1 as training's, between which the range lies."""
    if schedule.T:
        u = (torch.arange(schedule.T, dtype=torch.float64) + 0.5) / schedule.T
    else:
        ends = math.log(1 / RESOLUTION - 1)
        u = torch.linspace(-ends, ends, POINTS, dtype=torch.float64).sigmoid()
    draw = Uniform()(u, schedule)
    level, density = log_snr(schedule, draw.t), draw.density()
    on_eps = weighting(level, objective, density) / objective.c_eps(*variance_preserving(level)) ** 2
    weight = on_eps * density
    inside = (level.abs() < LOG_SNR_LIMIT) & weight.isfinite()
    level, weight = level[inside], weight[inside]
    order = level.argsort()
    level, weight = level[order], weight[order]
    area = torch.trapezoid(weight, level)
    return level, weight / area * (level[-1] - level[0])


def measure(run: Run, n: int, seed: int) -> Curve:
    """The errors of a finished run's averaged weights on the first n validation images, keyed noise, by noise level."""
    from unclip.lit.base import DiffusionStage
    from unclip.randomness import KeyedNoise, key

    source = build.data(run.config)
    clip = build.upstream_clip(run.config, source)
    embeddings = build.embeddings(run.config, clip, source)
    net, latents = build.trained_net(run, source, clip), build.latents(run.config, source)
    module = build.module(run.config, net, embeddings=embeddings, latents=latents)
    assert isinstance(module, DiffusionStage)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    module = module.eval().to(device)
    module.embeddings = embeddings.to(device)
    validation = source.split("validation").head(n)
    u = (torch.arange(MEASURED, dtype=torch.float64) + 0.5) / MEASURED
    times = module.schedule.from_uniform(u).to(device)
    noise = KeyedNoise(key(seed, "loss by level"), torch.arange(len(validation)))
    batch = {
        "image": validation.images.to(device),
        "caption": validation.caption_ids.to(device),
        "index": torch.arange(len(validation), device=device),
    }
    x0, cond = module.example(batch, "validation", None)
    eps = noise(x0)
    errors = []
    with Bar(f"loss of {run.signature}", MEASURED) as bar, torch.no_grad():
        for done, t in enumerate(times, 1):
            estimates = [
                _errors(module, x0[i], eps[i], t.expand(len(i)), {k: v[i] for k, v in cond.items()})
                for i in torch.arange(len(x0), device=device).split(100)
            ]
            errors.append(torch.cat(estimates).mean(0).cpu())
            bar.update(done)
    x0_error, eps_error = torch.stack(errors).T
    stage, schedule = run.config["stage"]["name"], type(module.schedule).__name__
    return Curve(
        f"{stage} {run.signature} ({schedule})", log_snr(module.schedule, times).cpu(), x0_error, eps_error
    )


def _errors(module: Any, x0: Tensor, eps: Tensor, t: Tensor, cond: Mapping[str, Tensor]) -> Tensor:
    """(B, 2): mean squared errors of x0 and of eps = (x_t - alpha x0) / sigma."""
    alpha, sigma = module.schedule(t)
    estimate = module.denoiser(add_noise(x0, eps, alpha, sigma), t, cond)
    x0_error = (estimate - x0).flatten(1).square().mean(1).double()
    return torch.stack([x0_error, x0_error * (alpha / sigma) ** 2], dim=1)


def _times(schedule: Schedule, count: int) -> Tensor:
    return torch.linspace(0, (schedule.T or 2) - 1, count, dtype=torch.float64)


def _ended(level: Tensor) -> str:
    return f"{level.item():.1f}" if abs(level.item()) < 99 else ("-inf" if level < 0 else "inf")


def _figure(columns: int, width: float = 4.2) -> tuple[Figure, Any]:
    figure, axes = figures.panels(columns, width, 3.1, layout="constrained")
    colours = [f"tab:{name}" for name in COLOURS] * 4
    for axis in axes:
        axis.grid(alpha=0.25)
        axis.set_prop_cycle(color=colours, linestyle=["-", "--", ":", "-."] * 10)  # equal curves stay visible
    return figure, axes


def _png(figure: Figure, legend: bool = True) -> bytes:
    if legend:
        handles, labels = figure.axes[0].get_legend_handles_labels()
        columns = 4 if len(figure.axes) < 3 else 5
        figure.set_figheight(figure.get_figheight() + 0.22 * -(-len(labels) // columns))
        figure.legend(handles, labels, loc="outside lower center", ncols=columns, frameon=False, fontsize=8.5)
    return figures.png(figure)


def _alpha_sigma(schedules: Mapping[str, Schedule]) -> bytes:
    figure, (left, right) = _figure(2)
    for name, schedule in schedules.items():
        t = _times(schedule, POINTS)
        alpha, sigma = schedule(t)
        left.plot(t / t[-1], alpha, label=name)
        right.plot(t / t[-1], sigma.clamp(max=1.5), label=name)
    left.set(xlabel="t (of a table: t / (T-1))", ylabel="alpha")
    right.set(xlabel="t", ylabel="sigma (cut off at 1.5)")
    return _png(figure)


def _log_snr(schedules: Mapping[str, Schedule]) -> bytes:
    figure, (left, right) = _figure(2)
    bins = torch.linspace(-LOG_SNR_LIMIT, LOG_SNR_LIMIT, 81, dtype=torch.float64)
    for name, schedule in schedules.items():
        t = _times(schedule, POINTS)
        left.plot(t / t[-1], log_snr(schedule, t).clamp(-LOG_SNR_LIMIT, LOG_SNR_LIMIT), label=name)
        u = (torch.arange(20_000, dtype=torch.float64) + 0.5) / 20_000
        drawn = log_snr(schedule, schedule.from_uniform(u)).clamp(-LOG_SNR_LIMIT, LOG_SNR_LIMIT)
        density = torch.histogram(drawn, bins, density=True).hist
        right.plot((bins[1:] + bins[:-1]) / 2, density, label=name)
    left.set(xlabel="t (of a table: t / (T-1))", ylabel="log-SNR, within +-20")
    right.set(xlabel="log-SNR", ylabel="density in training", ylim=(0, None))
    return _png(figure)


def _weights(
    schedules: Mapping[str, Schedule], weightings: Mapping[str, Weighting], objective: Objective
) -> bytes:
    figure, axes = _figure(max(len(weightings), 1), 3.6)
    for axis, (title, weighting) in zip(axes, weightings.items(), strict=False):
        for name, schedule in schedules.items():
            axis.plot(*effective_weight(schedule, weighting, objective), label=name)
        axis.set(title=title, xlabel="log-SNR", yscale="log", ylim=(1e-3, 1e2), xlim=(-15, 15))
    axes[0].set(ylabel="weight of eps's error x density")
    return _png(figure)


def _grids(schedules: Mapping[str, Schedule], spacings: Sequence[Spacing], steps: int) -> bytes:
    figure, axes = _figure(max(len(spacings), 1), 3.6)
    figure.set_figheight(1.2 + 0.28 * len(schedules))
    for axis, spacing in zip(axes, spacings, strict=False):
        for place, schedule in enumerate(schedules.values()):
            count = min(steps, schedule.T or steps)
            grid = make_grid(schedule, count, spacing)
            levels = 2 * (grid.alpha[:-1].log() - grid.sigma[:-1].log())
            axis.plot(levels.clamp(-LOG_SNR_LIMIT, LOG_SNR_LIMIT), [place] * count, "|", markersize=11)
        axis.set(title=spacing, xlabel="log-SNR", ylim=(len(schedules) - 0.5, -0.5), xlim=(-21, 21))
        axis.set_yticks(range(len(schedules)), list(schedules) if axis is axes[0] else [""] * len(schedules))
    return _png(figure, legend=False)


def _losses(curves: Sequence[Curve]) -> bytes:
    figure, (left, right) = _figure(2)
    for curve in curves:
        inside = curve.log_snr.abs() < LOG_SNR_LIMIT
        for axis, error in ((left, curve.x0), (right, curve.eps)):
            axis.plot(curve.log_snr[inside], error[inside], "o-", markersize=3, label=curve.name)
    left.set(xlabel="log-SNR", ylabel="mean squared error of x0", yscale="log")
    right.set(xlabel="log-SNR", ylabel="mean squared error of eps", yscale="log")
    return _png(figure)
