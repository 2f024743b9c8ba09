"""Samplers against algorithms written out in their papers' own symbols, and one identity they all keep: only
the log-SNR matters."""

from __future__ import annotations

import functools
import itertools
import math

import pytest
import torch
from sampler_cases import MEAN, SAMPLERS, STD, keyed, name

from unclip.diffusion import (
    Cosine,
    Gaussian,
    GaussianMixture,
    Grid,
    Linear,
    dpmpp_2m_sde,
    dpmpp_3m_sde,
    heun,
    log_snr,
    make_grid,
)
from unclip.diffusion.schedule import Edm, Flow

MEANS = torch.tensor([[-1.0, 0.5], [1.0, 0.0]], dtype=torch.float64)
WIDE = Edm(0.002, 200.0)


def along(schedule, log_snrs):
    t = schedule.t_at(torch.as_tensor(log_snrs, dtype=torch.float64))
    return Grid(t, *schedule(t), schedule)


@pytest.mark.parametrize("sampler", [s for s in SAMPLERS if "large" not in name(s)], ids=name)
def test_the_same_log_snrs_give_the_same_sample_on_every_schedule(sampler):
    """Variance preserving, variance exploding and flow differ by the scale of x alone: x / alpha at the end
    is the same, to 1e-10 of it. DDPM's large variance alone depends on the scale: it is x_t's, given to x_s."""
    log_snrs = torch.linspace(-7, 6, 25, dtype=torch.float64)
    noise, start = keyed(0)(torch.empty(25, 4, 2, dtype=torch.float64)), keyed(1)(torch.empty(4, 2).double())

    def run(schedule):
        grid = along(schedule, log_snrs)
        draws = iter(noise)
        exact = GaussianMixture(schedule, MEANS, 0.3)
        x = grid.sigma[0] * start + grid.alpha[0] * 0.2
        return sampler(exact, x, grid, noise=lambda x: next(draws)) / grid.alpha[-1]

    reference = run(Linear())
    for schedule in (Cosine(), WIDE, Flow()):
        assert (run(schedule) - reference).norm() <= 1e-10 * reference.norm()


@pytest.mark.parametrize(
    "options", [(40.0, 0.05, 50.0, 1.003), (80.0, 0.01, 1.0, 1.007), (5.0, 0.0, 50.0, 1.0)]
)
def test_heun_with_churn_is_edms_algorithm_2(options):
    S_churn, S_tmin, S_tmax, S_noise = options
    schedule, N = Edm(0.002, 80.0), 18
    grid = make_grid(schedule, N, "karras")
    sigmas = [*(80 ** (1 / 7) + i / (N - 1) * (0.002 ** (1 / 7) - 80 ** (1 / 7)) for i in range(N)), 0.0]
    t = [root**7 for root in sigmas]  # the paper's t is its sigma

    def D(x, sigma):
        return MEAN + STD**2 / (STD**2 + sigma**2) * (x - MEAN)

    draw = keyed(3)
    x = start = 80 * keyed(2)(torch.empty(3, 2, dtype=torch.float64))
    for i in range(N):
        gamma = min(S_churn / N, math.sqrt(2) - 1) if S_tmin <= t[i] <= S_tmax else 0.0
        t_hat, x_hat = t[i] + gamma * t[i], x
        if gamma > 0:
            x_hat = x + math.sqrt(t_hat**2 - t[i] ** 2) * S_noise * draw(x)
        d = (x_hat - D(x_hat, t_hat)) / t_hat
        x = x_hat + (t[i + 1] - t_hat) * d
        if t[i + 1] != 0:
            d_next = (x - D(x, t[i + 1])) / t[i + 1]
            x = x_hat + (t[i + 1] - t_hat) * (d / 2 + d_next / 2)

    got = heun(
        Gaussian(schedule, MEAN, STD),
        start,
        grid,
        noise=keyed(3),
        S_churn=S_churn,
        S_tmin=S_tmin,
        S_tmax=S_tmax,
        S_noise=S_noise,
    )
    torch.testing.assert_close(got, x, rtol=1e-9, atol=1e-9)


