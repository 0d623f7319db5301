"""Mitigated forwards of models of ``transformers``: the losses of ``Objective``, and otherwise what the model was."""

import copy
import json
import pickle
from inspect import signature
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from foreign_models import FAMILIES
from loops import PAIRS, assert_same, batch, called_with, fresh, on_the_left, stacked, vocabulary
from mitigations_worker import rows
from transformers import AutoModelForSequenceClassification, DataCollatorForSeq2Seq

import s2s
from s2s.batch import IGNORED
from s2s.config.layers import read_text
from s2s.config.merge import Schema, merge, name_of
from s2s.errors import UserError
from s2s.integrations import mitigate
from s2s.integrations.mitigate import LossSettings
from s2s.mitigations import MITIGATIONS, PreparedMethod, TrainingContext
from s2s.model.backbones import BACKBONES
from s2s.model.backbones.configuration import ForeignArchitecture, kind_of, plain
from s2s.objective import Objective, ObjectiveSettings
from s2s.runs.checkpoints import load_model

FORCED = [{"name": "random_replacement", "weight": 0}]
"""Teacher forcing, through our passes."""
WHOLE = "mitigations.0.: '{}': it reads the whole train split, which a forward does not know; train it with s2s train"
REFUSED = {
    "fgm_article": "mitigations.0.: 'fgm_article': its gradient is that of a whole update",
    "brio": WHOLE.format("brio"),
    "dpo": WHOLE.format("dpo"),
}
"""The methods that a forward alone cannot hold, and why."""


def mitigated(model: Any, methods: list[dict[str, Any]], **settings: Any) -> Any:
    return mitigate(model, vocabulary().tokenizer, methods, **settings)


