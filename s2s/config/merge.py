"""Layers merged into typed settings: each value is read by its key's type when its layer is."""

from collections.abc import Mapping, Sequence
from dataclasses import MISSING, Field, dataclass, field, fields, is_dataclass
from functools import cache
from typing import Any, get_type_hints

from s2s.config.layers import Layer, opened
from s2s.config.values import MisreadError, is_null, read, shown, text_of
from s2s.errors import UserError, nearest

Tables = Mapping[str, Mapping[str, type]]
"""Sections whose key ``name`` picks a row of a table of settings classes."""
NONE: Tables = {}


@dataclass
class Section:
    """A settings class and the values that layers gave for its keys, those of sections within it as sections."""

    kind: type
    given: dict[str, Any] = field(default_factory=dict)

    def made(self) -> Any:
        """Return the settings object, which checks itself."""
        return self.kind(**{key: _made(value) for key, value in self.given.items()})


def _made(value: Any) -> Any:
    return value.made() if isinstance(value, Section) else value


def merge(schema: type, layers: Sequence[Layer], tables: Tables, lists: Tables = NONE, names: Tables = NONE) -> Any:
    """Return an instance of the dataclass ``schema`` with the layers' values over its defaults, checked.

    A layer that names another row of a table starts that section with that row's defaults. ``lists`` are sections that
    list rows of a table; a later layer's list takes the place of an earlier one's, and ``{0: {key: value}}`` changes
    its first row. ``names`` are sections that hold rows of a table under names of the user's own; another ``name`` for
    such a row keeps the keys that both kinds have, and ``null`` takes the row away. Errors: a UserError of one line.
    """
    root, rows, named = Section(schema), dict[str, list[Section]](), dict[str, dict[str, Section]]()
    for layer in layers:
        values = dict(layer.values)
        reader = Reader(layer)
        for section in [name for name in values if name in lists]:
            rows[section] = reader.rows(rows.get(section, []), section, values.pop(section), lists[section])
        for section in [name for name in values if name in names]:
            named[section] = reader.named(named.get(section, {}), section, values.pop(section), names[section])
        for section in [name for name in values if name in tables]:
            reader.picked(root, section, values.pop(section), tables[section])
        reader.fill(root, values, "")
    try:
        parts: dict[str, Any] = {
            name: [_row(row, f"{name}[{index}]") for index, row in enumerate(found)] for name, found in rows.items()
        }
        parts |= {
            name: {own: _row(row, f"{name}.{own}") for own, row in found.items()} for name, found in named.items()
        }
        return Section(schema, root.given | parts).made()
    except UserError as error:
        raise UserError(_placed(str(error), layers)) from error


def _row(row: Section, key: str) -> Any:
    """Return the object of a row; its errors name keys of its own."""
    try:
        return row.made()
    except UserError as error:
        raise UserError(f"{key}.{error}") from error


