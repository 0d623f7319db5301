"""Layers of values merged into typed settings: each value is read by the type of its key."""

from collections.abc import Mapping, Sequence
from dataclasses import MISSING, Field, dataclass, field, fields, is_dataclass
from functools import cache
from typing import Any, get_origin, get_type_hints

from s2s.config.layers import Layer, opened
from s2s.config.values import MisreadError, is_null, read, shown, text_of
from s2s.errors import UserError, nearest

Table = Mapping[str, type]
"""Settings classes by the ``name`` that picks them."""
Tables = Mapping[str, Table]
"""Tables by the section that uses them."""


@dataclass(frozen=True)
class Schema:
    """A class of settings, and the sections of it that are made of rows of a table.

    All other sections are keys and values of the class that the field's type names.
    """

    kind: type
    picked: Tables = field(default_factory=dict)  # one row:      optimizer: {name: adamw, rate: 0.001}
    listed: Tables = field(default_factory=dict)  # several:      mitigations: [{name: rdrop, alpha: 4}, ...]
    named: Tables = field(default_factory=dict)  # by the user:   heads: {tags: {name: crf, labels: ner}, ...}

    @staticmethod
    def of(schema: "Schema | type") -> "Schema":
        """Return a schema as it is, or that of a settings class without tables."""
        return schema if isinstance(schema, Schema) else Schema(schema)


def name_of(table: Mapping[str, Any], row: Any) -> str:
    """Return the name of the table's row that an object was made from."""
    return next(name for name, kind in table.items() if type(row) is kind)


@dataclass
class Section:
    """A settings class and the values that layers gave for its keys; sections within it are Sections too."""

    kind: type
    values: dict[str, Any] = field(default_factory=dict)

    def build(self) -> Any:
        """Return the settings object, which checks itself."""
        return self.kind(**{key: _built(value, key) for key, value in self.values.items()})


def _built(value: Any, key: str) -> Any:
    if isinstance(value, Section):
        return value.build()
    if isinstance(value, list):
        return [_row(item, f"{key}[{index}]") for index, item in enumerate(value)]
    return {name: _row(item, f"{key}.{name}") for name, item in value.items()} if isinstance(value, dict) else value


def _row(value: Any, key: str) -> Any:
    """Build a row of a table; it does not know the section that it is in, so its errors get the section's key."""
    try:
        return value.build() if isinstance(value, Section) else value
    except UserError as error:
        raise UserError(f"{key}.{error}") from error


def merge(schema: Schema | type, layers: Sequence[Layer]) -> Any:
    """Return an object of the schema's class with the values of the layers, later over earlier, over its defaults.

    - A layer that names another row for a picked section starts it again from that row's defaults.
    - A listed section replaces that of earlier layers; ``{0: {key: value}}`` changes its first row instead.
    - A named section is merged row by row: another ``name`` keeps the keys that both classes have, and ``null``
      removes the row.

    Errors: a UserError of one line that begins with the file and the line, or "command line".
    """
    schema = Schema.of(schema)
    root = Section(schema.kind)
    for layer in layers:
        reader = _LayerReader(layer)
        for name, value in layer.values.items():
            if name in schema.listed:
                root.values[name] = reader.listed(root.values.get(name, []), value, name, schema.listed[name])
            elif name in schema.named:
                root.values[name] = reader.named(root.values.get(name, {}), value, name, schema.named[name])
            elif name in schema.picked:
                # Values for the default row, given without its name, count until a layer names another row.
                before = root.values.get(name) or Section(_default_kind(schema.kind, name))
                root.values[name] = reader.changed(before, value, name, schema.picked[name])
            else:
                reader.fill(root, {name: value}, "")
    try:
        return root.build()
    except UserError as error:
        # The object knows the key but not who set it; that is the last layer which has the key.
        message = str(error)
        positions = [position for layer in layers if (position := layer.position(message.partition(":")[0]))]
        raise UserError(f"{positions[-1]}: {message}" if positions else message) from error


