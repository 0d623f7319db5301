"""The shape of a model: a recipe's settings, and the sizes that they and a checkpoint and a vocabulary give."""

from dataclasses import dataclass, field
from math import isfinite
from typing import Any, ClassVar, Literal

from s2s.config.outside_names import outside
from s2s.config.ranges import Few, PathText, Positive, ShareBelowOne, Size, settle
from s2s.errors import UserError, nearest
from s2s.model import attention_variants
from s2s.model.backbone import Shape
from s2s.model.initialization import INITIALIZATIONS
from s2s.model.layers import activations

# fmt: off
MOST = {
    "vocabulary": 10_000_000, "layers": 10_000, "width": 1_000_000, "heads": 1_000_000, "feed_forward": 10_000_000,
    "positions": 10_000_000, "attention_rank": 1_000_000, "source_slots": 1_000_000, "target_slots": 1_000_000,
    "position_offset": 10_000_000,
}
# fmt: on
"""The greatest sizes that a run's folder may name: a larger one can only exhaust the memory."""
MAY_BE_ZERO = ("source_slots", "target_slots", "position_offset")


@dataclass
class LoraSettings:
    """A recipe's ``model.lora:``: only low-rank products next to frozen matrices train (Hu et al. 2021)."""

    rank: Size | None = None  # of the products; null: no LoRA, all weights train
    alpha: Positive = 32.0  # the products count alpha / rank times
    dropout: ShareBelowOne = 0.0  # of their inputs
    targets: Any = "auto"  # every linear layer but the output; or a list of names of layers, such as [q_proj, v_proj]

    def __post_init__(self) -> None:
        settle(self, "model.lora.")
        names = self.targets
        if names != "auto" and not (isinstance(names, list) and names and all(isinstance(name, str) for name in names)):
            raise UserError(f"model.lora.targets: {names!r} is neither auto nor a list of names of layers")

    def values(self) -> dict[str, Any]:
        """Return the settings as values of a shape; nothing where there is no LoRA."""
        targets = [] if self.targets == "auto" else sorted(self.targets)
        given = {"rank": self.rank, "alpha": self.alpha, "dropout": self.dropout, "targets": targets}
        return {} if self.rank is None else given


@dataclass
class ModelSettings:
    """A recipe's ``model:``; null means the checkpoint's value, or the default of ``Architecture`` without one."""

    layers: Few | None = None  # 6 without a checkpoint
    width: Size | None = None  # 256 without a checkpoint
    heads: Size | None = None  # of attention; 4 without a checkpoint
    feed_forward: Size | None = None  # width of the hidden layer; 4 times the model's without a checkpoint
    norm: Literal["pre", "post"] | None = None  # null: pre, or post as BERT with a checkpoint
    positions: Size | None = None  # the longest source and target together, in tokens
    dropout: ShareBelowOne = 0.1  # the share of embeddings and of each half-block's outputs set to 0
    # rows of s2s.model.attention_scores.SCORES: a+b mixes two of them, and a,b or a list names one for each layer
    attention: Any = "dot"
    source_slots: Size | None = None  # the longest source of attention without keys; null: data.max_source
    target_slots: Size | None = None  # its longest target; null: data.max_target
    attention_rank: Size = 8  # the rank of factorized_random
    # the law of a model without a checkpoint: a row of s2s.model.initialization.INITIALIZATIONS
    initialization: str = "xavier"
    # a checkpoint to start from: a hub name, a path, a name under $S2S_MODELS, or an installed package
    pretrained: PathText | None = field(default=None, metadata=outside("NAME"))
    # null: the kind of the checkpoint or of config, else prefix_lm; the keys before dropout, the attention and the
    # initialization are those of prefix_lm
    backbone: Literal["prefix_lm", "encoder_decoder", "causal_lm"] | None = None
    # keys of a configuration of transformers: {model_type: t5, d_model: 256, ...} makes such a model, other keys change
    # the checkpoint's, such as its dropout
    config: dict[str, Any] = field(default_factory=dict)
    lora: LoraSettings = field(default_factory=LoraSettings)  # of a model of transformers

    def __post_init__(self) -> None:
        settle(self, "model.")
        self.attention = attention_variants.canonical(self.attention)
        if (self.source_slots or self.target_slots) and not attention_variants.has_slots(self.attention):
            raise UserError(f"model.source_slots, model.target_slots: '{self.attention}' has no slots; leave them null")
        if self.initialization not in INITIALIZATIONS:
            close = nearest(self.initialization, INITIALIZATIONS)
            raise UserError(f"model.initialization: no '{self.initialization}'{close}")

    def free(self) -> dict[str, Any]:
        """Return the sizes that no checkpoint determines, as arguments of ``Architecture``."""
        slots = {"source_slots": self.source_slots or 0, "target_slots": self.target_slots or 0}
        return {"dropout": self.dropout, "attention": self.attention, "attention_rank": self.attention_rank} | slots


