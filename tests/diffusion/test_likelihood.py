"""The variational bound: its terms against distributions by hand and diffusers, its sum against an exact
likelihood, and what its gradients train."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch
from diffusers import DDPMScheduler
from torch import nn
from torch.distributions import Normal, kl_divergence

from unclip.diffusion import (
    X0,
    Denoiser,
    Discrete,
    Eps,
    Gaussian,
    LearnedVariance,
    Linear,
    V,
    bits_per_dim,
    clipped,
    cosine_betas,
    ddpm,
    diffusion_loss,
    guided,
    hybrid_loss,
    linear_betas,
    log_snr,
    make_grid,
    min_snr,
    variational_loss,
)
from unclip.diffusion.likelihood import decoder_nll, step_kl
from unclip.diffusion.objective import Edm, Flow
from unclip.diffusion.variance import Analytic, forward_variance, posterior_variance

TABLE = Discrete(linear_betas(1000))
SHORT = Discrete(cosine_betas(12))


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def noise(seed=0):
    drawn = generator(seed)
    return lambda x: torch.randn(x.shape, generator=drawn).to(x)


def name(value):
    return type(value).__name__


class Twice(nn.Module):
    """A network of twice the channels: the exact output for N(0, std^2), times `gain`, and v."""

    def __init__(self, schedule, objective, std=0.5, v=0.0, gain=1.0):
        super().__init__()
        self.exact, self.schedule, self.objective = Gaussian(schedule, 0.0, std), schedule, objective
        self.gain, self.v = nn.Parameter(torch.tensor(gain)), nn.Parameter(torch.tensor(v))
        self.calls = 0

    def forward(self, scaled, time, cond):
        self.calls += 1
        t = time.double()
        alpha, sigma = self.schedule(t)
        shape = (-1, *[1] * (scaled.ndim - 1))
        x = scaled.double() / self.objective.c_in(alpha, sigma).reshape(shape)
        x0 = self.exact(x, t)
        out = (x0 - self.objective.c_skip(alpha, sigma).reshape(shape) * x) / self.objective.c_out(
            alpha, sigma
        ).reshape(shape)
        shift = 0 if cond is None else cond["shift"].reshape(shape)
        return torch.cat([(self.gain * out).float(), (self.v + shift).expand_as(out)], dim=1)


def learning(schedule=TABLE, objective=None, **settings):
    objective = objective or V()
    return Denoiser(Twice(schedule, objective, **settings), schedule, objective, learned_variance=True)


# ---- terms ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("v", [0.0, 0.3, 1.0, 1.2])
def test_a_step_is_the_kl_of_two_gaussians(v):
    """Of q(x_s | x_t, x_0) and p(x_s | x_t) by their means and variances (Ho et al. 2020, eq. 6 and 7)."""
    grid = make_grid(TABLE, 1000)
    x0, guess = torch.randn(2, 5, generator=generator(), dtype=torch.float64)
    x_t = torch.randn(5, generator=generator(1), dtype=torch.float64)
    for t, s in [*grid.pairs()][:-1:111]:
        small, large = posterior_variance(t, s), forward_variance(t, s)
        learned = math.exp(v * math.log(large) + (1 - v) * math.log(small))
        on_x = t.alpha * s.sigma**2 / (s.alpha * t.sigma**2)
        on_x0 = s.alpha * large / t.sigma**2
        q = Normal(on_x * x_t + on_x0 * x0, math.sqrt(small))
        p = Normal(on_x * x_t + on_x0 * guess, math.sqrt(learned))
        levels = log_snr(TABLE, torch.tensor([t.t, s.t], dtype=torch.float64))
        excess = torch.tensor(v * math.log(large / small), dtype=torch.float64)
        got = step_kl(x0 - guess, *levels, excess)
        torch.testing.assert_close(got, kl_divergence(q, p), rtol=1e-6, atol=1e-12)


def test_no_step_is_dearer_than_with_the_best_variance():
    """For Gaussian data the expected term is least at Bao et al.'s analytic variance."""
    t, s = [*make_grid(TABLE, 50).pairs()][10]
    std = 0.5
    error = std**2 / (1 + std**2 * (t.alpha / t.sigma) ** 2)
    best = math.log(Analytic({t.t: error})(None, None, t, s) / posterior_variance(t, s))
    levels = log_snr(TABLE, torch.tensor([t.t, s.t], dtype=torch.float64))
    excess = best + torch.linspace(-0.5, 0.5, 101, dtype=torch.float64)
    terms = step_kl(torch.full_like(excess, math.sqrt(error)), *levels, excess)
    assert terms.argmin() == 50


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("sigma", [3e-3, 0.02, 0.5])
def test_the_decoder_gives_the_256_values_a_mass_of_1(sigma, dtype):
    values = torch.arange(256, dtype=dtype) / 127.5 - 1
    mean = torch.tensor([-1.3, -1.0, -0.2, 0.517, 1.0], dtype=dtype).unsqueeze(1)
    nats = decoder_nll(values, mean, torch.tensor(2 * math.log(sigma), dtype=dtype))
    total = torch.exp(-nats).sum(1)
    torch.testing.assert_close(
        total, torch.ones(5, dtype=dtype), rtol=1e-4 if dtype.itemsize == 4 else 1e-9, atol=0
    )


