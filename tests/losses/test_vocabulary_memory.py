"""Memory over the vocabulary, the largest of a step: methods that compare distributions need little more than others.

Counted on the fake CUDA, whose allocator knows the peak of a step. Only what grows with the vocabulary is compared,
since two passes keep twice the activations.
"""

import json

import pytest
from fake_devices import needs_fake_cuda, on_devices, run

pytestmark = [pytest.mark.slow, needs_fake_cuda]

LIMIT = 1.3
METHODS = {
    "r_drop": {},
    "r_drop of targets": {"scope": "target"},
    "vat": {},
}
PROGRAM = """
import json, sys
import fakecuda
import torch
from s2s.batch import collate, count
from s2s.mitigations import MITIGATIONS
from s2s.mitigations.base import PreparedMethod
from s2s.model import Architecture, PrefixTransformer
from s2s.objective import Objective, ObjectiveSettings

ROWS, COLUMNS = 16, 95
generator = torch.Generator().manual_seed(0)

def peak(size, half, name, keys):
    torch.manual_seed(0)
    sizes = dict(layers=1, width=16, heads=2, feed_forward=16, positions=128, dropout=0.1)
    model = PrefixTransformer(Architecture(vocabulary=size, **sizes))
    methods = [PreparedMethod(name, MITIGATIONS[name](**keys), None)] if name else []
    objective = Objective(model, ObjectiveSettings(), methods).cuda()
    rows = [torch.randint(4, size, (20 + COLUMNS,), generator=generator).tolist() for _ in range(ROWS)]
    batch = collate([([2, *row[:20], 3], row[20:]) for row in rows], 0, 3).to(torch.device("cuda"))
    before = fakecuda.C.numbers()["live"]
    fakecuda.C.reset_peak()
    with torch.autocast("cuda", torch.bfloat16, enabled=half):
        losses = objective(batch, 1, count(batch))
    losses.total.backward()
    return fakecuda.C.numbers()["peak"] - before

def growth(*arguments):
    return peak(6000, *arguments) - peak(3000, *arguments)

found = {}
for half in (False, True):
    base = growth(half, "", {})
    for title, keys in json.loads(sys.argv[1]).items():
        found[f"{title} {'bf16' if half else 'fp32'}"] = growth(half, title.split()[0], keys) / base
print(json.dumps(found))
"""


def test_divergences_need_little_more_memory_over_the_vocabulary_than_teacher_forcing() -> None:
    done = run(["-c", PROGRAM, json.dumps(METHODS)], on_devices(1))
    assert done.returncode == 0, done.stderr
    ratios = json.loads(done.stdout.splitlines()[-1])
    assert len(ratios) == 2 * len(METHODS)
    assert all(ratio <= LIMIT for ratio in ratios.values()), ratios
