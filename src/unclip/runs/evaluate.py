"""`unclip evaluate`: metrics of finished runs as a table and metrics.json."""

from __future__ import annotations

from unclip.cli import DONE
from unclip.config.compose import compose
from unclip.files import write_json
from unclip.runs.sample import check, folder_of


def main(arguments: list[str]) -> int:
    """Check the request, sample, measure, write."""
    request = compose("evaluate", arguments).config
    check(request)
    out = folder_of(request, "evaluation")

    from unclip.report import metrics, table
    from unclip.runs.process import stop_at_once_when_asked
    from unclip.runs.trained import load

    stop_at_once_when_asked()
    measured = metrics.measure(load(request), request)
    write_json(out / "metrics.json", measured)
    table.show(measured)
    print(f"\n{out / 'metrics.json'}")
    return DONE
