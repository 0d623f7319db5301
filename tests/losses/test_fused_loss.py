"""Liger's fused loss against torch's cross-entropy: on a GPU, or by Triton's interpreter in a process of its own.

Triton takes its interpreter for a whole process, by what the environment says when it is first imported.
"""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from test_vocabulary_loss import keeps_nothing_without_gradients, refuses_a_second_derivative
from torch import Tensor
from torch.nn import functional

import s2s
from s2s import train
from s2s.errors import UserError
from s2s.losses import fused_loss as module
from s2s.losses.fused_loss import fused_loss
from s2s.losses.vocabulary_loss import vocabulary_loss
from s2s.model import output_rows
from s2s.recipe.recipe import Recipe

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
MISSING = find_spec("liger_kernel") is None
NOT_THERE = "liger-kernel is not installed (pip install -e '.[fused]')"
ELSEWHERE = "runs in Triton's interpreter, in a process of its own"
WIDTH, VOCABULARY = 5, 70
KEYS = [
    *("data.size=300", "model.width=8", "model.layers=1", "model.heads=2", "run.precision=fp32", "run.tokens=128"),
    *("run.steps=3", "run.evaluate_every=100", "run.evaluate_examples=2", "objective.label_smoothing=0.1"),
]
few = settings(deadline=None, max_examples=20)
on_kernel = pytest.mark.skipif(
    MISSING or not (INTERPRETED or DEVICE == "cuda"), reason=NOT_THERE if MISSING else ELSEWHERE
)
on_processor = pytest.mark.skipif(INTERPRETED or DEVICE != "cpu", reason="the kernel runs in this process")


@pytest.fixture(
    scope="module", autouse=True, params=["plain", "filled"] if INTERPRETED or DEVICE == "cuda" else ["plain"]
)
def interpreted(request: pytest.FixtureRequest) -> Iterator[None]:
    """The interpreter reads a processor's tensors, with tables as they are, and filled as a GPU's are."""
    with pytest.MonkeyPatch.context() as patch:
        if INTERPRETED:
            patch.setattr(module, "DEVICE", "cpu")
        patch.setattr(output_rows, "DEVICE", DEVICE if request.param == "filled" else "none")
        patch.setattr(output_rows, "MANY", 1)
        yield


def inputs(rows: int, seed: int) -> tuple[list[Tensor], Tensor]:
    generator = torch.Generator().manual_seed(seed)
    shapes = [(rows, WIDTH), (VOCABULARY, WIDTH), (VOCABULARY,)]
    parts = [torch.randn(shape, generator=generator).to(DEVICE).requires_grad_() for shape in shapes]
    return parts, torch.randint(VOCABULARY, (rows,), generator=generator).to(DEVICE)


def expected(parts: list[Tensor], labels: Tensor, smoothing: float, factor: float) -> tuple[list[Tensor], list[Tensor]]:
    """Loss and negative log-likelihood, and the gradients of ``factor`` times the loss, in float64."""
    exact = [part.detach().double().requires_grad_() for part in parts]
    scores = functional.linear(*exact)
    losses = [functional.cross_entropy(scores, labels, reduction="sum", label_smoothing=s) for s in (smoothing, 0.0)]
    return [loss.detach() for loss in losses], list(torch.autograd.grad(factor * losses[0], exact))


@pytest.mark.slow
@pytest.mark.skipif(MISSING, reason=NOT_THERE)
@on_processor
def test_the_interpreter_runs_what_needs_the_kernel() -> None:
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-k", "kernel_", __file__]
    environment = os.environ | {"TRITON_INTERPRET": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, encoding="utf-8")
    assert done.returncode == 0, done.stdout
    assert "skipped" not in done.stdout


@on_kernel
@given(
    rows=st.sampled_from([1, 7, 13]),
    seed=st.integers(0, 99),
    smoothing=st.sampled_from([0.0, 0.1, 0.9]),
    factor=st.floats(-2, 2),
    together=st.sampled_from([4, 1024]),
)
@few
def test_kernel_gives_the_cross_entropy(rows: int, seed: int, smoothing: float, factor: float, together: int) -> None:
    """Also at a second backward, which Liger's own one would give a wrong gradient."""
    parts, labels = inputs(rows, seed)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "ROWS", together)
        found = fused_loss(*parts, labels, smoothing)
    losses, gradients = expected(parts, labels, smoothing, factor)
    for ours, theirs in zip(found, losses, strict=True):
        torch.testing.assert_close(ours.double(), theirs, rtol=1e-5, atol=1e-5)
    for _ in range(2):
        again = torch.autograd.grad(factor * found[0], parts, retain_graph=True)
        for ours, theirs in zip(again, gradients, strict=True):
            torch.testing.assert_close(ours.double(), theirs, rtol=1e-4, atol=1e-5)