def objective(model: Any, row: str, smoothing: float = 0.0) -> Objective:
    """The objective of a recipe with this row, over the model's own parameters."""
    text = f"mitigations: [{row}]"
    made: Any = merge(Schema(LossSettings, listed={"mitigations": MITIGATIONS}), [read_text(text, "test")])
    context = TrainingContext(vocabulary(), lambda: [], 20, 6, load_model)  # type: ignore[arg-type,return-value]
    kind = str(kind_of(model.config))
    prepared = [
        PreparedMethod(name_of(MITIGATIONS, method), method, method.prepare(context)) for method in made.mitigations
    ]
    backbone: Any = BACKBONES[kind][0]
    shape = ForeignArchitecture(kind, vocabulary().size, plain(model.config))
    return Objective(backbone(shape, model), ObjectiveSettings(smoothing), prepared)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a run of the same vocabulary, and a file of candidates."""
    folder = tmp_path_factory.mktemp("methods")
    vocabulary().tokenizer.save_pretrained(folder / "tokenizer")
    keys = ["model.width=16", "model.layers=1", "data.size=220", "run.steps=1", "run.precision=fp32"]
    own = [f"vocabulary={{kind: pretrained, name: {folder / 'tokenizer'}, trim: false}}", "run.evaluate_every=100"]
    s2s.fit(s2s.Recipe.load("toy_copy", [*keys, *own, f"run.folder={folder / 'reference'}"]))
    hypotheses = [{"text": "dog", "score": -1.0, "tokens": vocabulary().encode("dog")}]
    line = {"source": "dog", "hypotheses": hypotheses, "settings": {"max_length": 5}}
    (folder / "candidates.jsonl").write_text(json.dumps(line), encoding="utf-8")
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("name", MITIGATIONS)
@pytest.mark.parametrize("family", ["t5", "gpt2"])
def test_each_mitigation_is_that_of_an_objective_or_is_refused(family: str, name: str, folder: Path) -> None:
    row, model = rows(folder)[name], fresh(family)
    methods = yaml.safe_load(f"[{row}]")
    if name in REFUSED:
        with pytest.raises(UserError, match=REFUSED[name]):
            mitigated(model, methods)
        assert "forward" not in vars(model)
        return
    twin = copy.deepcopy(model)
    mitigated(model, methods, max_source=20, max_target=6)
    # Many rows: of a few, it may be that no sampled text earns more than another, and all gradients are 0.
    many = vocabulary().batch(PAIRS * 8)
    given = called_with(many, family) | {"example_seeds": many.seeds}
    assert_same((model, model(**given).loss), (twin, objective(twin, row)(many, 1).total))


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_teacher_forcing_is_the_model_s_own_loss_and_padding_changes_nothing(family: str) -> None:
    model, given = fresh(family), called_with(batch(), family)
    twin = copy.deepcopy(model)
    mitigated(model, FORCED)
    assert_same((model, model(**given).loss), (twin, twin(**given).loss))
    assert_same((model, model(**on_the_left(given)).loss), (twin, twin(**given).loss))
    labels = int((given["labels"] != IGNORED).sum())
    half = model(**given, num_items_in_batch=torch.tensor(2 * labels)).loss
    torch.testing.assert_close(half * 2, model(**given).loss)
    smoothed = mitigated(fresh(family), [], label_smoothing=0.2)
    assert_same((smoothed, smoothed(**given).loss), (twin, objective(twin, "", 0.2)(batch()).total))


NOISE = [{"name": "random_replacement", "rate": 0.9, "gate": 1}]


@pytest.mark.parametrize("family", ["t5", "llama"])
def test_outside_of_training_the_model_is_what_it_was(family: str, tmp_path: Path) -> None:
    plain_model, given = fresh(family).eval(), called_with(batch(), family)
    model = mitigated(copy.deepcopy(plain_model), NOISE)
    assert type(model) is type(plain_model)
    assert list(model.state_dict()) == list(plain_model.state_dict())
    assert [name for name, _ in model.named_modules()] == [name for name, _ in plain_model.named_modules()]
    assert model.config.to_dict() == plain_model.config.to_dict()
    prompts = {name: tensor for name, tensor in on_the_left(given).items() if name != "labels"}
    for settings in ({"max_new_tokens": 5, "num_beams": 2}, {"max_new_tokens": 3}):
        assert torch.equal(model.generate(**prompts, **settings), plain_model.generate(**prompts, **settings))
    for mode in (True, False):
        ours, theirs = model.train(mode), plain_model.train(mode)
        without = {name: tensor for name, tensor in given.items() if name != "labels"}
        if model.config.is_encoder_decoder:
            without["decoder_input_ids"] = given["labels"].clamp(min=0)
        assert torch.equal(ours(**without).logits, theirs(**without).logits)
        with torch.no_grad():
            assert torch.equal(ours(**given).loss, theirs(**given).loss)
    seeded = model(**given, example_seeds=batch().seeds, num_items_in_batch=torch.tensor(3))
    assert torch.equal(seeded.loss, plain_model(**given, num_items_in_batch=torch.tensor(3)).loss)
    model.save_pretrained(tmp_path)
    again = type(model).from_pretrained(tmp_path)
    assert all(map(torch.equal, again.state_dict().values(), plain_model.state_dict().values()))
    names = [name for name in signature(model.forward).parameters if name not in signature(again.forward).parameters]
    assert names == ["example_seeds", "num_items_in_batch"]


def test_without_methods_nothing_is_replaced() -> None:
    model = fresh("t5")
    assert mitigated(model, []) is model
    assert "forward" not in vars(model)


def test_copies_and_pickles_of_a_model_call_their_own_forward() -> None:
    model, given = mitigated(fresh("llama"), NOISE), called_with(batch(), "llama")
    loss = model(**given).loss
    for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert twin.forward.model is twin
        twin.forward.forwards = 0
        assert torch.equal(twin(**given).loss, loss)
        twin.get_input_embeddings().weight.data.zero_()
        twin.forward.forwards = 0
        assert not torch.equal(twin(**given).loss, loss)
    model.forward.forwards = 0
    assert torch.equal(model(**given).loss, loss)


def test_draws_are_a_function_of_seed_forward_and_row_or_of_the_example_s_own_seed() -> None:
    given = called_with(batch(), "t5")
    losses = [[model(**given).loss.item() for _ in range(3)] for model in (mitigated(fresh("t5"), NOISE) for _ in "ab")]
    assert losses[0] == losses[1]
    assert len(set(losses[0])) == 3
    resumed = mitigated(fresh("t5"), NOISE, forwards=2)
    assert resumed(**given).loss.item() == losses[0][2]
    assert mitigated(fresh("t5"), NOISE, seed=1)(**given).loss.item() not in losses[0]
    seeds = torch.tensor([5, 6, 7])
    assert len({resumed(**given, example_seeds=seeds).loss.item() for _ in range(3)}) == 1
    # A row's draws follow it to another batch.
    parts = [{name: tensor[row : row + 1] for name, tensor in given.items()} for row in range(3)]
    items = (given["labels"] != IGNORED).sum()
    alone = [
        resumed(**part, example_seeds=seeds[row : row + 1], num_items_in_batch=items).loss
        for row, part in enumerate(parts)
    ]
    torch.testing.assert_close(sum(alone), resumed(**given, example_seeds=seeds).loss)


def test_a_start_is_counted_in_training_forwards() -> None:
    given, twin = called_with(batch(), "t5"), mitigated(fresh("t5"), FORCED)
    model = mitigated(fresh("t5"), [NOISE[0] | {"start_step": 3}])
    equal = []
    for _ in range(3):
        equal.append(torch.equal(model(**given).loss, twin(**given).loss))
        model.eval()(**given)
        model.train()
    assert equal == [True, True, False]


@pytest.mark.parametrize("family", ["t5", "llama"])
def test_clean_logits_are_there_for_who_asks(family: str) -> None:
    given, plain_model = called_with(batch(), family), fresh(family)
    model = mitigated(fresh(family), NOISE, logits=True)
    output, silent = model(**given), mitigated(fresh(family), NOISE)(**given)
    torch.testing.assert_close(output.logits, plain_model(**given).logits)
    assert not output.logits.requires_grad
    assert torch.equal(output.loss, silent.loss)
    assert list(silent) == ["loss"]
    assert torch.equal(model(**given, return_dict=False)[1], output.logits)
    assert next(iter(output)) == "loss"


@pytest.mark.parametrize("row", ["{name: fgm, scope: all}", "{name: gradient_penalty}", "{name: r_drop}"])
@pytest.mark.parametrize("family", ["t5", "llama"])
def test_the_library_s_recomputation_keeps_the_source(family: str, row: str) -> None:
    given, methods = called_with(batch(), family), yaml.safe_load(f"[{row}]")
    whole, model = mitigated(fresh(family), methods), mitigated(fresh(family), methods)
    model.activation_checkpointing_enable()
    assert_same((model, model(**given).loss), (whole, whole(**given).loss))
    assert model.is_activation_checkpointing
    assert not any("forward" in vars(part) for part in model.modules() if part is not model)


def test_embeddings_may_be_frozen() -> None:
    given, models = called_with(batch(), "t5"), [mitigated(fresh("t5"), [{"name": "fgm"}]) for _ in range(2)]
    models[0].get_input_embeddings().requires_grad_(False)
    losses = [model(**given).loss for model in models]
    assert torch.equal(*losses)
    losses[0].backward()
    assert models[0].get_input_embeddings().weight.grad is None


def test_half_precision_computes_in_bfloat16_and_refuses_gradients_within_a_forward_in_float16() -> None:
    given, model = called_with(batch(), "t5"), mitigated(fresh("t5"), [{"name": "fgm"}])
    exact = model(**given).loss
    with torch.autocast("cpu", torch.bfloat16):
        close = model(**given).loss
    torch.testing.assert_close(close, exact, rtol=0.02, atol=0)
    with (
        torch.autocast("cpu", torch.float16),
        pytest.raises(UserError, match="'fgm' differentiates within"),
    ):
        model(**given)
    with torch.autocast("cpu", torch.float16):
        assert torch.isfinite(mitigated(fresh("t5"), NOISE)(**given).loss)


def test_decoder_inputs_of_a_collator_are_honoured_and_others_refused() -> None:
    model, rows_of = mitigated(fresh("t5"), FORCED), batch()
    features = [
        {"input_ids": source[:length].tolist(), "labels": labels[labels != IGNORED].tolist()}
        for source, length, labels in zip(rows_of.source, rows_of.source_lengths, rows_of.labels, strict=True)
    ]
    wanted = model(**called_with(rows_of, "t5")).loss
    tokenizer = copy.deepcopy(vocabulary().tokenizer)
    for side in ("right", "left"):
        tokenizer.padding_side = side
        given = dict(DataCollatorForSeq2Seq(tokenizer, model=model)(features))
        given.pop("token_type_ids", None)
        assert "decoder_input_ids" in given
        torch.testing.assert_close(model(**given).loss, wanted)
    given = called_with(rows_of, "t5")
    inputs = model.prepare_decoder_input_ids_from_labels(given["labels"])
    begun = inputs.clone()
    begun[:, 0] = 7
    twin = fresh("t5")
    assert_same(
        (model, model(**given, decoder_input_ids=begun).loss), (twin, twin(**given, decoder_input_ids=begun).loss)
    )
    inputs[1, 2] = 9
    with pytest.raises(UserError, match="decoder_input_ids: those of row 1 are not its labels moved by one"):
        model(**given, decoder_input_ids=inputs)


def test_a_row_without_labels_adds_nothing() -> None:
    for family in ("t5", "llama"):
        model, given = mitigated(fresh(family), FORCED), called_with(batch(), family)
        part = {name: tensor.clone() for name, tensor in given.items()}
        part["labels"][1] = IGNORED
        rest = {name: tensor[[0, 2]] for name, tensor in given.items()}
        torch.testing.assert_close(model(**part).loss, model(**rest).loss)
        part["labels"][:] = IGNORED
        assert model(**part).loss.item() == 0


def test_plain_language_modelling_has_empty_prompts() -> None:
    for family in ("gpt2", "llama", "qwen3"):
        given = called_with(batch(), family)
        given["labels"] = given["input_ids"].masked_fill(given["attention_mask"] == 0, IGNORED)
        model, twin = mitigated(fresh(family), FORCED), fresh(family)
        assert_same((model, model(**given).loss), (twin, twin(**given).loss))


IDS = stacked([torch.arange(4, 12), torch.arange(5, 10)], 0)
MASK = (IDS > 0).long()


def labels(*columns: int) -> torch.Tensor:
    kept = torch.full_like(IDS, IGNORED)
    kept[:, list(columns)] = IDS[:, list(columns)]
    return kept


@pytest.mark.parametrize(
    ("family", "given", "message"),
    [
        ("llama", {"labels": labels(2, 4)}, "labels: row 0 of the batch has labels in several pieces, such as several"),
        ("llama", {"labels": labels(6)}, "labels: row 1 of the batch has labels where its attention_mask is 0"),
        (
            "llama",
            {"labels": labels(2, 3) + labels(2, 3).ge(0)},
            "labels: row 0 of the batch has labels that are not its",
        ),
        ("llama", {"labels": labels(2)[:, 1:]}, "labels: .2, 7., where input_ids are .2, 8."),
        ("t5", {"labels": labels(0, 2)}, "labels: row 0 of the batch has labels in several pieces"),
        ("t5", {"attention_mask": MASK[:, 1:]}, "attention_mask: .2, 7., where input_ids are .2, 8."),
        ("t5", {"attention_mask": MASK * labels(0, 2).ge(0)}, "labels: row 0 of the batch has gaps in its attention_m"),
        ("t5", {"decoder_input_ids": IDS[:, 1:]}, "decoder_input_ids: .2, 7., where labels are .2, 8."),
        (
            "t5",
            {"decoder_attention_mask": MASK},
            "decoder_attention_mask: mitigated training takes attention_mask, ",
        ),
        ("t5", {"input_ids": None}, "input_ids: mitigated training needs them"),
        ("t5", {"example_seeds": torch.zeros(2)}, "example_seeds: torch.float32 .2.; one int64 for each row is needed"),
        ("llama", {"position_ids": MASK}, "position_ids: mitigated training takes"),
        ("t5", {"labels": None, "num_items_in_batch": 4}, "labels: a Trainer has taken them away before the forward"),
    ],
)
def test_batches_that_cannot_be_right_are_refused(family: str, given: dict[str, Any], message: str) -> None:
    model = mitigated(fresh(family), FORCED)
    with pytest.raises(UserError, match=f"^{message}"):
        model(**{"input_ids": IDS, "attention_mask": MASK, "labels": labels(2, 3), **given})


class Widened(torch.nn.Module):
    """A wrapper around a model, such as torch.compile's."""


