"""The names of attention in a recipe: one variant or a mixture, for all layers or for each.

``dot`` is the dot product; ``dot+random`` mixes two kinds of scores; ``dot,random,dot+dense`` names the attention of
each layer, as a YAML list does.
"""

from typing import Any

from s2s.errors import UserError, nearest
from s2s.model.attention import Attention, DotProductAttention
from s2s.model.attention_scores import SCORES, Sizes
from s2s.model.synthesizer import Synthesizer


def canonical(value: Any) -> str:
    """Return a recipe's ``model.attention`` as text; raise a UserError for an unknown variant or an empty list."""
    layers = value if isinstance(value, list | tuple) else str(value).split(",")
    kinds = [[kind.strip() for kind in str(layer).split("+")] for layer in layers]
    for layer in kinds:
        for kind in layer:
            if kind not in SCORES:
                raise UserError(f"model.attention: no variant '{kind}'{nearest(kind, SCORES)}")
        if len(set(layer)) < len(layer):
            raise UserError(f"model.attention: '{'+'.join(layer)}' mixes a variant with itself")
    if not kinds:
        raise UserError(f"model.attention: the list is empty{nearest('', SCORES)}")
    return ",".join("+".join(layer) for layer in kinds)


def by_layer(attention: str, layers: int) -> list[list[str]]:
    """Return the kinds of scores that each layer mixes; raise a UserError for a wrong number of layers."""
    kinds = [layer.split("+") for layer in attention.split(",")]
    if len(kinds) == 1:
        return kinds * layers
    if len(kinds) != layers:
        raise UserError(f"model.attention: {len(kinds)} layers are given, but model.layers is {layers}")
    return kinds


def has_slots(attention: str) -> bool:
    """Return whether slots number the rows or columns of some layer."""
    return any(SCORES[kind].uses_slots for layer in attention.split(",") for kind in layer.split("+"))


def build(kinds: list[str], sizes: Sizes) -> Attention:
    """Return the attention of a layer."""
    # The dot product alone has a fused kernel, which no mixture can use.
    return DotProductAttention(sizes.width, sizes.heads) if kinds == ["dot"] else Synthesizer(kinds, sizes)
