"""The command `unclip VERB ...` and its exit statuses. A verb's module is imported when the verb is typed; what verbs
there are is said in verbs.py.

Exit statuses: 0 done, 1 a run failed, 2 a wrong request, 130 interrupted.
"""

from __future__ import annotations

import os
import select
import sys
from importlib import import_module

from unclip.verbs import VERBS, usage

DONE, FAILED, WRONG_REQUEST, INTERRUPTED = 0, 1, 2, 130
STDOUT = 1  # as a file descriptor
CONFIG_DIR = ("--config-dir", "-cd")  # as Hydra spells it


def main(argv: list[str] | None = None) -> int:
    """Carry out one command line; returns the exit status."""
    name, *arguments = (sys.argv[1:] if argv is None else argv) or ["--help"]
    if name in ("-h", "--help", "help"):
        print(usage())
        return DONE
    if name == "--version":
        print(f"unclip {import_module('unclip').__version__}")
        return DONE
    if name not in VERBS:
        from unclip.config.problems import nearest

        print(
            f"unclip: {name} is no verb{nearest(name, VERBS)}; possible: {', '.join(VERBS)}", file=sys.stderr
        )
        return WRONG_REQUEST
    if {"-h", "--help"} & set(arguments):
        print(VERBS[name].help)
        return DONE
    return _carried_out(name, arguments)


def _carried_out(name: str, arguments: list[str]) -> int:
    try:
        verb, given = import_module(VERBS[name].module), without_config_dir(arguments)
        if "TORCHELASTIC_RUN_ID" in os.environ:
            status = import_module("unclip.runs.torchrun").together(name, given, lambda: verb.main(given))
        else:
            status = verb.main(given)
        sys.stdout.flush()
        return int(status)
    except KeyboardInterrupt:
        return INTERRUPTED
    except Exception as error:  # here, and nowhere else, ends what nobody foresaw
        return _failed(name, error)


def _failed(name: str, error: Exception) -> int:
    if isinstance(error, BrokenPipeError) and _is_unread():
        os.dup2(os.open(os.devnull, os.O_WRONLY), STDOUT)
        return DONE
    from unclip.config.problems import Problems, cause, foreseen, in_words

    found = cause(error)
    where = "" if foreseen(found) else f" (traceback in {_traceback(error)})"
    print(f"unclip {name}: {in_words(found)}{where}", file=sys.stderr)
    return WRONG_REQUEST if isinstance(found, Problems) else FAILED


def _is_unread() -> bool:
    """Whether nobody reads stdout any more, as after `unclip runs | head`: a pipe to a child may break too."""
    poll = select.poll()
    poll.register(STDOUT, 0)
    return any(event & (select.POLLERR | select.POLLHUP) for _, event in poll.poll(0))


def _traceback(error: Exception) -> str:
    import tempfile
    import traceback

    with tempfile.NamedTemporaryFile("w", prefix="unclip-error-", suffix=".txt", delete=False) as file:
        traceback.print_exception(error, file=file)
    return file.name


def without_config_dir(arguments: list[str]) -> list[str]:
    """The arguments but for --config-dir, which every verb takes: children read it from the environment. Raises
    Problems where there is no such folder."""
    kept, rest = [], iter(arguments)
    for argument in rest:
        if argument in CONFIG_DIR:
            os.environ["UNCLIP_CONFIG_DIR"] = _folder(next(rest, None))
        elif argument.startswith("--config-dir="):
            os.environ["UNCLIP_CONFIG_DIR"] = _folder(argument.partition("=")[2])
        else:
            kept.append(argument)
    return kept


def _folder(given: str | None) -> str:
    from unclip.config.problems import Problem, Problems

    if not given or not os.path.isdir(given):
        why = "there is no such folder; give one with YAML files of your own"
        raise Problems([Problem("--config-dir", given, why)])
    return os.path.abspath(given)


if __name__ == "__main__":
    sys.exit(main())
