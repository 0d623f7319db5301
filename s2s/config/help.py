"""Help texts of settings: the name, type, default and meaning of each key, read from the classes and their comments."""

import ast
import inspect
import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import MISSING, Field, fields, is_dataclass
from functools import cache
from types import NoneType
from typing import Any, Literal, NamedTuple, get_args, get_origin, get_type_hints

import yaml

from s2s.config.merge import Schema, Table, name_of
from s2s.config.ranges import Range, marks
from s2s.errors import UserError, nearest

WIDTH = 100
NAMES = {str: "text", int: "whole number", float: "number", bool: "true or false", NoneType: "null", Any: "any"}


class Key(NamedTuple):
    """A key of a recipe or of a command."""

    name: str
    type: str
    default: str
    meaning: str
    range: str = ""  # of numbers


def keys(kind: type) -> list[Key]:
    """Return the keys of a settings class, without those of sections in it."""
    hints = get_type_hints(kind)
    return [_key(kind, item) for item in fields(kind) if not is_dataclass(hints[item.name])]


def _key(kind: type, item: Field[Any]) -> Key:
    hints, exact = get_type_hints(kind), get_type_hints(kind, include_extras=True)
    ranges = ", ".join(str(mark) for mark in marks(exact[item.name]) if isinstance(mark, Range))
    return Key(item.name, _type(hints[item.name]), _default(item), comments(kind).get(item.name, ""), ranges)


@cache
def comments(kind: type) -> dict[str, str]:
    """Return the comment of each field of a settings class and its bases: the one on its line, or those above it."""
    meanings: dict[str, str] = {}
    # Base classes come first: a subclass that declares a field again may give it another comment.
    for base in (base for base in reversed(kind.__mro__) if is_dataclass(base)):
        lines = textwrap.dedent(inspect.getsource(base)).splitlines()
        (tree,) = ast.parse("\n".join(lines)).body
        assert isinstance(tree, ast.ClassDef)
        for node in tree.body:
            if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
                meanings[node.target.id] = _comment(lines, node) or meanings.get(node.target.id, "")
    return meanings


def _comment(lines: Sequence[str], node: ast.AnnAssign) -> str:
    last = (node.end_lineno or node.lineno) - 1
    # A formatter puts a default in parentheses, with its comment, where both do not fit the line.
    inside = [line.partition("  # ")[2].strip() for line in lines[node.lineno - 1 : last]]
    same_line = lines[last][node.end_col_offset :].partition("#")[2].strip() or " ".join(filter(None, inside))
    above: list[str] = []
    for line in reversed(lines[: node.lineno - 1]):
        if not line.strip().startswith("#"):
            break
        above.insert(0, line.strip(" #"))
    return same_line or " ".join(above)


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


def describe(listed: Sequence[Key], indent: str = "  ") -> Iterator[str]:
    """Yield a paragraph for each key: name, type, default in brackets, meaning and range."""
    column = max((len(key.name) for key in listed), default=0) + 2
    for key in listed:
        meaning = "; ".join(part for part in (key.meaning, key.range) if part)
        text = f"{key.type} ({key.default}): {meaning}" if meaning else f"{key.type} ({key.default})"
        yield _wrapped(f"{key.name:{column}}{text}", indent, indent + " " * column)


def _wrapped(text: str, indent: str, below: str) -> str:
    return textwrap.fill(text, WIDTH, initial_indent=indent, subsequent_indent=below, break_on_hyphens=False)


def explain(usage: str, schema: Schema | type, arguments: Sequence[str]) -> str:
    """Return the usage and the keys of all sections, or of those alone that the arguments name next to ``--help``."""
    schema = Schema.of(schema)
    sections = {item.name: _section(schema, item) for item in fields(schema.kind)}
    wanted = [argument for argument in arguments if argument not in ("-h", "--help") and "=" not in argument]
    for name in wanted:
        if name not in sections:
            raise UserError(f"command line: no section '{name}'{nearest(name, sections)}")
    heading = "Keys, each with its type, its default in brackets and its meaning:"
    return "\n\n".join([sections[name] for name in wanted] or [usage.rstrip(), heading, *sections.values()])


def _section(schema: Schema, item: Field[Any]) -> str:
    name, hint = item.name, get_type_hints(schema.kind)[item.name]
    if name in schema.picked:
        default = name_of(schema.picked[name], _value(item))
        return f"{name}: {{name: ROW, ...}} ({default})\n{_rows(schema.picked[name])}"
    if is_dataclass(hint):
        assert isinstance(hint, type)
        return "\n".join([f"{name}:", *describe([*keys(hint), *_inner_keys(hint)])])
    if name in schema.listed:
        return f"{name}: [{{name: ROW, ...}}, ...]\n{_rows(schema.listed[name])}"
    if name in schema.named:
        return f"{name}: {{YOUR_NAME: {{name: ROW, ...}}, ...}}\n{_rows(schema.named[name])}"
    return next(describe([_key(schema.kind, item)], ""))


def _inner_keys(kind: type) -> list[Key]:
    """Return the keys of the sections in a settings class, each with its section's name before it."""
    sections = [(name, hint) for name, hint in get_type_hints(kind).items() if is_dataclass(hint)]
    return [key._replace(name=f"{name}.{key.name}") for name, hint in sections for key in keys(hint)]  # type: ignore[arg-type]


def _rows(table: Table) -> str:
    """Return the summary and the keys of each row of a table; the keys that all rows share come first, once."""
    listed = {name: keys(kind) for name, kind in table.items()}
    first, *others = listed.values()
    shared = [key for key in first if others and all(_has(row, key) for row in others)]
    lines = ["  all rows:", *describe(shared, "    ")] if shared else []
    for name, row in listed.items():
        summary = (inspect.getdoc(table[name]) or "").partition("\n\n")[0].replace("\n", " ")
        rest = [key for key in row if key not in shared]
        lines += [_wrapped(f"{name}: {summary}", "  ", "      "), *describe(rest, "    ")]
    return "\n".join(lines)


def _has(row: Sequence[Key], key: Key) -> bool:
    return any(other._replace(default=key.default) == key for other in row)
