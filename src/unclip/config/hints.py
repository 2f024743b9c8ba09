"""What a parameter's type hint says of a value: types by their names, ranges by `Annotated[...]`. Reads syntax, and
imports nothing that a hint names."""

from __future__ import annotations

import ast
from collections.abc import Callable
from typing import Any

_MADE = ("Target", "Schedule", "Callable")  # by a `_target_`: no value by itself is one
_SCALARS: dict[str, Callable[[Any], bool]] = {
    "int": lambda v: isinstance(v, int) and not isinstance(v, bool),
    "float": lambda v: isinstance(v, int | float) and not isinstance(v, bool),
    "bool": lambda v: isinstance(v, bool),
    "str": lambda v: isinstance(v, str),
    "None": lambda v: v is None,
    **dict.fromkeys(_MADE, lambda v: isinstance(v, dict) and "_target_" in v),
}
_SEQUENCES = ("list", "tuple", "Sequence", "List", "Tuple")


def _name(node: ast.expr) -> str:
    return node.id if isinstance(node, ast.Name) else node.attr if isinstance(node, ast.Attribute) else ""


def _parts(node: ast.Subscript) -> list[ast.expr]:
    return node.slice.elts if isinstance(node.slice, ast.Tuple) else [node.slice]


def alternatives(node: ast.expr) -> list[ast.expr]:
    """The members of `A | B`, `Union[A, B]` or `Optional[A]`, the annotated type of `Annotated[A, ...]`."""
    if isinstance(node, ast.BinOp):
        return [*alternatives(node.left), *alternatives(node.right)]
    if isinstance(node, ast.Subscript):
        kind, parts = _name(node.value), _parts(node)
        if kind == "Annotated":
            return alternatives(parts[0])
        if kind == "Union":
            return [a for part in parts for a in alternatives(part)]
        if kind == "Optional":
            return [*alternatives(parts[0]), ast.Constant(None)]
    return [node]


def fits(annotation: ast.expr, value: Any) -> bool:
    """Whether a plain value is of the annotated type, as far as its name says."""
    return any(_fits_one(node, value) for node in alternatives(annotation))


def _fits_one(node: ast.expr, value: Any) -> bool:
    if isinstance(node, ast.Constant):
        return value is None if node.value is None else True
    if isinstance(node, ast.Subscript):
        kind, parts = _name(node.value), _parts(node)
        if kind == "Literal":
            return any(
                value == p.value and type(value) is type(p.value)
                for p in parts
                if isinstance(p, ast.Constant)
            )
        if kind in _SEQUENCES:
            if not isinstance(value, list):
                return False
            kinds = [p for p in parts if not (isinstance(p, ast.Constant) and p.value is ...)]
            if kind in ("tuple", "Tuple") and len(kinds) == len(parts):
                return len(value) == len(kinds) and all(fits(k, v) for k, v in zip(kinds, value, strict=True))
            return all(fits(kinds[0], v) for v in value)
        if kind in _MADE:
            return _SCALARS[kind](value)
        if kind == "dict":
            return isinstance(value, dict) and all(fits(parts[1], inner) for inner in value.values())
        return True
    check = _SCALARS.get(_name(node))
    return check(value) if check else True


def choices(annotation: ast.expr) -> list[str]:
    """The values there are, where it lists them: of a Literal, and of a bool."""
    kinds = alternatives(annotation)
    literals = [k for k in kinds if isinstance(k, ast.Subscript) and _name(k.value) == "Literal"]
    listed = [str(p.value) for k in literals for p in _parts(k) if isinstance(p, ast.Constant)]
    return listed + (["true", "false"] if any(_name(k) == "bool" for k in kinds) else [])


def each(annotation: ast.expr) -> ast.expr | None:
    """X of a `dict[str, X]`; None of anything else."""
    kinds = alternatives(annotation)
    return next(
        (_parts(k)[1] for k in kinds if isinstance(k, ast.Subscript) and _name(k.value) == "dict"), None
    )


def described(annotation: ast.expr) -> str:
    """The type in words, without its conditions."""
    words = []
    for node in alternatives(annotation):
        if isinstance(node, ast.Subscript) and _name(node.value) == "Literal":
            words += [str(p.value) for p in _parts(node) if isinstance(p, ast.Constant)]
        elif isinstance(node, ast.Constant) and node.value is None:
            words.append("null")
        elif (inner := each(node)) and "_target_" in (of := described(inner)):
            words.append(f"names, each with ({of})")
        elif _name(node.value if isinstance(node, ast.Subscript) else node) in _MADE:
            words.append("a _target_ and the keys that it takes")
        elif isinstance(node, ast.Subscript) and _name(node.value) in _SEQUENCES:
            words.append(_listed(node))
        else:
            words.append(ast.unparse(node))
    return " | ".join(words)


def _listed(node: ast.Subscript) -> str:
    """A sequence in words, of a fixed length where a tuple's type says so."""
    kinds = [p for p in _parts(node) if not (isinstance(p, ast.Constant) and p.value is ...)]
    if _name(node.value) in ("tuple", "Tuple") and len(kinds) == len(_parts(node)):
        return f"a list of {len(kinds)} ({', '.join(map(described, kinds))})"
    inner = described(kinds[0])
    return f"a list of ({inner})" if " | " in inner else f"a list of {inner}"


def bounds(annotation: ast.expr) -> list[str]:
    """The conditions that `Annotated[...]` states anywhere in the annotation."""
    found = []
    for node in ast.walk(annotation):
        if isinstance(node, ast.Subscript) and _name(node.value) == "Annotated":
            found += [
                p.value for p in _parts(node)[1:] if isinstance(p, ast.Constant) and isinstance(p.value, str)
            ]
    return found


# diffusion/bounds.py has the same
FUNCTIONS = {"all": all, "any": any, "len": len, "min": min, "max": max, "abs": abs}


def holds(bound: str, name: str, value: Any) -> bool:
    """Whether the value, under this name, satisfies a condition of its annotation."""
    try:
        return bool(eval(bound, {"__builtins__": {}, **FUNCTIONS, name: value}))
    except LookupError:
        return False  # a list that is too short
    except TypeError:
        return True  # an alternative the bound does not speak of, such as `auto` beside a number
