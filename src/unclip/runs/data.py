"""`unclip data fetch|info NAME`: a data set's files, and what is in them: in numbers and as sixteen pictures."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from unclip.cli import DONE, FAILED
from unclip.config.compose import compose, options
from unclip.config.problems import Problem, Problems, nearest
from unclip.runs.upstream import no_data

if TYPE_CHECKING:
    from unclip.data.module import ImageTextData

SHOWN = 16  # pictures, in two columns with their captions
LABEL = 44  # characters of a caption beside its picture
ACTIONS = ("fetch", "info")


def main(arguments: list[str]) -> int:
    """Fetch and verify; `info` then says what there is."""
    action, name, *overrides = *arguments, *[""] * (2 - len(arguments))
    if action not in ACTIONS:
        why = f"is nothing to do with data{nearest(action, ACTIONS)};" if action else "what is to be done?"
        raise Problems([Problem(action, None, f"{why} possible: fetch NAME, info NAME")])
    if not name or "=" in name:
        raise Problems([Problem(action, None, f"give one NAME; possible: {', '.join(options('data'))}")])
    config = compose("train", ["stage=classifier", f"data={name}", *overrides]).config
    if problems := no_data(config):
        raise Problems(problems)

    from unclip import build
    from unclip.data.places import DataUnavailable

    try:
        source = build.data(config)
        if action == "fetch":
            print(f"{name}: complete{f' in {folder}' if (folder := config['data'].get('folder')) else ''}")
            return DONE
        for label, value in facts(source, build.tokenizer(config, source)):
            print(f"{label:12} {value}")
        print(f"{'pictures':12} {sheet(source, Path(config['paths']['outputs']) / 'data' / f'{name}.png')}")
    except DataUnavailable as error:
        print(f"unclip data: {error}", file=sys.stderr)
        return FAILED
    return DONE


def facts(source: ImageTextData, tokenizer: Any) -> list[tuple[str, str]]:
    """What there is, line by line: label and text."""
    found = [("licence", source.licence)]
    if source.attribution:
        found.append(("attribution", source.attribution))
    for name in ("train", "validation", "test"):
        split = source.split(name)  # type: ignore[arg-type]
        shape = "x".join(map(str, split.images.shape[1:]))
        distinct = len(split.caption_ids.unique())
        found.append((name, f"{len(split):>7,} images {shape} {split.images.dtype}, {distinct:,} captions"))
    captions = source.captions
    lengths = [tokenizer.count(caption) for caption in captions]
    truncated = sum(length > tokenizer.length for length in lengths)
    such = ", ".join(repr(caption) for caption in captions[:3])
    longest = f"longest {max(lengths)} tokens of {tokenizer.length} ({tokenizer.kind})"
    found.append(
        ("captions", f"{len(captions):>7,} distinct, {longest}, {truncated:,} truncated; such as {such}")
    )
    found.append(("classes", f"{len(source.class_names):>7,}, such as {', '.join(source.class_names[:3])}"))
    found.append(("fingerprint", source.fingerprint[:16]))
    return found


def sheet(source: ImageTextData, path: Path) -> Path:
    """Sixteen training images from all over the set, with their captions, as PNG."""
    import torch
    from PIL import Image

    from unclip.report.pictures import PAPER, grid, save

    split = source.split("train")
    chosen = torch.randperm(len(split), generator=torch.Generator().manual_seed(0))[:SHOWN]
    captions = [source.captions[i] for i in split.caption_ids[chosen].tolist()]
    labels = [c if len(c) <= LABEL else c[: LABEL - 3] + "..." for c in captions]
    images = split.images.index_select(0, chosen)
    half = -(-len(chosen) // 2)
    columns = [
        grid(images[part], 1, rows=labels[part]) for part in (slice(half), slice(half, None)) if labels[part]
    ]
    whole = Image.new("RGB", (sum(c.width for c in columns), max(c.height for c in columns)), PAPER)
    for i, column in enumerate(columns):
        whole.paste(column, (sum(c.width for c in columns[:i]), 0))
    save(whole, path)
    return path
