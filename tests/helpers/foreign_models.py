"""Tiny models of ``transformers``, and a slow backbone that asks each of them one whole example at a time."""

import json
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from s2s.mitigations import PreparedMethod
from s2s.model.backbone import Backbone, Memory, Stack
from s2s.model.backbones import untrained
from s2s.model.backbones.configuration import ForeignArchitecture, kind_of, parsed, plain
from s2s.model.backbones.foreign import ForeignBackbone
from s2s.model.output_rows import OutputRows
from s2s.objective import Objective
from s2s.recipe.build import build_mitigations, build_objective
from s2s.recipe.recipe import Recipe
from s2s.runs.checkpoints import load_model
from s2s.vocabulary import Vocabulary

BOTH = {
    "d_model": 16,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 20,
    "decoder_ffn_dim": 20,
    "max_position_embeddings": 64,
}
LLAMA = {
    "hidden_size": 16,
    "intermediate_size": 20,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
}
FAMILIES: dict[str, dict[str, Any]] = {
    "t5": {"model_type": "t5", "d_model": 16, "d_kv": 4, "d_ff": 20, "num_layers": 2, "num_heads": 4},
    "bart": {"model_type": "bart", **BOTH},
    "marian": {"model_type": "marian", "scale_embedding": True, **BOTH},
    "gpt2": {"model_type": "gpt2", "n_embd": 16, "n_layer": 2, "n_head": 4, "n_positions": 64, "attn_pdrop": 0.0},
    "llama": {"model_type": "llama", **LLAMA},
    "qwen3": {"model_type": "qwen3", "head_dim": 8, **LLAMA},
}
"""Keys of ``model.config``; grouped keys in Llama and Qwen3, whose output is not tied."""
LORA = "model.lora={rank: 2, alpha: 8, dropout: 0.0, targets: auto}"
NO_SIZES = ("layers", "width", "heads", "norm", "positions")


def tiny(family: str, vocabulary: int = 11, seed: int = 0, **config: Any) -> Any:
    """A model in float64, in evaluation mode: padding 0, end 1, and 2 begins a target."""
    special = {"pad_token_id": 0, "eos_token_id": 1, "bos_token_id": 2, "decoder_start_token_id": 2}
    made = parsed({"vocab_size": vocabulary, **special, **FAMILIES[family], **config})
    model = untrained(ForeignArchitecture(str(kind_of(made)), vocabulary, plain(made)))
    randomise(model, seed)
    in_double(model)
    return model.double().eval()


def keys(family: str, dropout: float = 0.0) -> list[str]:
    """The overrides of toy_copy that train such a model instead."""
    own = dict.fromkeys(NO_SIZES) | {"dropout": dropout, "config": FAMILIES[family]}
    return [f"model={json.dumps(own)}", "data.size=220", "run.precision=fp32"]


def randomise(model: torch.nn.Module, seed: int = 0) -> None:
    """Draw every parameter that is trained, so that no part of the model is without effect."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data.normal_(0.05, 0.3, generator=generator)


def in_double(model: torch.nn.Module) -> None:
    """Compute norms in the type of their rows: the library's go through float32, whatever it is."""
    for part in model.modules():
        if type(part).__name__.endswith(("RMSNorm", "T5LayerNorm")):
            part.forward = partial(root_mean_square, part)


def root_mean_square(norm: Any, rows: Tensor) -> Tensor:
    return norm.weight * rows * (rows.square().mean(dim=-1, keepdim=True) + norm.variance_epsilon).rsqrt()


def prepared(vocabulary: Vocabulary, row: str, *overrides: str) -> list[PreparedMethod]:
    """Mitigations for an objective that is there already: to make a model takes most of the time of a test."""
    recipe = Recipe.load("toy_copy", ["data.size=220", f"mitigations=[{row}]", *overrides])
    return build_mitigations(recipe, vocabulary, load_model)


def objective(family: str, vocabulary: Vocabulary, row: str = "", *overrides: str) -> Objective:
    """An objective in float64 with these mitigations, of a model with random weights."""
    recipe = Recipe.load("toy_copy", [*keys(family), f"mitigations=[{row}]", *overrides])
    made, _ = build_objective(recipe, vocabulary, {}, load_model)
    randomise(made.model)
    in_double(made.model)
    return made.double()


