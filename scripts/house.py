"""The numbers of the house: what makes code hard to read or to keep, found in src; `make lint` prints them.

No file over 300 lines; no function of over 50 lines below its signature and docstring, or nested over 4 levels; no
import cycle; nothing of the project in diffusion/ but diffusion/; no public name without a docstring. Exits with 1 if
any is broken.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

SOURCE = Path(__file__).parents[1] / "src"
FILE_LINES, FUNCTION_LINES, DEPTH = 300, 50, 4
BLOCKS = (ast.If, ast.For, ast.While, ast.With, ast.Try, ast.Match, ast.AsyncFor, ast.AsyncWith)
FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)


def findings(source: Path) -> list[str]:
    """What is broken in the packages under `source`, a line each."""
    found, imports = [], {}
    for path in sorted(source.rglob("*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        name = ".".join(path.relative_to(source).with_suffix("").parts).removesuffix(".__init__")
        imports[name] = set(_imports(tree))
        found += [f"{path.relative_to(source)}{what}" for what in [*_of_file(path), *_of_tree(tree, name)]]
    inside = {
        name: {_module(i, imports) for i in of} & imports.keys() - {name} for name, of in imports.items()
    }
    try:
        TopologicalSorter(inside).prepare()
    except CycleError as cycle:
        found.append(f"imports in a circle: {' -> '.join(reversed(cycle.args[1]))}")
    return found


def _of_file(path: Path) -> Iterator[str]:
    lines = len(path.read_text(encoding="utf-8").splitlines())
    if lines > FILE_LINES:
        yield f": {lines} lines; at most {FILE_LINES}"


def _of_tree(tree: ast.Module, name: str) -> Iterator[str]:
    if not ast.get_docstring(tree):
        yield ":1: the file says nothing about itself"
    for node in ast.walk(tree):
        if isinstance(node, FUNCTIONS):
            lines = _lines(node)
            if lines > FUNCTION_LINES:
                yield f":{node.lineno}: {node.name} has {lines} lines; at most {FUNCTION_LINES}"
            if (depth := _depth(node)) > DEPTH:
                yield f":{node.lineno}: {node.name} is nested {depth} levels deep; at most {DEPTH}"
    if ".diffusion" in name:
        foreign = [i for i in _imports(tree) if i.startswith("unclip.") and ".diffusion" not in i]
        yield from (f": imports {i}; diffusion/ stands on its own" for i in foreign)
    for node in tree.body:
        public = isinstance(node, (*FUNCTIONS, ast.ClassDef)) and not node.name.startswith("_")
        if public and not ast.get_docstring(node) and "overload" not in _decorators(node):
            yield f":{node.lineno}: {node.name} is public and has no docstring"


def _lines(node: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Of the body: signatures and docstrings are there to be long."""
    code = node.body[1:] if ast.get_docstring(node) else node.body
    return (code[-1].end_lineno or 0) - code[0].lineno + 1 if code else 0


def _decorators(node: ast.stmt) -> list[str]:
    return [d.id for d in getattr(node, "decorator_list", []) if isinstance(d, ast.Name)]


def _depth(node: ast.AST) -> int:
    """Levels of blocks below a function; `elif` is no level of its own, a function inside is judged by itself."""
    deepest = 0
    for child in ast.iter_child_nodes(node):
        if isinstance(child, (*FUNCTIONS, ast.ClassDef, ast.Lambda)):
            continue
        elif_ = isinstance(node, ast.If) and isinstance(child, ast.If) and node.orelse == [child]
        deepest = max(deepest, _depth(child) + (isinstance(child, BLOCKS) and not elif_))
    return deepest


def _imports(tree: ast.Module) -> Iterator[str]:
    """What is imported when the file is: neither inside functions nor for type checking alone."""
    pending: list[ast.stmt] = list(tree.body)
    while pending:
        node = pending.pop()
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.If | ast.Try) and "TYPE_CHECKING" not in ast.unparse(
            getattr(node, "test", node)
        ):
            pending += node.body + node.orelse


def _module(imported: str, known: dict[str, set[str]]) -> str:
    """The module that an import names, or one of whose names it takes."""
    return imported if imported in known else imported.rpartition(".")[0]


def main() -> int:
    found = findings(SOURCE)
    print("\n".join(found) or "the house is in order")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
