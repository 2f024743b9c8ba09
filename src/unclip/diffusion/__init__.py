"""Diffusion, pure: schedules, grids, objectives, weightings, denoisers, losses, guidance, samplers.
Imports torch only: nothing of Lightning, Hydra or the rest of the project.

x_t = alpha(t) x_0 + sigma(t) eps; large t is noise. `Flow` and `Edm` are names of schedules and of
objectives, `edm` and `sigmoid` of weightings: those are reached through their modules, `schedule.Flow`,
`objective.Flow`, `weighting.edm`.
"""

from unclip.diffusion import analytic, grid, guidance, loss, objective, sample, schedule, times, weighting
from unclip.diffusion.analytic import Gaussian, GaussianMixture
from unclip.diffusion.bounds import bounded
from unclip.diffusion.broadcast import at_least_float32, over
from unclip.diffusion.degradation import blur, cold_sample, pixelate
from unclip.diffusion.denoiser import Cond, Denoise, Denoiser
from unclip.diffusion.editing import image_to_image, inpaint, outpaint, slerp
from unclip.diffusion.grid import Grid, Level, make_grid
from unclip.diffusion.guidance import (
    autoguided,
    classifier_guided,
    clip_guided,
    clipped,
    dynamic_thresholding,
    guided,
    ramp,
    retimed,
    within,
)
from unclip.diffusion.learned_variance import LearnedVariance
from unclip.diffusion.likelihood import Bound, bits_per_dim
from unclip.diffusion.loss import diffusion_loss, hybrid_loss, variational_loss
from unclip.diffusion.objective import X0, Eps, Objective, V
from unclip.diffusion.sample import (
    ddim,
    ddpm,
    dpmpp_2m,
    dpmpp_2m_sde,
    dpmpp_3m,
    dpmpp_3m_sde,
    euler,
    euler_ancestral,
    heun,
    invert,
    lcm,
    plms,
    pndm,
    unipc,
)
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
from unclip.diffusion.times import Times
from unclip.diffusion.variance import Analytic, forward_variance, posterior_variance
from unclip.diffusion.weighting import Weighting, min_snr, p2, truncated_snr, uniform, vlb

__all__ = [
    "X0",
    "Analytic",
    "Bound",
    "Cond",
    "Cosine",
    "Denoise",
    "Denoiser",
    "Discrete",
    "Eps",
    "Gaussian",
    "GaussianMixture",
    "Grid",
    "LearnedVariance",
    "Level",
    "Linear",
    "Objective",
    "Schedule",
    "Sigmoid",
    "Times",
    "V",
    "Weighting",
    "add_noise",
    "analytic",
    "at_least_float32",
    "autoguided",
    "bits_per_dim",
    "blur",
    "bounded",
    "bounds",
    "broadcast",
    "classifier_guided",
    "clip_guided",
    "clipped",
    "cold_sample",
    "cosine_betas",
    "ddim",
    "ddpm",
    "degradation",
    "denoiser",
    "diffusion_loss",
    "discrete",
    "dpmpp_2m",
    "dpmpp_2m_sde",
    "dpmpp_3m",
    "dpmpp_3m_sde",
    "dynamic_thresholding",
    "editing",
    "euler",
    "euler_ancestral",
    "forward_variance",
    "grid",
    "guidance",
    "guided",
    "heun",
    "hybrid_loss",
    "image_to_image",
    "inpaint",
    "invert",
    "jsd_betas",
    "lcm",
    "linear_betas",
    "log_snr",
    "loss",
    "make_grid",
    "min_snr",
    "objective",
    "outpaint",
    "over",
    "p2",
    "pixelate",
    "plms",
    "pndm",
    "posterior_variance",
    "quadratic_betas",
    "ramp",
    "retimed",
    "sample",
    "scaled_linear_betas",
    "schedule",
    "sigmoid_betas",
    "slerp",
    "times",
    "truncated_snr",
    "uniform",
    "unipc",
    "variational_loss",
    "vlb",
    "weighting",
    "within",
]
