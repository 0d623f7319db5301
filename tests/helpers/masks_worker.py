"""The masks that attention gets on this process's GPU: python masks_worker.py FOLDER.

The folder gets masks.json. For each case it has the types and the strides with which masks came to torch's attention,
the operations that layers did on masks, and how far an update's loss and gradients are from the processor's.
"""

import copy
import json
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from devices_worker import apart
from torch import Tensor
from torch.nn import functional
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from s2s.inference.kv_cache import begin
from s2s.inference.packed_model import PackedModel
from s2s.machine.precision import HALVES
from s2s.model import Architecture, PrefixTransformer
from s2s.model.layers import product_dtype

LAYERS, SOURCES, STEPS = 6, 3, 3
LENGTHS = {"no multiples of 8": (11, 6), "multiples of 8": (16, 8), "fewer than 8": (2, 1)}
"""Columns of the sources and of each of two copies of the targets."""
STEPPED = [(name, dtype, False) for name, dtype in (("fp32", torch.float32), *HALVES.items())]
STEPPED.append(("bf16 by autocast", torch.float32, True))
"""Types of weights in a search, which is also run within an update, where there is autocast."""
CHANGES = ("_to_copy", "clone", "copy_", "constant_pad_nd", "contiguous")
"""Operations that make another tensor of a mask; which kernel adds it to the scores is another matter."""


class Calls(TorchFunctionMode):
    """Records each mask that torch's attention is called with, against the type of the scores it is added to."""

    def __init__(self) -> None:
        super().__init__()
        self.types, self.strides = set[tuple[str, str]](), set[int]()

    def __torch_function__(self, function: Any, _: Any, args: Any = (), kwargs: Any = None) -> Any:
        if function is functional.scaled_dot_product_attention and (mask := kwargs["attn_mask"]) is not None:
            self.types.add((str(mask.dtype), str(product_dtype(args[0]))))
            self.strides.update(mask.stride()[:-1])
        return function(*args, **(kwargs or {}))


class Operations(TorchDispatchMode):
    """Counts the operations on masks, which alone have four dimensions and the second of size 1, while ``on``."""

    def __init__(self) -> None:
        super().__init__()
        self.counts, self.on = Counter[str](), False

    def __torch_dispatch__(self, operation: Any, _: Any, args: Any = (), kwargs: Any = None) -> Any:
        name, first = operation.overloadpacket.__name__, args[0] if args else None
        if self.on and name in CHANGES and isinstance(first, Tensor) and first.ndim == 4 and first.shape[1] == 1:
            self.counts[name] += 1
        return operation(*args, **(kwargs or {}))


@contextmanager
def recorded(*blocks: torch.nn.Module) -> Iterator[tuple[Calls, Operations]]:
    """Record the calls of attention, and the operations inside of the blocks, or all where there are none."""
    calls, operations = Calls(), Operations()
    operations.on = not blocks
    for block in blocks:
        block.register_forward_pre_hook(lambda *_: setattr(operations, "on", True))
        block.register_forward_hook(lambda *_: setattr(operations, "on", False))
    with calls, operations:
        yield calls, operations


def made(attention: str = "dot", dtype: torch.dtype = torch.float32) -> PrefixTransformer:
    torch.manual_seed(0)
    sizes = Architecture(30, LAYERS, 16, 2, 32, positions=80, dropout=0.0)
    if attention != "dot":
        sizes = replace(sizes, attention=attention, source_slots=20, target_slots=20)
    return PrefixTransformer(sizes).to(dtype)


def drawn(source: int, target: int) -> tuple[Tensor, Tensor, Tensor]:
    """Sources of different lengths, the lengths, and two copies of targets."""
    generator = torch.Generator().manual_seed(1)
    ids = [torch.randint(3, 30, (SOURCES, width), generator=generator) for width in (source, 2 * target)]
    return ids[0], torch.linspace(1, source, SOURCES).long(), ids[1]


def update(model: PrefixTransformer, given: tuple[Tensor, ...]) -> list[Tensor]:
    """A loss and its gradients, of one pass over the sources and one over two copies of the targets."""
    source, lengths, target = (part.to(model.device) for part in given)
    loss = model.logits(model.decode(target, model.encode(source, lengths), copies=2)).float().log_softmax(-1)[..., 3]
    return [loss, *torch.autograd.grad(loss.square().mean(), [*model.parameters()])]


def updates() -> Iterator[tuple[str, dict[str, Any]]]:
    for attention in ("dot", "dense", "random"):
        for kind, sizes in LENGTHS.items():
            for precision in ("fp32", *HALVES):
                ours = made(attention)
                theirs, given = copy.deepcopy(ours).to("cuda"), drawn(*sizes)
                known, half = update(ours, given), HALVES.get(precision)
                autocast = torch.autocast("cuda", half, enabled=half is not None)
                with recorded(*theirs.blocks) as (calls, operations), autocast:
                    found = update(theirs, given)
                distances = [apart(known[:1], found[:1]), apart(known[1:], found[1:])]
                yield f"{attention}, {kind}, {precision}", result(calls, operations) | {"distances": distances}


def steps() -> Iterator[tuple[str, dict[str, Any]]]:
    """Steps of a search, in a buffer that hypotheses share and with a cache for each."""
    for name, dtype, autocast in STEPPED:
        model = made(dtype=dtype).to("cuda").eval()
        source, lengths, _ = (part.to("cuda") for part in drawn(11, 1))
        tokens = torch.full((SOURCES,), 3, device="cuda")

        def shared(model: PrefixTransformer = model, given: Any = (source, lengths), tokens: Tensor = tokens) -> None:
            packed = PackedModel(model)
            state = begin(packed, packed.encode(*given))
            for _ in range(STEPS):
                _, state = state.step(packed, tokens)

        def separate(model: PrefixTransformer = model, given: Any = (source, lengths), tokens: Tensor = tokens) -> None:
            memory, cache = model.encode(*given), None
            for column in range(STEPS):
                _, cache = model.step(tokens, column, memory, cache)

        for kind, search in (("shared", shared), ("separate", separate)):
            # Of the whole search, since steps call no block's ``forward``.
            half = torch.autocast("cuda", HALVES["bf16"], enabled=autocast)
            with torch.no_grad(), half, recorded() as (calls, operations):
                search()
            yield f"{kind}, {name}", result(calls, operations)


def result(calls: Calls, operations: Operations) -> dict[str, Any]:
    return {"types": sorted(calls.types), "strides": sorted(calls.strides), "operations": operations.counts}


if __name__ == "__main__":
    found = {"updates": dict(updates()), "steps": dict(steps())}
    Path(sys.argv[1], "masks.json").write_text(json.dumps(found), encoding="utf-8")