@pytest.mark.parametrize(
    ("make", "methods", "message"),
    [
        (Widened, FORCED, "model: a Widened is no model of transformers; mitigate it before PEFT"),
        (lambda: mitigated(fresh("t5"), FORCED), FORCED, "model: its forward was replaced before"),
        (
            lambda: AutoModelForSequenceClassification.from_config(fresh("llama").config),
            FORCED,
            "model: a LlamaForSequenceClassification is no AutoModelForSeq2SeqLM or AutoModelForCausalLM",
        ),
        (lambda: fresh("t5", vocab_size=20), FORCED, "tokenizer: 67 pieces, but the model has 20 rows"),
        (
            lambda: fresh("t5"),
            [{"name": "random_replacment"}],
            "mitigate: mitigations.0..name: no 'random_replacm",
        ),
        (lambda: fresh("t5"), [{"name": "fgm", "epsilon": -1}], "mitigations.0..epsilon: -1.0 is not at least 0"),
        (
            lambda: fresh("t5"),
            [{"name": "random_replacement", "pool": "unigram"}],
            WHOLE.format("random_replacement"),
        ),
        (
            lambda: fresh("t5"),
            [{"name": "distillation", "teacher": "/nowhere"}],
            "mitigations.0.: 'distillation': teacher: '/nowhere' is no run",
        ),
    ],
)
def test_models_and_methods_that_cannot_be_right_are_refused(make: Any, methods: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        mitigated(make(), methods)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"model": None}, "model: a NoneType is no model of transformers"),
        ({"tokenizer": None}, "tokenizer: a NoneType is no tokenizer of transformers; give AutoTokenizer"),
        ({"tokenizer": "t5-small"}, "tokenizer: a str is no tokenizer of transformers; give AutoTokenizer"),
        ({"mitigations": None}, r"mitigations: None is no list of rows; \[\] has none, and .* one"),
        ({"mitigations": FORCED[0]}, "mitigations: .* is no list of rows"),
        ({"mitigations": [None]}, r"mitigate: mitigations\[0\]: expected keys and values"),
        ({"mitigations": [{"name": "fgm", "epsilon": None}]}, r"mitigate: mitigations\[0\].epsilon: null is not a num"),
        (
            {"mitigations": [{"name": "fgm_article", "epsilom": 2}]},
            r"mitigations\[0\].epsilom'; did you mean .*epsilon",
        ),
        (
            {"mitigations": [{"name": "fgm_article"}]},
            "one micro-batch: s2s train has these at .*, and fgm needs neither",
        ),
        ({"label_smoothing": None}, "mitigate: label_smoothing: null is not a number"),
        ({"label_smoothing": 1}, r"label_smoothing: 1.0 is not in \[0, 1\)"),
        ({"seed": None}, "mitigate: seed: null is not a whole number"),
        ({"max_source": None}, "mitigate: max_source: null is not a whole number"),
        ({"max_target": 0}, "max_target: 0 is not at least 1"),
        ({"forwards": -1}, "forwards: -1 is not at least 0"),
        ({"logits": "yes"}, "mitigate: logits: 'yes' is neither true nor false"),
    ],
)
def test_arguments_that_cannot_be_right_are_refused_by_name(given: dict[str, Any], message: str) -> None:
    model = fresh("t5")
    with pytest.raises(UserError, match=message) as error:
        mitigate(**{"model": model, "tokenizer": vocabulary().tokenizer, "mitigations": FORCED, **given})
    assert "\n" not in str(error.value)
    assert "forward" not in vars(model)


