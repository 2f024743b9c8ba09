"""Which runs a request of `sample` or `evaluate` names, and whether they fit together. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from unclip.config.problems import Problem, Problems
from unclip.runs.pretrained_clip import Reference, identity
from unclip.runs.store import Run, recorded
from unclip.runs.upstream import STAGES, UPSAMPLERS, differences, find, only, what_on

NO_PRIOR = "none"  # prior=none: the decoder gets the text embedding
NO_UPSAMPLER = "none"  # upsampler=none: the pictures as they are before it


def runs_of(request: dict[str, Any]) -> dict[str, Run]:
    """The run of each stage that a request names; no CLIP where it was an untrained one, no prior for prior=none, no
    upsampler from upsampler=none on.

    Raises Problems where one is missing or they do not fit together.
    """
    outputs, reference = request["paths"]["outputs"], request.get("run")
    named = {s: request[s] for s in (*STAGES, *UPSAMPLERS) if request.get(s)}
    if reference:
        named = {**_recorded(reference, outputs, named), **named}
    if "decoder" not in named:
        why = "names no decoder" if reference else "is not set"
        raise Problems([Problem("run", reference, f"{why}; give a results folder, or decoder= and prior=")])
    if not (decoder := only(named["decoder"], outputs)).config.get("clip"):  # it is told nothing
        if named.get("prior", NO_PRIOR) != NO_PRIOR:
            why = f"decoder {decoder.signature} is unconditional and takes no embeddings: prior={NO_PRIOR}"
            raise Problems([Problem("prior", named["prior"], why)])
        named["prior"] = NO_PRIOR
    if "prior" not in named and (own := decoder.config.get("prior")):
        named["prior"] = own  # whose samples it was trained on
    if "prior" not in named:
        why = "a decoder's run does not name its prior: give prior=<signature>, or the results folder of `unclip run`"
        raise Problems([Problem("prior", None, f"{why}, or prior={NO_PRIOR} to do without one")])
    if below := decoder.config.get("autoencoder"):
        named["autoencoder"] = below  # no other decodes its latents
    without = named["prior"] == NO_PRIOR
    cut = next((i for i, s in enumerate(UPSAMPLERS) if named.get(s) == NO_UPSAMPLER), len(UPSAMPLERS))
    named = {s: reference for s, reference in named.items() if s not in UPSAMPLERS[cut:]}
    clip = _clip_run(named, decoder)
    runs = {s: only(reference, outputs) for s, reference in named.items() if not (s == "prior" and without)}
    if unmet := gaps({stage: run.config for stage, run in runs.items()}):
        raise Problems(unmet)
    if not without:
        _same_clip_and_data(named["prior"], runs["prior"], decoder)
    if clip is None:
        return runs
    if "clip" in runs and (other := runs["clip"].signature) != clip:
        raise Problems(
            [
                Problem(
                    "clip", named["clip"], f"is CLIP {other}, prior and decoder were trained on CLIP {clip}"
                )
            ]
        )
    others = (*STAGES[1:], *UPSAMPLERS)
    return {"clip": only(clip, outputs), **{stage: runs[stage] for stage in others if stage in runs}}


def _clip_run(named: dict[str, str], decoder: Run) -> str | None:
    """The signature of the CLIP run below a decoder; None where there is none: an untrained or a published one. Such a
    one, where it is named too, is taken out of `named`. Raises Problems where it is another."""
    clip, given = decoder.config.get("clip"), named.get("clip")
    if given == "random" or Reference.of(given):
        published = Reference.of(given)
        if why := published.problem() if published else None:
            raise Problems([Problem("clip", given, why)])
        if identity(published.read() if published else given) != identity(clip):
            raise Problems(
                [Problem("clip", given, f"decoder {decoder.signature} was trained on CLIP {clip}")]
            )
        del named["clip"]
    return None if clip is None or clip == "random" or Reference.of(clip) else clip


def _same_clip_and_data(reference: str, prior: Run, decoder: Run) -> None:
    """Prior and decoder must share their CLIP and, unless that is a published one, their data. Scales need not agree: a
    prior returns embeddings in CLIP's own. Raises Problems, which name both runs."""
    clip, other = decoder.config["clip"], prior.config.get("clip")
    if identity(other) != identity(clip):
        why = f"was trained on CLIP {other}, the decoder {decoder.signature} on CLIP {clip}"
        raise Problems([Problem("prior", reference, why)])
    if Reference.of(clip):
        return
    found = [
        f"was trained with {key} = {other}, the decoder {decoder.signature} with {mine}"
        for key, mine, other in differences(what_on(decoder.config), what_on(prior.config))
    ]
    if found:
        raise Problems([Problem("prior", reference, why) for why in found])


def gaps(configs: Mapping[str, dict[str, Any]]) -> list[Problem]:
    """Where the sizes of a cascade do not meet, by the configurations of decoder and upsamplers."""
    found: list[Problem] = []
    before, size = "decoder", configs["decoder"]["data"]["image_size"]
    for name in UPSAMPLERS:
        if name not in configs:
            continue
        config = configs[name]
        if (stage := config["stage"]["name"]) != "upsampler":
            return [*found, Problem(name, None, f"is a run of stage {stage}, not of an upsampler")]
        to, factor = config["data"]["image_size"], config["model"]["factor"]
        if size * factor != to:
            why = (
                f"enlarges pictures of {to // factor} to {to}, and the {before} draws {size}: a decoder with "
            )
            found.append(Problem(name, None, f"{why}data.image_size={to // factor}, or another upsampler"))
        before, size = name, to
    return found


def _recorded(reference: str, outputs: str, named: Mapping[str, str]) -> dict[str, str]:
    """The runs of a results folder, or the decoder's run by itself. Raises Problems where one that is not named apart
    is not finished."""
    if record := recorded(Path(reference)):
        folders = {stage: one["folder"] for stage, one in record["stages"].items()}
        for stage, folder in folders.items():
            if stage not in named and [run.state for run in find(folder, Path(outputs))] != ["finished"]:
                why = f"its {stage} is not trained to the end; type the same `unclip run` again, then this"
                raise Problems([Problem("run", reference, why)])
        return folders
    run = only(reference, outputs)
    stage = run.config["stage"]["name"]
    if stage != "decoder":
        raise Problems(
            [Problem("run", reference, f"is a run of stage {stage}; sampling starts from a decoder")]
        )
    return {"decoder": str(run.folder)}
