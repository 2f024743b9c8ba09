"""Wrappers: guidance in one pass and by how much at which level, exact where the answer is known; thresholds;
a denoiser of one schedule walked along another."""

from __future__ import annotations

import math

import diffusers
import pytest
import torch

from unclip.diffusion import (
    Cosine,
    Discrete,
    Gaussian,
    GaussianMixture,
    Linear,
    autoguided,
    classifier_guided,
    clip_guided,
    clipped,
    ddim,
    dynamic_thresholding,
    guided,
    linear_betas,
    log_snr,
    make_grid,
    ramp,
    retimed,
    within,
)
from unclip.diffusion.schedule import Edm, Flow

X = torch.linspace(-2, 2, 12).reshape(4, 3)
T = torch.tensor([1.0, 2.0, 3.0, 4.0])
COND = {"embedding": torch.arange(4.0).reshape(4, 1), "keep": torch.ones(4, dtype=torch.bool)}
NULL = {**COND, "keep": torch.zeros(4, dtype=torch.bool)}
SCHEDULE = Linear()
LEVELS = torch.tensor([0.1, 0.3, 0.5, 0.9])


class Spy:
    """A denoiser that reads x_t, t and, where it is kept, the condition; it remembers its calls."""

    def __init__(self):
        self.calls = []

    def __call__(self, x_t, t, cond=None):
        self.calls.append((x_t, t, cond))
        return (
            0.5 * x_t
            + t.reshape(-1, 1)
            + torch.where(cond["keep"], 1.0, 0.0).reshape(-1, 1) * cond["embedding"]
        )


@pytest.mark.parametrize("scale", [0.0, 0.5, 3.0])
def test_guidance_extrapolates_from_the_null_branch(scale):
    c, u = Spy()(X, T, COND), Spy()(X, T, NULL)
    torch.testing.assert_close(guided(Spy(), scale, NULL)(X, T, COND), u + scale * (c - u))


def test_guidance_is_one_pass_over_the_batch_twice():
    spy = Spy()
    guided(spy, 3.0, NULL)(X, T, COND)
    ((x_t, t, cond),) = spy.calls
    assert len(x_t) == len(t) == 8
    assert cond["keep"].tolist() == [True] * 4 + [False] * 4


@torch.no_grad()
def test_the_steps_of_a_sampler_share_the_joined_condition():
    """It is the largest thing that a prior's step would copy. Another condition is joined anew."""
    spy = Spy()
    denoise, other = guided(spy, 3.0, NULL), {**COND, "embedding": 2 * COND["embedding"]}
    for cond in (COND, COND, other, COND):
        torch.testing.assert_close(denoise(X, T, cond), guided(Spy(), 3.0, NULL)(X, T, cond))
    first, second, third, _ = (joined["embedding"] for _, _, joined in spy.calls)
    assert second is first
    assert third is not first


def test_gradients_flow_back_to_a_condition_at_every_call():
    learned = {**COND, "embedding": COND["embedding"].clone().requires_grad_()}
    denoise = guided(Spy(), 3.0, NULL)
    with torch.no_grad():
        denoise(X, T, learned)
    for _ in range(2):
        (gradient,) = torch.autograd.grad(denoise(X, T, learned).sum(), learned["embedding"])
        torch.testing.assert_close(gradient, torch.full((4, 1), 9.0))


def test_scale_1_is_off_and_costs_nothing():
    spy = Spy()
    guided(spy, 1, NULL)(X, T, COND)
    ((x_t, _, cond),) = spy.calls
    assert len(x_t) == 4
    assert cond is COND


def test_the_null_branch_keeps_x_t_and_t():
    """A null branch that drops x_t as well guides away from x_t, not towards the condition: what both
    branches share must cancel, so that the difference is the condition's alone."""
    spy = Spy()
    guided_x0 = guided(spy, 3.0, NULL)(X, T, COND)
    ((x_t, t, _),) = spy.calls
    assert torch.equal(x_t[4:], X)
    assert torch.equal(t[4:], T)
    torch.testing.assert_close(guided_x0 - Spy()(X, T, COND), 2.0 * COND["embedding"].expand(4, 3))


