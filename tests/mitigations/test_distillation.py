"""Distillation against loops over tokens and the vocabulary, with samples drawn one by one, and in tiny runs."""

import math
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from naive import (
    FIXED,
    SEEDS,
    SHAPES,
    SIZES,
    Example,
    assert_other_than_teacher_forcing,
    assert_same,
    assert_teacher_forcing,
    cross_entropy,
    examples,
    few,
    gradient,
    mean_over,
    predict,
    rows_of,
    tokens_of,
)
from sequences import (
    END,
    MAX_LENGTH,
    Letters,
    assert_idle_rows_add_nothing,
    context_of,
    objective_of,
    sampled,
    training_context,
    with_idle,
)
from torch import Tensor

import s2s
from s2s.batch import IGNORED, Batch, count
from s2s.config.outside_names import foreign
from s2s.errors import UserError
from s2s.mitigations import MITIGATIONS, Composition, FrozenRun, PreparedMethod, TrainingContext, check
from s2s.mitigations.distillation import DIVERGENCES
from s2s.model import PrefixTransformer
from s2s.objective import Objective, ObjectiveSettings
from s2s.randomness import Draws
from s2s.recipe.build import build_mitigations
from s2s.recipe.recipe import Recipe
from s2s.runs.checkpoints import load_model, stored

Models = Callable[..., PrefixTransformer]
Batches = Callable[..., Batch]
NAME = "distillation"
WEIGHTS = st.sampled_from([0.3, 1.0])
shapes = pytest.mark.parametrize("shape", SHAPES)
divergences = pytest.mark.parametrize("divergence", sorted(DIVERGENCES))


def reading(teachers: Sequence[PrefixTransformer], **sizes: int) -> TrainingContext:
    """The context of a run that finds its teachers in the folders 0, 1 ..."""
    pieces = Letters(teachers[0].shape.vocabulary)
    given_context = training_context(size=pieces.size)._replace(**sizes)  # type: ignore[arg-type]
    return given_context._replace(load_model=lambda folder: FrozenRun(teachers[int(folder)], pieces))


def objective(
    model: PrefixTransformer, teachers: Sequence[PrefixTransformer], smoothing: float = 0.0, **keys: object
) -> Objective:
    folders = [str(number) for number in range(len(teachers))]
    return objective_of(model, NAME, reading(teachers), smoothing, teacher=folders, **keys)


def heated(log_probs: Tensor, heat: float) -> list[Tensor]:
    """The distribution p^(1/heat) / sum p^(1/heat) of a row of log-probabilities, word after word."""
    powers = [(value / heat).exp() for value in log_probs]
    total = sum(powers)
    return [power / total for power in powers]


def term(p: Tensor | float, q: Tensor | float) -> Tensor:
    return p * (p / q).log()  # type: ignore[union-attr, return-value]


FORMULAS = {
    "forward_kl": lambda p, q, beta: sum(term(a, b) for a, b in zip(p, q, strict=True)),  # noqa: ARG005
    "reverse_kl": lambda p, q, beta: sum(term(b, a) for a, b in zip(p, q, strict=True)),  # noqa: ARG005
    "jsd": lambda p, q, beta: sum(
        beta * term(a, beta * a + (1 - beta) * b) + (1 - beta) * term(b, beta * a + (1 - beta) * b)
        for a, b in zip(p, q, strict=True)
    ),
}


def distilled(
    model: PrefixTransformer, teachers: Sequence[PrefixTransformer], example: Example, name: str = "forward_kl",
    beta: float = 0.5, heat: float = 1.0,
) -> Tensor:  # fmt: skip
    """The sum of the divergences at an example's labels, token after token."""
    student, total = predict(model, example), torch.zeros((), dtype=torch.float64)
    with torch.no_grad():
        believed = [predict(teacher, example) for teacher in teachers]
    for column, label in enumerate(example.labels.tolist()):
        if label != IGNORED:
            each = [heated(rows[column], heat) for rows in believed]
            p = [sum(chances) / len(each) for chances in zip(*each, strict=True)]
            total = total + heat**2 * FORMULAS[name](p, heated(student[column], heat), beta)
    return total


def with_samples(model: PrefixTransformer, batch: Batch, share: float) -> list[tuple[Example, float]]:
    """The examples with the weight of each; those that the draw chooses have the sample of their own numbers."""
    samples, rows = sampled(model, batch, NAME, 1), []
    for example in examples(batch):
        seed = batch.seeds[example.row][None]
        if float(Draws(seed, NAME).uniform("on_policy", 1)) < share:
            candidate = samples[example.row][0]
            labels = [*candidate.ids, END] if candidate.ended else candidate.ids
            taught = example._replace(target=torch.tensor([END, *labels[:-1]]), labels=torch.tensor(labels))
            rows.append((taught, len(example.labels) / len(labels)))
        else:
            rows.append((example, 1.0))
    return rows


