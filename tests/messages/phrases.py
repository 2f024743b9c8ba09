"""Every phrase that src/unclip may say to whoever typed a command, found in its source, and which of them a test
expects. Runs nothing."""

from __future__ import annotations

import ast
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

LEAST = 12  # characters by which a phrase is known
SILENT = {"NotImplementedError", "KeyboardInterrupt", "SystemExit", "Stopped", "TimeoutError"}
ASKING = {"search", "startswith", "endswith", "get", "removeprefix"}  # their arguments are said to nobody
WORDS = ("why", "what", "message", "problem", "how")  # parameters that are said
VALUES = ("data/scenes.py", "report/measures.py")  # captions and metrics' names, which messages put in


@dataclass(frozen=True)
class Phrase:
    """One string of a message: where it is, and its literal pieces."""

    place: str
    pieces: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.place}: {' ... '.join(self.pieces)}"


Function = ast.FunctionDef | ast.AsyncFunctionDef
Scope = Function | ast.Module
NOTHING: list[ast.AST] = []


class Module:
    """A source file: its functions, its constants, what it imports."""

    def __init__(self, path: Path, root: Path):
        self.name = str(path.relative_to(root))
        self.dotted = ".".join(path.relative_to(root.parent).with_suffix("").parts)
        self.tree = ast.parse(path.read_text(encoding="utf-8"))
        self.functions = {n.name: n for n in ast.walk(self.tree) if isinstance(n, Function)}
        self.constants = {
            t.id: n.value
            for n in self.tree.body
            if isinstance(n, ast.Assign | ast.AnnAssign) and n.value
            for t in (n.targets if isinstance(n, ast.Assign) else [n.target])
            if isinstance(t, ast.Name)
        }
        self.imports: dict[str, str] = {}
        for n in ast.walk(self.tree):
            if isinstance(n, ast.ImportFrom):
                self.imports |= {a.asname or a.name: f"{n.module}.{a.name}" for a in n.names}

    @cached_property
    def scopes(self) -> list[tuple[Scope, list[ast.AST]]]:
        """Each function, and the module itself, with the nodes that are directly its own."""
        found: list[tuple[Scope, list[ast.AST]]] = []

        def visit(scope: Scope) -> None:
            own: list[ast.AST] = []
            found.append((scope, own))
            stack = list(ast.iter_child_nodes(scope))
            while stack:
                node = stack.pop()
                if isinstance(node, Function):
                    visit(node)
                else:
                    own.append(node)
                    stack += ast.iter_child_nodes(node)

        visit(self.tree)
        return found


class Source:
    """All modules of a package, and the phrases in them."""

    def __init__(self, root: Path):
        self.modules = {m.dotted: m for p in sorted(root.rglob("*.py")) if (m := Module(p, root))}

    def phrases(self) -> list[Phrase]:
        self.found: dict[tuple[str, int, int], Phrase] = {}
        self.seen: set[int] = set()
        self.assigned: dict[int, dict[str, list[ast.expr]]] = {}  # by scope, as its nodes
        self.makers: dict[str, set[str]] = {m: {"wrong"} for m in self.modules}
        before = -1
        while before != len(self.found) + sum(map(len, self.makers.values())):
            before = len(self.found) + sum(map(len, self.makers.values()))
            self.seen.clear()
            for module in self.modules.values():
                for scope, nodes in module.scopes:
                    for node in nodes:
                        for said in self._said(module, node):
                            self._collect(module, scope, nodes, said)
        return [self.found[place] for place in sorted(self.found)]

    def _said(self, module: Module, node: ast.AST) -> Iterator[ast.expr]:
        if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call):
            if _last(node.exc.func) not in SILENT:
                yield from node.exc.args
        elif isinstance(node, ast.Call):
            stderr = any(k.arg == "file" and ast.unparse(k.value) == "sys.stderr" for k in node.keywords)
            name = _last(node.func)
            if stderr or name == "Problem" or name in self.makers[module.dotted]:
                yield from node.args

    def _collect(self, module: Module, scope: Scope, nodes: list[ast.AST], said: ast.expr) -> None:
        """The phrases in an expression that is said, and in what it is made of: names, constants, calls."""
        if id(said) in self.seen:
            return
        self.seen.add(id(said))
        for node in _strings(said):
            pieces = _pieces(node)
            if pieces and module.name not in VALUES:
                place = module.name, node.lineno, node.col_offset
                self.found[place] = Phrase(f"{module.name}:{node.lineno}", pieces)
        joined = {id(a) for call in _calls(said) if _last(call.func) == "join" for a in call.args}
        for call in _calls(said):
            self._returned(module, call)
        for name in ast.walk(said):
            if isinstance(name, ast.Name):
                self._named(module, scope, nodes, name, id(name) in joined)

    def _named(
        self, module: Module, scope: Scope, nodes: list[ast.AST], name: ast.Name, joined: bool
    ) -> None:
        """What a name in a message stands for; a parameter's makes its function one that says its arguments."""
        if id(nodes) not in self.assigned:
            self.assigned[id(nodes)] = _assigned(nodes)
        assigned = self.assigned[id(nodes)].get(name.id, [])
        for value in assigned:
            self._collect(module, scope, nodes, value)
        if assigned:
            return
        if name.id in module.constants and not joined:
            self._collect(module, module.tree, NOTHING, module.constants[name.id])
        elif name.id in WORDS and name.id in _parameters(scope):
            self.makers[module.dotted].add(scope.name)

    def _returned(self, module: Module, call: ast.Call) -> None:
        name = _last(call.func)
        home = module if name in module.functions else None
        if home is None and isinstance(call.func, ast.Name):
            home = self.modules.get(module.imports.get(name, "").rpartition(".")[0])
        elif home is None and isinstance(call.func, ast.Attribute) and isinstance(call.func.value, ast.Name):
            home = self.modules.get(module.imports.get(call.func.value.id, ""))
        if home is None or name not in home.functions:
            return
        function = home.functions[name]
        nodes = next(own for scope, own in home.scopes if scope is function)
        for node in nodes:
            if isinstance(node, ast.Return | ast.Yield) and node.value:
                self._collect(home, function, nodes, node.value)


