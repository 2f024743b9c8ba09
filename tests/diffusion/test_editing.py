"""Editing: what is given stays, what is new has the distribution it must have given that."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch

from unclip.diffusion import (
    Cosine,
    Discrete,
    Gaussian,
    Grid,
    Linear,
    ddim,
    ddpm,
    dpmpp_2m,
    heun,
    image_to_image,
    inpaint,
    jsd_betas,
    linear_betas,
    make_grid,
    outpaint,
    slerp,
)
from unclip.diffusion.editing import renoise

MEAN, STD = 0.7, 0.4


def keyed(seed):
    generator = torch.Generator().manual_seed(seed)
    return lambda x: torch.randn(x.shape, generator=generator, dtype=torch.float64).to(x)


def normal(*shape, seed=0):
    return keyed(seed)(torch.empty(*shape, dtype=torch.float64))


# ---- image to image ----


def test_strength_0_is_the_picture_and_strength_1_is_plain_sampling():
    """On a table that ends at alpha = 0; elsewhere the start has a trace of the picture."""
    table = Discrete(jsd_betas(100))
    grid, x0, exact = make_grid(table, 20), normal(4, 3), Gaussian(table, MEAN, STD)
    assert torch.equal(image_to_image(exact, x0, grid, ddim, 0.0), x0)
    plain = ddpm(exact, grid.sigma[0] * (noise := keyed(1))(x0), grid, noise=noise)
    assert torch.equal(image_to_image(exact, x0, grid, ddpm, 1.0, noise=keyed(1)), plain)


def test_strength_is_the_share_of_the_steps():
    grid, seen = make_grid(Linear(), 10), []
    image_to_image(
        lambda x, t, cond: seen.append((t[0].item(), cond)) or x, normal(2, 3), grid, ddim, 0.3, {}
    )
    assert seen == [(t, {}) for t in grid.t[7:10].tolist()]


@pytest.mark.parametrize("start", [3, 10, 18])
def test_a_picture_of_the_data_comes_back_as_one(start):
    """Noised by q(x_t | x_0), the exact marginal, and solved along the exact path: with sigma_t z added at
    the wrong scale the deviation from the path would be of the order of sigma_t."""
    grid, exact = make_grid(Linear(), 200, "log_snr")[10 * start :], Gaussian(Linear(), MEAN, STD)
    x0, z = MEAN + STD * normal(6, 3), normal(6, 3, seed=1)
    level = grid.levels[0]
    x_t = level.alpha * x0 + level.sigma * z
    got = image_to_image(exact, x0, grid, heun, noise=lambda x: z)
    torch.testing.assert_close(got, exact.path(x_t, level, grid.levels[-1]), rtol=0, atol=2e-3)


def test_less_strength_stays_closer():
    exact, x0 = Gaussian(Cosine(), MEAN, STD), MEAN + STD * normal(200, 2)
    grid = make_grid(Cosine(), 20)
    distances = [
        (image_to_image(exact, x0, grid, dpmpp_2m, s, noise=keyed(2)) - x0).norm().item()
        for s in (0.1, 0.3, 0.5, 0.7, 0.9)
    ]
    assert distances == sorted(distances)
    assert distances[0] < 0.5 * distances[-1]


def test_renoise_is_the_forward_process_between_any_two_levels():
    """From clean to s to t is from clean to t: means and variances multiply up."""
    clean, s, t = (Grid(t=[2, 1, 0], alpha=[0.3, 0.8, 1], sigma=[0.9, 0.5, 0]).levels[i] for i in (2, 1, 0))
    one, zero = torch.ones(1, 1, dtype=torch.float64), torch.zeros(1, 1, dtype=torch.float64)

    def gains(s, t):
        return [renoise(x, s, t, lambda x, z=z: z).item() for x, z in ((one, zero), (zero, one))]

    (m_s, n_s), (m_t, n_t), (m, n) = gains(clean, s), gains(s, t), gains(clean, t)
    assert (m, n) == pytest.approx((t.alpha, t.sigma))
    assert m_s * m_t == pytest.approx(m)
    assert (n_s * m_t) ** 2 + n_t**2 == pytest.approx(n**2)
    assert gains(clean, clean) == [1, 0]


# ---- inpainting ----

RHO = 0.9
COVARIANCE = STD**2 * torch.tensor([[1.0, RHO], [RHO, 1.0]], dtype=torch.float64)
KNOWN = torch.tensor([True, False])
SCHEDULE = Cosine()


def pair(x_t, t, cond=None):
    """The exact denoiser of a jointly Gaussian pair."""
    alpha, sigma = SCHEDULE(t)
    alpha, sigma = (c.reshape(-1, 1, 1) for c in (alpha, sigma))
    marginal = alpha**2 * COVARIANCE + sigma**2 * torch.eye(2).double()
    gain = alpha * COVARIANCE @ torch.linalg.inv(marginal)
    return MEAN + (gain @ (x_t - alpha.squeeze(-1) * MEAN).unsqueeze(-1)).squeeze(-1)


def moments_of_the_unknown(steps=25, **options):
    """Mean and standard deviation of the unknown half, given that the known one is MEAN + STD, exactly.

    All is affine, so the sample is too, in every draw of noise: row 0 gets none, row 1 + 2 i + j a unit of
    draw i in half j.
    """
    grid = make_grid(SCHEDULE, steps)
    draws = []
    given = torch.tensor([[MEAN + STD, math.nan]], dtype=torch.float64)
    inpaint(pair, given, KNOWN, grid, noise=lambda x: draws.append(0) or torch.zeros_like(x), **options)
    places = iter(range(1, 1 + 2 * len(draws), 2))

    def noise(x):
        z = torch.zeros_like(x)
        i = next(places)
        z[i, 0] = z[i + 1, 1] = 1
        return z

    x = inpaint(pair, given.expand(1 + 2 * len(draws), 2), KNOWN, grid, noise=noise, **options)
    assert torch.equal(x[:, 0], given[:, 0].expand(len(x)))
    return x[0, 1].item(), (x[1:, 1] - x[0, 1]).norm().item()


def test_repaint_comes_closer_to_the_conditional_than_replacement():
    """The unknown half is N(mean + rho (a - mean), (1 - rho^2) std^2) given a. Replacement draws it before it
    knows a, which more steps do not mend: a third of what a says is lost. Resampling lets the two agree."""
    mean, std = MEAN + RHO * STD, STD * math.sqrt(1 - RHO**2)

    def lost(steps, resample):
        return (mean - moments_of_the_unknown(steps, resample=resample)[0]) / (RHO * STD)

    replaced = [lost(steps, 1) for steps in (25, 50, 100)]
    assert replaced == pytest.approx([1 / 3] * 3, abs=0.04)
    resampled = [lost(25, r) for r in (1, 2, 4, 8, 16)]
    assert resampled == sorted(resampled, reverse=True)
    assert lost(25, 10) < 0.12
    assert lost(100, 10) < 0.04
    assert moments_of_the_unknown(25, resample=4)[1] == pytest.approx(std, rel=0.1)
    assert moments_of_the_unknown(25, resample=5, jump=2)[0] == pytest.approx(mean, rel=0.06)


def visited(steps, **options):
    """The indices of the levels at which inpainting evaluates, and what its callback counts."""
    grid, seen, counted = make_grid(Linear(), steps), [], []
    index = {t: i for i, t in enumerate(grid.t.tolist())}
    inpaint(
        lambda x, t, cond: seen.append(index[t[0].item()]) or x,
        torch.ones(1, 2),
        KNOWN,
        grid,
        callback=lambda step, t, x, x0: counted.append((step, index[t])),
        **options,
    )
    assert counted == list(enumerate(seen))
    return seen


@pytest.mark.parametrize(("steps", "resample", "jump"), [(10, 1, 1), (6, 3, 1), (12, 2, 3), (11, 3, 4)])
def test_the_walk_is_repaints(steps, resample, jump):
    """Appendix B of the paper: times run down from T - 1 to -1, the clean end, and at 0, jump, 2 jump, ...
    while below T - jump turn back up by jump."""
    left = dict.fromkeys(range(0, steps - jump, jump), resample - 1)
    times = [steps - 1]
    while times[-1] >= 0:
        if left.get(times[-1], 0) and len(times) > 1:
            left[times[-1]] -= 1
            times += range(times[-1] + 1, times[-1] + jump + 1)
        times.append(times[-1] - 1)
    down = [steps - 1 - a for a, b in pairwise(times) if b < a]
    seen = visited(steps, resample=resample, jump=jump)
    assert seen == down
    assert len(seen) == steps + (resample - 1) * jump * ((steps - 1) // jump)


def test_what_is_known_stays_to_the_bit_and_nothing_else_of_the_picture_counts():
    exact, grid = Gaussian(Linear(), MEAN, STD), make_grid(Linear(), 8)
    x0, mask = normal(3, 2, 4, 4), normal(4, 4, seed=5) > 0
    got = inpaint(exact, x0, mask, grid, resample=2, noise=keyed(1))
    other = torch.where(mask, x0, math.nan)
    assert torch.equal(got[:, :, mask], x0[:, :, mask])
    assert not torch.isclose(got[:, :, ~mask], x0[:, :, ~mask]).any()
    assert torch.equal(inpaint(exact, other, mask, grid, resample=2, noise=keyed(1)), got)
    for same in (mask.expand(2, 4, 4), mask.expand(3, 2, 4, 4), mask.expand(3, 1, 4, 4)):
        assert torch.equal(inpaint(exact, x0, same, grid, resample=2, noise=keyed(1)), got)


@pytest.mark.parametrize("sampler", [ddim, dpmpp_2m])
def test_with_nothing_known_inpainting_is_sampling_step_by_step(sampler):
    exact, grid, x0 = Gaussian(Linear(), MEAN, STD), make_grid(Linear(), 8), normal(3, 2)
    nothing = torch.zeros(2, dtype=torch.bool)
    start = grid.levels[0].sigma * normal(3, 2, seed=1)
    got = inpaint(exact, x0, nothing, grid, sampler=sampler, noise=keyed(1))
    torch.testing.assert_close(got, ddim(exact, start, grid))  # one step of dpmpp_2m is ddim's


def test_outpainting_is_inpainting_of_the_padded_picture():
    exact, grid = Gaussian(Linear(), MEAN, STD), make_grid(Linear(), 8)
    x0 = normal(2, 1, 3, 3)
    got = outpaint(exact, x0, (1, 2, 0, 4), grid, resample=2, noise=keyed(1))
    frame, mask = torch.zeros(2, 1, 7, 6, dtype=torch.float64), torch.zeros(7, 6, dtype=torch.bool)
    frame[..., :3, 1:4], mask[:3, 1:4] = x0, True
    assert torch.equal(got[..., :3, 1:4], x0)
    assert torch.equal(got, inpaint(exact, frame, mask, grid, resample=2, noise=keyed(1)))


def test_editing_waits_for_no_device():
    """Tensors of the meta device have no values to read: what asked for one would fail."""
    exact, grid = Gaussian(Linear(), MEAN, STD), make_grid(Linear(), 8)
    x0, mask = torch.empty(2, 1, 3, 3, device="meta"), torch.empty(3, 3, dtype=torch.bool, device="meta")
    assert inpaint(exact, x0, mask, grid, resample=3, jump=2).is_meta
    assert image_to_image(exact, x0, grid, ddpm, 0.5).is_meta
    assert slerp(x0, x0, 0.5).is_meta


# ---- between two latents ----


def test_slerp_walks_the_circle_at_constant_speed():
    a, b = torch.tensor([[1.0, 0.0]]), torch.tensor([[math.cos(2.0), math.sin(2.0)]])
    for w in (0.0, 0.25, 0.5, 1.0):
        expected = torch.tensor([[math.cos(2 * w), math.sin(2 * w)]])
        torch.testing.assert_close(slerp(a, b, w), expected)


def test_slerp_keeps_the_length_of_noise_which_a_line_shortens():
    a, b = normal(8, 3, 16, 16), normal(8, 3, 16, 16, seed=1)
    half, line = slerp(a, b, 0.5), (a + b) / 2
    assert half.std().item() == pytest.approx(1, abs=0.02)
    assert line.std().item() == pytest.approx(math.sqrt(0.5), abs=0.02)
    assert torch.equal(half, slerp(a.flatten(1), b.flatten(1), 0.5).reshape(a.shape))


@pytest.mark.parametrize("gap", [1e-2, 1e-4, 1e-6, 0.0])
def test_slerp_is_the_line_where_the_angle_is_small(gap):
    """In float32, where sin(w angle) / sin(angle) of an acos is 0 / 0 or a few digits."""
    a = normal(4, 50).float()
    b = a + gap * normal(4, 50, seed=1).float()
    torch.testing.assert_close(slerp(a, b, 0.3), torch.lerp(a, b, 0.3), rtol=0, atol=1e-6 + 0.6 * gap**2)


def test_slerp_takes_a_weight_a_sample():
    a, b = normal(3, 4), normal(3, 4, seed=1)
    got = slerp(a, b, torch.tensor([0.0, 0.4, 1.0]))
    torch.testing.assert_close(got, torch.stack([a[0], slerp(a, b, 0.4)[1], b[2]]))


# ---- what is refused ----

X0, GRID = torch.zeros(2, 1, 4, 6), make_grid(Discrete(linear_betas(100)), 10)


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (
            lambda d: inpaint(d, X0, torch.ones(6, 4).bool(), GRID),
            r"mask of shape \(6, 4\): must broadcast to x0's \(2, 1, 4, 6\), like \(1, 4, 6\)",
        ),
        (
            lambda d: inpaint(d, X0, torch.ones(1, 2, 1, 4, 6).bool(), GRID),
            r"mask of shape \(1, 2, 1, 4, 6\)",
        ),
        (lambda d: inpaint(d, X0, torch.ones(4, 6), GRID), "mask of dtype torch.float32: must be torch.bool"),
        (
            lambda d: inpaint(d, X0, torch.ones(4, 6).bool(), GRID, resample=0),
            "resample = 0: must satisfy resample >= 1",
        ),
        (lambda d: inpaint(d, X0, torch.ones(4, 6).bool(), GRID, jump=0), "jump = 0: must satisfy jump >= 1"),
        (
            lambda d: inpaint(d, X0, torch.ones(4, 6).bool(), GRID, resample=2, jump=10),
            "jump = 10: on a grid of 10 steps it must satisfy jump < 10",
        ),
        (lambda d: image_to_image(d, X0, GRID, ddim, 1.5), "strength = 1.5: must satisfy 0 <= strength <= 1"),
        (lambda d: outpaint(d, X0, (1, -1), GRID), r"padding = \[1, -1\]: x0 of shape .* takes 1 to 3 pairs"),
        (lambda d: outpaint(d, X0, (1, 2, 3), GRID), r"padding = \[1, 2, 3\]"),
        (lambda d: outpaint(d, X0, (), GRID), r"padding = \[\]"),
    ],
)
def test_impossible_edits_are_refused(edit, message):
    with pytest.raises(ValueError, match=message):
        edit(Gaussian(Discrete(linear_betas(100))))