class Reader:
    """Reads one layer's values into sections; its errors say where in the layer."""

    def __init__(self, layer: Layer) -> None:
        self.layer = layer

    def fill(self, section: Section, values: dict[str, Any], prefix: str) -> None:
        """Read values for the keys of a section; ``prefix`` is its key with a dot."""
        types = declared(section.kind)
        for name, value in values.items():
            key = f"{prefix}{name}"
            if name not in types:
                raise self.error(key, f"unknown key '{key}'{nearest(key, (f'{prefix}{known}' for known in types))}", "")
            if is_dataclass(types[name]):
                within = section.given.setdefault(name, Section(_kind(section.kind, name)))
                self.fill(within, self.mapping(value, key), f"{key}.")
                continue
            try:
                section.given[name] = read(types[name], value, key)
            except MisreadError as error:
                raise self.error(error.key, error.reason) from error

    def mapping(self, value: Any, key: str, example: str = "") -> dict[str, Any]:
        """Return the keys and values of a section."""
        value = self.opened(value, key)
        if not isinstance(value, dict):
            raise self.error(key, f"expected keys and values{example}, not {shown(value)}")
        return value

    def opened(self, value: Any, key: str) -> Any:
        """Return the list or mapping that an argument stands for."""
        try:
            return opened(value)
        except ValueError as error:
            raise self.error(key, str(error)) from error

    def picked(self, root: Section, section: str, values: Any, table: Mapping[str, type]) -> None:
        """Read a section whose ``name`` picks a row of a table."""
        values = dict(self.mapping(values, section, f", such as {{name: {min(table)}}}"))
        kind = _kind(root.kind, section)
        within = root.given.setdefault(section, Section(kind))
        if "name" in values:
            chosen = table[self.name(values.pop("name"), f"{section}.name", table)]
            if chosen is not within.kind:
                within = root.given[section] = Section(chosen)
        self.fill(within, values, f"{section}.")

    def rows(self, before: list[Section], section: str, values: Any, table: Mapping[str, type]) -> list[Section]:
        """Return the rows of a list section after this layer."""
        values = self.opened(values, section)
        if isinstance(values, list | tuple):
            return [self.row(row, f"{section}[{index}]", table) for index, row in enumerate(values)]
        if not isinstance(values, dict) or not all(_is_number(key) for key in values):
            example = f"[{{name: {min(table)}}}], or {section}.0.key=value to change a row"
            raise self.error(section, f"expected a list of rows, such as {example}")
        found = list(before)
        for key, row in values.items():
            place = f"{section}[{key}]"
            if int(key) >= len(found):
                raise self.error(place, f"the list has {len(found)} rows, numbered from 0")
            row = self.mapping(row, place)
            if "name" in row:
                found[int(key)] = self.row(row, place, table)
            else:
                self.fill(found[int(key)], row, f"{place}.")
        return found

    def row(self, row: Any, place: str, table: Mapping[str, type]) -> Section:
        """Return a new row of a table."""
        example = f", such as {{name: {min(table)}}}"
        row = dict(self.mapping(row, place, example))
        if "name" not in row:
            raise self.error(place, f"expected keys and values{example}")
        found = Section(table[self.name(row.pop("name"), f"{place}.name", table)])
        self.fill(found, row, f"{place}.")
        return found

    def named(
        self, before: dict[str, Section], section: str, values: Any, table: Mapping[str, type]
    ) -> dict[str, Section]:
        """Return the named rows of a section after this layer."""
        values = self.opened(values, section)
        if not isinstance(values, dict):
            example = f"{{my_name: {{name: {min(table)}}}}}"
            raise self.error(section, f"expected rows under names, such as {example}")
        found = dict(before)
        for name, row in values.items():
            place = f"{section}.{name}"
            if not name.isidentifier():
                raise self.error(place, "a name of letters, digits and _ is needed")
            if is_null(row):
                found.pop(name, None)
                continue
            row = self.mapping(row, place, f", such as {{name: {min(table)}}}")
            if name not in found:
                found[name] = self.row(row, place, table)
                continue
            row = dict(row)
            if "name" in row:
                chosen = table[self.name(row.pop("name"), f"{place}.name", table)]
                known = declared(chosen)
                found[name] = Section(chosen, {key: value for key, value in found[name].given.items() if key in known})
            self.fill(found[name], row, f"{place}.")
        return found

    def name(self, value: Any, key: str, table: Mapping[str, type]) -> str:
        """Return the name of a row of a table."""
        try:
            name = text_of(value, key)
        except MisreadError:
            name = shown(value)
        if name not in table:
            raise self.error(key, f"no '{name.strip(chr(39))}'{nearest(name, table)}")
        return name

    def error(self, key: str, reason: str, told: str | None = None) -> UserError:
        """Return an error with the place of a key; ``told`` stands for the key itself."""
        told = f"{key}: " if told is None else told
        return UserError(f"{self.layer.place(key) or self.layer.origin}: {told}{reason}")


@cache
def declared(kind: type) -> dict[str, Any]:
    """Return the keys of a settings class with their types."""
    hints = get_type_hints(kind, include_extras=True)
    return {item.name: hints[item.name] for item in fields(kind)}


def _kind(kind: type, name: str) -> type:
    """Return the settings class of a section within a class: that of its default."""
    item: Field[Any] = next(item for item in fields(kind) if item.name == name)
    assert item.default_factory is not MISSING
    return type(item.default_factory())


def _is_number(key: str) -> bool:
    return str(key).isdecimal() and len(str(key)) < 10


def _placed(message: str, layers: Sequence[Layer]) -> str:
    """Return a message that begins with a key, after the place of the last layer that set it."""
    key = message.partition(":")[0]
    places = [place for layer in layers if (place := layer.place(key))]
    return f"{places[-1]}: {message}" if places else message
