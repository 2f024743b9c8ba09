"""What a `_target_` accepts, read from its source with `ast`: names, types, ranges and defaults.

Nothing is imported, so a configuration is checked before torch is. It knows no target by name.
"""

from __future__ import annotations

import ast
import importlib.util
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from importlib.machinery import ModuleSpec
from pathlib import Path
from typing import Any

from unclip.config import hints

REQUIRED = object()  # the default of a parameter that has none
UNREADABLE = object()  # a default that is an expression, not a literal


@dataclass(frozen=True)
class Parameter:
    """One parameter of a target: `check` says None where a value fits, else what would."""

    name: str
    annotation: ast.expr | None
    default: Any = REQUIRED

    def check(self, value: Any) -> str | None:
        """What `value` violates (`must be int`, `must satisfy T >= 2`), or None."""
        if self.annotation is None or (isinstance(value, dict) and "_target_" in value):
            return None
        if not hints.fits(self.annotation, value):
            words = hints.described(self.annotation)
            a_text = isinstance(value, str) and words.startswith("a list of str")
            return f"must be {words}" + (f", as in {self.name}='[\"{value}\"]'" if a_text else "")
        for bound in hints.bounds(self.annotation):
            if value is not None and not hints.holds(bound, self.name, value):
                return f"must satisfy {bound}"
        return None

    @property
    def takes(self) -> str:
        """What fits, in words: `int, T >= 2`; empty where anything does."""
        if self.annotation is None:
            return ""
        return ", ".join([hints.described(self.annotation), *hints.bounds(self.annotation)])

    @property
    def each(self) -> Parameter | None:
        """What each value of a `dict[str, X]` is; None of anything else."""
        inner = None if self.annotation is None else hints.each(self.annotation)
        return None if inner is None else Parameter(self.name, inner)

    @property
    def choices(self) -> list[str]:
        """The values there are, where the annotation lists them: of a Literal, and of a bool."""
        return [] if self.annotation is None else hints.choices(self.annotation)


@cache
def parameters(target: str) -> dict[str, Parameter] | None:
    """The parameters of a dotted class, function or class method by name; None where the source cannot be read.

    `**kwargs` in a constructor stands for the parameters of its base classes in this package.
    """
    found = _locate(target)
    if found is None:
        return None
    module, node = found
    if isinstance(node, ast.ClassDef):
        return _class_parameters(module, node)
    return _function_parameters(node.args)


@cache
def open_ended(target: str) -> bool:
    """Whether a target outside this package also takes keys that `parameters` does not list: by its `**kwargs`, or by
    a base class whose source is not found."""
    found = _locate(target)
    return found is not None and found[0].name.split(".")[0] != "unclip" and _takes_more(*found)


def defined(target: str) -> tuple[str, str] | None:
    """Where a target is defined, as a dotted name, and its docstring; None where the source cannot be read."""
    found = _locate(target)
    if found is None:
        return None
    module, node = found
    return f"{module.name}.{node.name}", ast.get_docstring(node) or ""


# --- finding the definition ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Module:
    name: str
    path: Path

    @property
    def body(self) -> list[ast.stmt]:
        return _parse(self.path).body

    @property
    def package(self) -> str:
        return self.name if self.path.name == "__init__.py" else self.name.rpartition(".")[0]


_Definition = ast.ClassDef | ast.FunctionDef