def test_the_decoder_is_finite_however_far_off_the_mean_is():
    """Where a difference of cumulative distributions is 0 and its logarithm -inf; and so is the gradient."""
    mean = torch.tensor([-50.0, -2.0, 0.3, 2.0, 50.0], requires_grad=True)
    nats = decoder_nll(torch.zeros(5), mean, torch.tensor(2 * math.log(0.01)))
    nearest = (mean.detach().abs() - 1 / 255) / 0.01  # nearly all the mass is at the bin's nearer edge
    torch.testing.assert_close(nats.detach(), nearest**2 / 2, rtol=3e-2, atol=0)
    nats.sum().backward()
    torch.testing.assert_close(mean.grad, mean.detach().sign() * nearest / 0.01, rtol=3e-2, atol=0)


# ---- the learned variance ------------------------------------------------------------------------------


@pytest.mark.parametrize("raw", [-1.0, -0.4, 0.0, 1.0])
def test_the_learned_variance_is_that_of_diffusers(raw):
    oracle = DDPMScheduler(1000, variance_type="learned_range", beta_schedule="linear")
    oracle.set_timesteps(1000)
    learned = LearnedVariance(learning(v=raw))
    x = torch.zeros(1, 1)
    for t, s in [*make_grid(TABLE, 1000).pairs()][:-2:97]:
        learned(x, torch.tensor([t.t]))
        expected = oracle._get_variance(int(t.t), torch.full((1, 1), raw)).exp()
        torch.testing.assert_close(
            learned.variance(x, x, t, s), expected, rtol=2e-3, atol=0
        )  # float32 tables


def test_mean_and_variance_are_of_one_pass_and_of_the_conditional_half():
    denoiser = learning()
    learned = LearnedVariance(denoiser)
    cond, null = {"shift": torch.tensor([0.0, 1.0])}, {"shift": torch.tensor([-1.0, -1.0])}
    x = torch.randn(2, 3, generator=generator())
    grid = make_grid(TABLE, 5)
    clipped(guided(learned, 3.0, null), 1.0)(x, torch.tensor([500.0, 500.0]), cond)
    assert denoiser.net.calls == 1
    assert learned.v(x).tolist() == [[0.5] * 3, [1.0] * 3]
    denoiser.net.calls = 0
    ddpm(guided(learned, 3.0, null), x, grid, cond, noise=noise(), variance=learned.variance)
    assert denoiser.net.calls == 5


@pytest.mark.parametrize(("raw", "fixed"), [(-1.0, "small"), (1.0, "large")])
def test_at_its_ends_the_learned_variance_is_a_fixed_one(raw, fixed):
    x, grid = torch.randn(3, 2, generator=generator()), make_grid(TABLE, 20)
    denoiser = learning(v=raw)
    learned = LearnedVariance(denoiser)
    a = ddpm(learned, x, grid, noise=noise(), variance=learned.variance)
    b = ddpm(denoiser, x, grid, noise=noise(), variance=fixed)
    torch.testing.assert_close(a, b)


def test_a_network_without_a_variance_is_refused():
    plain = Denoiser(nn.Linear(2, 2), TABLE, V())
    with pytest.raises(ValueError, match="this network predicts no variance"):
        LearnedVariance(plain)
    with pytest.raises(ValueError, match="none to train"):
        hybrid_loss(plain, torch.zeros(1, 2), torch.zeros(1), torch.zeros(1, 2))
    with pytest.raises(ValueError, match="sum over the steps of a table"):
        variational_loss(learning(Linear()), torch.zeros(1, 2), torch.zeros(1), torch.zeros(1, 2))


