"""Learning-rate curves against their formulas; AdamW against torch's plain loop; what decays."""

import math
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from s2s.errors import UserError
from s2s.model import Architecture, PrefixTransformer
from s2s.optim import OPTIMIZERS, SCHEDULES, Adafactor, AdamW
from s2s.optim.schedules import Constant, Cosine, InverseSquareRoot, Linear, RelativeStep
from s2s.optim.settings import parameter_groups

KINDS = [Constant, Linear, Cosine, InverseSquareRoot, RelativeStep]
shares = st.floats(0, 1)


def formula(kind: type[Constant], step: int, warmup: int, steps: int, floor: float) -> float:
    progress = (step - warmup) / (steps - warmup)
    return {
        Constant: 1.0,
        Linear: floor * progress + 1 - progress,
        Cosine: floor + (1 - floor) * math.cos(math.pi / 2 * progress) ** 2,
        InverseSquareRoot: (max(1, warmup) / (step + 1)) ** 0.5,
        RelativeStep: min(0.01, 1 / (step + 1) ** 0.5) / 0.01,
    }[kind]


def make(kind: type[Constant], warmup: int, floor: float) -> Constant:
    return kind(warmup, floor) if kind in (Linear, Cosine) else kind(warmup)


def small_module() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Embedding(7, 6), nn.Linear(6, 8), nn.GELU(), nn.LayerNorm(8), nn.Linear(8, 3))


def test_every_schedule_has_its_formula() -> None:
    assert set(SCHEDULES.values()) == set(KINDS)


@pytest.mark.parametrize("kind", KINDS)
@settings(deadline=None, max_examples=60)
@given(warmup=st.integers(0, 50), after=st.integers(1, 200), share=shares, floor=shares)
def test_curves_follow_their_formulas(
    kind: type[Constant], warmup: int, after: int, share: float, floor: float
) -> None:
    schedule, steps = make(kind, warmup, floor), warmup + after
    step = warmup + round(share * after)
    assert schedule.factor(step, steps) == pytest.approx(formula(kind, step, warmup, steps, floor), abs=1e-12)
    if warmup:
        early = round(share * (warmup - 1))
        assert schedule.factor(early, steps) == pytest.approx((early + 1) / warmup)


@pytest.mark.parametrize("kind", KINDS)
@settings(deadline=None, max_examples=60)
@given(warmup=st.integers(0, 30), steps=st.integers(1, 40), floor=shares)
def test_curves_rise_then_fall_between_0_and_1(kind: type[Constant], warmup: int, steps: int, floor: float) -> None:
    schedule = make(kind, warmup, floor)
    factors = [schedule.factor(step, steps) for step in range(steps + 3)]
    assert all(0 <= factor <= 1 for factor in factors)
    assert factors[0] > 0
    assert factors[:warmup] == sorted(factors[:warmup])
    assert factors[warmup:] == sorted(factors[warmup:], reverse=True)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("warmup", [0, 1, 2, 50])
def test_the_warm_up_ends_without_a_jump(kind: type[Constant], warmup: int) -> None:
    schedule = make(kind, warmup, 0.1)
    assert schedule.factor(max(0, warmup - 1), 1000) == 1
    assert 1 - 1 / (warmup + 1) <= schedule.factor(warmup, 1000) <= 1


@pytest.mark.parametrize("floor", [0.0, 0.25, 1.0])
@pytest.mark.parametrize("kind", [Linear, Cosine])
def test_the_end_is_the_floor(kind: type[Linear] | type[Cosine], floor: float) -> None:
    for steps in (11, 500):
        assert [kind(10, floor).factor(steps + late, steps) for late in (0, 1, 99)] == pytest.approx([floor] * 3)
    assert kind(0, floor).factor(0, 10) == 1


@pytest.mark.parametrize("build", [lambda: Linear(-1), lambda: Linear(0, 2.0), lambda: Cosine(0, -0.1)])
def test_curves_outside_0_and_1_are_refused(build: Callable[[], Constant]) -> None:
    with pytest.raises(UserError, match=r"^schedule\.(warmup|floor): "):
        build()


@pytest.mark.parametrize(
    "values", [{"rate": -1.0}, {"decay": -1.0}, {"beta1": 1.0}, {"beta2": -0.1}, {"epsilon": -1.0}]
)
def test_settings_without_meaning_are_refused(values: dict[str, float]) -> None:
    with pytest.raises(UserError, match="^optimizer.*" + next(iter(values))):
        AdamW(**values)


def test_biases_and_norms_do_not_decay() -> None:
    model = PrefixTransformer(Architecture(vocabulary=11, layers=2, width=8, heads=2, norm="post", transform=True))
    model.blocks[0].attention.output.weight.requires_grad_(False)
    decayed, spared = parameter_groups(model, 0.3)
    assert (decayed["weight_decay"], spared["weight_decay"]) == (0.3, 0)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    spared_names = {names[id(parameter)] for parameter in spared["params"]}
    decayed_names = {names[id(parameter)] for parameter in decayed["params"]}
    vectors = {name for name in names.values() if "norm" in name or "bias" in name or name.startswith("transform.2")}
    assert spared_names == vectors
    assert decayed_names == set(names.values()) - vectors - {"blocks.0.attention.output.weight"}
    assert len(decayed["params"]) + len(spared["params"]) == len(names) - 1


def test_five_steps_equal_the_plain_loop() -> None:
    settings = AdamW(rate=3e-2, beta1=0.8, beta2=0.95, epsilon=1e-6, decay=0.1)
    ours, theirs = small_module(), small_module()
    optimizer = settings.build(ours)
    vectors = [parameter for parameter in theirs.parameters() if parameter.ndim == 1]
    matrices = [parameter for parameter in theirs.parameters() if parameter.ndim == 2]
    groups = [{"params": matrices}, {"params": vectors, "weight_decay": 0.0}]
    reference = torch.optim.AdamW(groups, 3e-2, (0.8, 0.95), 1e-6, 0.1, foreach=False, fused=False)
    for step in range(5):
        ids = torch.arange(4) + step % 3
        for module, stepper in ((ours, optimizer), (theirs, reference)):
            stepper.zero_grad()
            module(ids).square().sum().backward()
            stepper.step()
    start = small_module()
    for mine, other, before in zip(ours.parameters(), theirs.parameters(), start.parameters(), strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-6, atol=1e-6)
        assert not torch.allclose(mine, before, atol=1e-3)


def test_the_table_builds_what_it_names() -> None:
    assert {name: type(kind().build(small_module())) for name, kind in OPTIMIZERS.items()} == {
        "adamw": torch.optim.AdamW,
        "adafactor": Adafactor,
    }


@pytest.mark.parametrize("step", [1, 2, 99, 9_999, 10_000, 10_001, 250_000, 10**7])
def test_adafactor_s_relative_step_is_a_schedule(step: int) -> None:
    """The paper's algorithm 5, step t = 1, 2 ...: min(1e-2, 1 / sqrt(t)), without a warm-up and with one."""
    steps = 10**8
    assert 0.01 * SCHEDULES["relative_step"]().factor(step - 1, steps) == pytest.approx(min(1e-2, step**-0.5))
    warm = SCHEDULES["inverse_square_root"](warmup=10_000)
    assert 0.01 * warm.factor(step - 1, steps) == pytest.approx(min(1e-6 * step, step**-0.5))


def test_a_relative_step_is_flat_for_a_step_at_least() -> None:
    with pytest.raises(UserError, match=r"^schedule\.flat: 0 is not at least 1"):
        RelativeStep(flat=0)
