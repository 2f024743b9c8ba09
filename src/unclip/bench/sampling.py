"""Text to image: our pipeline beside the loop that write-ups of the method have, the decoder's loop beside diffusers',
and, with a trained run, in how few steps its pictures are as good as after a thousand (quality.py)."""

from __future__ import annotations

import copy
from functools import partial
from typing import Any

import torch
from torch import Tensor

from unclip.bench import quality
from unclip.bench.fit import Training
from unclip.bench.machine import described
from unclip.bench.measure import Absent, Contest, Way, looped
from unclip.bench.peers import absent, tutorial_net
from unclip.bench.tutorial import TutorialSampling
from unclip.diffusion import Discrete
from unclip.diffusion.betas import cosine_betas
from unclip.generate import UnCLIP
from unclip.lit.candidates import Prior
from unclip.lit.decoder import DecoderModule
from unclip.nets.conditions import null
from unclip.sampling import Sampler

STEPS = 1000  # of DDPM


def measure(request: dict[str, Any]) -> dict[str, Any]:
    """Throughput of untrained nets, which take as long as trained ones; then, if asked for, quality."""
    device, tables = torch.device("cuda" if torch.cuda.is_available() else "cpu"), []
    if request["quality"] != "only":
        made = Pipeline(request["training"], request["prior"], request["n"])
        device, tables = made.decoder.device, throughput(made, request)
    if request["quality"]:
        tables.append(quality.table(request))
    return {"machine": described(device, ["diffusers"]), "tables": tables}


def throughput(made: Pipeline, request: dict[str, Any]) -> list[dict[str, Any]]:
    """Two tables: from words to pictures, and the decoder alone."""
    device = made.decoder.device
    timing = {"rounds": request["rounds"], "seconds": request["seconds"]}
    text, loop = Contest(device, **timing), Contest(device, **timing)  # pictures are drawn in float32
    for way in (made.way, partial(made.tutorial, request["timed"])):
        text.enter(way)
    for way in (made.loop, partial(made.diffusers, 0), partial(made.diffusers, request["timed"])):
        loop.enter(way)
    scaled = f"Of the {STEPS:,} steps {request['timed']} are timed; the rest take as long."
    title = f"Text to image, {request['n']} at a time, guidance {made.sampler.guidance:g}"
    told = made.reads_nothing_back()
    return [
        {"title": title, "unit": "images/s", **text.measured(), "remarks": [scaled]},
        {"title": "The decoder alone", "unit": "images/s", **loop.measured(), "remarks": [scaled, told]},
    ]


class Pipeline:
    """CLIP, prior and decoder of an experiment, untrained, and other ways to draw with nets of their size."""

    def __init__(self, training: list[str], prior: list[str], n: int):
        self.decoder = Training(training)
        assert self.decoder.clip is not None
        self.prior = Training(prior, self.decoder.clip)
        self.n, device = n, self.decoder.device
        module, imagines = self.decoder.module.eval().to(device), self.prior.module.eval().to(device)
        assert isinstance(module, DecoderModule)
        assert isinstance(imagines, Prior)
        if imagines.calibrates:
            imagines.calibrate(self.prior.embeddings, self.prior.source.split("train").caption_ids)
        self.module, self.imagines, clip = module, imagines, self.decoder.clip.to(device)
        self.model = UnCLIP(clip, imagines, module, clip.tokenizer, batch_size=n)
        captions = self.decoder.source.captions
        self.prompts = [captions[i % len(captions)] for i in range(n)]
        self.indices = torch.arange(n)

    @property
    def sampler(self) -> Sampler:
        return self.module.sampler

    def condition(self) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Text features, and the decoder's condition, of the prompts."""
        text = self.model.text(self.prompts)
        image = torch.nn.functional.normalize(torch.randn_like(text["text"]), dim=-1)
        return text, self.module.condition(image, text)

    def way(self) -> Way:
        """Ours, from words to bytes."""
        steps = f"{self.sampler.steps} steps, prior once in {self.imagines.settings.get('prior_steps', 1)}"
        device = self.decoder.device
        return looped("unclip", lambda: self.model.sample(self.prompts), device, items=self.n, note=steps)

    def tutorial(self, timed: int) -> Way | Absent:
        """The prior anew at each of a thousand steps, the decoder twice for guidance."""
        net = tutorial_net(self.decoder)
        if isinstance(net, Absent):
            return net
        prior, scale = self.imagines.net, self.sampler.guidance
        loop = TutorialSampling(net, prior, Discrete(cosine_betas(STEPS)).alpha_bar, scale)
        size, channels = self.module.net.image_size, self.module.net.image_channels

        def step() -> None:
            loop(self.model.text(self.prompts), (self.n, channels, size, size), timed)

        note = f"{STEPS:,} steps, prior at each"
        return looped("tutorial", step, self.decoder.device, items=self.n, note=note, scale=STEPS / timed)

    def loop(self) -> Way:
        """Ours, from embeddings to pictures."""
        cond = self.condition()[1]
        name = getattr(self.sampler.function, "func", self.sampler.function).__name__

        def step() -> None:
            self.module.sample(cond, self.indices, 0)

        return looped(
            "unclip", step, self.decoder.device, items=self.n, note=f"{name}, {self.sampler.steps} steps"
        )

    @torch.no_grad()
    def diffusers(self, timed: int) -> Way | Absent:
        """The same net under diffusers' schedulers, guided by a batch of both: DPM-Solver++ in as many steps, or
        `timed` of DDPM's thousand."""
        if missing := absent("diffusers", "diffusers"):
            return missing
        import diffusers

        kind: Any = diffusers.DDPMScheduler if timed else diffusers.DPMSolverMultistepScheduler
        scheduler = kind(STEPS, beta_schedule="squaredcos_cap_v2")
        steps = STEPS if timed else self.sampler.steps
        cond, net, scale = self.condition()[1], self.module.net, self.sampler.guidance
        both = {name: torch.cat([value, null(cond)[name]]) for name, value in cond.items()}
        shape = (self.n, net.image_channels, net.image_size, net.image_size)

        @torch.no_grad()
        def step() -> None:
            scheduler.set_timesteps(steps, device=self.decoder.device)  # it counts its calls
            x = torch.randn(shape, device=self.decoder.device)
            for t in scheduler.timesteps[: timed or steps]:
                told, untold = net(torch.cat([x, x]), t.expand(2 * self.n), both).chunk(2)
                x = scheduler.step(untold + scale * (told - untold), t, x).prev_sample
            x.clamp(-1, 1).cpu()

        name = f"diffusers {kind.__name__}"
        more = {"scale": STEPS / timed} if timed else {}
        return looped(name, step, self.decoder.device, items=self.n, note=f"our net, {steps:,} steps", **more)

    def reads_nothing_back(self) -> str:
        """Whether the sampler's loop waits for a value from the device: on the meta device there are none to read."""
        try:
            on_meta(self.module, self.condition()[1], self.indices, self.sampler)
        except (NotImplementedError, RuntimeError) as error:
            return f"The loop of {self.sampler.steps} steps reads a value back from the device: {error}"
        return "The loop reads nothing back from the device: it runs where there are no values to read (meta tensors)."


def on_meta(module: DecoderModule, cond: dict[str, Tensor], indices: Tensor, sampler: Sampler) -> Tensor:
    """A decoder's samples without values. Raises RuntimeError or NotImplementedError where a value would be read."""
    ghost = copy.deepcopy(module).to("meta")
    return ghost.sample({name: x.to("meta") for name, x in cond.items()}, indices, 0, sampler)
