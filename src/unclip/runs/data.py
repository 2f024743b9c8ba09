"""`unclip data fetch|info NAME`: a data set's files, and what is in them."""

from __future__ import annotations

import sys

from unclip.cli import DONE, FAILED, VERBS, WRONG_REQUEST
from unclip.config.compose import compose


def main(arguments: list[str]) -> int:
    """Fetch and verify; `info` then says what there is."""
    if len(arguments) < 2 or arguments[0] not in ("fetch", "info"):
        print(VERBS["data"].help, file=sys.stderr)
        return WRONG_REQUEST
    action, name, *overrides = arguments
    config = compose("train", ["stage=clip", f"data={name}", *overrides]).config

    from unclip import build
    from unclip.data.places import DataUnavailable

    try:
        source = build.data(config)
    except DataUnavailable as error:
        print(f"unclip data: {error}", file=sys.stderr)
        return FAILED
    if action == "fetch":
        print(f"{name}: complete{f' in {folder}' if (folder := config['data'].get('folder')) else ''}")
        return DONE
    for split in ("train", "validation", "test"):
        images = source.split(split).images
        print(f"{split:12} {len(images):>7,} images {'x'.join(map(str, images.shape[1:]))} {images.dtype}")
    print(
        f"{'captions':12} {len(source.captions):>7,}, such as: {', '.join(repr(c) for c in source.captions[:3])}"
    )
    print(f"{'fingerprint':12} {source.fingerprint[:16]}")
    return DONE
