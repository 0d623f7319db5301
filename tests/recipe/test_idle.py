"""What is asked and does nothing is told in a line at the start, or refused."""

import pytest
import torch
from test_ranges import Table

from s2s.errors import UserError
from s2s.recipe.idle import idle_run, idle_search, most_hypotheses
from s2s.recipe.recipe import Recipe
from s2s.search import sample_search
from s2s.search.methods import SEARCHES


@pytest.mark.parametrize(
    ("overrides", "told"),
    [
        (["schedule.warmup=50"], "schedule.warmup: 50 steps of 10: the rate reaches 20% of optimizer.rate"),
        (["run.patience=9"], "run.patience: 9, but the run has 5 evaluations: it cannot end early"),
        (["run.average=9"], "run.average: 9, but 10 steps save 5 checkpoints at run.save_every"),
        (["data.task.noise=0.1"], "data.task: it does nothing without data.source: synthetic"),
        (["run.checkpointing_every=2"], "run.checkpointing_every: it does nothing"),
        (["search.beams=1", "search.length_penalty=1"], "search.length_penalty: 1.0 does nothing to what is found"),
        (["search={name: diverse, groups: 1}"], "search.strength: 0.5 does nothing with one group"),
        (["search.min_length=4000"], "search.min_length: 4000 does nothing beyond the"),
        (
            ["mitigations=[{name: random_replacement, start_step: 10}]"],
            "mitigations[0].start_step: 10, but the run",
        ),
        (["mitigations=[{name: fgm, ramp_steps: 11}]"], "mitigations[0].ramp_steps: the ramp ends after step 11"),
    ],
)
def test_what_does_nothing_is_told(overrides: list[str], told: str) -> None:
    plain = ["run.steps=10", "run.evaluate_every=2", "run.save_every=2", "schedule.warmup=2", "search.beams=2"]
    assert idle_run(Recipe.load("toy_copy", plain)) == []
    (line,) = idle_run(Recipe.load("toy_copy", [*plain, *overrides]))
    assert line.startswith(told)


def test_no_search_asks_for_what_it_does_not_do() -> None:
    assert all(idle_search(kind(), 48) == [] for kind in SEARCHES.values())
    counts = {name: most_hypotheses(kind()) for name, kind in SEARCHES.items()}
    assert counts == {"beam": 1, "diverse": 4, "shrinking": 1, "sample": 1, "mbr": 1, "mbr_beam": 1}


def test_no_longest_hypothesis_of_no_token() -> None:
    with pytest.raises(UserError, match=r"search\.max_length: 0 is not at least 1"):
        Recipe.load("toy_copy", ["search.max_length=0"])


class Stuck(Table):  # type: ignore[misc]
    """The second source has no possible token after its first one."""

    sources = 2

    def start(self) -> tuple[int, torch.Tensor]:
        return 0, torch.tensor([0, 1])

    def step(self, tokens: torch.Tensor, state: tuple[int, torch.Tensor]) -> tuple[torch.Tensor, object]:
        log_probs = super().step(tokens, 0)[0].clone()
        if state[0]:
            log_probs[state[1] == 1] = -torch.inf
        return log_probs, (state[0] + 1, state[1])

    def reorder(self, state: tuple[int, torch.Tensor], index: torch.Tensor) -> tuple[int, torch.Tensor]:
        return state[0], state[1][index]


def test_a_source_without_a_possible_token_ends_no_other() -> None:
    found = sample_search(Stuck(), 3, 4, [0, 1])
    alone = sample_search(Table(), 3, 4, [0])
    assert found[0] == alone[0]
    assert all(sample.tokens == [] for sample in found[1])
