"""The reference part of the documents: `python scripts/reference.py` writes docs/reference/ from the verbs' help, the
files under conf/, the signatures and docstrings of what they target, and the package's modules. Imports no torch.

A key of which nothing is said anywhere ends it with status 1 and the key's name.
"""

from __future__ import annotations

import re
import shutil
import sys
from pathlib import Path
from typing import Any

from docstrings import plain
from groups import Group, Key, cell, explained, leaves, said

from unclip.config import sketch, targets, tree
from unclip.config.schema import SCHEMAS, named
from unclip.verbs import STATUSES, VERBS

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / "docs" / "reference"

# Pages of config groups: title, and for each group what it chooses.
PAGES: dict[str, tuple[str, dict[str, str]]] = {
    "stages": (
        "What is trained",
        {
            "stage": "What is trained. A stage brings its own choices of the other groups.",
            "prior_kind": "What `stage=prior` is; `prior=autoregressive` for short.",
            "model": "The stage's network: `model=decoder/base`.",
            "optim": "The optimiser: rate, warm-up, decay.",
        },
    ),
    "diffusion": (
        "Diffusion",
        {
            "schedule": "How much signal and noise there is at each t. `unclip schedules` compares them.",
            "objective": "What the network is asked for; for a CLIP, its contrastive loss.",
            "weighting": "How much each noise level counts in the loss.",
            "times": "Which noise levels training visits.",
            "sampler": "How samples are drawn.",
        },
    ),
    "data": (
        "Data",
        {
            "data": "Images and captions. `unclip data info NAME` shows one.",
            "tokenizer": "How captions become numbers.",
            "corruption": "What an upsampler's input suffers in training.",
        },
    ),
    "training": (
        "Training",
        {
            "trainer": "Devices, precision and length of training: Lightning's Trainer.",
            "callbacks": "What happens while it trains: averaged weights, checkpoints, pictures, distances.",
            "logger": "Where metrics go.",
        },
    ),
    "judges": (
        "Judges",
        {
            "extractor": "What the features of Frechet distance, precision and recall come from.",
            "perceptual": "What an autoencoder's pictures must also look alike to.",
            "discriminator": "Who tells an autoencoder's pictures from real ones.",
            "manipulation": "What `unclip manipulate` does with pictures.",
        },
    ),
    "experiments": (
        "Experiments, ablations, searches",
        {
            "experiment": "Settings that belong together, a file a stage: `unclip run experiment=NAME`.",
            "ablation": "A paper's comparison with its claims and numbers, for `unclip ablate NAME`.",
            "search": "What `unclip search NAME` looks for.",
            "suggest": "Who proposes a search's trials.",
            "prune": "Who stops hopeless trials on the way.",
            "scale": "Of which sizes `unclip bench plan` speaks.",
        },
    ),
}
PACKAGES = {  # pages of modules: what the package is
    "diffusion": "The five nouns and what is built of them: pure PyTorch.",
    "nets": "The networks.",
    "lit": "The stages as LightningModules.",
    "data": "Images, captions, caches.",
    "callbacks": "What happens while a run trains.",
    "evaluate": "What pictures are worth.",
    "runs": "How runs are named, kept, resumed, swept.",
    "config": "How a request is composed and checked.",
    "report": "Pages, tables and plots.",
    "bench": "Benchmarks.",
    "": "What stands beside the packages.",
}
WHOLE_FILES = ("experiment", "ablation", "search", "scale")  # shown as they are


# --- pages -----------------------------------------------------------------------------------------------------


def targeted(node: dict[str, Any]) -> list[str]:
    """The targets of a node, the outer ones first."""
    own = [node["_target_"]] if "_target_" in node else []
    return [*own, *(t for value in node.values() if isinstance(value, dict) for t in targeted(value))]


def link(target: str) -> str:
    place = targets.defined(target)
    return f"[`{target}`][{place[0]}]" if place and place[0].startswith("unclip.") else f"`{target}`"


