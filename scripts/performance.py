"""Puts what benchmarks measured into docs/performance.md: `python scripts/performance.py [outputs/bench/NAME ...]`.

Results that are given are kept in docs/performance/NAME.json; the page has each between `<!-- bench NAME -->` and
`<!-- end -->`, as `unclip bench` renders it. No number there is typed by hand. --check: 1 where the page differs.
"""

from __future__ import annotations

import json
import re
import shutil
import sys
from pathlib import Path

from unclip.bench.tables import markdown

DOCS = Path(__file__).parents[1] / "docs"
BLOCK = re.compile(r"(<!-- bench ([\w-]+) -->\n).*?(<!-- end -->)", re.DOTALL)


def rendered(text: str, results: Path) -> str:
    """The page with every block as its result says. Raises FileNotFoundError for a block without a result."""

    def block(found: re.Match[str]) -> str:
        result = json.loads((results / f"{found[2]}.json").read_text(encoding="utf-8"))
        return f"{found[1]}{markdown(result)}{found[3]}"

    return BLOCK.sub(block, text)


def main(arguments: list[str]) -> int:
    """Keep the results, write or check the page."""
    page, results = DOCS / "performance.md", DOCS / "performance"
    results.mkdir(exist_ok=True)
    for folder in (Path(a) for a in arguments if a != "--check"):
        shutil.copyfile(folder / "bench.json", results / f"{folder.name}.json")
    before = page.read_text(encoding="utf-8")
    after = rendered(before, results)
    if "--check" in arguments:
        return int(before != after)
    page.write_text(after, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
