"""The options that all benchmark commands have, and their checks."""

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path

from s2s.console.outputs import check_output
from s2s.errors import UserError


def output_file(name: str) -> Path:
    """Return the type of ``--json``: a file that can be written, so that nobody learns after an hour that it cannot."""
    try:
        check_output("--json", name, [])
    except UserError as error:
        raise argparse.ArgumentTypeError(str(error)) from error
    return Path(name)


def numbered(description: str | None, numbers: Mapping[str, int]) -> argparse.ArgumentParser:
    """Return a parser with an option for each whole number, and one for the file of rows."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    for name, default in numbers.items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=int, default=default, help=f"default {default}")
    parser.add_argument("--json", type=output_file, help="write the rows there")
    return parser


def options(description: str | None, numbers: Mapping[str, int]) -> argparse.ArgumentParser:
    """Return the same with options for dropout and precision: what trains has them."""
    parser = numbered(description, numbers)
    parser.add_argument("--dropout", type=float, default=0.1, help="default 0.1")
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="fp32", help="default fp32")
    return parser


def parsed(
    parser: argparse.ArgumentParser, texts: Sequence[str], numbers: Mapping[str, int], may_be_0: Sequence[str] = ()
) -> argparse.Namespace:
    """Return the arguments; a number below 1, or below 0 where it may be 0, ends the command by name."""
    arguments = parser.parse_args(texts)
    if low := [name for name in numbers if getattr(arguments, name) < (name not in may_be_0)]:
        parser.error(f"--{low[0].replace('_', '-')}: {getattr(arguments, low[0])} is too small")
    return arguments