def test_guidance_of_x0_is_guidance_of_eps():
    alpha, sigma = 0.6, 0.8
    c, u = Spy()(X, T, COND), Spy()(X, T, NULL)
    eps_c, eps_u = (X - alpha * c) / sigma, (X - alpha * u) / sigma
    eps = eps_u + 2.5 * (eps_c - eps_u)
    torch.testing.assert_close(guided(Spy(), 2.5, NULL)(X, T, COND), (X - sigma * eps) / alpha)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
def test_guidance_is_computed_in_float32_at_least(dtype):
    """A large scale times a small difference: bfloat16 would add its own rounding, 0.4%, to every pixel."""

    def denoise(x, t, cond):
        return torch.where(cond["keep"].unsqueeze(1), x, 0.9 * x).to(dtype)

    def weaker(x, t, cond):
        return denoise(x, t, NULL)

    expected = denoise(X, T, NULL).double() + 7.5 * (
        denoise(X, T, COND).double() - denoise(X, T, NULL).double()
    )
    for scale in (7.5, lambda log_snr: torch.full_like(log_snr, 7.5)):
        for wrapped in (
            guided(denoise, scale, NULL, schedule=SCHEDULE),
            autoguided(denoise, weaker, scale, schedule=SCHEDULE),
        ):
            got = wrapped(X, LEVELS, COND)
            assert got.dtype == torch.promote_types(dtype, torch.float32)
            torch.testing.assert_close(got.double(), expected, rtol=1e-6, atol=1e-6)


def test_clipping_after_guidance_bounds_what_clipping_before_does_not():
    after = clipped(guided(Spy(), 3.0, NULL), 1)(X, T, COND)
    before = guided(clipped(Spy(), 1), 3.0, NULL)(X - T.reshape(-1, 1) * 2, T, COND)
    assert after.abs().max() == 1
    assert before.abs().max() > 1
    torch.testing.assert_close(after, guided(Spy(), 3.0, NULL)(X, T, COND).clamp(-1, 1))


