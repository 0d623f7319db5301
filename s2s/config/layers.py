"""Values of a YAML file or of the command line, with their line numbers.

Single values stay text in this module. Whether ``no`` is a word and ``1e3`` a number depends on the type of the key,
which ``s2s.config.values`` knows.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from s2s.errors import UserError, first_line

MOST_VALUES = 10_000
"""In one file. Aliases of aliases (``a: &a [...]``, ``b: [*a, *a]``) would multiply a few lines to any size."""


@dataclass(frozen=True)
class Written:
    """A single value as a file has it."""

    text: str
    plain: bool = True  # without quotes, so that null means None
    literal: bool = False  # from the recipe in a run's folder, where ``${`` and ``???`` are ordinary text


@dataclass(frozen=True)
class Argument(Written):
    """The value of a ``key=value`` argument: text, or the YAML of a list or mapping if the key takes one."""


@dataclass(frozen=True)
class Layer:
    """Values of one file or argument; a later layer overrides an earlier one.

    ``values`` is nested; its leaves are ``Written``, or plain values given by Python code. ``lines`` has the line
    number of each dotted key, 0 for the command line.
    """

    origin: str
    values: dict[str, Any]
    lines: dict[str, int]

    def position(self, key: str) -> str | None:
        """Return ``file:line`` of a key, of a key within it or else of the nearest section around it."""
        parts = dotted(key)
        for length in range(len(parts), 0, -1):
            prefix = ".".join(parts[:length])
            lines = [line for name, line in self.lines.items() if name == prefix or name.startswith(f"{prefix}.")]
            if lines:
                return f"{self.origin}:{min(lines)}" if min(lines) else self.origin
        return None


def dotted(key: str) -> list[str]:
    """Return the parts of a key such as ``mitigations[0].rate``."""
    return key.replace("[", ".").replace("]", "").split(".")


def read_file(path: Path, literal: bool = False) -> Layer:
    """Read a YAML file; ``literal`` takes ``${`` and ``???`` for ordinary text. Errors: a UserError of one line."""
    try:
        return read_text(path.read_text(encoding="utf-8"), str(path), literal)
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: {error}") from error
    except OSError as error:
        raise UserError(f"{path}: {error.strerror or error}") from error


def read_text(text: str, origin: str, literal: bool = False) -> Layer:
    """Read the text of a YAML file that errors call ``origin``; see ``read_file``."""
    tree = Tree(origin, literal)
    try:
        # BaseLoader leaves every value a text: YAML's own rules make `no` false, 1e3 a text and 1:30 the number 90.
        node = yaml.compose(text, Loader=yaml.BaseLoader)
        if not isinstance(node, yaml.MappingNode | None):
            raise UserError(f"{origin}:1: not a mapping of keys to values")
        values = {} if node is None else tree.value(node, "")
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise UserError(f"{origin}:{line}: not YAML: {_explained(error)}") from error
    except RecursionError as error:
        raise UserError(f"{origin}: nested too deeply") from error
    except (yaml.YAMLError, ValueError) as error:
        raise UserError(f"{origin}:1: not YAML: {first_line(error)}") from error
    return Layer(origin, values, tree.lines)


QUOTE = "a text with one of , : # [ ] { } or a quote goes in quotes, such as 'a #b'"
MEANINGS = {
    "expected ',' or|the node content": f"a list or mapping in brackets does not end where it should; {QUOTE}",
    "mapping values are not allowed": f"there is a second ': ', or the line is not indented as those above; {QUOTE}",
    "expected <block end>": f"the line is not indented as those above, or something follows a quote; {QUOTE}",
    "unexpected end of stream": "a quote is opened and never closed",
    "unknown escape character": "a backslash in double quotes needs another one before it, or use single quotes",
    "expected '<document start>'": f"something follows the value, or a line begins with '%'; {QUOTE}",
    "another document": "a file holds one document; take out '---'",
}
"""PyYAML's problems by a part of their text, in words for the author of the file."""
WORD = re.compile(r"[^\s,\]}\0]*")


def _explained(error: yaml.MarkedYAMLError) -> str:
    """Return what is wrong with a text that is not YAML, and what to write instead."""
    mark = error.context_mark if "scanning a" in (error.context or "") else error.problem_mark
    word = "" if mark is None or mark.buffer is None else WORD.match(mark.buffer, mark.pointer)[0]  # type: ignore[index]
    problem = error.problem or ""
    if re.search("alias|cannot start any token|alphabetic or numeric|chomping", problem):
        if not word:
            return "a tab where YAML allows none; write blanks, or the text in quotes"
        return f"{word!r} begins with '{word[0]}', a sign of YAML; write the text in quotes"
    return next((meaning for words, meaning in MEANINGS.items() if re.search(words, problem)), problem)


class _OneValue(yaml.BaseLoader):
    """Reads the YAML of one argument, such as ``[*er*, @a, &x]``: it has no use for aliases, anchors and tags."""

    def fetch_alias(self) -> None:
        """Read ``*`` as the first character of a text."""
        self.fetch_plain()

    fetch_anchor = fetch_tag = fetch_alias

    def check_plain(self) -> bool:
        """Return whether an unquoted text begins here."""
        return self.peek() in "@`%|>" or bool(super().check_plain())


class Tree:
    """Turns YAML nodes into nested values and records the line of each key."""

    def __init__(self, origin: str, literal: bool) -> None:
        self.origin, self.literal = origin, literal
        self.lines: dict[str, int] = {}
        self.count = 0

    def value(self, node: yaml.Node, prefix: str) -> Any:
        """Return a node's value; ``prefix`` is its key and a dot, or "" for the whole file."""
        self.count += 1
        if self.count > MOST_VALUES:
            raise UserError(f"{self.origin}: more than {MOST_VALUES} values")
        # A tag such as !!float would decide the type of a value, which is for its key to decide.
        if not node.tag.startswith("tag:yaml.org,2002:") or node.tag.rpartition(":")[2] not in ("str", "seq", "map"):
            name = node.tag.replace("tag:yaml.org,2002:", "!!")
            problem = f"'{name}' is a tag; leave it out, a value is read by its key's type"
            raise yaml.MarkedYAMLError(problem=problem, problem_mark=node.start_mark)
        if isinstance(node, yaml.ScalarNode):
            return Written(node.value, node.style is None, self.literal)
        if isinstance(node, yaml.SequenceNode):
            return [self._item(item, item, f"{prefix}{index}") for index, item in enumerate(node.value)]
        assert isinstance(node, yaml.MappingNode)
        section: dict[str, Any] = {}
        names = set[str]()
        for key, inner in self._pairs(node):
            if key.value in names:
                raise yaml.MarkedYAMLError(problem=f"found duplicate key {key.value}", problem_mark=key.start_mark)
            names.add(key.value)
            value = self._item(key, inner, prefix + key.value)
            put(section, key.value.split("."), value, f"{self.origin}: {prefix}")
        return section

    def _pairs(self, node: yaml.MappingNode) -> Iterator[tuple[yaml.ScalarNode, yaml.Node]]:
        for name, inner in node.value:
            if not isinstance(name, yaml.ScalarNode):
                raise yaml.MarkedYAMLError(problem="a key is a word, no list or mapping", problem_mark=name.start_mark)
            yield name, inner

    def _item(self, at: yaml.Node, node: yaml.Node, key: str) -> Any:
        self.lines.setdefault(key, at.start_mark.line + 1)
        return self.value(node, f"{key}.")


def put(section: dict[str, Any], path: Sequence[str], value: Any, around: str) -> None:
    """Set the value of a dotted key in nested sections. Errors: a UserError if it is set already."""
    name, *rest = path
    if rest:
        value = nest(rest, value)
    if name not in section:
        section[name] = value
        return
    below = section[name]
    # run.seed and run: {seed: ...} in one file are one key, and only one of two values could count.
    if not isinstance(below, dict) or not isinstance(value, dict):
        raise UserError(f"{around}{name}: set twice")
    for key, inner in value.items():
        put(below, [key], inner, f"{around}{name}.")


def nest(path: Sequence[str], value: Any) -> Any:
    """Return the value inside one mapping for each part of its dotted key."""
    for name in reversed(path):
        value = {name: value}
    return value


def read_arguments(arguments: Sequence[str]) -> list[Layer]:
    """Read ``key=value`` arguments, a layer each; of two with the same key the later one wins.

    Whole sections come first, then the names of rows, then other keys: a new name resets its section, so
    ``search.beams=8 search.name=diverse`` would else lose the beams.
    """
    layers: list[tuple[tuple[int, bool], Layer]] = []
    for argument in arguments:
        key, equals, value = argument.partition("=")
        if not key or not equals or not key.isprintable():
            raise UserError(f"command line: {argument!r} is not key=value")
        path = dotted(key)
        layer = Layer("command line", nest(path, Argument(value)), {".".join(path): 0})
        layers.append(((len(path), path[-1] != "name"), layer))
    # The sort is stable, so of two arguments for one key the later one stays later.
    return [layer for _, layer in sorted(layers, key=lambda pair: pair[0])]


def opened(value: Any) -> Any:
    """Return the list or mapping that an argument's text holds as YAML, a single one as ``Written``.

    Any other value comes back as it is. Errors: a ValueError for text that is not YAML.
    """
    if not isinstance(value, Argument):
        return value
    try:
        node = yaml.compose(value.text, Loader=_OneValue)
        if isinstance(node, yaml.CollectionNode):
            return Tree("command line", value.literal).value(node, "")
    except RecursionError as error:
        raise ValueError("nested too deeply") from error
    except yaml.MarkedYAMLError as error:
        raise ValueError(f"{value.text!r} is not a list or mapping: {_explained(error)}") from error
    except (yaml.YAMLError, UserError) as error:
        raise ValueError(first_line(error)) from error
    return Written(value.text)


def given_keys(layers: Sequence[Layer], section: str) -> set[str]:
    """Return the keys that layers set in a section."""
    sections = [opened(layer.values[section]) for layer in layers if section in layer.values]
    return {key for values in sections if isinstance(values, dict) for key in values}
