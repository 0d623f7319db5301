"""Beam searches on this machine's device, and how often each has waited for a GPU: python search_waits_worker.py FOLDER

FOLDER has cases.json, a list of [family, arguments of ``beam_search``]; a family is a row of ``FAMILIES`` or prefix_lm.
It gets searches.json: of each case the hypotheses, the number of waits before each step, and all copies and waits by
their places.
"""

import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from foreign_models import randomise, tiny
from torch import Tensor

from s2s.batch import pad
from s2s.inference.model_scorer import PrefixScorer
from s2s.model import Architecture, PrefixTransformer
from s2s.model.backbone import Backbone
from s2s.search import beam_search
from s2s.search.length_scores import STOPS
from s2s.search.scorer import WrappedScorer

VOCABULARY, BEGIN, END = 150, 2, 1
"""A vocabulary of more chunks than beams, so that the search looks for the best tokens chunk by chunk."""
SIZES: dict[str, Any] = {"layers": 2, "width": 12, "heads": 3, "feed_forward": 20, "positions": 400, "dropout": 0.0}
LENGTHS = [5, 17, 3, 9, 12]
STEEP = 3.0
"""The factor of log-probabilities, so that few are close: devices may round in other ways."""


class Noted(WrappedScorer[Any]):
    """The scorer with ends made likelier step by step; it notes the waits so far before each step."""

    def __init__(self, scorer: Any, waits: Any) -> None:
        super().__init__(scorer)
        self.waits, self.before = waits, list[int]()

    def step(self, tokens: Tensor, state: Any) -> tuple[Tensor, Any]:
        self.before.append(self.waits())
        log_probs, state = self.scorer.step(tokens, state)
        log_probs = STEEP * log_probs
        log_probs[:, END] += 0.2 * len(self.before) - 6
        return log_probs.log_softmax(dim=1), state


def made(family: str) -> Backbone:
    if family != "prefix_lm":
        longer = {} if family == "t5" else {"max_position_embeddings": 400}
        model: Backbone = tiny(family, VOCABULARY, **longer)
        return model
    model = PrefixTransformer(Architecture(VOCABULARY, **SIZES))
    randomise(model)
    return model.double().eval()


@contextmanager
def places() -> Iterator[dict[Any, int]]:
    """Give the copies and waits inside by their places, as they are counted."""
    if os.environ.get("FAKE_CUDA") != "1":
        yield {}
        return
    import fakecuda  # only processes that are started with the fake devices have it

    with fakecuda.counted(stacks=True, depth=4, only="s2s") as counted:  # type: ignore[attr-defined]
        yield counted.places


def search(family: str, arguments: dict[str, Any]) -> dict[str, Any]:
    model = made(family)
    if torch.cuda.is_available():
        model = model.cuda()
    generator = torch.Generator().manual_seed(0)
    sources = [torch.randint(3, VOCABULARY, (length,), generator=generator).tolist() for length in LENGTHS]
    lengths = torch.tensor(LENGTHS, device=model.device)
    scorer = PrefixScorer(model, pad(sources, 0).to(model.device), lengths, BEGIN, END)
    if "stop" in arguments:
        arguments = {**arguments, "stop": STOPS[arguments["stop"]]}
    with places() as found:
        noted = Noted(scorer, lambda: sum(times for (kind, *_), times in found.items() if kind == "sync"))
        hypotheses = beam_search(noted, **arguments)
    return {
        "hypotheses": hypotheses,
        "waits": noted.before,
        "places": {" ".join(place): times for place, times in found.items()},
    }


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    cases = json.loads((folder / "cases.json").read_text(encoding="utf-8"))
    results = [search(family, arguments) for family, arguments in cases]
    (folder / "searches.json").write_text(json.dumps(results), encoding="utf-8")
