"""One self-contained HTML page: every picture is inside it, every text from data is escaped."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from unclip.files import write_text


def write(path: Path, template: str, **content: Any) -> None:
    """Render a template of this package; `image(bytes or path)` in it embeds a PNG."""
    environment = Environment(
        loader=PackageLoader("unclip.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals["image"] = _embedded
    write_text(path, environment.get_template(template).render(**content))


def _embedded(png: bytes | Path) -> str:
    content = png if isinstance(png, bytes) else png.read_bytes()
    return f"data:image/png;base64,{base64.b64encode(content).decode()}"
