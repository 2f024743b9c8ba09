"""Time sampling: densities against closed forms, the bound's weights against its integral, importance."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from unclip.diffusion import X0, Cosine, Discrete, Eps, Linear, V, cosine_betas, linear_betas, log_snr, vlb
from unclip.diffusion.schedule import Edm, Flow
from unclip.diffusion.times import Importance, LogitNormal, LogNormal, Uniform, stratify

TABLE = Discrete(cosine_betas(1000))
N = 20_000
U = ((torch.arange(N) + 0.5) / N).double()  # every quantile: a mean over these is an integral over draws


def normal(x, mean, std):
    return torch.exp(-((x - mean) ** 2) / (2 * std**2)) / (math.sqrt(2 * math.pi) * std)


def name(value):
    return type(value).__name__


@pytest.mark.parametrize("schedule", [TABLE, Linear(), Cosine(), Flow(), Edm()], ids=name)
@pytest.mark.parametrize("stratified", [False, True])
def test_uniform_is_the_schedules_own_choice_to_the_bit(schedule, stratified):
    u = torch.rand(64, generator=torch.Generator().manual_seed(0))
    draw = Uniform(stratified)(u, schedule)
    assert torch.equal(draw.t, schedule.from_uniform(u))
    losses = torch.rand(64)
    assert torch.equal(draw.mean(losses), losses.mean())


@given(st.integers(1, 300), st.integers(0, 2**31))
def test_stratified_draws_are_one_in_each_part(B, seed):
    u = stratify(torch.rand(B, generator=torch.Generator().manual_seed(seed), dtype=torch.float64))
    assert ((u >= 0) & (u < 1)).all()
    assert torch.equal((u * B + 1e-9).floor().sort().values, torch.arange(B).double())


def test_a_stratified_draw_alone_is_uniform():
    """Whatever its place in the batch: so the expected loss is that of independent draws."""
    first = U[::20].unsqueeze(1).expand(-1, 5).clone()
    moved = torch.stack([stratify(row) for row in first])
    for k in (1, 2, 3):
        torch.testing.assert_close(
            (moved**k).mean(0), torch.full((5,), 1 / (k + 1)).double(), rtol=2e-3, atol=0
        )


CLOSED_FORMS = {
    "cosine": (Uniform(), Cosine(s=0.0), lambda x: 1 / (2 * math.pi * torch.cosh(x / 2))),
    "flow": (Uniform(), Flow(), lambda x: 1 / (8 * torch.cosh(x / 4) ** 2)),
    "logit-normal flow": (LogitNormal(0.3, 0.8), Flow(), lambda x: normal(x, -0.6, 1.6)),
    "log-normal EDM": (LogNormal(-1.2, 1.2), Edm(), lambda x: normal(x, 2.4, 2.4)),
    "log-normal flow": (LogNormal(-0.5, 0.7), Flow(), lambda x: normal(x, 1.0, 1.4)),
    "log-normal table": (LogNormal(-0.5, 0.7), TABLE, lambda x: normal(x, 1.0, 1.4)),
}


@pytest.mark.parametrize("case", CLOSED_FORMS)
def test_the_density_of_log_snr_is_the_published_one(case):
    """Kingma & Gao 2023, table 4; Esser et al. 2024, appendix B; Karras et al. 2022, table 1."""
    times, schedule, expected = CLOSED_FORMS[case]
    draw = times(U, schedule)
    level = log_snr(schedule, draw.t)
    inner = (
        level > log_snr(schedule, torch.tensor(1.0 if schedule.T is None else 999.0).double()) + 1e-6
    ) & (level < log_snr(schedule, torch.tensor(0.0).double()) - 1e-6)
    assert inner.double().mean() > 0.99
    torch.testing.assert_close(draw.density()[inner], expected(level)[inner], rtol=1e-5, atol=1e-9)


ALL = [Uniform(), LogitNormal(), LogitNormal(-0.5, 1.5), LogNormal(), LogNormal(0.0, 2.0)]


@pytest.mark.parametrize(
    "schedule", [Linear(), Cosine(), Flow(), Edm(), Discrete(linear_betas(1000))], ids=name
)
@pytest.mark.parametrize("times", ALL, ids=name)
def test_the_density_is_that_of_the_draws(times, schedule):
    """Between the quantiles of 10% and 90% it integrates to 80%, by the trapezium rule over log_snr."""
    draw = times(U, schedule)
    if schedule.T is not None and not isinstance(times, LogNormal):
        # of a table's entries: the mass of entry t, over expm1 of the step to it
        entries = torch.arange(1, schedule.T).double()
        steps = torch.expm1(-log_snr(schedule, torch.arange(schedule.T).double()).diff())
        counted = torch.bincount(draw.t.long(), minlength=schedule.T)[1:] / N
        u = (torch.searchsorted(draw.t, entries)).clamp(max=N - 1)
        seen = counted > 20 / N
        mass = times(U[u], schedule).density() * steps
        torch.testing.assert_close(mass[seen], counted[seen].double(), rtol=0, atol=1.01 / N)
        return
    middle = slice(N // 10, N - N // 10)
    level, density = log_snr(schedule, draw.t)[middle], draw.density()[middle]
    area = torch.trapezoid(density, level).abs().item()
    assert area == pytest.approx(0.8, abs=2e-4)


def test_a_density_is_finite_at_the_ends_of_the_draws():
    """A float32 draw of exactly 0 comes once in 2^24: one infinite weight would end a training."""
    u = torch.tensor([0.0, 1 - 2**-24])
    for schedule in (Linear(), Cosine(), Flow(), Edm(), TABLE):
        for times in ALL:
            draw = times(u, schedule)
            assert draw.t.isfinite().all()
            assert (draw.density() > 0).all()
            assert draw.density().isfinite().all()


def error(log_snr, std):
    """E |x_0 - x0_hat|^2 of the exact denoiser of Gaussian data."""
    return std**2 / (1 + std**2 * log_snr.exp())


@pytest.mark.parametrize("objective", [X0(), Eps(), V()], ids=name)
@pytest.mark.parametrize("schedule", [Linear(), Edm(), Edm(1e-4, 1e3, 3.0)], ids=name)
@pytest.mark.parametrize("times", ALL, ids=name)
def test_vlb_is_the_bound_however_t_is_drawn(times, schedule, objective):
    """On N(0, s^2) the integral of SNR error / 2 over log_snr is log(1 + s^2 SNR) / 2 between the ends (the
    gain in information): the mean over draws of the weighted error between the 0.5% quantiles. Measured off
    the output, whose error is that of x_0 over c_out."""
    std = 0.7
    draw = times(U, schedule)
    level = log_snr(schedule, draw.t)
    alpha, sigma = schedule(draw.t)
    weight = vlb(level, objective, draw.density, torch.hypot(alpha, sigma))
    value = weight * error(level, std) / objective.c_out(alpha, sigma) ** 2
    inner = slice(N // 200, N - N // 200)
    got = torch.trapezoid(value[inner], U[inner])
    ends = level[inner][[0, -1]] if level[0] > level[-1] else level[inner][[-1, 0]]
    high, low = torch.log1p(std**2 * ends.exp()) / 2
    assert got.item() == pytest.approx((high - low).item(), rel=1e-4)


@pytest.mark.parametrize("betas", [linear_betas, cosine_betas])
def test_vlb_of_a_table_is_the_kl_between_posteriors(betas):
    """L_{t-1} of Ho et al. 2020, eq. 8 and 10 by their own coefficients, for t > 0, times T."""
    table = Discrete(betas(1000))
    t = torch.arange(1, 1000)
    bar, before, beta = table.alpha_bar[t], table.alpha_bar[t - 1], table.betas[t]
    variance = (1 - before) / (1 - bar) * beta
    shift = before.sqrt() * beta / (1 - bar)  # of the mean by an error of 1 in x_0
    draw = Uniform()((t + 0.5) / 1000, table)
    assert torch.equal(draw.t, t.float())
    weight = vlb(log_snr(table, t.double()), X0(), draw.density)
    torch.testing.assert_close(weight, 1000 * shift**2 / (2 * variance), rtol=1e-7, atol=0)


def test_vlb_asks_for_the_density():
    with pytest.raises(ValueError, match="density = None: vlb divides"):
        vlb(torch.zeros(2), X0())


# ---- importance ----------------------------------------------------------------------------------------


def skewed(T):
    return torch.logspace(0, -3, T, dtype=torch.float64)


def trained(T=20, table=None):
    times = Importance(history=3)
    schedule = table or Discrete(cosine_betas(T))
    times(torch.rand(1), schedule)
    for _ in range(3):
        times.learn(torch.arange(T), skewed(T))
    return times, schedule


def test_importance_is_unbiased_and_varies_less():
    times, schedule = trained()
    draw = times(U, schedule)
    losses = skewed(20)[draw.t.long()]
    # the mean over all quantiles is off by at most one draw at each of the 20 steps of the quantile function
    assert draw.mean(losses).item() == pytest.approx(skewed(20).mean().item(), rel=20 / N * 20)
    p = times.probabilities()
    assert p.sum().item() == pytest.approx(1)
    torch.testing.assert_close(draw.weight, 1 / (20 * p[draw.t.long()]))
    assert (draw.weight * losses).var() < 0.01 * skewed(20).var()
    assert p[-1] > 0.001 / 20  # the floor


def test_importance_draws_by_the_root_mean_square():
    times = Importance(history=2, floor=1e-9)
    schedule = Discrete(cosine_betas(3))
    times(torch.rand(1), schedule)
    for losses in ([3.0, 1.0, 0.0], [4.0, 1.0, 2.0]):
        times.learn(torch.arange(3), torch.tensor(losses))
    size = torch.tensor([math.sqrt(12.5), 1.0, math.sqrt(2.0)], dtype=torch.float64)
    torch.testing.assert_close(times.probabilities(), size / size.sum())


@given(st.lists(st.lists(st.integers(0, 4), min_size=1, max_size=30), min_size=1, max_size=6))
def test_importance_remembers_an_entrys_last_losses(batches):
    times = Importance(history=3)
    times(torch.rand(1), Discrete(cosine_betas(5)))
    seen, loss = [[] for _ in range(5)], 0.0
    for batch in batches:
        losses = torch.arange(len(batch)).double() + loss + 1
        times.learn(torch.tensor(batch).float(), losses)
        for t, value in zip(batch, losses.tolist(), strict=True):
            seen[t].append(value)
        loss += len(batch)
    for t in range(5):
        kept = [x for x in times.losses[t].tolist() if x]
        assert sorted(kept) == seen[t][-3:]
    enough = all(len(s) >= 3 for s in seen)
    assert enough == (times.probabilities().max() != times.probabilities().min())


def test_importance_goes_on_from_its_state():
    times, schedule = trained()
    other = Importance(history=3)
    other.load_state_dict({k: v.clone() for k, v in times.state_dict().items()})
    u = torch.rand(50)
    for one in (times, other):
        one.learn(torch.tensor([3, 3, 7]), torch.tensor([9.0, 8.0, 7.0]))
    assert torch.equal(times(u, schedule).t, other(u, schedule).t)
    assert torch.equal(times.losses, other.losses)


def test_importance_needs_a_table():
    with pytest.raises(ValueError, match="needs a table"):
        Importance()(torch.rand(2), Linear())


def test_importance_with_the_vlb_weighting_is_still_the_bound():
    """The weight 1 / (T p_t) is there already: the density is that of uniform draws."""
    times, schedule = trained()
    own, uniform = times(U, schedule), Uniform()(U, schedule)
    at = uniform.density()[torch.searchsorted(uniform.t, own.t)]
    torch.testing.assert_close(own.density(), at)
