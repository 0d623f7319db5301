"""Mitigated models in the loops of ``Seq2SeqTrainer`` and accelerate: the updates are those of ``s2s train``."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState, GradientState
from loops import batch, called_with, fresh, vocabulary
from tiny_runs import saved_by_two
from torch import Tensor
from trainer_worker import ROWS, recipe, trained, trainer
from transformers import AutoModelForSeq2SeqLM
from transformers.trainer_pt_utils import LabelSmoother

import s2s
from s2s.errors import UserError
from s2s.integrations import mitigate

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("loops")


@pytest.fixture(scope="module")
def ours(folder: Path) -> dict[str, dict[str, Tensor]]:
    """The weights of the runs of ``s2s train``."""
    runs: dict[str, Any] = {name: s2s.fit(recipe(folder, name)).model for name in ROWS}
    return {name: model.inner.state_dict() for name, model in runs.items()}


def distance(first: dict[str, Tensor], second: dict[str, Tensor]) -> float:
    """The greatest distance of a weight."""
    assert first.keys() == second.keys()
    return max(float((tensor - second[name]).abs().max()) for name, tensor in first.items())


@pytest.mark.parametrize("name", ROWS)
def test_a_trainer_s_updates_are_those_of_s2s_train(name: str, folder: Path, ours: dict[str, Any]) -> None:
    theirs = trained(folder, name, 1, ROWS[name])
    assert distance(ours[name], theirs) < 1e-6
    if name != "r_drop":  # without dropout it is teacher forcing
        assert distance(trained(folder, name, 1, [{"name": "random_replacement", "weight": 0}]), theirs) > 1e-4


@pytest.mark.processes
def test_so_are_those_of_two_processes(folder: Path, ours: dict[str, Any]) -> None:
    first, second = saved_by_two("trainer_worker.py", folder)
    for name, weights in ours.items():
        assert distance(first[name], second[name]) == 0
        assert distance(weights, first[name]) < 1e-6


def test_without_methods_a_trainer_s_weights_are_its_own_to_the_bit(folder: Path) -> None:
    assert distance(trained(folder, "noise", 1, []), trained(folder, "noise", 1, None)) == 0


def test_a_trainer_evaluates_generates_and_saves_the_model_that_it_knew(folder: Path, tmp_path: Path) -> None:
    loop, plain = (trainer(folder, "noise", 1, methods) for methods in (ROWS["noise"], None))
    loop.train()
    model: Any = loop.model
    plain.model.load_state_dict(model.state_dict())  # type: ignore[union-attr]
    assert loop.evaluate()["eval_loss"] == plain.evaluate()["eval_loss"]
    rows: Any = loop.eval_dataset
    tokens = [made.predict(rows, max_length=6).predictions for made in (loop, plain)]
    assert (tokens[0] == tokens[1]).all()
    loop.save_model(str(tmp_path))
    again = AutoModelForSeq2SeqLM.from_pretrained(tmp_path)
    assert distance(again.state_dict(), model.state_dict()) == 0
    smoothed = trainer(folder, "noise", 1, ROWS["noise"])
    smoothed.label_smoother = LabelSmoother(epsilon=0.1)  # type: ignore[assignment]
    with pytest.raises(UserError, match="a Trainer has taken them away"):
        smoothed.train()


@pytest.fixture
def fresh_accelerate() -> Iterator[None]:
    """The states of accelerate, which last for a process, as at its start: a Trainer leaves a micro-batch's."""

    def reset() -> None:
        AcceleratorState._reset_state(reset_partial_state=True)
        GradientState._reset_state()

    reset()
    yield
    reset()


@pytest.mark.parametrize("precision", ["no", "bf16"])
@pytest.mark.usefixtures("fresh_accelerate")
def test_a_loop_of_accelerate(precision: str) -> None:
    accelerator = Accelerator(cpu=True, mixed_precision=precision)
    model = mitigate(fresh("llama"), vocabulary().tokenizer, [{"name": "fgm"}, {"name": "word_dropout"}])
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
    model, optimizer = accelerator.prepare(model, optimizer)
    losses = []
    for _ in range(10):
        loss = model(**called_with(batch(), "llama")).loss
        accelerator.backward(loss)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
        assert not torch.is_autocast_enabled("cpu")  # the wrapped forward has left its context
    assert loss.dtype is torch.float32
    assert losses[-1] < losses[0] - 1
    twin = accelerator.unwrap_model(model, keep_fp32_wrapper=False)
    assert type(twin).__name__ == "LlamaForCausalLM"