class WholeForwards(Backbone):
    """The same model without any cache: each example, and each copy of it, goes through it whole and by itself.

    A memory is the embeddings of the sources, with the lengths in the mask's place too.
    """

    def __init__(self, model: ForeignBackbone) -> None:
        super().__init__()
        self.shape, self.inner = model.shape, model.inner
        self.family = self.shape.model_type
        self.has_encoder = self.shape.backbone == "encoder_decoder"

    @property
    def token_table(self) -> Tensor:
        return self.inner.get_input_embeddings().weight

    def words(self, ids: Tensor, table: Tensor | None = None) -> Tensor:
        embed = self.inner.get_input_embeddings()
        table = embed.weight if table is None else table
        # As the library's tables do, which learn nothing of padding.
        rows = functional.embedding(ids.clamp(min=0), table, padding_idx=embed.padding_idx)
        return rows * getattr(embed, "embed_scale", 1.0) * (ids >= 0)[..., None]

    def encode(self, source: Tensor, lengths: Tensor, words: Tensor | None = None) -> Memory:
        return Memory(((self.words(source) if words is None else words,),), lengths, lengths)

    def encode_whole(self, source: Tensor, lengths: Tensor) -> tuple[Memory, Tensor]:
        memory = self.encode(source, lengths)
        rows = memory.layers[0][0]
        hidden = torch.zeros_like(rows)
        for row, length in enumerate(lengths.tolist()):
            hidden[row, :length] = self._source(rows[row, :length])
        return memory, hidden

    def decode(self, target: Tensor, memory: Memory, words: Tensor | None = None, copies: int = 1) -> Tensor:
        words = self.words(target) if words is None else words
        sources, rows = memory.layers[0][0], []
        for source, length, own in zip(sources, memory.lengths.tolist(), words, strict=True):
            rows.append(torch.cat([self._target(source[:length], copy) for copy in own.chunk(copies)]))
        return torch.stack(rows)

    def step(self, tokens: Tensor, column: int, memory: Memory, cache: Stack | None) -> tuple[Tensor, Stack]:
        assert (column == 0) == (cache is None)
        ids = tokens[:, None] if cache is None else torch.cat([cache[0][0], tokens[:, None]], dim=1)
        times, rows = len(ids) // len(memory.lengths), []
        for row, own in enumerate(ids):
            source = memory.layers[0][0][row // times, : int(memory.lengths[row // times])]
            rows.append(self._target(source, self.words(own))[-1])
        return torch.stack(rows), ((ids,),)

    def logits(self, hidden: Tensor, table: Tensor | None = None) -> Tensor:
        rows, own, bias = self.output(hidden)
        return functional.linear(rows, table if own is self.token_table and table is not None else own) + bias

    def output(self, hidden: Tensor) -> OutputRows:
        table = self.inner.get_output_embeddings().weight
        bias = getattr(self.inner, "final_logits_bias", torch.zeros(1, len(table), dtype=table.dtype))
        return OutputRows(hidden * (self.shape.width**-0.5 if self.family == "t5" else 1.0), table, bias[0])

    def _source(self, words: Tensor) -> Tensor:
        if not self.has_encoder:
            return self.inner.base_model(inputs_embeds=words[None])[0][0]
        # Marian's encoder scales the embeddings of ids, but none that it is given.
        scale = self.inner.get_encoder().embed_scale if self.family == "marian" else 1.0
        return self.inner.get_encoder()(inputs_embeds=scale * words[None])[0][0]

    def _target(self, source: Tensor, words: Tensor) -> Tensor:
        if not self.has_encoder:
            return self.inner.base_model(inputs_embeds=torch.cat([source, words])[None])[0][0, len(source) :]
        encoded = self._source(source)[None]
        return self.inner.get_decoder()(inputs_embeds=words[None], encoder_hidden_states=encoded)[0][0]


def gradients(module: Objective, loss: Tensor) -> dict[str, Tensor]:
    """The gradient of each trained parameter; zeros for one that the loss does not reach."""
    named = {name: parameter for name, parameter in module.named_parameters() if parameter.requires_grad}
    grads = torch.autograd.grad(loss, list(named.values()), allow_unused=True)
    return {
        name: torch.zeros_like(parameter) if grad is None else grad
        for (name, parameter), grad in zip(named.items(), grads, strict=True)
    }
