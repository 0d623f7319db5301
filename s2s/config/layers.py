"""Values from one place, a YAML file or the command line, that know where each of them stands."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import yaml
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from s2s.errors import UserError

MOST_VALUES = 10_000
"""Of one file: aliases in YAML can stand for any number of values."""


@dataclass(frozen=True)
class Layer:
    """Values from one place; a later layer overrides an earlier one.

    ``lines`` has the line of each dotted key, ``texts`` each single value as it is written: YAML reads a language
    ``no`` as false and a folder ``1e3`` as a number.
    """

    origin: str
    values: dict[str, Any]
    lines: dict[str, int]
    texts: dict[str, str] = field(default_factory=dict)
    literal: bool = False  # ``${...}`` in its values is text and names no other value

    def place(self, key: str) -> str | None:
        """Where the layer sets a key, the nearest section around it or a key within it: ``file:line``."""
        parts = key.replace("[", ".").replace("]", "").split(".")
        for length in range(len(parts), 0, -1):
            around = ".".join(parts[:length])
            found = [line for name, line in self.lines.items() if name == around or name.startswith(f"{around}.")]
            if found:
                return f"{self.origin}:{min(found)}" if min(found) else self.origin
        return None


def read_file(path: Path, literal: bool = False) -> Layer:
    """Return the layer of a YAML file, whose references to other values stay text where it is ``literal``."""
    try:
        text = path.read_text(encoding="utf-8")
        node = yaml.compose(text)
        if not isinstance(node, yaml.MappingNode | None):
            raise UserError(f"{path}:1: not a mapping of keys to values")
        entries = list(islice(_entries(node, ""), MOST_VALUES + 1))
        if len(entries) > MOST_VALUES:
            raise UserError(f"{path}: more than {MOST_VALUES} values")
        values = {} if node is None else OmegaConf.to_container(OmegaConf.create(text))
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise UserError(f"{path}:{line}: not YAML: {error.problem}") from error
    except RecursionError as error:
        raise UserError(f"{path}: nested too deeply") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: {error}") from error
    except (yaml.YAMLError, ValueError) as error:
        raise UserError(f"{path}:1: not YAML: {str(error).splitlines()[0]}") from error
    except (OSError, OmegaConfBaseException) as error:
        raise UserError(f"{path}: {str(error).splitlines()[0]}") from error
    lines = {key: line for key, line, _ in entries}
    texts = {key: text for key, _, text in entries if text is not None}
    return Layer(str(path), _nested(values, str(path)), lines, texts, literal)


def _entries(node: yaml.Node | None, prefix: str) -> Iterator[tuple[str, int, str | None]]:
    """Each dotted key within a YAML node with its line and, if it is a single value, that as it is written."""
    if isinstance(node, yaml.SequenceNode):
        pairs = [(str(index), item, item) for index, item in enumerate(node.value)]
    elif isinstance(node, yaml.MappingNode):
        pairs = [(str(key.value), key, value) for key, value in node.value]
    else:
        return
    for name, where, value in pairs:
        yield prefix + name, where.start_mark.line + 1, _written(value)
        yield from _entries(value, prefix + name + ".")


def _written(node: yaml.Node | None) -> str | None:
    return node.value if isinstance(node, yaml.ScalarNode) else None


def _nested(values: Any, origin: str) -> dict[str, Any]:
    """The values with every dotted key ``a.b`` as a key b of a section a."""
    nested: dict[str, Any] = {}
    for key, value in values.items():
        _put(nested, str(key).split("."), value, f"{origin}: ")
    return nested


def _put(section: dict[str, Any], path: Sequence[str], value: Any, place: str) -> None:
    name, *rest = path
    if not rest and not isinstance(value, dict):
        if name in section:
            raise UserError(f"{place}{name}: set twice")
        section[name] = value
        return
    below = section.setdefault(name, {})
    if not isinstance(below, dict):
        raise UserError(f"{place}{name}: set twice")
    for key, inner in [(".".join(rest), value)] if rest else value.items():
        _put(below, str(key).split("."), inner, f"{place}{name}.")


def read_arguments(arguments: Sequence[str]) -> Layer:
    """A layer from ``key=value`` arguments; a value is YAML."""
    for argument in arguments:
        if "=" not in argument.lstrip("=") or not argument.partition("=")[0].isprintable():
            raise UserError(f"command line: {argument!r} is not key=value")
    values = OmegaConf.to_container(OmegaConf.merge(*[_read_argument(argument) for argument in arguments], {}))
    assert isinstance(values, dict)
    keys = [argument.partition("=")[0] for argument in arguments]
    texts = {key: text for argument in arguments for key, text in _texts(argument)}
    return Layer("command line", {str(key): value for key, value in values.items()}, dict.fromkeys(keys, 0), texts)


def _texts(argument: str) -> Iterator[tuple[str, str]]:
    """The single values of an argument as they are written."""
    key, _, value = _quote(argument).partition("=")
    try:
        node = yaml.compose(value)
    except yaml.YAMLError:  # OmegaConf has read it in another way
        return
    written = _written(node)
    if written is not None:
        yield key, written
    yield from ((name, text) for name, _, text in islice(_entries(node, f"{key}."), MOST_VALUES) if text is not None)


def _read_argument(argument: str) -> DictConfig:
    try:
        return OmegaConf.from_dotlist([_quote(argument)])
    except RecursionError as error:
        raise UserError(f"command line: {argument.partition('=')[0]}: nested too deeply") from error
    except (yaml.YAMLError, ValueError, OmegaConfBaseException) as error:
        key = argument.partition("=")[0]
        raise UserError(f"command line: {key}: {str(error).splitlines()[0]}") from error


def _quote(argument: str) -> str:
    """The argument as YAML: a lone ``-``, standard input or output, is no empty list."""
    return argument.removesuffix("-") + "'-'" if argument.endswith("=-") else argument
