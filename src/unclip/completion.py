"""`unclip completion bash|zsh|fish`: a script for the shell, which then completes verbs, names, config groups, options,
keys and paths. At each tab it asks `unclip completion candidates LINE`, LINE being what is typed up to the cursor.

Answered from the YAML files alone, in a tenth of a second: Hydra composes nothing here.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import Any

from unclip.cli import CONFIG_DIR, DONE, without_config_dir
from unclip.config import targets, tree
from unclip.config.problems import Problem, Problems
from unclip.config.schema import SCHEMAS, named
from unclip.config.sketch import chosen, composed, defaults
from unclip.config.tree import options
from unclip.verbs import VERBS

SCRIPTS = {
    "bash": r"""# source <(unclip completion bash)
_unclip() {
    local line="${COMP_LINE:0:COMP_POINT}" IFS=$'\n'
    local word="${line##*[[:space:]]}" breaks="${COMP_WORDBREAKS//[^=:]/}"
    COMPREPLY=($("${COMP_WORDS[0]}" completion candidates "$line" 2>/dev/null))
    # bash breaks words at = and : and completes the last piece alone
    [[ -n $breaks ]] && COMPREPLY=("${COMPREPLY[@]#"${word%"${word##*[$breaks]}"}"}")
    [[ ${COMPREPLY[0]} == *[=./] ]] && compopt -o nospace
}
complete -F _unclip unclip
""",
    "zsh": r"""# source <(unclip completion zsh)
