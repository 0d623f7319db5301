"""Values from one place, a YAML file or the command line, that know where each of them stands."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from s2s.errors import UserError


@dataclass(frozen=True)
class Layer:
    """Values from one place; a later layer overrides an earlier one. ``lines`` has the line of each dotted key."""

    origin: str
    values: dict[str, Any]
    lines: dict[str, int]

    def place(self, key: str) -> str | None:
        """Where the layer sets a key, the nearest section around it or a key within it: ``file:line``."""
        parts = key.replace("[", ".").replace("]", "").split(".")
        for length in range(len(parts), 0, -1):
            around = ".".join(parts[:length])
            found = [line for name, line in self.lines.items() if name == around or name.startswith(f"{around}.")]
            if found:
                return f"{self.origin}:{min(found)}" if min(found) else self.origin
        return None


def read_file(path: Path) -> Layer:
    """A layer from a YAML file."""
    try:
        text = path.read_text(encoding="utf-8")
        node = yaml.compose(text)
        if not isinstance(node, yaml.MappingNode | None):
            raise UserError(f"{path}:1: not a mapping of keys to values")
        values = {} if node is None else OmegaConf.to_container(OmegaConf.create(text))
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise UserError(f"{path}:{line}: not YAML: {error.problem}") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: {error}") from error
    except (yaml.YAMLError, ValueError) as error:
        raise UserError(f"{path}:1: not YAML: {str(error).splitlines()[0]}") from error
    except (OSError, OmegaConfBaseException) as error:
        raise UserError(f"{path}: {error}") from error
    assert isinstance(values, dict)
    return Layer(str(path), {str(key): value for key, value in values.items()}, dict(_lines(node, "")))


def _lines(node: yaml.Node | None, prefix: str) -> list[tuple[str, int]]:
    """Each dotted key of a YAML node with its line."""
    if isinstance(node, yaml.SequenceNode):
        pairs = [(str(index), item, item) for index, item in enumerate(node.value)]
    elif isinstance(node, yaml.MappingNode):
        pairs = [(str(key.value), key, value) for key, value in node.value]
    else:
        return []
    found = []
    for name, where, value in pairs:
        found.append((prefix + name, where.start_mark.line + 1))
        found.extend(_lines(value, prefix + name + "."))
    return found


def read_arguments(arguments: Sequence[str]) -> Layer:
    """A layer from ``key=value`` arguments; a value is YAML."""
    for argument in arguments:
        if "=" not in argument.lstrip("="):
            raise UserError(f"command line: '{argument}' is not key=value")
    values = OmegaConf.to_container(OmegaConf.merge(*[_read_argument(argument) for argument in arguments], {}))
    assert isinstance(values, dict)
    keys = [argument.partition("=")[0] for argument in arguments]
    return Layer("command line", {str(key): value for key, value in values.items()}, dict.fromkeys(keys, 0))


def _read_argument(argument: str) -> DictConfig:
    try:
        return OmegaConf.from_dotlist([_quote(argument)])
    except (yaml.YAMLError, ValueError, OmegaConfBaseException) as error:
        key = argument.partition("=")[0]
        raise UserError(f"command line: {key}: {str(error).splitlines()[0]}") from error


def _quote(argument: str) -> str:
    """The argument as YAML: a lone ``-``, standard input or output, is no empty list."""
    return argument.removesuffix("-") + "'-'" if argument.endswith("=-") else argument