class _LayerReader:
    """Reads the values of one layer into Sections; its errors say where in the layer the value is."""

    def __init__(self, layer: Layer) -> None:
        self.layer = layer

    def fill(self, section: Section, values: Mapping[str, Any], prefix: str) -> None:
        """Read values for the keys of a section; ``prefix`` is the section's own key and a dot."""
        types = declared(section.kind)
        for name, value in values.items():
            key = f"{prefix}{name}"
            if name not in types:
                hint = nearest(key, (f"{prefix}{known}" for known in types))
                raise UserError(f"{self._position(key)}: unknown key '{key}'{hint}")
            if is_dataclass(types[name]):
                inner = section.values.setdefault(name, Section(_default_kind(section.kind, name)))
                self.fill(inner, self._mapping(value, key), f"{key}.")
                continue
            try:
                given = read(types[name], value, key)
                # Keys of the user's own are merged one by one, as those of a section are.
                free = get_origin(types[name]) is dict
                section.values[name] = section.values.get(name, {}) | given if free else given
            except MisreadError as error:
                raise self._error(error.key, error.reason) from error

    def changed(self, row: Section, value: Any, key: str, table: Table, keep: bool = False) -> Section:
        """Return a row with a layer's values.

        Where they name another class, the row starts again; ``keep`` keeps the keys that the new class has too.
        """
        values = self._mapping(value, key, table)
        if "name" in values:
            kind = self._kind(values.pop("name"), key, table)
            if kind is not row.kind:
                shared = declared(kind) if keep else ()
                row = Section(kind, {name: old for name, old in row.values.items() if name in shared})
        self.fill(row, values, f"{key}.")
        return row

    def new(self, value: Any, key: str, table: Table) -> Section:
        """Return a row that a layer gives as a whole."""
        values = self._mapping(value, key, table)
        if "name" not in values:
            raise self._error(key, f"expected keys and values{_example(table)}")
        row = Section(self._kind(values.pop("name"), key, table))
        self.fill(row, values, f"{key}.")
        return row

    def listed(self, before: Sequence[Section], value: Any, section: str, table: Table) -> list[Section]:
        """Return the rows of a listed section after this layer."""
        value = self._opened(value, section)
        if isinstance(value, list | tuple):
            return [self.new(row, f"{section}[{index}]", table) for index, row in enumerate(value)]
        if not isinstance(value, dict) or not all(str(key).isdecimal() and len(str(key)) < 10 for key in value):
            example = f"[{{name: {min(table)}}}], or {section}.0.key=value to change a row"
            raise self._error(section, f"expected a list of rows, such as {example}")
        rows = list(before)
        for index, row in value.items():
            key, number = f"{section}[{index}]", int(index)
            if number >= len(rows):
                raise self._error(key, f"the list has {len(rows)} rows, numbered from 0")
            values = self._mapping(row, key)
            rows[number] = (
                self.new(values, key, table) if "name" in values else self.changed(rows[number], values, key, table)
            )
        return rows

    def named(self, before: Mapping[str, Section], value: Any, section: str, table: Table) -> dict[str, Section]:
        """Return the rows of a named section after this layer."""
        value = self._opened(value, section)
        if not isinstance(value, dict):
            example = f"{{my_name: {{name: {min(table)}}}}}"
            raise self._error(section, f"expected rows under names, such as {example}")
        rows = dict(before)
        for name, row in value.items():
            key = f"{section}.{name}"
            if not name.isidentifier():
                raise self._error(key, "a name of letters, digits and _ is needed")
            if is_null(row):
                rows.pop(name, None)
            else:
                rows[name] = (
                    self.changed(rows[name], row, key, table, keep=True) if name in rows else self.new(row, key, table)
                )
        return rows

    def _mapping(self, value: Any, key: str, table: Table | None = None) -> dict[str, Any]:
        """Return a copy of the keys and values of a section."""
        value = self._opened(value, key)
        if not isinstance(value, dict):
            example = "" if table is None else _example(table)
            raise self._error(key, f"expected keys and values{example}, not {shown(value)}")
        return dict(value)

    def _opened(self, value: Any, key: str) -> Any:
        try:
            return opened(value)
        except ValueError as error:
            raise self._error(key, str(error)) from error

    def _kind(self, value: Any, key: str, table: Table) -> type:
        """Return the class that the ``name`` of a row picks."""
        try:
            name = text_of(value, f"{key}.name")
        except MisreadError:
            name = shown(value).strip("'")
        if name not in table:
            raise self._error(f"{key}.name", f"no {shown(name)}{nearest(name, table)}")
        return table[name]

    def _position(self, key: str) -> str:
        return self.layer.position(key) or self.layer.origin

    def _error(self, key: str, reason: str) -> UserError:
        return UserError(f"{self._position(key)}: {key}: {reason}")


def _example(table: Table) -> str:
    return f", such as {{name: {min(table)}}}"


@cache
def declared(kind: type) -> dict[str, Any]:
    """Return the keys of a settings class with their types."""
    hints = get_type_hints(kind, include_extras=True)
    return {item.name: hints[item.name] for item in fields(kind)}


def _default_kind(kind: type, name: str) -> type:
    """Return the class of a section of a settings class: that of its default."""
    item: Field[Any] = next(item for item in fields(kind) if item.name == name)
    assert item.default_factory is not MISSING
    return type(item.default_factory())