@on_kernel
@pytest.mark.parametrize(("dtype", "rounding"), [(torch.bfloat16, 0.02), (torch.float16, 0.003)])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_kernel_under_autocast_differs_by_rounding(dtype: torch.dtype, rounding: float, smoothing: float) -> None:
    parts, labels = inputs(40, 0)
    with torch.autocast(DEVICE, dtype):
        found = fused_loss(*parts, labels, smoothing)
    losses, gradients = expected(parts, labels, smoothing, 1.0)
    for ours, theirs in zip(found, losses, strict=True):
        torch.testing.assert_close(ours.double(), theirs, rtol=rounding / 2, atol=0)
    for ours, theirs in zip(torch.autograd.grad(found[0], parts), gradients, strict=True):
        assert (ours - theirs).norm() < rounding * theirs.norm()
        assert ours.dtype == torch.float32


@on_kernel
def test_kernel_is_not_asked_for_no_rows() -> None:
    parts, labels = inputs(0, 0)
    loss, nll = fused_loss(*parts, labels, 0.1)
    assert loss == nll == 0
    assert not any(part.any() for part in torch.autograd.grad(loss, parts))


@on_kernel
def test_kernel_gives_the_weight_s_gradient_where_the_rows_want_none() -> None:
    (hidden, weight, bias), labels = inputs(7, 0)
    (found,) = torch.autograd.grad(fused_loss(hidden.detach(), weight, bias, labels, 0.1)[0], weight)
    _, (_, theirs, _) = expected([hidden, weight, bias], labels, 0.1, 1.0)
    torch.testing.assert_close(found.double(), theirs, rtol=1e-4, atol=1e-5)


@on_kernel
def test_kernel_keeps_nothing_without_gradients() -> None:
    keeps_nothing_without_gradients(fused_loss, *inputs(3, 0))


@on_kernel
def test_kernel_refuses_a_second_derivative() -> None:
    refuses_a_second_derivative(fused_loss, *inputs(3, 0))


@on_kernel
@pytest.mark.parametrize("row", ["", "{name: random_replacement, weight: 0.5}"])
def test_kernel_trains_as_the_plain_loss(row: str, tmp_path: Path) -> None:
    logs = []
    for fused in ("false", "true"):
        folder = tmp_path / fused
        keys = [*KEYS, f"mitigations=[{row}]", f"run.fused_loss={fused}", f"run.folder={folder}"]
        assert s2s.fit(Recipe.load("toy_copy", keys)).objective.loss is vocabulary_loss
        logs.append([json.loads(line) for line in (folder / "log.jsonl").read_text(encoding="utf-8").splitlines()])
        assert ("liger-kernel" in json.loads((folder / "run.json").read_text(encoding="utf-8"))["versions"]) == (
            fused == "true"
        )
    plain, found = ([*(step[name] for step in log[:3] for name in ("loss", "nll", "norm"))] for log in logs)
    assert found == pytest.approx(plain, rel=1e-4)
    assert logs[1][3]["dev"]["loss"] == pytest.approx(logs[0][3]["dev"]["loss"], rel=1e-4)


@on_processor
def test_a_processor_is_refused_before_anything_is_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "run"
    keys = ["recipe=toy_copy", *KEYS, "run.fused_loss=true", f"run.folder={folder}"]
    for arguments in (keys, [*keys, "--dry-run"]):
        assert train.main(arguments) == 2
        assert "run.fused_loss: the kernel needs a CUDA GPU, and this is a cpu" in capsys.readouterr().err
    assert not folder.exists()


def test_methods_that_shape_the_loss_are_refused() -> None:
    feeds = "{name: word_dropout}, {name: random_replacement, weight: 0.5}"
    for row, refused in ((feeds, ""), ("{name: fgm}", "fgm"), (feeds + ", {name: r_drop}", "r_drop")):
        keys = ["run.fused_loss=true", f"mitigations=[{row}]"]
        if refused:
            with pytest.raises(UserError, match=f"run.fused_loss: .* '{refused}'"):
                Recipe.load("toy_copy", keys)
        else:
            assert Recipe.load("toy_copy", keys).run.fused_loss


def test_a_recipe_without_targets_is_refused() -> None:
    assert not Recipe.load("tagging_pos").generates
    with pytest.raises(UserError, match=r"run\.fused_loss: without data\.target_field"):
        Recipe.load("tagging_pos", ["run.fused_loss=true"])


def test_a_missing_library_is_refused_with_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "find_spec", lambda _: None)
    told = r"^run\.fused_loss: liger-kernel is not installed \(pip install -e '\.\[fused\]'\)$"
    with pytest.raises(UserError, match=told):
        module.require(torch.device(module.DEVICE))