@cache
def _parse(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def exists(target: str) -> bool:
    """Whether there is a package that it could be imported from."""
    return _spec(target.split(".")[0]) is not None


def _spec(top: str) -> ModuleSpec | None:
    try:
        return importlib.util.find_spec(top)
    except ValueError:  # no name, or that of a module without a file
        return None


@cache
def _module(name: str) -> _Module | None:
    top, *rest = name.split(".")
    spec = _spec(top)
    if spec and not rest and spec.origin and spec.origin.endswith(".py"):
        return _Module(name, Path(spec.origin))  # a user's own file beside the packages
    for folder in (spec.submodule_search_locations or []) if spec else []:
        path = Path(folder, *rest)
        for file in (path / "__init__.py", path.with_suffix(".py")):
            if file.is_file():
                return _Module(name, file)
    return None


def _locate(target: str) -> tuple[_Module, _Definition] | None:
    parts = target.split(".")
    for cut in range(len(parts) - 1, 0, -1):
        if module := _module(".".join(parts[:cut])):
            return _find(module, parts[cut:])
    return None


def _find(module: _Module, path: list[str], depth: int = 0) -> tuple[_Module, _Definition] | None:
    name, *rest = path
    for node in _statements(module.body):
        if isinstance(node, _Definition) and node.name == name:
            if not rest:
                return module, node
            methods = (n for n in node.body if isinstance(n, ast.FunctionDef) and n.name == rest[0])
            method = next(methods, None)
            return (module, method) if method else None
        if isinstance(node, ast.ImportFrom) and depth < 8:
            for alias in node.names:
                if (alias.asname or alias.name) == name and (source := _source(module, node)):
                    return _find(source, [alias.name, *rest], depth + 1)
    return None


def _statements(body: list[ast.stmt]) -> Iterator[ast.stmt]:
    for node in body:
        yield node
        if isinstance(node, ast.If | ast.Try):
            yield from _statements(node.body)


def _source(module: _Module, node: ast.ImportFrom) -> _Module | None:
    if not node.level:
        return _module(node.module or "")
    base = module.package.split(".")
    base = base[: len(base) - node.level + 1]
    return _module(".".join([*base, node.module] if node.module else base))


# --- reading its signature -------------------------------------------------------------------------------------


def _class_parameters(module: _Module, node: ast.ClassDef) -> dict[str, Parameter]:
    if (constructor := _constructor(node)) is not None:
        own = _function_parameters(constructor.args)
        return {**_inherited(module, node), **own} if constructor.args.kwarg else own
    fields = {
        n.target.id: Parameter(n.target.id, n.annotation, _default(n.value))
        for n in (node.body if _is_dataclass(node) else ())
        if isinstance(n, ast.AnnAssign) and isinstance(n.target, ast.Name)
    }
    return {**_inherited(module, node), **fields}


def _is_dataclass(node: ast.ClassDef) -> bool:
    decorators = (d.func if isinstance(d, ast.Call) else d for d in node.decorator_list)
    return any(ast.unparse(d) in ("dataclass", "dataclasses.dataclass") for d in decorators)


def _takes_more(module: _Module, node: _Definition) -> bool:
    if isinstance(node, ast.FunctionDef):
        return node.args.kwarg is not None
    if (constructor := _constructor(node)) is not None:
        return constructor.args.kwarg is not None
    above = [base for base in node.bases if ast.unparse(base) not in ("object", "ABC", "abc.ABC")]
    bases = [_find(module, [base.id]) if isinstance(base, ast.Name) else None for base in above]
    return any(base is None or _takes_more(*base) for base in bases)


def _constructor(node: ast.ClassDef) -> ast.FunctionDef | None:
    return next((n for n in node.body if isinstance(n, ast.FunctionDef) and n.name == "__init__"), None)


def _inherited(module: _Module, node: ast.ClassDef) -> dict[str, Parameter]:
    found: dict[str, Parameter] = {}
    for base in node.bases:
        located = _find(module, [base.id]) if isinstance(base, ast.Name) else None
        if located and isinstance(located[1], ast.ClassDef) and located[0].name.startswith("unclip"):
            found |= _class_parameters(located[0], located[1])
    return found


def _function_parameters(args: ast.arguments) -> dict[str, Parameter]:
    positional = [*args.posonlyargs, *args.args]
    defaults = [None] * (len(positional) - len(args.defaults)) + list(args.defaults)
    pairs = [*zip(positional, defaults, strict=True), *zip(args.kwonlyargs, args.kw_defaults, strict=True)]
    return {
        a.arg: Parameter(a.arg, a.annotation, _default(d)) for a, d in pairs if a.arg not in ("self", "cls")
    }


def _default(node: ast.expr | None) -> Any:
    if node is None:
        return REQUIRED
    try:
        value = ast.literal_eval(node)
    except ValueError:
        return UNREADABLE
    return list(value) if isinstance(value, tuple) else value
