"""Time of CRF and MEMM: the chains alone against pytorch-crf, and whole training steps of taggers over an encoder.

The chains: loss with its gradients, and the best sequence, of [64, 128] columns and 32 labels. The steps: a tagger with
a CRF, a bidirectional MEMM or a softmax over encoders of 12 and of 2 layers, forward and backward (the comparison of
spaces.ac.cn 7213, there with 12 and 2 layers of BERT-base's width). All in interleaved rounds; ratios are to each
group's first row. Needs '.[benchmark]'. One thread unless told otherwise:

python scripts/benchmark_heads.py [--rounds 9] [--json FILE]
"""

import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import _checkout  # noqa: F401
import torch
from benchmarks.options import numbered, parsed
from benchmarks.timing import interleaved, processor, show, summarised, write
from torch import Tensor, nn

from s2s.batch import IGNORED, Batch, collate
from s2s.data import DataSettings
from s2s.errors import UserError, optional_module
from s2s.heads import CRF, HEADS, MEMM
from s2s.heads.run_heads import Heads, make_heads
from s2s.model import Architecture, PrefixTransformer
from s2s.objective import Objective, ObjectiveSettings

CPU = torch.device("cpu")
NUMBERS = {
    "rounds": 9,
    "warmup": 2,
    "threads": 1,
    "batch": 64,
    "columns": 128,
    "labels": 32,
    "width": 384,
    "step_batch": 8,
    "step_columns": 64,
}
Works = Mapping[str, Callable[[int], object]]


def random_chains(batch: int, columns: int, labels: int) -> tuple[Tensor, Tensor, Tensor]:
    """Emissions, labels and mask of rows that are as long as half of the columns to all of them."""
    generator = torch.Generator().manual_seed(0)
    lengths = torch.randint(columns // 2, columns + 1, (batch,), generator=generator)
    lengths[0] = columns
    emissions = torch.randn(batch, columns, labels, generator=generator)
    return (
        emissions,
        torch.randint(labels, (batch, columns), generator=generator),
        torch.arange(columns) < lengths[:, None],
    )


def _nll(chain: nn.Module, loss: Callable[[Tensor], Tensor], emissions: Tensor, _: int) -> None:
    chain.zero_grad()
    loss(emissions.clone().requires_grad_()).sum().backward()


def losses(batch: int, columns: int, labels: int) -> Works:
    """Each chain's loss, summed over rows, with its gradients."""
    emissions, gold, mask = random_chains(batch, columns, labels)
    theirs, crf, memm = peer(labels), CRF(labels), MEMM(labels)
    with torch.no_grad():
        theirs.transitions.copy_(crf.transitions)
        for edge in (theirs.start_transitions, theirs.end_transitions):
            edge.zero_()
    there = -theirs(emissions, gold, mask, reduction="none")
    if not torch.allclose(there, crf.nll(emissions, gold, mask), rtol=1e-3):
        raise AssertionError("pytorch-crf and ours differ in their losses")
    return {
        "pytorch-crf": partial(_nll, theirs, lambda x: -theirs(x, gold, mask, reduction="none"), emissions),
        "CRF": partial(_nll, crf, lambda x: crf.nll(x, gold, mask), emissions),
        "MEMM": partial(_nll, memm, lambda x: memm.nll(x, gold, mask), emissions),
    }


@torch.no_grad()
def _best(find: Callable[[], object], _: int) -> None:
    find()


def searches(batch: int, columns: int, labels: int) -> Works:
    """Each chain's best sequences."""
    emissions, _, mask = random_chains(batch, columns, labels)
    theirs, crf, memm = peer(labels), CRF(labels), MEMM(labels)
    return {
        "pytorch-crf": partial(_best, lambda: theirs.decode(emissions, mask)),
        "CRF": partial(_best, lambda: crf.viterbi(emissions, mask)),
        "MEMM": partial(_best, lambda: memm.viterbi(emissions, mask)),
    }


def peer(labels: int) -> Any:
    """pytorch-crf's CRF."""
    return optional_module("torchcrf", "benchmark", "pytorch-crf, the peer,").CRF(labels, batch_first=True)


def steps(layers: int, width: int, batch: int, columns: int, labels: int) -> Works:
    """Return a training step of a tagger of each kind over an encoder of ``layers`` layers."""
    names = [str(label) for label in range(labels)]
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(5, 1000, (batch, columns), generator=generator).tolist()
    tags = torch.randint(labels, (batch, columns), generator=generator)
    tags[:, 0] = tags[:, -1] = IGNORED
    examples = collate([(row, None) for row in ids], 0, 3, heads=[tags.tolist()])
    works = {}
    for kind in ("crf", "bimemm", "memm", "softmax"):
        torch.manual_seed(0)
        shape = Architecture(1000, layers, width, max(1, width // 64), 4 * width, norm="post", positions=columns)
        heads = make_heads({"tags": HEADS[kind](field="tags")}, {"tags": names}, DataSettings())
        module = Objective(PrefixTransformer(shape), ObjectiveSettings(), (), Heads(heads, width, 1000), False)
        works[kind] = partial(_step, module, examples)
    return works


def _step(module: Objective, batch: Batch, _: int) -> None:
    module.zero_grad()
    module(batch).total.backward()


def measure(name: str, works: Works, rounds: int, warmup: int) -> list[dict[str, Any]]:
    """Return the rows of a group of works."""
    rows = summarised(interleaved(works, rounds, warmup, CPU), dict.fromkeys(works, 1))
    facts = {"precision": "fp32", "threads": torch.get_num_threads()}
    versions = {"torch": torch.__version__, "processor": processor(CPU)}
    kept = [{key: value for key, value in row.items() if not key.startswith("memory")} for row in rows]
    return [{"group": name, **row, **facts, **versions} for row in kept]


def main(arguments: Sequence[str]) -> int:
    """Measure and tell."""
    options = parsed(numbered(__doc__, NUMBERS), arguments, NUMBERS, may_be_0=("warmup",))
    torch.set_num_threads(options.threads)
    sizes = options.batch, options.columns, options.labels
    step_sizes = options.width, options.step_batch, options.step_columns, options.labels
    try:
        groups = {"loss and gradients": losses(*sizes), "best sequence": searches(*sizes)}
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    groups |= {f"step of {layers} layers": steps(layers, *step_sizes) for layers in (12, 2)}
    rows = []
    for name, works in groups.items():
        group_rows = measure(name, works, options.rounds, options.warmup)
        show(name, [row | {"memory_bytes": 0, "memory_ratio": 1.0} for row in group_rows])
        rows += group_rows
    if options.json:
        write(options.json, rows)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
