"""Losses and gradients of models of ``transformers`` are those of their own whole forwards, one example at a time.

Under teacher forcing they are those of the library's own loss; under each mitigation those of a slow backbone
(``foreign_models.WholeForwards``) that the same method runs on, with the same draws.
"""

from pathlib import Path

import pytest
import torch
from foreign_models import FAMILIES, LORA, WholeForwards, gradients, objective, prepared
from mitigations_worker import EXTRA, few
from torch import Tensor

from s2s.batch import IGNORED, Batch
from s2s.mitigations import MITIGATIONS
from s2s.model.backbones.encoder_decoder import EncoderDecoder
from s2s.objective import Objective
from s2s.vocabulary import Vocabulary

pytestmark = pytest.mark.slow
Materials = tuple[Path, Vocabulary, Batch]
SLOW = pytest.mark.parametrize("family", FAMILIES)


def some(batch: Batch) -> Batch:
    """Three examples of unequal lengths, so that both sides are padded."""
    lengths = batch.source_lengths.tolist()
    chosen = sorted(range(len(lengths)), key=lambda row: lengths[row])
    index = torch.tensor([chosen[0], chosen[-1], chosen[len(chosen) // 2]])
    part = batch.map(lambda tensor: tensor[index])
    assert len(set(part.source_lengths.tolist())) > 1
    return part


def result(module: Objective, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
    loss = module(batch, 1).total
    return loss.detach(), gradients(module, loss)


def assert_same(ours: tuple[Tensor, dict[str, Tensor]], theirs: tuple[Tensor, dict[str, Tensor]]) -> None:
    assert torch.isfinite(theirs[0])
    torch.testing.assert_close(ours[0], theirs[0], rtol=1e-9, atol=0)
    largest = max(float(grad.norm()) for grad in theirs[1].values())
    assert largest > 0
    for name, grad in theirs[1].items():
        # Relative to its own size, but for parameters that the loss hardly depends on.
        allowed = 1e-9 * max(float(grad.norm()), 1e-4 * largest)
        assert float((ours[1][name] - grad).norm()) <= allowed, name


@pytest.fixture(scope="module", params=["t5", "llama"])
def adapted(request: pytest.FixtureRequest, materials: Materials) -> Objective:
    """A model of each kind of whose weights only the products of LoRA train."""
    pytest.importorskip("peft", reason="peft is not installed")
    return objective(request.param, materials[1], "", LORA)


@pytest.mark.parametrize("name", [*MITIGATIONS, *EXTRA])
def test_each_mitigation_trains_products_as_whole_forwards_do(
    adapted: Objective, name: str, materials: Materials
) -> None:
    if name == "fgm_article":
        return  # it moves the table, which is frozen: test_lora has its error
    folder, vocabulary, batch = materials
    adapted.mitigations = prepared(vocabulary, few(name, folder), "data.max_target=6")
    fast, batch = adapted.model, some(batch)
    ours = result(adapted, batch)
    assert ours[1]
    assert all(".lora_" in parameter for parameter in ours[1])
    adapted.model = WholeForwards(fast)
    try:
        assert_same(ours, result(adapted, batch))
    finally:
        adapted.model = fast


@SLOW
@pytest.mark.parametrize("smoothing", [0.0, 0.25])
def test_teacher_forcing_is_the_librarys_own_loss(family: str, smoothing: float, materials: Materials) -> None:
    _, vocabulary, batch = materials
    module, batch = objective(family, vocabulary, "", f"objective.label_smoothing={smoothing}"), some(batch)
    found, inner = result(module, batch), module.model.inner
    losses = []
    for row, length in enumerate(batch.source_lengths.tolist()):
        labelled = batch.labels[row] != IGNORED
        source, target, labels = batch.source[row, :length], batch.target[row, labelled], batch.labels[row, labelled]
        if isinstance(module.model, EncoderDecoder):
            scores = inner(input_ids=source[None], decoder_input_ids=target[None]).logits[0]
        else:
            scores = inner(input_ids=torch.cat([source, target])[None]).logits[0, length:]
        losses.append(torch.nn.functional.cross_entropy(scores, labels, reduction="sum", label_smoothing=smoothing))
    loss = torch.stack(losses).sum() / (batch.labels != IGNORED).sum()
    assert_same(found, (loss.detach(), gradients(module, loss)))


@pytest.mark.parametrize("name", [*MITIGATIONS, *EXTRA])
@SLOW
def test_each_mitigation_is_that_of_whole_forwards(family: str, name: str, materials: Materials) -> None:
    folder, vocabulary, batch = materials
    module, batch = objective(family, vocabulary, few(name, folder), "data.max_target=6"), some(batch)
    ours = result(module, batch)
    fast = module.model
    module.model = WholeForwards(fast)
    loss, grads = result(module, batch)
    # The same parameters, under the names of the slow module, which are the same.
    assert_same(ours, (loss, grads))
    if name == "r_drop_target":
        module.model = fast
        fast.keep("block", 1)
        assert_same(result(module, batch), (loss, grads))
