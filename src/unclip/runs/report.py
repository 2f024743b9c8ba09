"""`unclip report PATH...`: sweeps, ablations, results and runs on one page, from local files only. Imports no torch.

Checks the request; what is read, judged and drawn is in report/.
"""

from __future__ import annotations

from pathlib import Path

from unclip.cli import DONE
from unclip.config.problems import Problem, Problems, nearest

KEYS = ("out", "metric", "baseline", "format")


def main(arguments: list[str]) -> int:
    """Collect, judge, write, and say it in a few lines."""
    paths, options = request(arguments)
    metrics = [name.strip() for name in options.get("metric", "").split(",") if name.strip()]

    from unclip.report import document

    formats = [name.strip() for name in options.get("format", ",".join(document.FORMATS)).split(",")]
    if wrong := [name for name in formats if name not in document.FORMATS]:
        why = f"no such format; possible: {', '.join(document.FORMATS)}"
        raise Problems([Problem("format", name, why) for name in wrong])
    report = document.build(paths, metrics, options.get("baseline"))
    out = document.write(report, Path(options["out"]) if "out" in options else document.place(paths), formats)
    print("\n".join(report.lines()))
    print(f"\n{document.made(out, formats)}")
    return DONE


def request(arguments: list[str]) -> tuple[list[Path], dict[str, str]]:
    """Paths and options; an existing path is one, whatever is in its name."""
    paths: list[Path] = []
    options: dict[str, str] = {}
    problems = []
    for argument in arguments:
        key, equals, value = argument.partition("=")
        if equals and not Path(argument).exists():
            options[key] = value
            if key not in KEYS:
                problems.append(
                    Problem(key, value, f"no such key{nearest(key, KEYS)}; possible: {', '.join(KEYS)}")
                )
        elif argument.startswith("-"):
            problems.append(Problem(argument, None, "is no option of it: unclip report --help"))
        else:
            paths.append(Path(argument))
    if not paths:
        why = "what is to be reported? a sweep's record (outputs/sweeps/NAME.json), a results folder, runs: PATH..."
        problems.append(Problem("", None, why))
    if problems:
        raise Problems(problems)
    return paths, options
