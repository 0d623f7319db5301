"""The peers that ``benchmark_training.py`` compares with, each as its users write it: from examples to a loss.

All but BART's shape compute one function, a BERT whose source sees itself both ways and whose target sees the source
and its own past (UniLM, Dong et al. 2019), with the same matrices and the same dropout.
"""

import json
import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from itertools import accumulate
from pathlib import Path
from tempfile import TemporaryDirectory
from types import ModuleType
from typing import NamedTuple, Protocol

import torch
from torch import Tensor, nn
from transformers import AutoModelForMaskedLM, BartConfig, BartForConditionalGeneration, BertConfig

from benchmarks.timing import END, PADDING
from s2s.batch import IGNORED, collate, pad

Pairs = Sequence[tuple[list[int], list[int]]]
"""Examples: source ids with begin and end, target ids with neither."""


class Shape(NamedTuple):
    """The size of a model; the hidden layer of its feed-forward is four times its width."""

    vocabulary: int
    width: int
    layers: int
    heads: int
    positions: int
    dropout: float
    attention_dropout: float


class System(Protocol):
    """A model, and the mean cross-entropy of its target tokens."""

    @property
    def model(self) -> nn.Module:
        """All that is trained."""

    def loss(self, pairs: Pairs) -> Tensor:
        """Return the scalar to differentiate, from examples that are not padded yet."""


class Packed(NamedTuple):
    """Source and target side by side, [B, L] each; ``sources`` [B, 1] and ``ends`` [B, 1] are where both end."""

    ids: Tensor
    segments: Tensor
    labels: Tensor
    sources: Tensor
    ends: Tensor


def packed(pairs: Pairs) -> Packed:
    """Return a padded batch of sequences [source | end target], with labels at the target's inputs."""
    return Packed(
        pad([[*source, END, *target] for source, target in pairs], PADDING),
        pad([[0] * len(source) + [1] * (len(target) + 1) for source, target in pairs], 0),
        pad([[IGNORED] * len(source) + [*target, END] for source, target in pairs], IGNORED),
        torch.tensor([[len(source)] for source, _ in pairs]),
        torch.tensor([[len(source) + 1 + len(target)] for source, target in pairs]),
    )


def unilm_mask(batch: Packed) -> Tensor:
    """Return the additive mask [B, 1, L, L]: everything sees the source, and the target also its own past."""
    columns = torch.arange(batch.ids.shape[1])
    past = columns <= columns[:, None]
    seen = (columns < batch.sources)[:, None] | (past & (columns < batch.ends)[:, None])
    return torch.zeros(seen.shape).masked_fill(~seen, torch.finfo(torch.float32).min)[:, None]


class TransformersBert:
    """``transformers``' BERT with a mask of its user's, and its output layer over the whole padded sequence."""

    def __init__(self, shape: Shape, attention: str) -> None:
        config = BertConfig(
            vocab_size=shape.vocabulary,
            hidden_size=shape.width,
            num_hidden_layers=shape.layers,
            num_attention_heads=shape.heads,
            intermediate_size=4 * shape.width,
            max_position_embeddings=shape.positions,
            hidden_dropout_prob=shape.dropout,
            attention_probs_dropout_prob=shape.attention_dropout,
        )
        self.model = AutoModelForMaskedLM.from_config(config, attn_implementation=attention)

    def loss(self, pairs: Pairs) -> Tensor:
        batch = packed(pairs)
        inputs = {"input_ids": batch.ids, "token_type_ids": batch.segments, "attention_mask": unilm_mask(batch)}
        return self.model(**inputs, labels=batch.labels).loss


class TransformersBart:
    """``transformers``' BART with half of the layers on either side; the output layer at all target columns."""

    def __init__(self, shape: Shape) -> None:
        half, hidden = shape.layers // 2, 4 * shape.width
        config = BartConfig(
            vocab_size=shape.vocabulary,
            d_model=shape.width,
            encoder_layers=half,
            decoder_layers=shape.layers - half,
            encoder_attention_heads=shape.heads,
            decoder_attention_heads=shape.heads,
            encoder_ffn_dim=hidden,
            decoder_ffn_dim=hidden,
            max_position_embeddings=shape.positions,
            dropout=shape.dropout,
            attention_dropout=shape.attention_dropout,
            pad_token_id=PADDING,
            bos_token_id=END,
            eos_token_id=END,
            decoder_start_token_id=END,
            forced_eos_token_id=END,
        )
        self.model = BartForConditionalGeneration(config)

    def loss(self, pairs: Pairs) -> Tensor:
        batch = collate(pairs, PADDING, END)
        inputs = {"input_ids": batch.source, "attention_mask": (batch.source != PADDING).long()}
        return self.model(**inputs, decoder_input_ids=batch.target, labels=batch.labels).loss


class Bert4Torch:
    """bert4torch's own UniLM: the mask comes from the segments, the loss is that of its examples of titles.

    As there, the source's last token predicts the first label; there is no token between them, and one more at the end.
    """

    def __init__(self, shape: Shape) -> None:
        _stand_in_for_torchvision()
        from bert4torch.losses import CausalLMLoss
        from bert4torch.models import build_transformer_model

        config = {
            "vocab_size": shape.vocabulary,
            "hidden_size": shape.width,
            "num_hidden_layers": shape.layers,
            "num_attention_heads": shape.heads,
            "intermediate_size": 4 * shape.width,
            "max_position_embeddings": shape.positions,
            "hidden_dropout_prob": shape.dropout,
            "attention_probs_dropout_prob": shape.attention_dropout,
            "hidden_act": "gelu",
            "type_vocab_size": 2,
        }
        with TemporaryDirectory() as folder:
            path = Path(folder) / "bert4torch_config.json"
            path.write_text(json.dumps(config), encoding="utf-8")
            self.model = build_transformer_model(
                config_path=str(path), model="bert", with_mlm=True, application="unilm", tie_word_embeddings=True
            )
        self.criterion = CausalLMLoss(offset=True, logits_index=1, ignore_index=PADDING)

    def loss(self, pairs: Pairs) -> Tensor:
        ids = pad([[*source, *target, END] for source, target in pairs], PADDING)
        segments = pad([[0] * len(source) + [1] * (len(target) + 1) for source, target in pairs], 0)
        return self.criterion(self.model([ids, segments]), [ids, segments])


def _stand_in_for_torchvision() -> None:
    """Let bert4torch import its models of images where torchvision is not installed; nothing here calls them."""
    if find_spec("torchvision") is not None:
        return
    names = list(accumulate(["torchvision", "transforms", "v2", "functional"], "{}.{}".format))
    for name in names:
        module = ModuleType(name)
        module.__path__, module.__spec__ = [], ModuleSpec(name, None, is_package=True)
        sys.modules[name] = module
        parent, _, attribute = name.rpartition(".")
        if parent:
            setattr(sys.modules[parent], attribute, module)
