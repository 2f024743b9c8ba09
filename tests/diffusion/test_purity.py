"""What `unclip.diffusion` depends on."""

from __future__ import annotations

import ast
import sys
from pathlib import Path

import unclip.diffusion


def test_diffusion_imports_nothing_but_torch():
    """Neither Lightning nor Hydra nor the rest of the project."""
    for path in Path(unclip.diffusion.__file__).parent.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            modules = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            modules += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            for module in modules:
                top = module.split(".")[0]
                assert top in sys.stdlib_module_names | {"torch", "einops"} or module.startswith(
                    "unclip.diffusion"
                )
