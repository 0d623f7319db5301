"""The parts that both kinds of models of ``transformers`` share: embeddings, output, cache, recomputation, weights.

The model's own code computes everything. Its output layer is called with the body (the stack under the output layer)
answering rows that are known already, so that whatever a family does to its scores (T5's factor, BART's bias, caps and
scales of others) is done.
"""

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, Self

import torch
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule
from torch.func import functional_call
from transformers.cache_utils import Cache, CacheLayerMixin
from transformers.modeling_outputs import BaseModelOutputWithPastAndCrossAttentions

from s2s.errors import UserError, first_line
from s2s.machine.memory import main_memory
from s2s.model.activation_checkpointing import in_main_memory, inputs
from s2s.model.attention import Cached, append
from s2s.model.backbone import Backbone, Memory, Stack, evaluating
from s2s.model.backbones.configuration import (
    MAPPINGS,
    NO_KEYS,
    PARSE_ERRORS,
    ForeignArchitecture,
    implementation,
    refuse,
)
from s2s.model.backbones.lora import adapt, merge
from s2s.model.backbones.masks import unread
from s2s.model.output_rows import OutputRows

if TYPE_CHECKING:  # half a second, which only runs with such a model spend
    from transformers import PreTrainedModel

POLICIES: dict[str, Callable[..., Any] | None] = {"none": None, "block": inputs, "offload": in_main_memory}
"""The rows of ``CHECKPOINTING`` for layers whose halves are not known."""


