"""The denoiser, the loss and the exact denoisers."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from unclip.diffusion import (
    X0,
    Cosine,
    Denoiser,
    Discrete,
    Eps,
    Gaussian,
    GaussianMixture,
    Linear,
    V,
    add_noise,
    cosine_betas,
    diffusion_loss,
    log_snr,
    min_snr,
)
from unclip.diffusion.objective import Edm, Flow

TABLE = Discrete(cosine_betas(1000))
OBJECTIVES = [Eps(), X0(), V(), Flow(), Edm(0.5)]


def name(value):
    return type(value).__name__


def batch(n=4, shape=(2, 3, 3), dtype=torch.float64):
    generator = torch.Generator().manual_seed(0)
    return torch.randn(2, n, *shape, generator=generator, dtype=torch.float64).to(dtype)


class Recorder(nn.Module):
    """A network that gives a fixed answer, or its input, and remembers what it was given."""

    def __init__(self, answer=None):
        super().__init__()
        self.answer = answer

    def forward(self, x, time, cond):
        self.x, self.time, self.cond = x, time, cond
        return x if self.answer is None else self.answer


@pytest.mark.parametrize("objective", OBJECTIVES, ids=name)
@pytest.mark.parametrize("shape", [(5,), (2, 3, 3)])
def test_the_right_output_gives_x0_and_no_loss(objective, shape):
    x0, eps = batch(4, shape)
    t = torch.tensor([0, 300, 700, 999])
    alpha, sigma = TABLE(t.double())
    target = objective.target(x0, eps, alpha, sigma)
    denoiser = Denoiser(Recorder(target), TABLE, objective)
    torch.testing.assert_close(
        denoiser(add_noise(x0, eps, alpha, sigma), t.double()), x0, rtol=1e-6, atol=1e-6
    )
    assert diffusion_loss(denoiser, x0, t.double(), eps).max().item() == 0.0


def test_the_network_receives_scaled_input_raw_time_and_the_condition():
    net = Recorder()
    cond = {"embedding": torch.ones(4, 2)}
    x = batch(dtype=torch.float32)[0]
    t = torch.tensor([0, 10, 500, 999])
    denoiser = Denoiser(net, TABLE, Edm(0.5))
    denoiser(x, t, cond)
    alpha, sigma = TABLE(t)
    c_in = (alpha**2 * 0.25 + sigma**2).rsqrt().reshape(4, 1, 1, 1)
    torch.testing.assert_close(net.x, c_in * x)
    assert torch.equal(net.time, t.float())
    assert net.cond is cond


def test_what_the_network_receives_as_time_is_a_choice():
    t = torch.tensor([0.0, 0.25, 1.0], dtype=torch.float64)
    x = batch(3)[0]
    for options, expected in [
        ({}, t.float()),
        ({"time_scale": 1000.0}, 1000 * t.float()),
        ({"time": "log_snr"}, log_snr(Cosine(), t).clamp(-20, 20).float()),
    ]:
        net = Recorder()
        Denoiser(net, Cosine(), X0(), **options)(x, t)
        torch.testing.assert_close(net.time, expected, rtol=0, atol=0)
    with pytest.raises(ValueError, match="time = 'sigma'"):
        Denoiser(Recorder(), Cosine(), X0(), time="sigma")


def test_time_and_result_stay_float32_whatever_the_network_and_the_input_are():
    class Half(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(8, 8)

        def forward(self, x, time, cond):
            self.time = time
            return self.layer(x)

    net = Half().bfloat16()
    x, t = batch(2, (8,), torch.bfloat16)[0], torch.tensor([997, 999])
    denoiser = Denoiser(net, TABLE, V())
    assert denoiser(x, t).dtype == denoiser.raw(x, t).dtype == torch.float32
    assert net.time.tolist() == [997.0, 999.0]


def test_only_the_network_is_in_the_state():
    """No schedule in the state: nothing of it for a checkpoint to carry or for an average of weights to
    blur."""
    denoiser = Denoiser(nn.Linear(2, 2), TABLE, Eps())
    assert set(denoiser.state_dict()) == {"net.weight", "net.bias"}


@pytest.mark.parametrize("objective", OBJECTIVES, ids=name)
def test_the_loss_is_the_error_of_the_output(objective):
    x0, eps = batch()
    t = torch.tensor([5.0, 300, 700, 990], dtype=torch.float64)
    alpha, sigma = TABLE(t)
    out = torch.ones_like(x0)
    error = out - objective.target(x0, eps, alpha, sigma)
    denoiser = Denoiser(Recorder(out), TABLE, objective)
    for norm, by_hand in [
        ("l2", error**2),
        ("l1", error.abs()),
        ("huber", torch.where(error.abs() < 1, error**2 / 2, error.abs() - 0.5)),
    ]:
        loss = diffusion_loss(denoiser, x0, t, eps, norm=norm)
        torch.testing.assert_close(loss, by_hand.mean((1, 2, 3)))
    weight = min_snr(log_snr(TABLE, t), objective, gamma=2.0)
    for weighting in (min_snr(gamma=2.0), weight):
        weighted = diffusion_loss(denoiser, x0, t, eps, None, weighting)
        torch.testing.assert_close(weighted, weight * (error**2).mean((1, 2, 3)))


def test_min_snr_weighs_the_error_of_x0_alike_in_every_objective():
    """One denoiser, said in eps, x_0 and v, has one and the same min-SNR loss."""
    x0, eps = batch()
    t = torch.tensor([50.0, 300, 600, 900], dtype=torch.float64)
    alpha, sigma = TABLE(t)
    x_t = add_noise(x0, eps, alpha, sigma)
    wrong_x0 = x0 + 0.1
    a, s = alpha.reshape(4, 1, 1, 1), sigma.reshape(4, 1, 1, 1)
    wrong_eps = (x_t - a * wrong_x0) / s
    outputs = {Eps: wrong_eps, X0: wrong_x0, V: a * wrong_eps - s * wrong_x0}
    losses = [
        diffusion_loss(Denoiser(Recorder(out), TABLE, objective()), x0, t, eps, None, min_snr)
        for objective, out in outputs.items()
    ]
    expected = torch.clamp(log_snr(TABLE, t).exp(), max=5) * 0.01
    for loss in losses:
        torch.testing.assert_close(loss, expected)


@pytest.mark.parametrize("objective", OBJECTIVES, ids=name)
def test_training_is_fine_at_both_ends(objective):
    """At sigma = 0 and at alpha = 0 (t = 0 and 1 of the cosine) loss and gradient are finite, eps
    included."""
    x0, eps = batch(2, (4,), torch.float32)
    layer = nn.Linear(4, 4)

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = layer

        def forward(self, x, time, cond):
            return self.layer(x)

    denoiser = Denoiser(Net(), Cosine(), objective)
    for weight in (None, min_snr):
        diffusion_loss(denoiser, x0, torch.tensor([0.0, 1.0]), eps, None, weight).sum().backward()
    assert layer.weight.grad is not None
    assert layer.weight.grad.isfinite().all()


def test_the_noise_of_the_forward_process_is_the_callers():
    """The loss draws nothing: x_t is alpha x_0 + sigma eps of the eps it is given, so the same call is the
    same loss."""
    net = Recorder()
    x0, eps = batch(dtype=torch.float32)
    t = torch.tensor([0.1, 0.4, 0.6, 0.9])
    diffusion_loss(Denoiser(net, Cosine(), X0()), x0, t, eps)
    alpha, sigma = (c.reshape(4, 1, 1, 1) for c in Cosine()(t))
    torch.testing.assert_close(net.x, alpha * x0 + sigma * eps)


def test_an_unknown_norm_is_refused():
    x0, eps = batch()
    with pytest.raises(ValueError, match="norm = 'l3': the norms are l2, l1, huber"):
        diffusion_loss(Denoiser(Recorder(), Cosine(), X0()), x0, torch.rand(4), eps, norm="l3")


def test_the_gaussian_denoiser_is_the_posterior_mean():
    """Against x_0 itself: of all functions of x_t it has the least error, so it is uncorrelated with the
    remainder."""
    generator = torch.Generator().manual_seed(0)
    mean, std, n = 0.7, 0.4, 400_000
    x0 = mean + std * torch.randn(n, 1, generator=generator, dtype=torch.float64)
    t = torch.full((n,), 0.4, dtype=torch.float64)
    x_t = add_noise(x0, torch.randn(n, 1, generator=generator, dtype=torch.float64), *Linear()(t))
    remainder = x0 - Gaussian(Linear(), mean, std)(x_t, t)
    assert remainder.mean().abs().item() < 3e-3
    assert (remainder * (x_t - x_t.mean())).mean().abs().item() < 3e-3


def test_the_mixture_denoiser_is_bayes_rule_by_quadrature():
    means, std, weights = torch.tensor([[-1.0], [0.5], [2.0]]).double(), 0.3, [0.2, 0.5, 0.3]
    grid = torch.linspace(-6, 8, 40_001, dtype=torch.float64)
    prior = sum(
        w * torch.exp(-((grid - m) ** 2) / (2 * std**2)) for w, m in zip(weights, means[:, 0], strict=True)
    )
    x, t = torch.linspace(-2, 2, 7, dtype=torch.float64), torch.full((7,), 0.35, dtype=torch.float64)
    alpha, sigma = Linear()(t[:1])
    posterior = prior * torch.exp(-((x[:, None] - alpha * grid) ** 2) / (2 * sigma**2))
    expected = (posterior * grid).sum(1) / posterior.sum(1)
    got = GaussianMixture(Linear(), means, std, weights)(x[:, None], t)
    torch.testing.assert_close(got[:, 0], expected, rtol=1e-6, atol=1e-6)


def test_a_mixture_of_one_is_a_gaussian_of_images():
    x = batch()[0]
    t = torch.tensor([0.0, 0.3, 0.6, 1.0], dtype=torch.float64)
    mean = torch.linspace(-1, 1, 18).reshape(2, 3, 3)
    one = GaussianMixture(Cosine(), mean[None], 0.5)(x, t)
    torch.testing.assert_close(one, Gaussian(Cosine(), mean, 0.5)(x, t))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Gaussian(Cosine(), 0.0, 0.0), "std = 0.0: must satisfy std > 0"),
        (
            lambda: GaussianMixture(Cosine(), torch.zeros(2, 1), 1.0, [1.0]),
            "2 means need as many positive weights",
        ),
    ],
)
def test_impossible_data_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
