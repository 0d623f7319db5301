"""How long sources and targets may be: what data, search and a model without keys must agree on."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy

from s2s.data import Dataset, DataSettings, Example
from s2s.errors import UserError, nearest
from s2s.heads.base import HeadSettings
from s2s.metrics.table import named
from s2s.model import ModelSettings
from s2s.model.attention_variants import has_slots
from s2s.search.methods.base import SearchMethod


def with_slots(model: ModelSettings, data: DataSettings) -> ModelSettings:
    """The model's settings, with slots for the longest source and target where it needs some and names none."""
    if not has_slots(model.attention):
        return model
    return replace(
        model,
        source_slots=model.source_slots or data.max_source,
        target_slots=model.target_slots or data.max_target,
    )


def check_slots(model: ModelSettings, data: DataSettings, search: SearchMethod) -> None:
    """Refuse data and searches that a model's slots do not hold."""
    slots = with_slots(model, data)
    _check("data.max_source", data.max_source, "model.source_slots", slots.source_slots)
    _check("data.max_target", data.max_target, "model.target_slots", slots.target_slots)
    _check("search.max_length", search.max_length, "model.target_slots", slots.target_slots)


def _check(key: str, tokens: int | None, limit: str, slots: int | None) -> None:
    if tokens is not None and slots is not None and tokens > slots:
        raise UserError(f"{key}: {tokens} tokens, but {limit} is {slots}")


def check_heads(
    heads: Mapping[str, HeadSettings], data: DataSettings, mitigations: Sequence[object], select: str
) -> None:
    """Refuse heads without labels, mitigations without a decoder, and a score to select by that there is not."""
    if data.target_field is None:
        if not heads:
            raise UserError("data.target_field: it is null, so there is nothing to generate; heads needs a row then")
        if mitigations:
            raise UserError("mitigations: they are of generation, but data.target_field is null; leave them empty")
        derived = [name for name, head in heads.items() if head.field is None]
        if derived:
            raise UserError(f"heads.{derived[0]}.labels: they are of the target, but data.target_field is null")
    taken = [name for name in heads if name in ("id", "source", "tokens")]
    if taken:
        raise UserError(f"heads.{taken[0]}: '{taken[0]}' is a field of what predict.py writes; another name is needed")
    known = selectable(heads, data)
    if select not in known:
        raise UserError(f"run.select: no score '{select}'{nearest(select, known)}")


def selectable(heads: Mapping[str, HeadSettings], data: DataSettings) -> list[str]:
    """The scores that the best step may be chosen by."""
    generated = named("references") if data.target_field is not None else []
    own = [f"{name}.{metric}" for name, head in heads.items() for metric in ("loss", *head.metrics())]
    return ["loss", *generated, *own]


def labelled(dataset: Dataset, heads: Mapping[str, HeadSettings]) -> Dataset:
    """The examples that have a label for some head, and a line on the others."""
    splits = {"train": dataset.train, "dev": dataset.dev, "test": dataset.test}
    kept = {
        name: examples.take(numpy.array([_has_labels(example, heads) for example in examples], dtype=bool))
        for name, examples in splits.items()
    }
    lost = {name: len(examples) - len(kept[name]) for name, examples in splits.items()}
    report = [
        f"{name}: left out {count} of {len(splits[name])} examples, which have no label"
        for name, count in lost.items()
        if count
    ]
    return dataset._replace(**kept, report=[*dataset.report, *report])  # type: ignore[arg-type]


def _has_labels(example: Example, heads: Mapping[str, HeadSettings]) -> bool:
    return any(head.has_labels(example) for head in heads.values())
