"""Checks over several sections of a recipe: lengths against the model's slots, heads, and what ``run.select`` names."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from s2s.data import DataSettings
from s2s.errors import UserError, nearest
from s2s.heads.base import HeadSettings
from s2s.inference.precisions import refuse_int8
from s2s.metrics.table import named
from s2s.model.architecture import ModelSettings
from s2s.model.attention_variants import has_slots
from s2s.model.backbone import Backbone
from s2s.search.methods.base import SearchMethod

ROW_FIELDS = ("id", "source", "tokens")
"""The fields that ``s2s predict`` writes next to those of the heads, which bear the heads' names."""


def with_slots(model: ModelSettings, data: DataSettings) -> ModelSettings:
    """Return the model's settings, with slots for the longest source and target where it needs some and names none."""
    if not has_slots(model.attention):
        return model
    return replace(
        model,
        source_slots=model.source_slots or data.max_source,
        target_slots=model.target_slots or data.max_target,
    )


def check_slots(model: ModelSettings, data: DataSettings, search: SearchMethod) -> None:
    """Refuse data and searches that are longer than a model's slots."""
    slots = with_slots(model, data)
    for key, tokens, limit, count in (
        ("data.max_source", data.max_source, "model.source_slots", slots.source_slots),
        ("data.max_target", data.max_target, "model.target_slots", slots.target_slots),
        ("search.max_length", search.max_length, "model.target_slots", slots.target_slots),
    ):
        if tokens is not None and count is not None and tokens > count:
            raise UserError(f"{key}: {tokens} tokens, but {limit} is {count}")


def check_search(kind: type[Backbone], search: SearchMethod) -> None:
    """Refuse keys of a search that need more than a kind of model gives."""
    if getattr(search, "coverage_penalty", 0) and not kind.gives_attention:
        raise UserError(
            "search.coverage_penalty: it needs weights of attention, which models of transformers do not give here; "
            "leave it out, or set it to 0"
        )
    if search.precision == "int8":
        refuse_int8(kind)


def check_heads(
    heads: Mapping[str, HeadSettings], data: DataSettings, mitigations: Sequence[object], select: str
) -> None:
    """Refuse heads without labels, mitigations without a decoder, and a score to select by that no part gives."""
    if data.target_field is None:
        if not heads:
            raise UserError("data.target_field: it is null, so there is nothing to generate; heads needs a row then")
        if mitigations:
            raise UserError("mitigations: they are of generation, but data.target_field is null; leave them empty")
        derived = [name for name, head in heads.items() if head.field is None]
        if derived:
            raise UserError(f"heads.{derived[0]}.labels: they are of the target, but data.target_field is null")
    taken = [name for name in heads if name in ROW_FIELDS]
    if taken:
        raise UserError(f"heads.{taken[0]}: '{taken[0]}' is a field of what predict.py writes; another name is needed")
    known = selectable(heads, data)
    if select not in known:
        raise UserError(f"run.select: no score '{select}'{nearest(select, known)}")


def selectable(heads: Mapping[str, HeadSettings], data: DataSettings) -> list[str]:
    """Return the scores by which the best step may be chosen."""
    generated = named("references") if data.target_field is not None else []
    of_heads = [f"{name}.{metric}" for name, head in heads.items() for metric in ("loss", *head.metrics())]
    return ["loss", *generated, *of_heads]
