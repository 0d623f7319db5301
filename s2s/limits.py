"""How long sources and targets may be: what data, search and a model without keys must agree on."""

from dataclasses import replace

from s2s.data import DataSettings
from s2s.errors import UserError
from s2s.model import ModelSettings
from s2s.model.variants import has_slots
from s2s.search.method import SearchMethod


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