@dataclass(frozen=True)
class Architecture(Shape):
    """Everything that determines the model's parameters; saved with a run, so that loading needs no checkpoint."""

    backbone: ClassVar[str] = "prefix_lm"

    vocabulary: int
    layers: int = 6
    width: int = 256
    heads: int = 4
    feed_forward: int = 1024
    norm: str = "pre"
    positions: int = 512
    dropout: float = 0.1
    attention: str = "dot"
    source_slots: int = 0  # 0: no layer needs them
    target_slots: int = 0
    attention_rank: int = 8
    activation: str = "gelu"
    epsilon: float = 1e-12  # of the layer norms, as BERT
    position_offset: int = 0  # RoBERTa's first position is 2
    transform: bool = False  # a dense layer before the output, where a checkpoint has one

    def __post_init__(self) -> None:
        for name, most in MOST.items():
            least = 0 if name in MAY_BE_ZERO else 1
            if not least <= getattr(self, name) <= most:
                raise UserError(f"model.{name}: {getattr(self, name)} is not in {least} .. {most}")
        if not 0 <= self.dropout < 1:
            raise UserError(f"model.dropout: {self.dropout} is not in [0, 1)")
        if not (isfinite(self.epsilon) and self.epsilon >= 0):
            raise UserError(f"model.epsilon: {self.epsilon} is not a finite number of at least 0")
        if self.activation not in activations():
            raise UserError(f"model.activation: no '{self.activation}'{nearest(self.activation, activations())}")
        if self.width % self.heads:
            raise UserError(f"model.width: {self.width} is not a multiple of model.heads: {self.heads}")
        # Called for its error: a wrong number of layers should fail here, with its key, and not where blocks are built.
        attention_variants.by_layer(self.attention, self.layers)
        if self.has_slots and min(self.source_slots, self.target_slots) < 1:
            raise UserError(
                f"model.attention: '{self.attention}' needs model.source_slots and model.target_slots, "
                f"not {self.source_slots} and {self.target_slots}"
            )

    @property
    def has_slots(self) -> bool:
        """Whether some layer's attention numbers rows or columns by slots, which limits sources and targets."""
        return attention_variants.has_slots(self.attention)

    def needed(self, source: int, target: int) -> int:
        """Return how many of the positions a source and a target of these numbers of tokens need: they share them."""
        return source + target

    def fits(self, source: int, target: int) -> bool:
        """Return whether a model of this shape takes sources and targets of these numbers of tokens."""
        has_slots = not self.has_slots or (source <= self.source_slots and target <= self.target_slots)
        return super().fits(source, target) and has_slots

    def room(self, source: int) -> int:
        """Return the greatest number of target tokens after a source of ``source`` tokens."""
        # A target's positions continue those of its own source, in the same table.
        free = self.positions - source
        return min(free, self.target_slots) if self.has_slots else free


def from_scratch(settings: ModelSettings, vocabulary: int) -> Architecture:
    """Return the architecture of a recipe without a checkpoint."""
    default = Architecture(vocabulary)
    width = settings.width or default.width
    return Architecture(
        vocabulary,
        layers=settings.layers or default.layers,
        width=width,
        heads=settings.heads or default.heads,
        # The ratio of Vaswani et al. 2017 (2048 to 512) and of BERT (3072 to 768).
        feed_forward=settings.feed_forward or 4 * width,
        norm=settings.norm or default.norm,
        positions=settings.positions or default.positions,
        **settings.free(),
    )