def test_churn_stops_at_the_schedules_noisiest_level():
    """Where there is no level sqrt 2 noisier, the noisiest one is taken, and the noise is what it lacks."""
    seen = []

    def denoise(x, t, cond):
        seen.append(t[0].item())
        return torch.zeros_like(x)

    grid = make_grid(Linear(), None, [1.0, 0.98, 0.5])
    heun(denoise, torch.ones(1, 1), grid, noise=torch.zeros_like, S_churn=100.0)
    raised = [seen[0], seen[2], seen[4]]
    assert raised[0] == raised[1] == pytest.approx(1)
    expected = Linear().t_at(log_snr(Linear(), torch.tensor(0.5).double()) - math.log(2))
    assert raised[2] == pytest.approx(expected.item())


def k_diffusion(sampler, denoise, x, sigmas, noise, eta):
    """`sample_dpmpp_2m_sde` ("midpoint") and `sample_dpmpp_3m_sde` of Crowson's k-diffusion, in its symbols,
    which know sigma alone."""
    denoised_1 = denoised_2 = h_1 = h_2 = None
    for sigma, sigma_next in itertools.pairwise(sigmas):
        denoised = denoise(x, sigma)
        if sigma_next == 0:
            return denoised
        t, s = -math.log(sigma), -math.log(sigma_next)
        h = s - t
        h_eta = h * (eta + 1)
        x = math.exp(-h_eta) * x - math.expm1(-h_eta) * denoised
        phi_2 = math.expm1(-h_eta) / h_eta + 1
        if sampler is dpmpp_2m_sde:
            if h_1 is not None:
                x = x - 0.5 * math.expm1(-h_eta) * (h / h_1) * (denoised - denoised_1)
        elif h_2 is not None:
            r0, r1 = h_1 / h, h_2 / h
            d1_0, d1_1 = (denoised - denoised_1) / r0, (denoised_1 - denoised_2) / r1
            d1 = d1_0 + (d1_0 - d1_1) * r0 / (r0 + r1)
            d2 = (d1_0 - d1_1) / (r0 + r1)
            x = x + phi_2 * d1 - (phi_2 / h_eta - 0.5) * d2
        elif h_1 is not None:
            x = x + phi_2 * (denoised - denoised_1) / (h_1 / h)
        x = x + noise(x) * sigma_next * math.sqrt(-math.expm1(-2 * h * eta)) if eta else x
        denoised_1, denoised_2, h_1, h_2 = denoised, denoised_1, h, h_1
    return x


@pytest.mark.parametrize("eta", [0.0, 0.6, 1.0, 1.5])
@pytest.mark.parametrize("sampler", [dpmpp_2m_sde, dpmpp_3m_sde], ids=name)
def test_the_sdes_are_k_diffusions(sampler, eta):
    schedule = Edm(0.01, 50.0)
    grid = make_grid(schedule, 15, "karras")
    exact = GaussianMixture(schedule, MEANS, 0.3)

    def at_sigma(x, sigma):
        t = schedule.t_at(torch.tensor(-2 * math.log(sigma), dtype=torch.float64))
        return exact(x, t.expand(len(x)))

    start = 50 * keyed(5)(torch.empty(4, 2, dtype=torch.float64))
    got = sampler(exact, start, grid, noise=keyed(6), eta=eta)
    expected = k_diffusion(sampler, at_sigma, start, grid.sigma.tolist(), keyed(6), eta)
    torch.testing.assert_close(got, expected, rtol=1e-9, atol=1e-9)


def test_churn_draws_noise_only_within_its_range():
    draws = []
    sampler = functools.partial(heun, S_churn=10.0, S_tmin=0.1, S_tmax=10.0)
    grid = make_grid(Edm(), 20, "karras")

    def noise(x):
        draws.append(1)
        return torch.zeros_like(x)

    sampler(Gaussian(Edm()), torch.ones(1, 1), grid, noise=noise)
    assert len(draws) == ((grid.sigma >= 0.1) & (grid.sigma <= 10)).sum().item() > 5
