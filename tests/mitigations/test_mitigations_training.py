"""Every method trains: in bfloat16, with dropout, and over an interruption without a changed bit."""

from pathlib import Path

import pytest
import torch
from mitigations_worker import EXTRA, gradient, objective, rows
from torch import Tensor

import s2s
from s2s.batch import Batch
from s2s.mitigations import MITIGATIONS
from s2s.recipe.recipe import Recipe
from s2s.runs.checkpoints import stored
from s2s.vocabulary import Vocabulary

pytestmark = pytest.mark.slow

SMALL = ["model.width=16", "model.layers=1", "data.size=260", "run.tokens=256", "run.evaluate_examples=2"]
SAMPLED = ("mrt", "mrt_shuffled", "self_critical", "distillation")
"""Rounding may change what these draw."""
CHAINS = {
    "feeds_and_fgm": "{name: word_dropout, scope: all}, {name: scheduled_sampling, weight: 0.5}, {name: fgm}",
    "replacement_and_r_drop": "{name: random_replacement, pool: unigram, ramp_steps: 9}, {name: r_drop}",
    "risk": "{name: mrt, weight: 0.5, candidates: 3, metric: rouge_l_char}",
}


@pytest.mark.parametrize("name", [*MITIGATIONS, *EXTRA])
def test_bfloat16_is_float32_but_for_rounding(name: str, materials: tuple[Path, Vocabulary, Batch]) -> None:
    folder, vocabulary, batch = materials
    results = []
    for enabled in (False, True):
        module = objective(rows(folder)[name], vocabulary)
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            losses = module(batch, 1)
        losses.total.backward()
        results.append((losses.total.detach(), gradient(module)))
    (loss, exact), (rounded_loss, rounded) = results
    assert rounded.isfinite().all()
    assert rounded.any()
    if name not in SAMPLED:
        torch.testing.assert_close(rounded_loss, loss, rtol=0.02, atol=0.02)
        assert torch.cosine_similarity(exact, rounded, dim=0) > 0.97


@pytest.mark.parametrize("chain", CHAINS)
def test_an_interruption_changes_no_bit(chain: str, tmp_path: Path) -> None:
    def fit(name: str, steps: int) -> dict[str, Tensor]:
        overrides = [f"mitigations=[{CHAINS[chain]}]", "schedule={name: constant}", "run.accumulate=2"]
        run = s2s.fit(
            Recipe.load("toy_copy", [*SMALL, *overrides, f"run.steps={steps}", f"run.folder={tmp_path / name}"])
        )
        return stored(run.folder, "last").tensors

    undisturbed = fit("undisturbed", 12)
    fit("stopped", 7)
    resumed = fit("stopped", 12)
    assert all(torch.equal(resumed[name], tensor) for name, tensor in undisturbed.items())
