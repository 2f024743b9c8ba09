"""One metric of metrics.json in the words of a table: a name, a value, and how it was measured, a row for each number.
Imports no torch, and draws no table: that is table.py's."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

Row = dict[str, str]


def _fd(fd: Mapping[str, Any]) -> list[Row]:
    how = f"N = {fd['n']} against the {fd['reference']}, {fd['extractor']} features{_floor(fd, _form(fd['floor']))}"
    return [_row("Frechet distance", short(fd["value"]), how)]


def _fd_infinity(fd: Mapping[str, Any]) -> list[Row]:
    how = f"from {fd['counts'][0]} to {fd['counts'][-1]} samples in {len(fd['counts'])} steps, the line at 1/N = 0"
    return [_row("  at infinite N", f"{fd['value']:.2f}", how + _floor(fd, ".2f"))]


def _kid(kid: Mapping[str, Any]) -> list[Row]:
    how = f"{kid['subsets']} subsets of {kid['subset_size']}, spread {1000 * kid['std']:.2f}; features of length 1"
    floor = {**kid, "floor": None if kid["floor"] is None else 1000 * kid["floor"]}
    return [_row("KID x 1000", f"{1000 * kid['value']:.2f}", how + _floor(floor, ".2f"))]


def _cmmd(cmmd: Mapping[str, Any]) -> list[Row]:
    how = f"N = {cmmd['n']}, CLIP embeddings, {cmmd['kernel']}"
    return [_row("CMMD", f"{cmmd['value']:.3f}", how + _floor(cmmd, ".3f"))]


def _prdc(prdc: Mapping[str, Any]) -> list[Row]:
    floor, how = prdc["floor"], f"N = {prdc['n']} of each, k = {prdc['k']}"

    def pair(a: str, b: str) -> Row:
        real = f"; real images: {floor[a]:.3f}, {floor[b]:.3f}" if floor else ""
        return _row(f"{a}, {b}", f"{prdc[a]:.3f}, {prdc[b]:.3f}", how + real)

    return [pair("precision", "recall"), pair("density", "coverage")]


def _score(score: Mapping[str, Any]) -> list[Row]:
    how = (
        f"of {score['classes']} classes, secondary; {score['real_n']} real images: {score['real_images']:.2f}"
    )
    return [_row("classifier's score", f"{score['value']:.2f}", how)]


def _memorisation(found: Mapping[str, Any]) -> list[Row]:
    how = f"median distance to the nearest of {found['reference_n']} images, in grey levels"
    if found["baseline"] is None:
        return [_row("nearest image", f"{found['value']:.1f}", how)]
    real = f"; of held-out images {found['baseline']:.1f}"
    closer = f"{100 * found['share_closer']:.1f}%"
    near = f"nearer than {found['closest_percent_of_baseline']:.1f}, as 1% of {found['baseline_n']} held-out images are"
    return [
        _row("nearest image", f"{found['value']:.1f}", how + real),
        _row("  suspiciously near", closer, near),
    ]


def _brightness(found: Mapping[str, Any]) -> list[Row]:
    how = "between the brightnesses of samples and real images, from 0 to 1"
    return [_row("brightness distance", f"{found['value']:.4f}", how + _floor(found, ".4f"))]


def _consistency(found: Mapping[str, Any]) -> list[Row]:
    real = f"of real test images it gets {found['real_test_images']:.3f}"
    how = f"{found['n']} samples{_interval(found)}, {found['classifier']}; {real}"
    shares = found["per_caption"]
    lowest = min(shares, key=shares.get)
    return [
        _row("prompt consistency", f"{found['value']:.3f}", how),
        _row("  of its worst caption", f"{shares[lowest]:.3f}", f'"{lowest}"'),
    ]


def _attributes(found: Mapping[str, Any]) -> list[Row]:
    rows = _agreement("every attribute right", found)
    if held_out := found.get("held_out"):
        rows += _agreement("held-out combinations", held_out)
    return rows


def _agreement(name: str, found: Mapping[str, Any]) -> list[Row]:
    real = found["real_test_images"]
    how = f"{found['n']} samples{_interval(found)}; real images: {real['value']:.3f}"
    rows = [_row(name, f"{found['value']:.3f}", how)]
    parts = [part for part in ("number", "class", "colour", "size", "position") if found[part]["n"]]

    def listed(of: Mapping[str, Any]) -> str:
        return ", ".join("-" if of[part]["value"] is None else f"{of[part]['value']:.3f}" for part in parts)

    rows.append(_row("  its parts", listed(found), f"{', '.join(parts)}; real: {listed(real)}"))
    if (bound := found["binding"])["n"]:
        how = f"of {bound['n']} pictures with both classes and both colours right{_interval(bound)}"
        chance = f"; at random {bound['chance']:.3f}"
        rows.append(_row("  bound the wrong way", f"{bound['value']:.3f}", how + chance))
    return rows


def _retrieval(found: Mapping[str, Any]) -> list[Row]:
    of = f"nearest of {found['captions']} to {found['extractor']}"
    how = f"{found['n']} samples{_interval(found)} whose caption is the {of}"
    return [_row("prompt retrieval", f"{found['value']:.3f}", how)]


def _round_trip(back: Mapping[str, Any]) -> list[Row]:
    how = f"{back['n']} test images{_interval(back)}: class kept through image, CLIP embedding, image"
    found = [_row("round trip", f"{back['value']:.3f}", how)]
    if "embedding_cosine" in back:
        others = f"of the embedding before and after; with another image's {back['embedding_cosine_of_others']:.3f}"
        found.append(_row("  its cosine", f"{back['embedding_cosine']:.3f}", others))
    return found


def _upsampling(made: Mapping[str, Any]) -> list[Row]:
    images = f"{made['n']} test images, {made['to']} -> {made['from']} -> {made['to']} pixels"
    how = f"Frechet, {images}, against the {made['reference']}, {made['extractor']} features"
    beside = f"bicubic {short(made['bicubic'])}{_floor(made, _form(made['floor']))}"
    steps = "; ".join(map(_step, made["upsamplers"]))
    error = f"root mean square from the image itself, in grey levels; bicubic {made['bicubic_rms']:.2f}"
    others = (
        f"bicubic {made['bicubic_feature_cosine']:.3f}, another image {made['feature_cosine_of_others']:.3f}"
    )
    features = f"of an image's features and its copy's; {others}"
    return [
        _row("upsampling", short(made["value"]), f"{how}; {steps}; {beside}"),
        _row("  its error", f"{made['rms']:.2f}", error),
        _row("  its cosine", f"{made['feature_cosine']:.3f}", features),
    ]


def _step(upsampler: Mapping[str, Any]) -> str:
    """`to 32 by 27 steps of ddim of an input not corrupted`."""
    strength = upsampler["strength"]
    how = f"corrupted by {upsampler['corruption']} at strength {strength:g}" if strength else "not corrupted"
    return f"to {upsampler['size']} by {upsampler['steps']} steps of {upsampler['sampler']}, its input {how}"


def _reconstruction(back: Mapping[str, Any]) -> list[Row]:
    kept, fd = back.get("class_kept"), back["fd"]
    pixels, latents = ("x".join(map(str, back[shape])) for shape in ("pixels", "latents"))
    how = (
        f"root mean square over {back['n']} test images, in grey levels; {pixels} pixels as {latents} latents"
    )
    against = f"of {fd['n']} reconstructions, against the {fd['reference']}, {fd['extractor']} features"
    decibels = "no loss" if back["psnr"] is None else f"{back['psnr']:.2f} dB"
    found = [
        _row("reconstruction", f"{back['value']:.2f}", how),
        _row("  as PSNR", decibels, "of all their pixels"),
        _row("  its distance", short(fd["value"]), f"Frechet, {against}{_floor(fd, _form(fd['floor']))}"),
    ]
    if kept:
        how = f"{kept['n']} test images{_interval(kept)}: class kept by the autoencoder"
        found.append(_row("  its class", f"{kept['value']:.3f}", how))
    return found


def _prior(prior: Mapping[str, Any]) -> list[Row]:
    others = {
        "another image of the caption": "same_caption_image",
        "a shuffled caption": "shuffled_caption",
        "the text embedding": "text_embedding",
    }
    beside = ", ".join(f"{words} {prior[key]:.3f}" for words, key in others.items() if key in prior)
    how = f"to the true embeddings of {prior['n']} test images; {beside}"
    found = [_row("prior's cosine", f"{prior['value']:.3f}", how)]
    if "retrieval" not in prior:
        return found
    others = {
        "real": "retrieval_of_real_images",
        "a shuffled caption": "shuffled_caption_retrieval",
        "the text embedding": "text_embedding_retrieval",
    }
    beside = ", ".join(f"{words} {prior[key]:.3f}" for words, key in others.items() if key in prior)
    among = f"{prior['n']} test" if prior.get("among") == "test" else f"{prior['reference_n']} training"
    nearest = f"the nearest of {among} images has the caption; {beside}"
    frechet = f"Frechet, of unit embeddings; test images: {prior['embedding_fd_floor']:.4f}"
    found.append(_row("  its retrieval", f"{prior['retrieval']:.3f}", nearest))
    if "diversity" in prior:
        varied = f"mean cosine distance within a caption; real: {prior['diversity_of_real_images']:.3f}"
        found.append(_row("  its diversity", f"{prior['diversity']:.3f}", varied))
    return [
        *found,
        _row("  its distance", f"{prior['embedding_fd']:.4f}", frechet),
    ]


def _clip(clip: Mapping[str, Any]) -> list[Row]:
    single = f"with one caption a class {clip['one_caption_a_class']:.3f}"
    how = f"{clip['n']} test images{_interval(clip)}, prompts ensembled; {single}"
    to_text, to_image = clip["image_to_text_recall"], clip["text_to_image_recall"]

    def recalls(found: Mapping[str, float]) -> str:
        return ", ".join(f"{value:.3f}" for value in found.values())

    ks = f"at {', '.join(to_text)} of {clip['captions']} captions"
    image_ks = f"at {', '.join(to_image)}: an image of the caption among them"
    gap = "between the centres of images and captions, from 0 to 2"
    return [
        _row("CLIP's zero-shot", f"{clip['value']:.3f}", how),
        _row("  image -> text", recalls(to_text), f"recall {ks}"),
        _row("  text -> image", recalls(to_image), f"recall {image_ks}"),
        _row("  modality gap", f"{clip['modality_gap']:.3f}", gap),
    ]


def _nll(nll: Mapping[str, Any]) -> list[Row]:
    drawn = f"{nll['steps_drawn']} of {nll['steps'] - 1} steps drawn"
    error = nll["standard_error"]  # None of one image, which has no spread
    of = f"{nll['n']} test images, +- {error:.3f}" if error is not None else "1 test image, error unknown"
    how = f"{of}, {drawn}, {nll['dimensions']} dimensions; guidance off"
    return [_row("bits per dimension", f"{nll['value']:.3f}", how)]


def _row(name: str, value: str, how: str) -> Row:
    return {"name": name, "value": value, "how": how}


def _floor(found: Mapping[str, Any], form: str) -> str:
    if found.get("floor") is None:
        return ""
    return f"; {found['floor_n']} {found.get('floor_of', 'real test images')}: {found['floor']:{form}}"


def _interval(found: Mapping[str, Any]) -> str:
    if "interval" not in found:
        return ""
    low, high = found["interval"]
    return f", 95% interval {low:.3f} to {high:.3f}"


def short(distance: float) -> str:
    """A distance by its size."""
    return f"{distance:{_form(distance)}}"


def _form(distance: float | None) -> str:
    """Two decimals, or two digits of what is smaller than that: distances have the scale of their features."""
    return ".2g" if distance is not None and abs(distance) < 0.1 else ".2f"


SAID: dict[str, Callable[[Mapping[str, Any]], list[Row]]] = {
    "prompt_consistency": _consistency,
    "prompt_retrieval": _retrieval,
    "attributes": _attributes,
    "round_trip": _round_trip,
    "fd": _fd,
    "fd_infinity": _fd_infinity,
    "kid": _kid,
    "cmmd": _cmmd,
    "prdc": _prdc,
    "memorisation": _memorisation,
    "brightness": _brightness,
    "inception_score": _score,
    "upsampling": _upsampling,
    "reconstruction": _reconstruction,
    "prior": _prior,
    "clip": _clip,
    "nll": _nll,
}
