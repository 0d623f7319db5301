"""What settings may hold, for ``--help``: names, types and defaults of fields, and the comments that stand by them."""

import ast
import inspect
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import MISSING, Field, dataclass, field, fields, is_dataclass
from functools import cache
from types import NoneType
from typing import Any, Literal, NamedTuple, get_args, get_origin, get_type_hints

import yaml

from s2s.config.named_rows import name_of
from s2s.config.ranges import Range, marks
from s2s.errors import UserError, nearest

WIDTH = 100
NAMES = {str: "text", int: "whole number", float: "number", bool: "true or false", NoneType: "null", Any: "any"}

Tables = Mapping[str, Mapping[str, type]]


class Key(NamedTuple):
    """A key of a recipe or of a command."""

    name: str
    type: str
    default: str
    meaning: str
    range: str = ""  # of numbers


def keys(kind: type) -> list[Key]:
    """The keys of a settings class; sections of their own are left out."""
    hints = get_type_hints(kind)
    return [_key(kind, item) for item in fields(kind) if not is_dataclass(hints[item.name])]


def _nested(kind: type) -> list[Key]:
    """The keys of a settings class's own sections."""
    sections = [(item.name, get_type_hints(kind)[item.name]) for item in fields(kind)]
    inner = [(name, hint) for name, hint in sections if is_dataclass(hint) and isinstance(hint, type)]
    return [key._replace(name=f"{name}.{key.name}") for name, hint in inner for key in keys(hint)]


def _key(kind: type, item: Field[Any]) -> Key:
    hints, exact = get_type_hints(kind), get_type_hints(kind, include_extras=True)
    ranges = ", ".join(str(mark) for mark in marks(exact[item.name]) if isinstance(mark, Range))
    return Key(item.name, _type(hints[item.name]), _default(item), comments(kind).get(item.name, ""), ranges)


@cache
def comments(kind: type) -> dict[str, str]:
    """What the comments behind the fields of a settings class and its bases say, or else those on the lines above."""
    found: dict[str, str] = {}
    for base in (base for base in reversed(kind.__mro__) if is_dataclass(base)):
        lines = textwrap.dedent(inspect.getsource(base)).splitlines()
        (tree,) = ast.parse("\n".join(lines)).body
        assert isinstance(tree, ast.ClassDef)
        for node in tree.body:
            if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
                found[node.target.id] = _comment(lines, node) or found.get(node.target.id, "")
    return found


def _comment(lines: Sequence[str], node: ast.AnnAssign) -> str:
    behind = lines[(node.end_lineno or node.lineno) - 1][node.end_col_offset :].partition("#")[2].strip()
    above: list[str] = []
    for line in reversed(lines[: node.lineno - 1]):
        if not line.strip().startswith("#"):
            break
        above.insert(0, line.strip(" #"))
    return behind or " ".join(above)


def _type(hint: Any) -> str:
    if get_origin(hint) is Literal:
        return " | ".join(map(str, get_args(hint)))
    if hint in NAMES:
        return NAMES[hint]
    inner = [_type(part) for part in get_args(hint)]
    if get_origin(hint) in (list, tuple):
        return f"list of {inner[0]}"
    if get_origin(hint) is dict:
        return f"{inner[1]} by {inner[0]}"
    return " or ".join(inner) or hint.__name__


def _value(item: Field[Any]) -> Any:
    return item.default if item.default_factory is MISSING else item.default_factory()


def _default(item: Field[Any]) -> str:
    if (value := _value(item)) is MISSING or value == "???":
        return "needed"
    text = yaml.safe_dump(value, default_flow_style=True, width=10**9, allow_unicode=True)
    return text.removesuffix("...\n").strip()


def described(kind: type, indent: str = "  ") -> str:
    """The keys of a settings class as lines: name, type, default in brackets, meaning."""
    return "\n".join(_lines(keys(kind), indent))


def _lines(found: Sequence[Key], indent: str) -> Iterator[str]:
    column = max((len(key.name) for key in found), default=0) + 2
    for key in found:
        meaning = "; ".join(part for part in (key.meaning, key.range) if part)
        text = f"{key.type} ({key.default}): {meaning}" if meaning else f"{key.type} ({key.default})"
        yield _wrapped(f"{key.name:{column}}{text}", indent, indent + " " * column)


def _wrapped(text: str, indent: str, below: str) -> str:
    return textwrap.fill(text, WIDTH, initial_indent=indent, subsequent_indent=below, break_on_hyphens=False)


@dataclass(frozen=True)
class Schema:
    """A class of sections: those that pick a row of a table by its ``name``, list such rows, or name them."""

    kind: type
    tables: Tables
    lists: Tables
    names: Tables = field(default_factory=dict)

    def sections(self) -> dict[str, str]:
        """The description of each section."""
        return {item.name: self._section(item) for item in fields(self.kind)}

    def _section(self, item: Field[Any]) -> str:
        hint = get_type_hints(self.kind)[item.name]
        if item.name in self.tables:
            table = self.tables[item.name]
            default = name_of(table, _value(item))
            return f"{item.name}: {{name: ROW, ...}} ({default})\n{_rows(table)}"
        if is_dataclass(hint):
            assert isinstance(hint, type)
            found = "\n".join(_lines([*keys(hint), *_nested(hint)], "  "))
            return f"{item.name}:\n{found}"
        if item.name in self.lists:
            return f"{item.name}: [{{name: ROW, ...}}, ...]\n{_rows(self.lists[item.name])}"
        if item.name in self.names:
            return f"{item.name}: {{YOUR_NAME: {{name: ROW, ...}}, ...}}\n{_rows(self.names[item.name])}"
        return next(_lines([_key(self.kind, item)], ""))


def explain(usage: str, schema: Schema, arguments: Sequence[str]) -> str:
    """The usage and all sections, or the one that the arguments name beside ``--help``."""
    sections = schema.sections()
    wanted = [argument for argument in arguments if argument not in ("-h", "--help") and "=" not in argument]
    for name in wanted:
        if name not in sections:
            raise UserError(f"command line: no section '{name}'{nearest(name, sections)}")
    heading = "Keys, each with its type, its default in brackets and its meaning:"
    return "\n\n".join([sections[name] for name in wanted] or [usage.rstrip(), heading, *sections.values()])


def _rows(table: Mapping[str, type]) -> str:
    """What each row of a table is, and its keys; those that all rows share come first."""
    listed = {name: keys(kind) for name, kind in table.items()}
    first, *others = listed.values()
    shared = [key for key in first if others and all(_has(found, key) for found in others)]
    lines = ["  all rows:", *_lines(shared, "    ")] if shared else []
    for name, found in listed.items():
        own = [key for key in found if key not in shared]
        summary = (inspect.getdoc(table[name]) or "").partition("\n\n")[0].replace("\n", " ")
        lines += [_wrapped(f"{name}: {summary}", "  ", "      "), *_lines(own, "    ")]
    return "\n".join(lines)


def _has(found: Sequence[Key], key: Key) -> bool:
    return any(other._replace(default=key.default) == key for other in found)
