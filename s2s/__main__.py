"""The command ``s2s NAME [key=value ...]``, the same as ``python -m s2s NAME [key=value ...]``."""

import sys
from collections.abc import Sequence
from importlib import import_module

from s2s.errors import nearest

COMMANDS = {
    "train": ("s2s.train", "train a recipe, or continue its run"),
    "decode": ("s2s.commands.decode", "write hypotheses for a file of sources"),
    "evaluate": ("s2s.commands.evaluate", "score files of hypotheses against references, and compare them"),
    "predict": ("s2s.commands.predict", "tag or label a file of sources with the heads of a run"),
    "diagnose": ("s2s.diagnose.__main__", "measure the exposure bias of runs, and write a report"),
    "study": ("s2s.study.__main__", "train variants of a recipe over seeds, and compare them"),
    "serve": ("s2s.serve.__main__", "serve runs as a local page and a JSON interface"),
    "export": ("s2s.commands.export", "write a run as a checkpoint of transformers, or as a small folder"),
    "average": ("s2s.commands.average", "average the last checkpoints of a run"),
}
"""Each command: its module, which has ``main(arguments) -> exit code``, and what it does.

A module is imported when its command is called: ``s2s --help`` need not wait for torch.
"""


def usage() -> str:
    """Return the list of commands."""
    lines = [f"  {name:10}{purpose}" for name, (_, purpose) in COMMANDS.items()]
    title = ["usage: s2s COMMAND [key=value ...]", "       s2s COMMAND --help [SECTION]", ""]
    return "\n".join([*title, *lines, "", "train, decode and study have --dry-run, which shows what they would do."])


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command that the first argument names: 2 where it names none, otherwise the command's own exit code."""
    name, *rest = (sys.argv[1:] if arguments is None else list(arguments)) or [""]
    if name in ("", "-h", "--help"):
        print(usage())
        return 0 if name else 2
    if name not in COMMANDS:
        print(f"error: no command '{name}'{nearest(name, COMMANDS)}", file=sys.stderr)
        return 2
    code: int = import_module(COMMANDS[name][0]).main(rest)
    return code


if __name__ == "__main__":
    from s2s.console.terminal import end  # here, so that the program ``s2s`` starts without rich

    end(main())