# ---- losses --------------------------------------------------------------------------------------------


def batch():
    x0 = (torch.randn(6, 2, 2, 2, generator=generator()) * 0.5).clamp(-1, 1).mul(127.5).round() / 127.5
    return x0, torch.tensor([0.0, 1.0, 2.0, 6.0, 10.0, 11.0]), torch.randn(6, 2, 2, 2, generator=generator(1))


@pytest.mark.parametrize("objective", [Eps(), X0(), V(), Flow(), Edm(0.5)], ids=name)
def test_hybrid_trains_the_mean_by_l_simple_and_the_variance_by_l_vlb(objective):
    x0, t, eps = batch()

    def gradients(loss):
        denoiser = learning(SHORT, objective, std=0.8, v=0.2, gain=0.9)
        value = loss(denoiser).sum()
        value.backward()
        net = denoiser.net
        return value.item(), *(0.0 if p.grad is None else p.grad.item() for p in (net.gain, net.v))

    hybrid, mean, variance = gradients(lambda d: hybrid_loss(d, x0, t, eps, None, min_snr))
    simple, mean_simple, _ = gradients(lambda d: diffusion_loss(d, x0, t, eps, None, min_snr))
    vlb, mean_vlb, variance_vlb = gradients(lambda d: variational_loss(d, x0, t, eps))
    assert hybrid == pytest.approx(simple + 0.001 * vlb, rel=1e-5)
    assert mean == pytest.approx(mean_simple, rel=1e-5)
    assert variance == pytest.approx(0.001 * variance_vlb, rel=1e-5)
    assert abs(variance_vlb) > 1e-3
    assert abs(mean_vlb) > 1e-3  # which is not detached in L_vlb itself


@pytest.mark.parametrize("raw", [-1.0, 0.4])
def test_the_mean_of_l_vlb_over_t_is_the_bound_that_is_reported(raw):
    """With the same noise at every t: training and evaluation share one bound. L_T is all that is missing."""
    images = torch.randint(0, 256, (3, 2, 4, 4), generator=generator())
    x0, eps = images / 127.5 - 1, torch.randn(3, 2, 4, 4, generator=generator(1))
    denoiser = learning(SHORT, v=raw)
    learned = LearnedVariance(denoiser)
    bound = bits_per_dim(learned, images.byte(), make_grid(SHORT, 12), noise=lambda x: eps, variance=learned)
    terms = [variational_loss(denoiser, x0, torch.full((3,), float(t)), eps) for t in range(12)]
    torch.testing.assert_close(bound.steps + bound.decoder, torch.stack(terms).mean(0).detach())
    alpha, sigma = SHORT(torch.tensor(11.0).double())
    by_hand = kl_divergence(Normal(alpha * x0.double(), sigma), Normal(0.0, sigma)).mean(
        (1, 2, 3)
    ) / math.log(2)
    torch.testing.assert_close(bound.prior.double(), by_hand, rtol=1e-5, atol=1e-9)


# ---- the sum -------------------------------------------------------------------------------------------

MEAN, STD = 0.1, 0.25


def gaussian_images(n):
    x = MEAN + STD * torch.randn(n, 1, 32, 32, generator=generator())
    return ((x + 1) * 127.5).round().clamp(0, 255).byte()


def exact_bits(images):
    """Of N(MEAN, STD^2) in 256 bins, the outer two unbounded, a mean over the images."""
    edges = (torch.arange(1, 256).double() - 0.5) / 127.5 - 1
    inner = Normal(torch.tensor(MEAN).double(), STD).cdf(edges)
    mass = torch.cat([inner, torch.ones(1)]) - torch.cat([torch.zeros(1), inner])
    return -mass[images.long()].log2().mean().item()


def walk(steps, low=-4.0, high=7.0):
    """Steps even in log_snr; at the last the noise is 3% of the range, wider than a bin."""
    schedule = Linear()
    grid = make_grid(schedule, None, schedule.t_at(torch.linspace(low, high, steps).double()))
    return schedule, grid


