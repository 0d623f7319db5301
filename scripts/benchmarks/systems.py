"""The systems of ``benchmark_training.py``, a training step of theirs, and the work that it must do at least."""

from collections.abc import Callable
from contextlib import nullcontext
from functools import partial

import torch
from torch import Tensor
from torch.optim import AdamW, Optimizer

from benchmarks.peers import Bert4Torch, Pairs, Shape, System, TransformersBart, TransformersBert
from benchmarks.timing import END, PADDING, Lengths
from s2s.batch import collate
from s2s.machine.memory import keep_freed_memory
from s2s.model import Architecture, PrefixTransformer
from s2s.model.initialization import initialise
from s2s.objective import Objective, ObjectiveSettings

KEPT = ("vocabulary", "layers", "width", "heads", "positions", "dropout")
"""Those parts of a shape that this project's model has as well."""


class S2S:
    """The project's own model in BERT's form: the source once, the last layer and the output only where needed."""

    def __init__(self, shape: Shape) -> None:
        keep_freed_memory()  # as training and decoding do by themselves
        kept = {name: getattr(shape, name) for name in KEPT}
        model = PrefixTransformer(Architecture(**kept, feed_forward=4 * shape.width, norm="post", transform=True))
        initialise(model)
        self.model = Objective(model, ObjectiveSettings())

    def loss(self, pairs: Pairs) -> Tensor:
        """Return the mean over target tokens, as the training loop has it."""
        return self.model(collate(pairs, PADDING, END)).total


SYSTEMS: dict[str, tuple[Callable[[Shape], System], bool]] = {
    "s2s": (S2S, True),
    "bert4torch": (Bert4Torch, False),
    "transformers_bert_eager": (partial(TransformersBert, attention="eager"), False),
    "transformers_bert_sdpa": (partial(TransformersBert, attention="sdpa"), False),
    "transformers_bert_sdpa_bucketed": (partial(TransformersBert, attention="sdpa"), True),
    "transformers_bart": (TransformersBart, False),
}
"""How each is built, and whether its batches hold examples of similar length."""


def optimizer(system: System) -> Optimizer:
    """Return the same optimizer for all systems."""
    return AdamW(system.model.parameters(), 1e-4, fused=True)


def step(system: System, updates: Optimizer, pairs: Pairs, precision: str) -> None:
    """One training step: padding, forward, backward, clipping, update."""
    with torch.autocast("cpu", torch.bfloat16) if precision == "bf16" else nullcontext():
        loss = system.loss(pairs)
    loss.backward()
    torch.nn.utils.clip_grad_norm_(system.model.parameters(), 1.0)
    updates.step()
    updates.zero_grad()


def useful_work(name: str, shape: Shape, lengths: Lengths) -> float:
    """Floating-point operations that a training step over examples of lengths [N, 2] cannot do without.

    With s source and t target tokens, 6 for each weight that a token meets (2 forward, 4 backward) and 12 D for each
    pair of query and key (2 D each for scores and sums forward, twice that backward), a layer; no padding and nothing
    twice. A block has 12 D^2 weights. A prefix LM takes s tokens through all blocks but the last, of which they need
    only the 2 D^2 of keys and values; t tokens through all blocks and the D V of the output. BART's source goes
    through its half of the blocks; its target meets 2 D^2 more in each of its own for the second attention, whose keys
    and values are 2 D^2 a source token. The prediction head's own D^2 is left out.
    """
    width, layers = shape.width, shape.layers
    source, target = lengths.astype(float).T
    block, half = 12 * width**2, 2 * width**2
    causal = target * (target + 1) / 2
    if name == "transformers_bart":
        encoder, decoder = layers // 2, layers - layers // 2
        weights = source * (encoder * block + decoder * half) + target * decoder * (block + half)
        seen = encoder * source**2 + decoder * (causal + source * target)
    else:
        weights = source * ((layers - 1) * block + half) + target * layers * block
        seen = (layers - 1) * source**2 + layers * (causal + source * target)
    weights = weights + target * width * shape.vocabulary
    return float((6 * weights + 12 * width * seen).sum())