def test_parts_in_evaluation_mode_stay_so() -> None:
    model = fresh("llama")
    model.model.layers[0].eval()
    modes = [part.training for part in model.modules()]
    mitigated(model, [{"name": "mrt", "candidates": 2}], max_target=3)
    model(**called_with(batch(), "llama")).loss.backward()
    assert [part.training for part in model.modules()] == modes


@pytest.mark.parametrize("family", ["t5", "llama"])
def test_a_teacher_may_be_a_checkpoint_of_transformers(family: str, tmp_path: Path) -> None:
    teacher, given = fresh(family, dropout=0.5), called_with(batch(), family)
    teacher.save_pretrained(tmp_path)
    vocabulary().tokenizer.save_pretrained(tmp_path)
    # KL(P || P) is 0, and a gold token's reward is the teacher's probability of it.
    distilled = {"name": "distillation", "teacher": str(tmp_path), "weight": 1, "on_policy": 0}
    model = mitigated(fresh(family), [distilled], max_source=20, max_target=6)
    assert abs(model(**given).loss.item()) < 1e-6
    rewarded = mitigated(fresh(family), [{"name": "gold", "reward": "sum", "reference": str(tmp_path), "discount": 0}])
    with torch.no_grad():
        scores = teacher.eval()(**given).logits
    columns = given["labels"] != IGNORED
    moved = columns if family == "t5" else columns.roll(-1, dims=1)
    log_probs = scores.log_softmax(-1)[moved].gather(1, given["labels"][columns][:, None])
    wanted = -(log_probs.exp().clamp(min=0.1) * log_probs.exp() * log_probs).mean()
    torch.testing.assert_close(rewarded(**given).loss, wanted)