def test_on_gaussian_data_the_bound_falls_to_the_exact_likelihood_as_steps_are_added():
    """From above. The excess is of first order in the steps' length, so that two numbers of steps extrapolate
    to the exact value, within the noise of 131,072 dimensions (three deviations: 0.015 bits)."""
    images = gaussian_images(128)
    exact = exact_bits(images)
    excess = []
    for steps in (15, 30, 60, 120):
        schedule, grid = walk(steps)
        denoise = Gaussian(schedule, MEAN, STD)
        bound = bits_per_dim(denoise, images, grid, noise=noise(), variance="large")
        excess.append(bound.total.mean().item() - exact)
    assert 0.02 < excess[3] < 0.05
    for longer, shorter in pairwise(excess[:3]):
        assert longer / shorter == pytest.approx(2, abs=0.2)
    assert 2 * excess[3] - excess[2] == pytest.approx(0, abs=0.02)
    assert exact == pytest.approx(math.log2(STD * 127.5 * math.sqrt(2 * math.pi * math.e)), abs=0.02)


@pytest.mark.parametrize("objective", [Eps(), X0(), V(), Flow(), Edm(0.5)], ids=name)
def test_the_bound_is_one_number_whatever_the_network_is_asked_for(objective):
    images = gaussian_images(2)
    grid = make_grid(SHORT, 12)
    denoiser = learning(SHORT, objective, std=STD)
    got = bits_per_dim(denoiser, images, grid, noise=noise())
    expected = bits_per_dim(Gaussian(SHORT, 0.0, STD), images, grid, noise=noise())
    torch.testing.assert_close(got.total, expected.total, rtol=1e-4, atol=0)


def test_a_few_of_the_steps_give_an_unbiased_estimate():
    """Over all u its mean is the whole sum, for any number of draws; here the noise is one and the same."""
    images = gaussian_images(1)
    eps = noise()(images.float())
    grid = make_grid(SHORT, 12)

    def bound(u):
        return bits_per_dim(Gaussian(SHORT, MEAN, STD), images, grid, noise=lambda x: eps, u=u)

    whole = bound(None)
    points = (torch.arange(66) + 0.5) / 66
    for k in (1, 2, 3):
        mean = torch.stack([bound(u.expand(k)).steps for u in points]).mean(0)
        torch.testing.assert_close(mean, whole.steps, rtol=1e-5, atol=0)
    each = bound(torch.rand(11, generator=generator()))
    torch.testing.assert_close(each.total, whole.total)
    assert torch.equal(bound(points[:1]).decoder, whole.decoder)


def test_there_may_be_more_draws_than_steps():
    images, grid = gaussian_images(1), make_grid(SHORT, 12)
    eps = noise()(images.float())
    done, denoise = [], Gaussian(SHORT, MEAN, STD)
    twice = bits_per_dim(denoise, images, grid, noise=lambda x: eps, u=torch.rand(22), callback=done.append)
    torch.testing.assert_close(twice.steps, bits_per_dim(denoise, images, grid, noise=lambda x: eps).steps)
    assert done == list(range(1, 24))


def test_padding_does_not_count():
    images = gaussian_images(3)
    eps = noise()(images.float())
    grid = make_grid(SHORT, 12)
    denoise = Gaussian(SHORT, MEAN, STD)
    expected = bits_per_dim(denoise, images, grid, noise=lambda x: eps)
    pad = nn.ConstantPad2d(2, 0)
    mask = pad(torch.ones(1, 1, 32, 32)).bool()
    got = bits_per_dim(denoise, pad(images), grid, noise=lambda x: pad(eps), mask=mask)
    for a, b in zip(got, expected, strict=True):
        torch.testing.assert_close(a, b)


def test_progress_is_counted_by_evaluations():
    done = []
    bits_per_dim(Gaussian(SHORT), gaussian_images(1), make_grid(SHORT, 12), callback=done.append)
    assert done == list(range(1, 13))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"images": torch.zeros(1, 2)}, "images of torch.float32: the likelihood is that of 8-bit values"),
        ({"variance": "medium"}, "variance = 'medium': small, large or a LearnedVariance"),
        ({"grid": make_grid(SHORT, 1)}, "a grid of 1 steps to sigma = 0: needs 2 or more"),
        ({"grid": make_grid(SHORT, 12)[:4]}, "a grid of 3 steps to sigma = .*: needs 2 or more, to 0"),
    ],
)
def test_what_has_no_bound_is_refused(change, message):
    settings = {"images": torch.zeros(1, 2).byte(), "grid": make_grid(SHORT, 12)}
    with pytest.raises(ValueError, match=message):
        bits_per_dim(Gaussian(SHORT), **{**settings, **change})
