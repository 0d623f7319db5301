"""The shape of a model: what a recipe asks for, and what is built once a checkpoint and a vocabulary are known."""

from dataclasses import dataclass
from typing import Literal

from s2s.errors import UserError, nearest
from s2s.model.variants import ATTENTIONS


@dataclass
class ModelSettings:
    """A recipe's ``model:``; null means the checkpoint's value, or the default of ``Architecture`` without one."""

    layers: int | None = None
    width: int | None = None
    heads: int | None = None
    feed_forward: int | None = None  # width of the hidden layer; 4 times the model's without a checkpoint
    norm: Literal["pre", "post"] | None = None  # null: pre, or post as BERT with a checkpoint
    positions: int | None = None  # the longest source and target together, in tokens
    dropout: float = 0.1  # of embeddings and of what each half of a block adds
    attention: str = "dot"
    pretrained: str | None = None  # hub name, path, a name under $S2S_MODELS, or an installed package

    def __post_init__(self) -> None:
        if self.attention not in ATTENTIONS:
            raise UserError(f"model.attention: no variant '{self.attention}'{nearest(self.attention, ATTENTIONS)}")
        if not 0 <= self.dropout < 1:
            raise UserError(f"model.dropout: {self.dropout} is not in [0, 1)")
        for name in ("layers", "width", "heads", "feed_forward", "positions"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise UserError(f"model.{name}: {value} is not at least 1")


@dataclass(frozen=True)
class Architecture:
    """Everything that fixes the model's parameters; saved with a run, so that loading needs no checkpoint."""

    vocabulary: int
    layers: int = 6
    width: int = 256
    heads: int = 4
    feed_forward: int = 1024
    norm: str = "pre"
    positions: int = 512
    dropout: float = 0.1
    attention: str = "dot"
    activation: str = "gelu"
    epsilon: float = 1e-12  # of the layer norms, as BERT
    position_offset: int = 0  # RoBERTa's first position is 2
    transform: bool = False  # a dense layer before the output, where a checkpoint has one

    def __post_init__(self) -> None:
        if self.width % self.heads:
            raise UserError(f"model.width: {self.width} is not a multiple of model.heads: {self.heads}")


def from_scratch(settings: ModelSettings, vocabulary: int) -> Architecture:
    """The architecture of a recipe without a checkpoint."""
    default = Architecture(vocabulary)
    width = settings.width or default.width
    return Architecture(
        vocabulary,
        layers=settings.layers or default.layers,
        width=width,
        heads=settings.heads or default.heads,
        feed_forward=settings.feed_forward or 4 * width,
        norm=settings.norm or default.norm,
        positions=settings.positions or default.positions,
        dropout=settings.dropout,
        attention=settings.attention,
    )