def test_sharded_parameters_and_copies_on_other_devices_are_refused() -> None:
    model, given = mitigated(fresh("t5"), FORCED), called_with(batch(), "t5")
    with pytest.raises(UserError, match=r"input_ids: they are on meta and the model on cpu; DataParallel"):
        model(**given | {"input_ids": given["input_ids"].to("meta")})
    model.lm_head.weight.ds_id = 0  # as DeepSpeed marks what it shards
    with pytest.raises(UserError, match=r"model: its parameters are sharded \(FSDP, DeepSpeed\); use DDP here"):
        model(**given)


def test_each_row_of_each_forward_draws_its_own_numbers() -> None:
    model, given = mitigated(fresh("t5"), NOISE), called_with(batch(), "t5")
    seeds = []
    for _ in range(3):
        seeds += model.forward._seeds(given).tolist()
        model(**given)
    assert len(set(seeds)) == 9


def test_losses_by_examples_count_by_their_share_of_the_update_s_labels() -> None:
    row = {"name": "mrt", "candidates": 2, "alpha": 1.0}
    given = called_with(batch(), "t5") | {"example_seeds": batch().seeds}
    items = (given["labels"] != IGNORED).sum()
    model = mitigated(fresh("t5"), [row], max_target=4)
    loss = model(**given).loss
    assert loss.item() > 0
    torch.testing.assert_close(model(**given, num_items_in_batch=items).loss, loss)
    torch.testing.assert_close(model(**given, num_items_in_batch=4 * items).loss, loss / 4)