def of_group(group: Group, chooses: str) -> str:
    lines = [f"## `{group.name}` {{ #{group.name} }}", "", chooses, "", "| option | is |", "|---|---|"]
    lines += [
        f"| [`{o}`](#{anchor(group.name, o)}) | {cell(plain(opening))} |"
        for o, (opening, _) in group.files.items()
    ]
    for option, (opening, _) in group.files.items():
        lines += [
            "",
            f"### `{group.name}={option}` {{ #{anchor(group.name, option)} }}",
            "",
            plain(opening),
            "",
        ]
        node = sketch.content(f"{group.name}/{option}")
        if group.name in WHOLE_FILES:
            text = (tree.config_folder() / group.name / f"{option}.yaml").read_text(encoding="utf-8")
            lines += ["```yaml", re.sub(r"^#.*\n", "", text, flags=re.MULTILINE).strip(), "```"]
            continue
        keys = list(group.keys(option))
        if chosen := sketch.defaults(f"{group.name}/{option}"):
            lines += [
                "Chooses "
                + ", ".join(f"`{g}={'null' if o is None else o}`" for g, o in chosen.items())
                + ".",
                "",
            ]
        if made := targeted(node):
            lines += ["Makes " + ", ".join(map(link, made)) + ".", ""]
        lines += TABLE + [key.row for key in keys] if keys else []
    return "\n".join(lines)


TABLE = ["| key | default | takes | meaning |", "|---|---|---|---|"]


def choices(chosen: dict[str, str | None]) -> str:
    return ", ".join(f"`{group}={'null' if option is None else option}`" for group, option in chosen.items())


def anchor(group: str, option: str) -> str:
    return f"{group}-{option.replace('/', '-')}"


def requests() -> str:
    """The keys of each verb's own file."""
    lines = [
        "# Keys of each verb",
        "",
        "The keys that belong to none of the groups of options, verb by verb.",
        "",
    ]
    everywhere: dict[str, str] = {}  # what another verb's file says of the same key
    for name in SCHEMAS:
        everywhere = {**said(tree.config_folder() / f"{name}.yaml")[1], **everywhere}
    for name, schema in SCHEMAS.items():
        opening, comments = said(tree.config_folder() / f"{name}.yaml")
        accepted = targets.parameters(named(schema)) or {}
        said_by = explained(named(schema))
        chosen = {g: o for g, o in sketch.defaults(name).items() if g in tree.groups()}
        lines += [f"## `unclip {name.replace('_', ' ')}` {{ #{name} }}", "", plain(opening), ""]
        if chosen:
            lines += [f"Groups and what is chosen in them: {choices(chosen)}.", ""]
        lines += TABLE
        for path, _, value in leaves(sketch.content(name)):
            key, top = ".".join(path), accepted.get(path[0])
            known = comments.get(key), said_by.get(key), comments.get(path[0])
            meaning = next(filter(None, known), everywhere.get(key, ""))
            lines.append(Key(key, value, top.takes if top and len(path) == 1 else "", meaning).row)
        lines.append("")
    return "\n".join(lines)


def commands() -> str:
    lines = ["# Commands", "", "What `unclip VERB --help` says.", ""]
    lines += [f"Exit statuses: {STATUSES}.", ""]
    for name, verb in VERBS.items():
        does = f"{verb.does[0].upper()}{verb.does[1:]}."
        lines += [f"## `{name}`", "", does, "", "```text", verb.help, "```", ""]
    return "\n".join(lines)


def modules(package: str, what: str) -> str:
    """A page that mkdocstrings fills."""
    folder = ROOT / "src" / "unclip" / package
    names = sorted(p.stem for p in folder.glob("*.py") if p.stem not in ("__init__", "__main__"))
    title = f"unclip.{package}" if package else "unclip"
    lines = [f"# `{title}`", "", what, ""]
    return "\n".join([*lines, *(f"::: {title}.{name}\n" for name in names)])


def written() -> dict[str, str]:
    """Every page by its path under docs/reference/."""
    pages = {"commands.md": commands(), "requests.md": requests()}
    for name, (title, groups) in PAGES.items():
        parts = [
            of_group(Group(group), chooses) for group, chooses in groups.items() if group in tree.groups()
        ]
        pages[f"{name}.md"] = "\n\n".join([f"# {title}", *parts]) + "\n"
    for package, what in PACKAGES.items():
        pages[f"api/{package or 'top'}.md"] = modules(package, what)
    return pages


def unexplained() -> list[str]:
    """Keys of which nothing is said."""
    groups = [Group(group) for _, groups in PAGES.values() for group in groups if group not in WHOLE_FILES]
    missing = [
        f"{g.name}={o}: {key.name}" for g in groups for o in g.files for key in g.keys(o) if not key.meaning
    ]
    return missing + [f"requests: {row}" for row in requests().splitlines() if row.endswith("|  |")]


def main() -> int:
    shutil.rmtree(FOLDER, ignore_errors=True)
    for name, text in written().items():
        path = FOLDER / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    if missing := unexplained():
        print(
            "nothing says what these keys mean; a comment beside them in conf/ does:",
            *missing,
            sep="\n  ",
            file=sys.stderr,
        )
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