@shapes
@given(sizes=SIZES, seed=SEEDS, weight=WEIGHTS, heat=st.sampled_from([1.0, 2.0]))
@few
def test_without_samples_forward_kl_is_word_level_distillation(
    random_model: Models, random_batch: Batches, shape: dict[str, object], sizes: list[tuple[int, int]], seed: int,
    weight: float, heat: float,
) -> None:  # fmt: skip
    """It is the cross-entropy with the teacher's distribution less the entropy of that, which has no gradient."""
    model, teacher, batch = random_model(seed, **shape), random_model(seed + 1), random_batch(sizes, seed)

    def loss(example: Example) -> Tensor:
        clean = cross_entropy(predict(model, example), example.labels, 0.1)
        return (1 - weight) * clean + weight * distilled(model, [teacher], example, heat=heat)

    made = objective(model, [teacher], 0.1, on_policy=0.0, weight=weight, temperature=heat)
    losses = assert_same(made, batch, mean_over(batch, loss))
    nll = mean_over(batch, lambda example: cross_entropy(predict(model, example), example.labels)).detach()
    assert weight == 1 or torch.testing.assert_close(losses.parts["nll"], nll, rtol=1e-9, atol=0.0) is None


@divergences
@given(sizes=SIZES, seed=SEEDS, beta=st.sampled_from([0.1, 0.5, 0.9]), heat=st.sampled_from([0.5, 1.0, 4.0]),
       count_of_teachers=st.integers(1, 3))  # fmt: skip
@few
def test_each_divergence_is_its_definition_and_several_teachers_are_their_mean(
    random_model: Models, random_batch: Batches, divergence: str, sizes: list[tuple[int, int]], seed: int, beta: float,
    heat: float, count_of_teachers: int,
) -> None:  # fmt: skip
    model, batch = random_model(seed), random_batch(sizes, seed)
    teachers = [random_model(seed + 1 + number, layers=1 + number) for number in range(count_of_teachers)]
    made = objective(model, teachers, on_policy=0.0, divergence=divergence, beta=beta, temperature=heat)
    expected = mean_over(batch, lambda one: distilled(model, teachers, one, divergence, beta, heat))
    assert_same(made, batch, expected)


@shapes
@given(sizes=SIZES, seed=SEEDS, share=st.sampled_from([0.3, 0.7, 1.0]), weight=WEIGHTS)
@few
def test_samples_take_the_place_of_gold_targets_and_have_no_gradient(
    random_model: Models, random_batch: Batches, shape: dict[str, object], sizes: list[tuple[int, int]], seed: int,
    share: float, weight: float,
) -> None:  # fmt: skip
    """In the loop samples are constants, so that a gradient through sampling would be another one."""
    model, teacher, batch = random_model(seed, **shape), random_model(seed + 1), random_batch(sizes, seed)
    model.output_bias.data[END] += 2.0  # so that some end
    parts = [times * distilled(model, [teacher], one) for one, times in with_samples(model, batch, share)]
    clean = mean_over(batch, lambda example: cross_entropy(predict(model, example), example.labels))
    expected = (1 - weight) * clean + weight * torch.stack(parts).sum() / tokens_of(batch)
    assert_same(objective(model, [teacher], on_policy=share, weight=weight), batch, expected)


