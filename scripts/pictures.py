"""The pictures of docs/concepts.md, drawn by the project's own code: `python scripts/pictures.py docs/images`. Needs
the files that `unclip data fetch fashion_mnist` brings; half a minute."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from unclip import build
from unclip.cli import main as unclip
from unclip.data.images import to_float
from unclip.diffusion import (
    X0,
    Discrete,
    Eps,
    V,
    add_noise,
    cosine_betas,
    ddim,
    ddpm,
    log_snr,
    make_grid,
)
from unclip.diffusion.analytic import GaussianMixture
from unclip.diffusion.objective import Flow
from unclip.report.figures import panels, png

COSINE = Discrete(cosine_betas(1000))


def schedules() -> dict[str, bytes]:
    """What `unclip schedules` draws of three of them."""
    with tempfile.TemporaryDirectory() as folder:
        unclip(["schedules", "compare=cosine,linear,flow", f"out={folder}"])
        return {name: Path(folder, f"{name}.png").read_bytes() for name in ("alpha_sigma", "noised")}


def objectives() -> bytes:
    """One garment halfway into noise, and what each objective asks for there."""
    x0 = to_float(build.named_data("fashion_mnist").split("test").images[:1])[0, 0]  # (Y,X) in [-1,1]
    eps = torch.randn(x0.shape, generator=torch.Generator().manual_seed(0))
    t = torch.tensor([500.0])
    alpha, sigma = COSINE(t)
    shown: dict[str, Tensor] = {"x_t at t = 500": add_noise(x0[None], eps[None], alpha, sigma)[0]}
    for name, objective in {"eps": Eps(), "x0": X0(), "v": V(), "flow": Flow()}.items():
        shown[name] = objective.target(x0[None], eps[None], alpha, sigma)[0]
    figure, axes = panels(len(shown), 1.6, 1.9)
    for axis, (name, picture) in zip(axes, shown.items(), strict=True):
        axis.imshow(picture, cmap="gray", vmin=-2, vmax=2)
        axis.set_title(name, fontsize=10)
        axis.set_axis_off()
    figure.tight_layout()
    return png(figure)


def walks() -> bytes:
    """Twenty samples of two samplers on data at -1 and 1, whose exact denoiser is known: the grid's levels are the
    vertical lines."""
    denoise = GaussianMixture(COSINE, torch.tensor([[-1.0], [1.0]]), 0.1)
    grid = make_grid(COSINE, 16)
    figure, axes = panels(2, 4.6, 3.0, sharey=True)
    for axis, (name, sampler) in zip(axes, {"ddim": ddim, "ddpm": ddpm}.items(), strict=True):
        draw = torch.Generator().manual_seed(0)
        seen: list[Tensor] = []

        def keep(step: int, t: Any, x: Tensor, x0: Tensor, seen: list[Tensor] = seen) -> None:
            seen.append(x)

        def noise(x: Tensor, draw: torch.Generator = draw) -> Tensor:
            return torch.randn(x.shape, generator=draw)

        last = sampler(denoise, noise(torch.empty(20, 1)), grid, noise=noise, callback=keep)
        paths = torch.cat([*seen, last], dim=1)  # (20, steps + 1)
        for level in range(paths.shape[1]):
            axis.axvline(level, color="0.9", linewidth=0.8)
        axis.plot(paths.T, linewidth=0.9, color="tab:blue", alpha=0.7)
        shown = range(0, paths.shape[1] - 1, 3)
        names = [f"{float(log_snr(COSINE, grid.t[i])):.0f}" for i in shown]
        axis.set_xticks(list(shown), names)
        axis.set_xlabel("log-SNR of the grid's levels: noise to data")
        axis.set_title(name)
    axes[0].set_ylabel("x_t")
    figure.tight_layout()
    return png(figure)


def stages() -> bytes:
    """How a caption becomes a picture."""
    figure, (axis,) = panels(1, 9.2, 1.7)
    boxes = ["caption", "CLIP's\ntext tower", "prior", "CLIP image\nembedding", "decoder", "picture"]
    for i, name in enumerate(boxes):
        trained = name in ("CLIP's\ntext tower", "prior", "decoder")
        style = {
            "boxstyle": "round,pad=0.5",
            "facecolor": "#dbe7ff" if trained else "white",
            "edgecolor": "0.4",
        }
        axis.text(i, 0, name, ha="center", va="center", fontsize=10, bbox=style)
        if i:
            axis.annotate("", (i - 0.36, 0), (i - 0.62, 0), arrowprops={"arrowstyle": "->", "color": "0.3"})
    axis.set(xlim=(-0.6, len(boxes) - 0.4), ylim=(-0.6, 0.6))
    axis.set_axis_off()
    figure.tight_layout()
    return png(figure)


def main(folder: Path) -> int:
    folder.mkdir(parents=True, exist_ok=True)
    drawn: dict[str, Callable[[], bytes]] = {"objectives": objectives, "walks": walks, "stages": stages}
    pictures = {**schedules(), **{name: draw() for name, draw in drawn.items()}}
    for name, picture in pictures.items():
        (folder / f"{name}.png").write_bytes(picture)
    print(f"{', '.join(pictures)}: {folder}")
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