(( $+functions[compdef] )) || { autoload -Uz compinit && compinit }
_unclip() {
    local -a found
    found=("${(@f)$("${words[1]}" completion candidates "${(j: :)words[1,CURRENT-1]} $PREFIX" 2>/dev/null)}")
    compadd -S '' -- ${(M)found:#*[=./]}
    compadd -- ${found:#(*[=./]|)}
}
compdef _unclip unclip
""",
    "fish": r"""# unclip completion fish | source
function __unclip_candidates
    set -l command (commandline -opc)
    $command[1] completion candidates (commandline -cp | string collect) 2>/dev/null
end
complete -c unclip -f -a '(__unclip_candidates)'
""",
}
PRIMARIES = {"run": "train", "data": "train"}  # other verbs compose the file of their name
NAMES = {
    "ablate": "ablation",
    "search": "search",
    "manipulate": "manipulation",
}  # group of the word after the verb
WORDS = {"data": ["fetch", "info"], "runs": ["compare", "clean"], "completion": list(SCRIPTS)}
FLAGS = {
    "train": ["-m", "--cfg"],
    "run": ["-m"],
    "ablate": ["--list"],
    "search": ["--list"],
    "runs": ["--json"],
}
LAUNCHERS = ["local", "joblib", "submitit_local", "submitit_slurm"]
LISTS = {"compare": "schedule", "weightings": "weighting"}  # of `unclip schedules`, of options of a group
KIND = "prior_kind"  # said as prior=
DELIVERIES = ["sample", "evaluate"]  # parts of `unclip run` beside its stages


def main(arguments: list[str]) -> int:
    """Print a shell's script, or the candidates for a line."""
    if len(arguments) == 1 and arguments[0] in SCRIPTS:
        print(SCRIPTS[arguments[0]], end="")
        return DONE
    if len(arguments) == 2 and arguments[0] == "candidates":
        print("".join(f"{candidate}\n" for candidate in candidates(arguments[1])), end="")
        return DONE
    why = "is no shell that it knows;" if arguments else "of which shell?"
    raise Problems([Problem(" ".join(arguments), None, f"{why} possible: {', '.join(SCRIPTS)}")])


def candidates(line: str) -> list[str]:
    """What the last word of a line may become, each as a whole word; one that ends in = or . or / goes on."""
    words = line.split()
    current = "" if line[-1:].isspace() else words.pop()
    if len(words) < 2:
        return _beginning(current, [*VERBS, "--help", "--version"])
    if words[1] not in VERBS:
        return []
    if words[-1] in CONFIG_DIR or current.startswith("--config-dir="):
        return _paths(current)
    request = Request.read(words[1], _without_config_dir(words[2:]))
    if current.startswith("-"):
        return _beginning(current, [*FLAGS.get(request.verb, []), "--config-dir=", "--help"])
    if "=" in current:
        return request.values(current)
    found = _beginning(current, [*request.words(), *request.keys(current)])
    return found or (_paths(current) if request.verb in ("report", "runs") else [])


def _without_config_dir(words: list[str]) -> list[str]:
    """As the command line takes it; of a folder that is not there, the request itself will say so."""
    try:
        return without_config_dir(words)
    except Problems:
        return [word for word in words if not word.startswith("--config-dir")]


@dataclass(frozen=True)
class Request:
    """What is typed before the word in question: overrides, and names without =."""

    verb: str
    overrides: list[str] = field(default_factory=list)
    names: list[str] = field(default_factory=list)

    @classmethod
    def read(cls, verb: str, words: list[str]) -> Request:
        overrides = [word for word in words if "=" in word]
        names = [word for word in words if "=" not in word and not word.startswith("-")]
        chosen = [f"{NAMES[verb]}={names[0]}"] if verb in NAMES and names else []
        return cls(verb, [*chosen, *overrides], names)

    @property
    def primary(self) -> str:
        """The file that it composes; empty where it composes none."""
        name = f"bench_{self.names[0]}" if self.verb == "bench" and self.names else self.verb
        name = PRIMARIES.get(self.verb, name)
        return name if tree.file_of(name) else ""

    def words(self) -> list[str]:
        """Names that may follow."""
        if self.verb == "data" and len(self.names) == 1:
            return options("data")
        if self.names:
            return []
        if self.verb == "bench":
            return sorted(p.stem.removeprefix("bench_") for p in tree.config_folder().glob("bench_*.yaml"))
        return options(NAMES[self.verb]) if self.verb in NAMES else WORDS.get(self.verb, [])

    def keys(self, current: str) -> list[str]:
        """Keys up to their next dot, groups among them."""
        if not self.primary:
            return [f"{key}=" for key in self._plain_keys()]
        part, rest = self._part(current)
        if part:
            return [f"{part}.{key}" for key in self._of(part).keys(rest)]
        above, dot, _ = current.rpartition(".")
        node = {k: v for k, v in self._node(above).items() if k != KIND and not str(k).startswith("_")}
        found = [f"{above}{dot}{key}{'.' if isinstance(value, dict) else '='}" for key, value in node.items()]
        return found if above else [*found, *self._groups()]

    def values(self, current: str) -> list[str]:
        """Options of a group, what a key takes, or paths; of a list the value after the last comma."""
        part, rest = self._part(current)
        if part:
            return [f"{part}.{found}" for found in self._of(part).values(rest)]
        key, _, value = current.partition("=")
        known, is_text = self._takes(key)
        before, comma, _ = value.rpartition(",")
        found = _beginning(current, [f"{key}={before}{comma}{one}" for one in known])
        return found or (_paths(current) if is_text else [])

    def _groups(self) -> list[str]:
        """Groups, and what else stands before a = beside keys of the configuration."""
        left_out = {KIND, NAMES.get(self.verb)}
        found = [f"{g}=" for g in defaults(self.primary) if g in tree.groups() and g not in left_out]
        found += ["hydra/launcher="] if self.verb in ("train", "run", "ablate") else []
        found += ["prior="] if self.primary == "train" else []
        return [*found, "results=", *(f"{part}." for part in self._parts())] if self.verb == "run" else found

    def _takes(self, key: str) -> tuple[list[str], bool]:
        """The values of a key where they can be listed, and whether a path may be one."""
        if key in tree.groups():
            if key == "experiment" and self.verb == "run":
                return tree.experiments(), False
            stage = chosen("train", self.overrides).get("stage") if key == "model" else None
            return [o for o in options(key) if not stage or o.startswith(f"{stage}/")], False
        if key in LISTS and self.verb == "schedules":
            return [*options(LISTS[key]), "all"], False
        if key == "metrics" and self.verb == "evaluate":
            from unclip.evaluate.catalogue import METRICS

            return [*METRICS, "all"], False
        if key == "hydra/launcher":
            return LAUNCHERS, False
        if key == "prior" and self.primary == "train":
            return options(KIND), True
        return self._of_signature(key)

    def _of_signature(self, key: str) -> tuple[list[str], bool]:
        """What the schema, or the target that a key goes to, says of it."""
        above, _, leaf = key.rpartition(".")
        node = self._node(above)
        if key == "budget":
            return list(node.get("budgets") or {}), False
        schema = named(SCHEMAS[self.primary]) if self.primary in SCHEMAS else ""
        target = node.get("_target_", "") if above else schema
        accepted = (targets.parameters(target) if target else None) or {}
        listed = accepted[leaf].choices if leaf in accepted else []
        return listed, not listed and isinstance(node.get(leaf, ""), str | None)

    def _node(self, above: str) -> dict[str, Any]:
        """The configuration under a dotted key."""
        node: Any = composed(self.primary, self.overrides, above.split(".")[0]) if self.primary else {}
        for key in above.split(".") if above else []:
            node = node.get(key) if isinstance(node, dict) else None
        return node if isinstance(node, dict) else {}

    def _plain_keys(self) -> tuple[str, ...]:
        """Of a verb that composes nothing."""
        if self.verb == "report":
            from unclip.runs.report import KEYS

            return KEYS
        if self.verb != "runs":
            return ()
        from unclip.runs.runs import KEYS as of_action

        return of_action[self.names[0] if self.names and self.names[0] in of_action else "list"]

    def _parts(self) -> list[str]:
        """decoder.schedule= is schedule= of the decoder in a whole run: its stages, then sample and evaluate."""
        named = next((w.partition("=")[2] for w in self.overrides if w.startswith("experiment=")), None)
        own = [o.rpartition("/")[2] for o in options("experiment") if o.startswith(f"{named}/")]
        return [*(stage for stage in options("stage") if named is None or stage in own), *DELIVERIES]

    def _part(self, current: str) -> tuple[str, str]:
        """The part that a word is prefixed with, and the word without it."""
        part, dot, rest = current.partition(".")
        return (
            (part, rest)
            if self.verb in ("run", "ablate") and dot and part in self._parts()
            else ("", current)
        )

    def _of(self, part: str) -> Request:
        """What is typed of a part, as the request that it is."""
        own = [word.removeprefix(f"{part}.") for word in self.overrides if word.startswith(f"{part}.")]
        if part in DELIVERIES:
            return Request(part, own)
        named = [f"{word}/{part}" for word in self.overrides if word.startswith("experiment=")]
        return Request("train", [*(named or [f"stage={part}"]), *own])


def _beginning(current: str, found: list[str]) -> list[str]:
    return [one for one in dict.fromkeys(found) if one.startswith(current)]


def _paths(current: str) -> list[str]:
    """Files and folders, after = where there is one."""
    key, equals, value = current.rpartition("=")
    folder, slash, name = value.rpartition("/")
    try:
        inside = sorted(os.scandir(folder or slash or "."), key=lambda entry: entry.name)
    except OSError:
        return []
    shown = [e for e in inside if e.name.startswith(name) and (name or not e.name.startswith("."))]
    return [f"{key}{equals}{folder}{slash}{entry.name}{'/' if entry.is_dir() else ''}" for entry in shown]