def test_the_share_of_samples_is_on_policy_and_none_are_drawn_at_0(
    random_model: Models, random_batch: Batches, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, batch = random_model(), random_batch([(3, 2)] * 400)
    method = MITIGATIONS[NAME](teacher="0", on_policy=0.3)
    context = context_of(batch, model, NAME, prepared=method.prepare(reading([model])))
    taught, rows = method._with_samples(batch, batch, context)  # type: ignore[attr-defined]
    assert abs(len(rows) / 400 - 0.3) < 4 * math.sqrt(0.3 * 0.7 / 400)
    others = torch.ones(400, dtype=torch.bool).index_fill(0, rows, False)
    assert torch.equal(taught.labels[others, :3], batch.labels[others])
    assert (taught.labels[others, 3:] == IGNORED).all()
    assert (taught.labels[rows, :3] != batch.labels[rows]).any(dim=1).float().mean() > 0.9
    monkeypatch.setattr(PrefixTransformer, "step", None)
    assert objective(model, [random_model(1)], on_policy=0.0)(batch).total > 0
    with pytest.raises(TypeError, match="not callable"):
        objective(model, [model], on_policy=1.0)(batch)


@divergences
@pytest.mark.parametrize("on_policy", [0.0, 0.5, 1.0])
def test_of_a_student_that_is_its_own_teacher_loss_and_gradient_are_0(
    random_model: Models, random_batch: Batches, divergence: str, on_policy: float
) -> None:
    model, batch = random_model(), random_batch([*FIXED, (6, 4), (2, 1)])
    made = objective(model, [model], divergence=divergence, on_policy=on_policy, temperature=1.7)
    total = made(batch).total
    assert abs(float(total.detach())) < 1e-13
    other = objective(model, [random_model(1)], divergence=divergence, on_policy=on_policy)
    assert gradient(model, total).norm() < 1e-11 * gradient(model, other(batch).total).norm()


@pytest.mark.parametrize("on_policy", [0.0, 0.5, 1.0])
def test_micro_batches_add_up(random_model: Models, random_batch: Batches, on_policy: float) -> None:
    model, batch = random_model(), random_batch([(5, 4), (3, 5), (6, 2), (4, 3), (7, 1)])
    made = objective(model, [random_model(1)], on_policy=on_policy, weight=0.6)
    whole = made(batch).total
    parts = [rows_of(batch, rows) for rows in ([3, 0], [4], [2, 1])]
    total = torch.stack([made(part, counts=count(batch)).total for part in parts]).sum()
    torch.testing.assert_close(total, whole, rtol=1e-12, atol=0.0)
    torch.testing.assert_close(gradient(model, total), gradient(model, whole), rtol=1e-9, atol=1e-12)


def test_at_weight_0_it_is_teacher_forcing(random_model: Models, random_batch: Batches) -> None:
    batch, teacher = random_batch(FIXED), random_model(1, dtype=torch.float32)
    for keys in ({"weight": 0.0}, {"start_step": 1}):
        made = objective(random_model(dtype=torch.float32), [teacher], 0.1, **keys)
        assert_teacher_forcing(made, batch, exact=True)


@divergences
@pytest.mark.parametrize("on_policy", [0.0, 1.0])
def test_the_gradient_is_far_from_teacher_forcing_s(
    random_model: Models, random_batch: Batches, divergence: str, on_policy: float
) -> None:
    made = objective(random_model(), [random_model(1)], divergence=divergence, on_policy=on_policy)
    assert_other_than_teacher_forcing(made, random_batch(FIXED), 1e-2)


@pytest.mark.parametrize("on_policy", [0.0, 0.5, 1.0])
def test_rows_without_labels_add_nothing(random_model: Models, random_batch: Batches, on_policy: float) -> None:
    batch = random_batch([*FIXED, (4, 1)])
    made = objective(random_model(), [random_model(1)], on_policy=on_policy, weight=0.4)
    assert_idle_rows_add_nothing(made, with_idle(batch, 0, 3), rows_of(batch, [1, 2]))


def test_teachers_are_frozen_have_no_dropout_and_are_no_part_of_the_objective(
    random_model: Models, random_batch: Batches
) -> None:
    model, batch = random_model(), random_batch(FIXED)
    teacher = random_model(1, dropout=0.5).requires_grad_(False)
    made = objective(model, [teacher]).train()
    assert made.state_dict().keys() == Objective(model, ObjectiveSettings()).state_dict().keys()
    first, second = made(batch).total, made(batch).total
    assert torch.equal(first, second)
    first.backward()
    assert all(parameter.grad is None for parameter in teacher.parameters())


def test_the_source_is_encoded_once_by_each_model(
    random_model: Models, random_batch: Batches, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, teacher, encoded = random_model(), random_model(1), list[PrefixTransformer]()
    encode = PrefixTransformer.encode

    def counted(self: PrefixTransformer, *arguments: Tensor) -> object:
        encoded.append(self)
        return encode(self, *arguments)

    monkeypatch.setattr(PrefixTransformer, "encode", counted)
    objective(model, [teacher], on_policy=0.5, weight=0.5)(random_batch([*FIXED, (6, 4), (2, 1)]))
    assert sorted(map(id, encoded)) == sorted([id(model), id(teacher)])


def test_student_and_teacher_read_the_prefixes_that_other_methods_edit(
    random_model: Models, random_batch: Batches
) -> None:
    model, teacher, batch = random_model(), random_model(1), random_batch([*FIXED, (6, 4)])
    [method] = objective(model, [teacher], on_policy=0.0).mitigations
    feed = MITIGATIONS["random_replacement"](pool="vocabulary", gate=1.0, rate=0.9)
    prepared = feed.prepare(training_context())
    fed = feed.feed(batch, context_of(batch, model, "random_replacement", prepared=prepared))  # type: ignore[attr-defined]
    assert not torch.equal(fed.target, batch.target)
    both = Objective(model, ObjectiveSettings(), [PreparedMethod("random_replacement", feed, prepared), method])
    assert_same(both, batch, mean_over(fed, lambda example: distilled(model, [teacher], example)))


def test_methods_whose_prefixes_nobody_would_read_are_refused() -> None:
    rows = [MITIGATIONS["shift_noise"](), MITIGATIONS[NAME](teacher="0", on_policy=1.0)]
    with pytest.raises(UserError, match=r"mitigations\[1\]: 'distillation': at weight 1 and on_policy 1 nothing reads"):
        check(Composition(rows, False, 0.0), ["shift_noise", NAME])
    for keys in ({"weight": 0.5, "on_policy": 1.0}, {"on_policy": 0.5}):
        check(Composition([rows[0], MITIGATIONS[NAME](teacher="0", **keys)], False, 0.0), ["shift_noise", NAME])


def test_a_folder_that_does_not_do_is_said(random_model: Models, tiny_folder: Path) -> None:
    teacher = random_model(vocabulary=30)
    with pytest.raises(UserError, match=r"^teacher: '/nowhere' is no run \(No such file"):
        objective_of(teacher, NAME, training_context(), teacher="/nowhere")
    with pytest.raises(UserError, match=r"^teacher: '0' has 30 pieces, this run 23$"):
        objective_of(teacher, NAME, reading([teacher])._replace(vocabulary=Letters()), teacher="0")
    size = s2s.load(tiny_folder).vocabulary.size
    letters = training_context(size=size)
    with pytest.raises(UserError, match=r"^teacher: '.*tiny.*' has other pieces than this run; train both with one"):
        objective_of(teacher, NAME, letters, teacher=[str(tiny_folder)])
    for sizes in ({"max_source": 37}, {"max_length": 21}):
        with pytest.raises(UserError, match=r"^teacher: '0' was built for shorter texts than data.max_source \d+ and"):
            objective_of(teacher, NAME, reading([teacher], **sizes), teacher="0")
    objective_of(teacher, NAME, reading([teacher], max_source=36), teacher="0")
    slotted = random_model(vocabulary=30, attention="random", source_slots=20, target_slots=MAX_LENGTH - 1)
    with pytest.raises(UserError, match=r"^teacher: '0' was built for shorter texts"):
        objective_of(slotted, NAME, reading([slotted]), teacher="0")


@pytest.mark.parametrize(
    ("keys", "message"),
    [({}, r"^teacher: the folder of a trained run is needed"), ({"teacher": []}, r"^teacher: the folder of a trained"),
     ({"teacher": "x", "divergence": "jds"}, r"^divergence: no 'jds'; did you mean 'jsd'"),
     ({"teacher": "x", "beta": 0}, r"^beta: 0 is not in \(0, 1\)"), ({"teacher": "x", "beta": 1}, r"^beta: 1 "),
     ({"teacher": "x", "on_policy": 1.1}, r"^on_policy: 1\.1 "), ({"teacher": ["x", " "]}, r"^teacher: an empty name"),
     ({"teacher": "x", "temperature": 0}, r"^temperature: 0 is not above 0")],
)  # fmt: skip
def test_a_wrong_key_is_refused_by_name(keys: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        MITIGATIONS[NAME](**keys)


def test_a_caller_names_teachers_and_a_folder_may_not(tiny_folder: Path) -> None:
    row = f"{{name: distillation, teacher: [{tiny_folder}, {tiny_folder}]}}"
    recipe = Recipe.load(tiny_folder / "recipe.yaml", [f"mitigations=[{row}]"])
    assert recipe.mitigations[0].teacher == [str(tiny_folder)] * 2
    assert len(recipe.build(load_model)[1].mitigations[0].prepared.models) == 2
    with pytest.raises(UserError, match=r"^mitigations\[0\]\.teacher: the run's folder names '.*tiny.*', and nothing"):
        build_mitigations(foreign(recipe), s2s.load(tiny_folder).vocabulary, load_model)


@pytest.mark.slow
def test_a_run_learns_from_another_and_an_interruption_changes_no_bit(tiny_folder: Path, tmp_path: Path) -> None:
    def fit(name: str, steps: int) -> dict[str, Tensor]:
        row = f"{{name: distillation, teacher: {tiny_folder}, divergence: jsd, weight: 0.8}}"
        keys = [f"mitigations=[{row}]", "schedule={name: constant}", "run.accumulate=2", "model.dropout=0.1"]
        settings = [*keys, f"run.steps={steps}", f"run.folder={tmp_path / name}"]
        run = s2s.fit(Recipe.load(tiny_folder / "recipe.yaml", settings))
        return stored(run.folder, "last").tensors

    undisturbed = fit("undisturbed", 6)
    fit("stopped", 3)
    resumed = fit("stopped", 6)
    assert all(torch.equal(resumed[name], tensor) for name, tensor in undisturbed.items())
