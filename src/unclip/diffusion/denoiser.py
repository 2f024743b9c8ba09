"""`Denoiser`: any network as x_t, t, cond -> x0_hat, which is all that samplers and guidance know of it.
No loss, no sampling; the network knows nothing of schedules."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Literal

from torch import Tensor, nn

from unclip.diffusion.broadcast import at_least_float32, over
from unclip.diffusion.objective import Objective
from unclip.diffusion.schedule import LOG_SNR_LIMIT, Schedule, log_snr

Cond = Mapping[str, Tensor] | None
Denoise = Callable[[Tensor, Tensor, Cond], Tensor]  # x_t (B, *S), t (B,), cond -> x0_hat (B, *S)


class Denoiser(nn.Module):
    """x0_hat = c_skip x_t + c_out net(c_in x_t, time, cond) (Karras et al. 2022, eq. 7).

    net: called with c_in x_t (B, *S) in the dtype of its parameters, time (B,) and cond; gives (B, *S).
    time: what the network receives as time. "t": t, times `time_scale`, which is 1000 for a network made for
        t in 0 ... 999 on a continuous schedule. "log_snr": that, within +-20. float32 always: in bfloat16
        t = 997 is 996.
    learned_variance: the network gives twice the channels, (B, 2C, ...), and the second half says where in
        -1 ... 1 the variance of a step lies between its bounds (learned_variance.py).
    """

    def __init__(
        self,
        net: nn.Module,
        schedule: Schedule,
        objective: Objective,
        time: Literal["t", "log_snr"] = "t",
        time_scale: float = 1.0,
        learned_variance: bool = False,
    ):
        super().__init__()
        if time not in ("t", "log_snr"):
            raise ValueError(f"time = {time!r}: what a network receives as time is 't' or 'log_snr'")
        self.net, self.schedule, self.objective = net, schedule, objective
        self.time, self.time_scale, self.learned_variance = time, time_scale, learned_variance

    def forward(self, x_t: Tensor, t: Tensor, cond: Cond = None) -> Tensor:
        """x0_hat (B, *S) in x_t's dtype, float32 at least. ValueError for eps at alpha = 0."""
        alpha, sigma = self.schedule(t)
        x_t = at_least_float32(x_t)
        return self.objective.to_x0(x_t, self.raw(x_t, t, cond), alpha, sigma)

    def raw(self, x_t: Tensor, t: Tensor, cond: Cond = None) -> Tensor:
        """The network's output (B, *S), to compare with `objective.target`; same dtype as `forward`."""
        return self.outputs(x_t, t, cond)[0]

    def outputs(self, x_t: Tensor, t: Tensor, cond: Cond = None) -> tuple[Tensor, Tensor | None]:
        """`raw` and v (B, *S), which is 0 ... 1 for the second half's -1 ... 1; None if no variance is
        learned."""
        alpha, sigma = self.schedule(t)
        c_in = over(self.objective.c_in(alpha, sigma), x_t)
        scaled = c_in * x_t
        own = next((p.dtype for p in self.net.parameters() if p.is_floating_point()), scaled.dtype)
        out = self.net(scaled.to(own), self._time(t), cond).to(scaled.dtype)
        if not self.learned_variance:
            return out, None
        out, v = out.chunk(2, dim=1)
        return out, (v + 1) / 2

    def _time(self, t: Tensor) -> Tensor:
        if self.time == "log_snr":
            return log_snr(self.schedule, t).clamp(-LOG_SNR_LIMIT, LOG_SNR_LIMIT).float()
        return t.float() * self.time_scale