class CacheLayer(CacheLayerMixin):
    """A layer's keys and values: those of earlier rows, in parts, and those of the rows that are computed now.

    Unlike the library's own, it only replaces the new ones. So a layer that runs twice, as recomputation does, gets the
    same keys both times, and the parts keep their gradients.
    """

    is_sliding = False

    def __init__(self, *parts: Cached) -> None:
        super().__init__()
        self.parts, self.is_initialized = parts, True
        self.new: tuple[Tensor, Tensor] | None = None
        if len(parts) == 1:
            self.keys, self.values = parts[0]

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        """Do nothing: the parts are there from the beginning."""

    def update(self, key_states: Tensor, value_states: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        """Return all keys and all values, and keep the new ones."""
        self.new = new = (key_states, value_states)
        if not self.parts:
            return new
        keys, values = zip(*self.parts, new, strict=True)
        return torch.cat(keys, dim=-2), torch.cat(values, dim=-2)

    def get_seq_length(self) -> int:
        """Return the number of earlier rows."""
        return sum(keys.shape[-2] for keys, _ in self.parts)

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """Return the number of all rows, and that of the first one."""
        return self.get_seq_length() + query_length, 0

    def get_max_length(self) -> int:
        """Return -1: there is no limit."""
        return -1


def cache_of(*stacks: Stack | None) -> Cache:
    """Return a cache of the keys and values of earlier rows, in the order of the stacks."""
    given = [stack for stack in stacks if stack is not None]
    if not given:
        return Cache(layer_class_to_replicate=CacheLayer)
    return Cache(layers=[CacheLayer(*parts) for parts in zip(*given, strict=True)])


def new_rows(cache: Cache) -> Stack:
    """Return the keys and values that a pass has added to a cache. Errors: a UserError where it has added none."""
    layers = [layer for layer in cache.layers if isinstance(layer, CacheLayer)]
    # A state-space layer keeps a state in a cache of its own, or none at all.
    stack = [layer.new for layer in layers if layer.new is not None]
    if not stack or len(stack) != len(cache.layers):
        raise UserError(f"model: it has layers {NO_KEYS}")
    return tuple(stack)


def joined(before: Stack | None, new: Stack) -> Stack:
    """Return the cached tensors of earlier rows and of new ones together."""
    if before is None:
        return new
    return tuple(append(*layers) for layers in zip(before, new, strict=True))


class Recomputed:
    """The forward of a layer under a checkpointing policy; an object, so that a copy of the layer calls the copy."""

    def __init__(self, layer: nn.Module, policy: Callable[..., Any]) -> None:
        self.layer, self.policy = layer, policy

    def __call__(self, *rows: Any, **settings: Any) -> Any:
        return self.policy(partial(type(self.layer).forward, self.layer, **settings), *rows)


class BodyOutput(BaseModelOutputWithPastAndCrossAttentions):
    """Rows as a family's own class of results, whose other fields are None."""

    def __getattr__(self, name: str) -> None:
        if name.startswith("__"):
            raise AttributeError(name)


class KnownRows(nn.Module):
    """A body that answers rows which are known already."""

    def __init__(self, body: nn.Module, rows: Tensor) -> None:
        super().__init__()
        self.rows = rows
        self.bodies = [body]  # in a list, which keeps its parameters from being found twice

    def forward(self, *_: Any, **__: Any) -> BodyOutput:
        """Return the rows."""
        return BodyOutput(last_hidden_state=self.rows)

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(self.bodies[0], name)


def _tie(module: Any, _: object) -> None:
    """Share the tensors that a model has under several names; a function of its own, as a lambda has no pickle."""
    module.tie()


class ForeignBackbone(Backbone):
    """A model of ``transformers``, called ``inner``; subclasses say how sources and targets go through it."""

    shape: ForeignArchitecture
    shares_memory = False
    measured: tuple[str, ...] = ("factor",)

    def __init__(self, shape: ForeignArchitecture, inner: "PreTrainedModel | None" = None) -> None:
        super().__init__()
        self.shape = shape
        self.inner: Any = made(shape) if inner is None else inner
        refuse_embeddings(self.inner, shape)
        if shape.lora:
            adapt(self.inner, shape.lora)
        self.frozen = [name for name, part in self.inner.named_parameters() if shape.lora and not part.requires_grad]
        self.aliases = aliases(self.inner)
        self.register_load_state_dict_post_hook(_tie)
        self.body_layers = [layer for stack in _stacks(self.body()) for layer in stack]
        self.factor = None if self.token_table.is_meta else self._factor()

    @property
    def token_table(self) -> Tensor:
        """The table [V, D] of the token embeddings."""
        table: Tensor = self.inner.get_input_embeddings().weight
        return table

    def body(self) -> nn.Module:
        """Return the stack under the output layer."""
        raise NotImplementedError  # families keep it in other places for each kind

    def output_inputs(self, rows: Tensor) -> dict[str, Any]:
        """Return the arguments with which the whole model comes to its body for rows [1, N, D]."""
        raise NotImplementedError  # a model with an encoder asks for the encoder's rows as well

    def words(self, ids: Tensor, table: Tensor | None = None) -> Tensor:
        """Return token embeddings [..., D] of ids [...]; an id below 0 is no token, and its vector is zeros."""
        embed, known = self.inner.get_input_embeddings(), ids.clamp(min=0)
        rows = embed(known) if table is None else functional_call(embed, {"weight": table}, (known,))
        return rows * (ids >= 0)[..., None]

    def encode(self, source: Tensor, lengths: Tensor, words: Tensor | None = None) -> Memory:
        """Encode sources [B, S] of the given lengths [B]."""
        with unread(self.device):
            return self._encode(self.words(source) if words is None else words, lengths)[0]

    def encode_whole(self, source: Tensor, lengths: Tensor) -> tuple[Memory, Tensor]:
        """Return the memory, and the last rows [B, S, D] of the sources."""
        with unread(self.device):
            return self._encode(self.words(source), lengths)

    def decode(self, target: Tensor, memory: Memory, words: Tensor | None = None, copies: int = 1) -> Tensor:
        """Return the last rows [B, T, D] of target inputs [B, T]; copies of a target are rows of their own."""
        words = self.words(target) if words is None else words
        rows = words.unflatten(1, (copies, -1)).flatten(0, 1)
        with unread(self.device):
            hidden, _ = self._after(rows, memory.repeated(copies), None, 0)
        return hidden.unflatten(0, (-1, copies)).flatten(1, 2)

    def step(self, tokens: Tensor, column: int, memory: Memory, cache: Stack | None) -> tuple[Tensor, Stack]:
        """Decode one more token of each hypothesis."""
        times = len(tokens) // len(memory.lengths)
        with unread(self.device):
            hidden, new = self._after(self.words(tokens[:, None]), memory.repeated(times), cache, column)
        return hidden[:, 0], joined(cache, new)

    def logits(self, hidden: Tensor, table: Tensor | None = None) -> Tensor:
        """Return scores [..., V] of the next token after rows [..., D]."""
        rows = hidden.reshape(1, -1, hidden.shape[-1])
        with self._answering(rows):
            given = {**self.output_inputs(rows), "use_cache": False, "return_dict": True}
            if table is None or not self.is_tied():
                scores = self.inner(**given).logits
            else:
                name = next(name for name, part in self.inner.named_modules() if part is self.head())
                scores = functional_call(self.inner, {f"{name}.weight": table}, (), given).logits
        # Not -1 for the vocabulary, which no rows would leave open: a process without labels has none.
        return scores.view(*hidden.shape[:-1], scores.shape[-1])

    def output(self, hidden: Tensor) -> OutputRows | None:
        """Return rows, table and bias, where the scores are their product up to a constant factor of the rows."""
        # A layer that has replaced the output layer since then, such as an adapter's, is more than its weight.
        if self.factor is None or not isinstance(self.head(), nn.Linear):
            return None
        bias = getattr(self.head(), "bias", None)
        if bias is None:
            bias = getattr(self.inner, "final_logits_bias", None)
        table = self.head().weight
        return OutputRows(hidden * self.factor, table, table.new_zeros(len(table)) if bias is None else bias.flatten())

    def head(self) -> Any:
        """Return the output layer."""
        return self.inner.get_output_embeddings()

    def is_tied(self) -> bool:
        """Return whether the output layer has the token embeddings for its weight."""
        return self.head().weight is self.inner.get_input_embeddings().weight

    def tie(self) -> None:
        """Make parameters with several names one again, after each name was given a tensor."""
        for name, first in self.aliases.items():
            owner, _, last = name.rpartition(".")
            setattr(self.inner.get_submodule(owner), last, self.inner.get_parameter(first))

    def stacks(self) -> list[list[nn.Module]]:
        """Return the layers of each stack, in order; none of a family that does not know its layers as such."""
        return _stacks(self.inner)

    def cached(self, cache: Cache) -> Stack:
        """Return the keys and values that a pass has added to a cache of the body's layers.

        Where layers are sharded, FSDP2 gathers one for its backward when the gradient of its result arrives. Keys and
        values leave it by the cache, so their gradients gather it here.
        """
        stack = new_rows(cache)
        for layer, rows in zip(self.body_layers, stack, strict=False):
            if isinstance(layer, FSDPModule):
                for tensor in (part for part in rows if part.requires_grad):
                    tensor.register_hook(partial(_gather, layer))
        return stack

    def keep(self, checkpointing: str, every: int) -> None:
        """Apply an activation-checkpointing policy to every ``every``-th layer of each stack."""
        if checkpointing not in POLICIES:
            raise UserError(
                f"run.checkpointing: '{checkpointing}' is for the prefix LM; a {self.shape.model_type} has "
                f"{', '.join(POLICIES)}"
            )
        policy, stacks = POLICIES[checkpointing], self.stacks()
        if policy is not None and not stacks:
            raise UserError(f"run.checkpointing: a {self.shape.model_type} has no layers that can be recomputed")
        # The library's own recomputation drops the cache, and with it the source.
        for layers in stacks:
            for number, layer in enumerate(layers, start=1):
                vars(layer).pop("forward", None)
                if policy is not None and number % every == 0:
                    layer.forward = Recomputed(layer, policy)

    def compile_blocks(self, compiled: bool) -> None:
        """Refuse compilation."""
        if compiled:
            raise UserError(f"run.compile: it compiles the prefix LM's blocks, not a {self.shape.model_type}'s")

    def state_dict(self, *args: Any, **settings: Any) -> Any:
        """Return the tensors, each under one name: a file of weights holds no tensor twice.

        Under LoRA without the frozen ones, which a run's folder holds once and not in each checkpoint.
        """
        state, prefix = super().state_dict(*args, **settings), settings.get("prefix", "")
        # The library refuses to write a file in which two names share a tensor.
        for name in [*self.aliases, *self.frozen]:
            state.pop(f"{prefix}inner.{name}", None)
        return state

    def _load_from_state_dict(self, state: dict[str, Any], prefix: str, *settings: Any) -> None:
        for name in self.frozen:
            state.setdefault(f"{prefix}inner.{name}", self.inner.get_parameter(name).detach())
        for name, first in self.aliases.items():
            if (key := f"{prefix}inner.{first}") in state:
                state[f"{prefix}inner.{name}"] = state[key]
        super()._load_from_state_dict(state, prefix, *settings)

    def merged(self) -> Self:
        """Return the model without LoRA, whose matrices have what it has learnt; itself where there is no LoRA."""
        if not self.shape.lora:
            return self
        inner = copy.deepcopy(self.inner)
        merge(inner)
        return type(self)(replace(self.shape, lora={}), inner)

    def _encode(self, words: Tensor, lengths: Tensor) -> tuple[Memory, Tensor]:
        """Return the memory of sources with the embeddings [B, S, D], and their last rows [B, S, D]."""
        raise NotImplementedError  # an encoder has stacks of its own, a prompt goes through the only one

    def _after(self, rows: Tensor, memory: Memory, past: Stack | None, column: int) -> tuple[Tensor, Stack]:
        """Return the last rows [N, T, D] of embeddings [N, T, D] from a column on, and what is cached.

        The memory has N sources; ``past`` has the keys and values of the columns before.
        """
        raise NotImplementedError  # a target attends to its source across two stacks, or continues it

    @contextmanager
    def _answering(self, rows: Tensor) -> Iterator[None]:
        """Let the body answer these rows in the forward of the model's class."""
        # A forward that accelerate has wrapped enters a context that it is in already here: half precision would last.
        wrapped, body = vars(self.inner).pop("forward", None), self.body()
        parent, name = next(
            (part, name) for part in self.inner.modules() for name, child in part.named_children() if child is body
        )
        parent._modules[name] = KnownRows(body, rows)
        try:
            yield
        finally:
            parent._modules[name] = body
            if wrapped is not None:
                self.inner.forward = wrapped

    @torch.no_grad()
    def _factor(self) -> float | None:
        """Return the factor of rows for which ``output`` gives the scores, or None."""
        config, width, head = self.inner.config, self.shape.width, self.head()
        if not isinstance(head, nn.Linear):
            return None
        rows = torch.randn(3, width, generator=torch.Generator().manual_seed(0)).to(head.weight)
        scaled = getattr(config, "logits_scaling", None)
        factors = (1.0, width**-0.5, 1 / scaled if scaled else None, getattr(config, "logit_scale", None))
        scores = self.logits(rows)
        for self.factor in (factor for factor in factors if factor is not None):
            output = self.output(rows)
            assert output is not None
            product = nn.functional.linear(*output)
            if torch.allclose(product, scores, rtol=1e-3, atol=1e-4 * float(scores.abs().max())):
                return float(self.factor)
        return None


def made(shape: ForeignArchitecture) -> "PreTrainedModel":
    """Return the model of a configuration, with weights that torch's generator draws."""
    config = shape.configuration
    refuse(config)
    try:
        _refuse_size(shape)
        model = _model(shape)
    except PARSE_ERRORS as error:
        raise UserError(f"model.config: no {shape.model_type} can be made: {first_line(error)}") from error
    model.config.use_cache = False  # passes get a cache of the backbone's, and nothing makes another
    return model


def _model(shape: ForeignArchitecture) -> "PreTrainedModel":
    model: PreTrainedModel = MAPPINGS[shape.backbone][1].from_config(
        shape.configuration,
        trust_remote_code=False,
        dtype=torch.float32,
        attn_implementation=implementation(shape.backbone, shape.configuration),
    )
    return model


def _refuse_size(shape: ForeignArchitecture) -> None:
    """Refuse a model that the main memory cannot hold: a family's own sizes are those of its largest checkpoints."""
    # Counted without memory for them, since to draw billions of weights takes minutes before it fails.
    with torch.device("meta"):
        count = sum(parameter.numel() for parameter in _model(shape).parameters())
    if (room := main_memory()) is not None and 4 * count > room:
        width = shape.configuration.attribute_map.get("hidden_size", "hidden_size")
        raise UserError(
            f"model.config: a {shape.model_type} of these sizes has {count:,} parameters, {4 * count / 2**30:.1f} GiB "
            f"in float32, and this machine has {room / 2**30:.1f} GiB; give it a smaller {width} and fewer layers"
        )


def refuse_embeddings(inner: Any, shape: ForeignArchitecture) -> None:
    """Refuse a model without one table of token embeddings as wide as its rows, or without an output layer."""
    kind = shape.model_type
    try:
        table, head = inner.get_input_embeddings(), inner.get_output_embeddings()
    except (NotImplementedError, AttributeError) as error:
        raise UserError(f"model: a {kind} has no input embeddings that methods could replace") from error
    if not isinstance(table, nn.Embedding) or getattr(head, "weight", None) is None:
        raise UserError(f"model: a {kind} has no table of input embeddings, or no output layer")
    if table.embedding_dim != shape.width:
        raise UserError(
            f"model: a {kind} of width {shape.width} with embeddings of {table.embedding_dim}; both are one"
        )
    if table.num_embeddings != shape.vocabulary:
        raise UserError(f"model: {table.num_embeddings} rows of embeddings, but a vocabulary of {shape.vocabulary}")


@torch.no_grad()
def entry_factor(stack: Any, embed: nn.Embedding, **context: Any) -> float:
    """Return the factor of the table's rows with which a stack given embeddings does what it does given ids.

    Some stacks scale the rows of ids alone (Marian's encoder), some whatever they are given (its decoder).
    """
    # Measured, because the code of a family does not say which of the two it does.
    scale = float(getattr(stack, "embed_scale", 1.0))
    # A table with a forward of its own has scaled its rows already.
    if scale == 1 or type(embed).forward is not nn.Embedding.forward:
        return 1.0
    ids = torch.arange(1, 4, device=embed.weight.device)[None] % embed.num_embeddings
    with evaluating(stack):
        hidden = stack(input_ids=ids, **context)[0]
        distances = {
            factor: float((stack(inputs_embeds=factor * embed(ids), **context)[0] - hidden).norm())
            for factor in (1.0, scale)
        }
    return min(distances, key=lambda factor: distances[factor])


def aliases(inner: nn.Module) -> dict[str, str]:
    """Return the further names of parameters that have several, each with the first."""
    first: dict[int, str] = {}
    further = {}
    for name, parameter in inner.named_parameters(remove_duplicate=False):
        if (known := first.setdefault(id(parameter), name)) != name:
            further[name] = known
    return further


def _stacks(inner: nn.Module) -> list[list[nn.Module]]:
    """Return the layers of each stack of a model of ``transformers``, in order."""
    from transformers.modeling_layers import GradientCheckpointingLayer

    stacks: dict[str, list[nn.Module]] = {}
    for name, part in inner.named_modules():
        if isinstance(part, GradientCheckpointingLayer):
            stacks.setdefault(name.rpartition(".")[0], []).append(part)
    return list(stacks.values())


def _gather(layer: Any, _: Tensor) -> None:
    layer.unshard()