def _parameters(scope: Scope) -> set[str]:
    return (
        {a.arg for a in ast.walk(scope.args) if isinstance(a, ast.arg)}
        if isinstance(scope, Function)
        else set()
    )


def _calls(node: ast.expr) -> list[ast.Call]:
    return [inner for inner in ast.walk(node) if isinstance(inner, ast.Call)]


def _last(node: ast.expr) -> str:
    return node.id if isinstance(node, ast.Name) else node.attr if isinstance(node, ast.Attribute) else ""


def _assigned(nodes: list[ast.AST]) -> dict[str, list[ast.expr]]:
    """By name what these nodes assign to it."""
    found: dict[str, list[ast.expr]] = {}
    for node in nodes:
        if isinstance(node, ast.Assign):
            targets, value = node.targets, node.value
        elif isinstance(node, ast.AugAssign | ast.AnnAssign | ast.NamedExpr) and node.value is not None:
            targets, value = [node.target], node.value
        elif isinstance(node, ast.For | ast.comprehension):
            targets, value = [node.target], node.iter
        else:
            continue
        for name in {n.id for t in targets for n in ast.walk(t) if isinstance(n, ast.Name)}:
            found.setdefault(name, []).append(value)
    return found


def _strings(node: ast.expr) -> Iterator[ast.Constant | ast.JoinedStr]:
    """The outermost strings in it, and those in what they are formatted of."""
    stack: list[ast.AST] = [node]
    while stack:
        one = stack.pop()
        if isinstance(one, ast.JoinedStr):
            yield one
            stack += [v.value for v in one.values if isinstance(v, ast.FormattedValue)]
        elif isinstance(one, ast.Constant) and isinstance(one.value, str):
            yield one
        elif isinstance(one, ast.Dict):
            stack += one.values
        elif isinstance(one, ast.Compare) or (isinstance(one, ast.Call) and _last(one.func) in ASKING):
            continue
        else:
            stack += ast.iter_child_nodes(one)


def _pieces(node: ast.Constant | ast.JoinedStr) -> tuple[str, ...]:
    values = node.values if isinstance(node, ast.JoinedStr) else [node]
    texts = [str(v.value) for v in values if isinstance(v, ast.Constant)]
    texts = [" ".join(t.split()) for t in texts]
    return tuple(t for t in texts if len(t) >= LEAST and " " in t)


def expected_in(tests: Path, phrases: list[Phrase]) -> list[Phrase]:
    """The phrases of which no string in these tests has a part that belongs to them: LEAST characters that no other
    phrase has, if there are such."""
    heard = {part for path in sorted(tests.rglob("*.py")) for text in _texts(path) for part in _parts(text)}
    parts = {phrase: {part for piece in phrase.pieces for part in _parts(_own(piece))} for phrase in phrases}
    times = Counter(part for of_one in parts.values() for part in of_one)
    return [
        phrase
        for phrase, of_one in parts.items()
        if not ({part for part in of_one if times[part] == 1} or of_one) & heard
    ]


def _own(piece: str) -> str:
    """Without what is possible, a list that other messages may have too."""
    own = piece.partition("; possible:")[0]
    return own if len(own) >= LEAST else piece


def _parts(text: str) -> Iterator[str]:
    return (text[i : i + LEAST] for i in range(len(text) - LEAST + 1))


def _texts(path: Path) -> Iterator[str]:
    """The strings of a file but for its docstrings, without what escapes in regular expressions."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    documented = (ast.Module, ast.ClassDef, *Function.__args__)
    bodies = [n.body[0] for n in ast.walk(tree) if isinstance(n, documented) and n.body]
    documents = {id(first.value) for first in bodies if isinstance(first, ast.Expr)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in documents:
            yield " ".join(node.value.replace("\\", "").split())