@pytest.mark.parametrize(
    ("trained", "sampling"),
    [
        (Cosine(), Linear()),
        (Discrete(linear_betas(1000)), Cosine()),
        (Cosine(), Flow()),
        (Flow(), Edm()),
        (Edm(), Cosine()),
    ],
    ids=lambda s: type(s).__name__,
)
def test_retimed_is_exact_for_an_exact_denoiser(trained, sampling):
    """The posterior mean depends on x_t / alpha and the log-SNR alone, so the two must agree wherever both
    reach."""
    x = torch.randn(5, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    t = torch.tensor([0.2, 0.3, 0.5, 0.6, 0.7], dtype=torch.float64)
    exact = Gaussian(sampling, 0.7, 0.4)(x, t)
    torch.testing.assert_close(retimed(Gaussian(trained, 0.7, 0.4), trained, sampling)(x, t), exact)


def test_retimed_reaches_alpha_0():
    trained, t = Discrete(linear_betas(1000)), torch.tensor([1.0], dtype=torch.float64)
    assert log_snr(Cosine(), t).item() == -torch.inf
    x = torch.tensor([[0.3]], dtype=torch.float64)
    expected = Gaussian(trained, 0.7, 0.4)(x, torch.tensor([999.0]).double())
    torch.testing.assert_close(retimed(Gaussian(trained, 0.7, 0.4), trained, Cosine())(x, t), expected)


# ---- scales that depend on the noise level ----


def noise_to_signal(t):
    alpha, sigma = SCHEDULE(torch.as_tensor(t))
    return (sigma / alpha).tolist()


def test_a_scale_may_depend_on_the_noise_level():
    c, u = Spy()(X, LEVELS, COND), Spy()(X, LEVELS, NULL)
    s = (1 + log_snr(SCHEDULE, LEVELS).sigmoid()).unsqueeze(1)
    got = guided(Spy(), lambda log_snr: 1 + log_snr.sigmoid(), NULL, schedule=SCHEDULE)(X, LEVELS, COND)
    torch.testing.assert_close(got, u + s * (c - u))


@pytest.mark.parametrize(("shape", "at_a_quarter"), [("linear", 2.0), ("cosine", 1 + 2 - 2 * math.sqrt(0.5))])
def test_a_ramp_leads_from_noise_to_data(shape, at_a_quarter):
    levels = torch.tensor([-torch.inf, -4.0, -2.0, 0.0, 4.0, torch.inf])
    expected = torch.tensor([1.0, 1.0, at_a_quarter, 3.0, 5.0, 5.0])
    torch.testing.assert_close(ramp(1.0, 5.0, shape, noise=-4.0, data=4.0)(levels), expected)


def test_outside_its_interval_guidance_is_off():
    """Row by row, and to the bit."""
    ratio = noise_to_signal(LEVELS)
    scale = within(3.0, 1.1 * ratio[0], 1.1 * ratio[2])
    got = guided(Spy(), scale, NULL, schedule=SCHEDULE)(X, LEVELS, COND)
    on, off = guided(Spy(), 3.0, NULL)(X, LEVELS, COND), Spy()(X, LEVELS, COND)
    assert torch.equal(got[[0, 3]], off[[0, 3]])
    torch.testing.assert_close(got[[1, 2]], on[[1, 2]])
    assert (on - off).abs()[1:].amax(1).min() > 1  # where it is on, it shows


def test_an_interval_is_open_below_and_closed_above():
    equal = torch.tensor([0.0])  # sigma / alpha = 1
    assert [within(3.0, *ends)(equal).item() for ends in ((0.5, 1.0), (1.0, 2.0))] == [3.0, 1.0]
    assert within(1.0, 0.5, 2.0) == 1.0  # off everywhere, and known to be
    assert within(3.0, 0.5, math.inf)(torch.tensor([-torch.inf])).item() == 3.0  # alpha = 0


def test_an_interval_limits_a_ramp_too():
    ratio = noise_to_signal(LEVELS)
    rising = ramp(0.0, 8.0)
    got = within(rising, 1.1 * ratio[1], 1.1 * ratio[3], outside=0.0)(log_snr(SCHEDULE, LEVELS))
    assert got.tolist() == [0.0, 0.0, *rising(log_snr(SCHEDULE, LEVELS))[2:].tolist()]


def test_the_second_pass_is_saved_outside_the_interval():
    """On the CPU, where the noise level can be read: one pass at 14 of 20 levels."""
    spy, grid = Spy(), make_grid(SCHEDULE, 20)
    ratio = (grid.sigma / grid.alpha).tolist()
    scale = within(3.0, 1.01 * ratio[12], 1.01 * ratio[6])
    ddim(guided(spy, scale, NULL, schedule=SCHEDULE), X, grid, COND)
    assert [len(x) for x, _, _ in spy.calls] == [4] * 6 + [8] * 6 + [4] * 8


def every_wrapper(denoise, null):
    scale = within(ramp(1.0, 3.0), 0.2, 5.0)
    strong = guided(denoise, scale, null, schedule=SCHEDULE, rescale=0.7)
    better = autoguided(strong, lambda x, t, cond: 0.4 * x, scale, schedule=SCHEDULE)
    towards = classifier_guided(better, SCHEDULE, lambda x, t, cond: -x.square().sum(1), scale)
    return dynamic_thresholding(clipped(retimed(towards, SCHEDULE, Cosine()), 2.0), 0.9)


def test_no_wrapper_waits_for_the_device():
    """Tensors of the meta device have no values to read: what asked for one would fail."""
    spy = Spy()
    cond, null = ({k: v.to("meta") for k, v in c.items()} for c in (COND, NULL))
    got = ddim(every_wrapper(spy, null), X.to("meta"), make_grid(Cosine(), 20), cond)
    assert got.is_meta
    assert [len(x) for x, _, _ in spy.calls] == [8] * 20


def test_guidance_compiles_to_one_graph():
    scale = within(3.0, 0.2, 5.0)
    wrapped = dynamic_thresholding(guided(Spy(), scale, NULL, schedule=SCHEDULE, rescale=0.5))
    compiled = torch.compile(wrapped, fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(X, LEVELS, COND), wrapped(X, LEVELS, COND))


# ---- exact denoisers ----

MIXTURE = GaussianMixture(SCHEDULE, torch.tensor([[-1.0, 0.5], [1.0, 0.0], [0.3, 2.0]]).double(), 0.3)
ALL = -1


def labelled(x_t, t, cond):
    """The exact denoiser of the mixture's component cond["label"], of the whole of it where that is ALL."""
    estimates = torch.stack([*(component(x_t, t) for component in MIXTURE.components), MIXTURE(x_t, t)])
    return estimates[cond["label"], torch.arange(len(x_t))]


def label(k, n=5):
    return {"label": torch.full((n,), k)}


def log_share(k):
    """log p(component k | x_t): of equally likely N(alpha mean, alpha^2 std^2 + sigma^2)."""

    def log_prob(x_t, t, cond):
        alpha, sigma = SCHEDULE(t)
        variance = alpha**2 * MIXTURE.std**2 + sigma**2
        distances = (x_t.unsqueeze(1) - alpha.reshape(-1, 1, 1) * MIXTURE.means).square().sum(-1)
        return (-distances / (2 * variance.unsqueeze(1))).log_softmax(1)[:, k]

    return log_prob


def noisy(n=5, seed=0):
    x = torch.randn(n, 2, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return x, torch.linspace(0.05, 0.95, n, dtype=torch.float64)


@pytest.mark.parametrize("k", range(3))
def test_classifier_guidance_at_scale_1_is_the_conditional_denoiser(k):
    """Bayes: exact at every level. With the opposite sign it would point to the other components."""
    x, t = noisy()
    got = classifier_guided(MIXTURE, SCHEDULE, log_share(k), 1.0)(x, t)
    torch.testing.assert_close(got, MIXTURE.components[k](x, t))
    assert (MIXTURE(x, t) - got).abs().max() > 0.1


@pytest.mark.parametrize("scale", [0.5, 2.0, ramp(0.0, 3.0)], ids=["half", "double", "ramp"])
def test_classifier_free_guidance_is_guidance_by_the_implicit_classifier(scale):
    """c - u is that classifier's gradient, so the two agree at every scale (Ho & Salimans 2022, section
    3.2)."""
    x, t = noisy()
    free = guided(labelled, scale, label(ALL), schedule=SCHEDULE)(x, t, label(1))
    torch.testing.assert_close(classifier_guided(MIXTURE, SCHEDULE, log_share(1), scale)(x, t), free)


def test_classifier_guidance_is_plus_in_x0_and_minus_in_eps():
    x, t = noisy()
    alpha, sigma = (c.unsqueeze(1) for c in SCHEDULE(t))
    gradient = torch.autograd.functional.jacobian(lambda y: log_share(0)(y, t, None).sum(), x)
    eps = (x - alpha * MIXTURE(x, t)) / sigma - 2.0 * sigma * gradient
    got = classifier_guided(MIXTURE, SCHEDULE, log_share(0), 2.0)(x, t)
    torch.testing.assert_close(got, (x - sigma * eps) / alpha)


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_classifier_guidance_takes_its_gradient_where_none_are_recorded(mode):
    """Sampled whole: every sample ends on the wanted component, and nothing of it is recorded."""
    with mode():
        x = torch.randn(64, 2, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
        grid = make_grid(SCHEDULE, 40, "log_snr")
        got = ddim(classifier_guided(MIXTURE, SCHEDULE, log_share(2), 1.0), x, grid)
        plain = ddim(MIXTURE, x, grid)
    assert (got - MIXTURE.means[2]).norm(dim=1).max() < 4.5 * MIXTURE.std  # p = 4e-5 a sample of 2 axes
    assert (plain - MIXTURE.means[2]).norm(dim=1).max() > 2
    assert not got.requires_grad


def test_at_alpha_0_a_classifier_says_nothing():
    """sigma^2 / alpha is infinite there, and the gradient of a classifier that is exact is 0."""
    x, t = noisy(1)[0], torch.tensor([1.0]).double()
    assert Cosine()(t)[0].item() == 0
    got = classifier_guided(Gaussian(Cosine(), 0.7), Cosine(), lambda x, t, cond: 0 * x.sum(1), 3.0)(x, t)
    torch.testing.assert_close(got, Gaussian(Cosine(), 0.7)(x, t))


def test_clip_guidance_follows_the_gradient_of_the_dot_product():
    """Of a linear image tower it is known: towards W^T text, the more the noisier."""
    x, t = noisy()
    W = torch.tensor([[1.0, 2.0], [0.0, -1.0], [0.5, 0.0]]).double()
    texts = torch.randn(5, 3, generator=torch.Generator().manual_seed(2)).double()
    alpha, sigma = (c.unsqueeze(1) for c in SCHEDULE(t))
    guide = clip_guided(MIXTURE, SCHEDULE, lambda x, t: x @ W.T, texts, 1.5)
    torch.testing.assert_close(guide(x, t) - MIXTURE(x, t), 1.5 * sigma**2 / alpha * (texts @ W))
    one = clip_guided(MIXTURE, SCHEDULE, lambda x, t: x @ W.T, texts[0], 1.5)
    torch.testing.assert_close(one(x, t)[:1], guide(x, t)[:1])


def test_a_negative_prompt_is_kept_away_from():
    """Against the whole mixture, guidance leads to component 0. Against component 1 it also leads away from
    that one: beyond component 0, seen from there."""
    axis = MIXTURE.means[0] - MIXTURE.means[1]
    axis = axis / axis.norm()
    x = torch.randn(64, 2, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    grid = make_grid(SCHEDULE, 30, "log_snr")

    def distance(scale, null):
        ends = ddim(guided(labelled, scale, label(null, 64)), x, grid, label(0, 64))
        return ((ends - MIXTURE.means[1]) @ axis).mean().item()

    plain, negative = distance(1.0, ALL), distance(2.0, 1)
    assert plain == pytest.approx((MIXTURE.means[0] - MIXTURE.means[1]).norm().item(), abs=0.1)
    assert negative > plain + 0.3
    # and where the negative is what is asked for, nothing is left to guide by
    assert distance(2.0, 0) == pytest.approx(plain)


def test_autoguidance_leads_away_from_the_weaker_model():
    x, t = noisy()
    strong, weak = Gaussian(SCHEDULE, 0.5, 0.3), Gaussian(SCHEDULE, 0.1, 0.9)
    got = autoguided(strong, weak, 2.5)(x, t)
    torch.testing.assert_close(got, strong(x, t) + 1.5 * (strong(x, t) - weak(x, t)))
    torch.testing.assert_close(autoguided(strong, strong, 2.5)(x, t), strong(x, t))
    assert autoguided(strong, weak, 1) is strong
    calls = []
    counted = autoguided(
        strong, lambda *a: calls.append(a) or weak(*a), within(2.0, 0, 1e-3), schedule=SCHEDULE
    )
    torch.testing.assert_close(counted(x, t), strong(x, t))
    assert not calls


# ---- what is not affine ----

IMAGES = torch.randn(4, 2, 5, 5, generator=torch.Generator().manual_seed(4)) * torch.tensor(
    [0.2, 0.5, 1.0, 2.0]
).reshape(4, 1, 1, 1)


def pictures(x_t, t, cond):
    """Where kept twice as far from a picture's own mean, so that guidance raises the spread."""
    return torch.where(cond["keep"].reshape(-1, 1, 1, 1), x_t + x_t.square(), 0.3 * x_t)


def spread(x):
    return x.flatten(1).std(1)


def test_rescale_brings_the_spread_back():
    c = pictures(IMAGES, T, COND)
    plain, none, half, full = (
        guided(pictures, 3.0, NULL, **options)(IMAGES, T, COND)
        for options in ({}, {"rescale": 0.0}, {"rescale": 0.5}, {"rescale": 1.0})
    )
    assert torch.equal(none, plain)
    assert (spread(plain) > 1.5 * spread(c)).all()
    torch.testing.assert_close(spread(full), spread(c))
    torch.testing.assert_close(half, (plain + full) / 2)
    # one factor a sample
    torch.testing.assert_close(full / plain, (spread(c) / spread(plain)).reshape(4, 1, 1, 1).expand_as(c))


def test_rescaling_x0_is_rescaling_v_at_alpha_0_only():
    """Lin et al. rescale the network's v = alpha eps - sigma x_0."""
    c, u = pictures(IMAGES, T, COND), pictures(IMAGES, T, NULL)

    def by_v(alpha, sigma):
        v_c, v_u = ((alpha * IMAGES - x0) / sigma for x0 in (c, u))  # alpha^2 + sigma^2 = 1
        v = v_u + 3 * (v_c - v_u)
        return alpha * IMAGES - sigma * v * (spread(v_c) / spread(v)).reshape(4, 1, 1, 1)

    ours = guided(pictures, 3.0, NULL, rescale=1.0)(IMAGES, T, COND)
    torch.testing.assert_close(by_v(0.0, 1.0), ours)
    assert (by_v(0.6, 0.8) - ours).abs().max() > 0.1


def test_rescaling_what_has_no_spread_leaves_it():
    flat = torch.ones(4, 3)
    torch.testing.assert_close(guided(lambda x, t, cond: x, 3.0, NULL, rescale=1.0)(flat, T, COND), flat)


def test_dynamic_thresholding_keeps_the_range_without_saturating():
    wide = dynamic_thresholding(lambda x, t, cond: 3 * x, 0.9, 1.0)(IMAGES, T)
    assert wide.abs().amax((1, 2, 3)).le(1 + 1e-6).all()
    saturated = (wide.abs() > 1 - 1e-6).flatten(1).double().mean(1)
    assert ((3 * IMAGES).abs().flatten(1) > 1).double().mean(1)[-1] > 0.8  # what `clipped` would saturate
    assert (saturated[1:] == 0.1).all()  # the rest of the percentile, 5 of 50
    narrow = dynamic_thresholding(lambda x, t, cond: x, 1.0, 100.0)(IMAGES, T)
    assert torch.equal(narrow, IMAGES)


@pytest.mark.parametrize("percentile", [0.8, 0.995, 1.0])
def test_dynamic_thresholding_agrees_with_diffusers(percentile):
    scheduler = diffusers.DDPMScheduler(
        thresholding=True, dynamic_thresholding_ratio=percentile, sample_max_value=1e9
    )
    got = dynamic_thresholding(lambda x, t, cond: x, percentile)(IMAGES, T)
    torch.testing.assert_close(got, scheduler._threshold_sample(IMAGES))


# ---- what is refused ----


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: guided(Spy(), -0.5, NULL), "scale = -0.5: must satisfy scale >= 0"),
        (lambda: guided(Spy(), math.nan, NULL), "scale = nan: must satisfy scale >= 0"),
        (lambda: autoguided(Spy(), Spy(), -1.0), "scale = -1.0: must satisfy scale >= 0"),
        (lambda: classifier_guided(Spy(), Linear(), Spy(), -1.0), "scale = -1.0: must satisfy scale >= 0"),
        (lambda: within(-2.0, 0.1, 1.0), "scale = -2.0: must satisfy scale >= 0"),
        (lambda: guided(Spy(), ramp(0, 2), NULL), "schedule = None: scale is a function of log_snr"),
        (
            lambda: within(2.0, 3.0, 0.3),
            r"interval = \(3.0, 0.3\): sigma / alpha must satisfy 0 <= low < high",
        ),
        (lambda: within(2.0, -1.0, 0.3), r"interval = \(-1.0, 0.3\)"),
        (lambda: ramp(1.0, -2.0), "end = -2.0: must satisfy end >= 0"),
        (lambda: ramp(1.0, 2.0, noise=4.0, data=4.0), "noise = 4.0, data = 4.0: log_snr must satisfy"),
        (lambda: ramp(1.0, 2.0, "cubic"), "shape = 'cubic': a ramp is linear or cosine"),
        (lambda: guided(Spy(), 2.0, NULL, rescale=1.5), "rescale = 1.5: must satisfy 0 <= rescale <= 1"),
        (lambda: dynamic_thresholding(Spy(), 0.0), "percentile = 0.0: must satisfy 0 < percentile <= 1"),
        (lambda: dynamic_thresholding(Spy(), 99.5), "percentile = 99.5: must satisfy 0 < percentile <= 1"),
        (lambda: clipped(Spy(), 0), "limit = 0: must satisfy limit > 0"),
        (lambda: guided(Spy(), 2.0, None)(X, T, COND), "same keys"),
        (lambda: guided(Spy(), 2.0, NULL)(X, T, None), "same keys"),
        (
            lambda: guided(Spy(), 2.0, {"keep": NULL["keep"]})(X, T, COND),
            r"\['embedding', 'keep'\] and \['keep'\]",
        ),
    ],
)
def test_impossible_guidance_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
