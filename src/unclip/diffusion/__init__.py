"""Diffusion, pure: schedules, grids, objectives, weightings, denoisers, losses, guidance, samplers.
Imports torch only: nothing of Lightning, Hydra or the rest of the project.

x_t = alpha(t) x_0 + sigma(t) eps; large t is noise. `Flow` and `Edm` are names of schedules and of
objectives, `edm` and `sigmoid` of weightings: those are reached through their modules, `schedule.Flow`,
`objective.Flow`, `weighting.edm`.
"""

from unclip.diffusion import analytic, grid, guidance, loss, objective, sample, schedule, weighting
from unclip.diffusion.analytic import Gaussian, GaussianMixture
from unclip.diffusion.bounds import bounded
from unclip.diffusion.broadcast import at_least_float32, over
from unclip.diffusion.denoiser import Cond, Denoise, Denoiser
from unclip.diffusion.grid import Grid, Level, make_grid
from unclip.diffusion.guidance import clipped, guided, retimed
from unclip.diffusion.loss import diffusion_loss
from unclip.diffusion.objective import X0, Eps, Objective, V
from unclip.diffusion.sample import ddim, ddpm, dpmpp_2m, heun, pndm, unipc
from unclip.diffusion.schedule import (
    Cosine,
    Discrete,
    Linear,
    Schedule,
    Sigmoid,
    add_noise,
    cosine_betas,
    discrete,
    jsd_betas,
    linear_betas,
    log_snr,
    quadratic_betas,
    scaled_linear_betas,
    sigmoid_betas,
)
from unclip.diffusion.weighting import Weighting, min_snr, p2, truncated_snr, uniform

__all__ = [
    "X0",
    "Cond",
    "Cosine",
    "Denoise",
    "Denoiser",
    "Discrete",
    "Eps",
    "Gaussian",
    "GaussianMixture",
    "Grid",
    "Level",
    "Linear",
    "Objective",
    "Schedule",
    "Sigmoid",
    "V",
    "Weighting",
    "add_noise",
    "analytic",
    "at_least_float32",
    "bounded",
    "bounds",
    "broadcast",
    "clipped",
    "cosine_betas",
    "ddim",
    "ddpm",
    "denoiser",
    "diffusion_loss",
    "discrete",
    "dpmpp_2m",
    "grid",
    "guidance",
    "guided",
    "heun",
    "jsd_betas",
    "linear_betas",
    "log_snr",
    "loss",
    "make_grid",
    "min_snr",
    "objective",
    "over",
    "p2",
    "pndm",
    "quadratic_betas",
    "retimed",
    "sample",
    "scaled_linear_betas",
    "schedule",
    "sigmoid_betas",
    "truncated_snr",
    "uniform",
    "unipc",
    "weighting",
]
