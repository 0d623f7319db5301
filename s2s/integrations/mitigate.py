"""Mitigated training inside the forward of a model of ``transformers``, for loops that are not ours.

``Trainer``, accelerate and Lightning call a model with labels and differentiate the loss that it returns. ``mitigate``
replaces the forward of one model, not of its class, by an object that computes another loss in training and calls the
model's own forward otherwise. The object holds the model, and the model nothing new but the object: each parameter
keeps its one name, so wrappers, optimizers and files see the model that they knew.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache, partial
from inspect import Parameter, Signature, signature
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, distributed, nn
from torch.distributed.fsdp import FullyShardedDataParallel
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_outputs import CausalLMOutputWithPast, Seq2SeqLMOutput

from s2s.batch import Batch, Counts, count
from s2s.config.layers import Layer
from s2s.config.merge import Schema, merge, name_of
from s2s.config.ranges import CountOrZero, Seed, ShareBelowOne, Size, settle
from s2s.data.tokenised import TokenisedSplit
from s2s.errors import UserError
from s2s.integrations.batches import of_causal_lm, of_encoder_decoder
from s2s.losses.fsdp import is_sharded
from s2s.mitigations import MITIGATIONS, Composition, FrozenRun, PreparedMethod, TrainingContext, check
from s2s.mitigations.adversarial import Perturbed
from s2s.model.activation_checkpointing import inputs
from s2s.model.architecture import ModelSettings
from s2s.model.backbone import evaluating
from s2s.model.backbones import BACKBONES
from s2s.model.backbones.check import check as check_backbone
from s2s.model.backbones.check import trial
from s2s.model.backbones.configuration import MAPPINGS, ForeignArchitecture, kind_of, plain
from s2s.model.backbones.start import start
from s2s.objective import Objective, ObjectiveSettings
from s2s.randomness import seed_of
from s2s.runs.checkpoints import load_model
from s2s.runs.metadata import FILE as RUN
from s2s.vocabulary import Vocabulary
from s2s.vocabulary.pretrained import PretrainedVocabulary
from s2s.vocabulary.pretrained import read as read_tokenizer

ADDED = ("example_seeds", "num_items_in_batch")
"""Arguments of the replaced forward that the model's own need not have."""
READ = {"input_ids", "attention_mask", "labels", "decoder_input_ids", "return_dict", "use_cache", *ADDED}
"""Arguments of the forward that training reads, or that change nothing in it."""


@dataclass
class LossSettings:
    """The arguments of ``mitigate`` besides model and tokenizer."""

    mitigations: list[Any] = field(default_factory=list)
    label_smoothing: ShareBelowOne = 0.0
    seed: Seed = 0
    max_source: Size = 256
    max_target: Size = 48
    logits: bool = False
    forwards: CountOrZero = 0

    def __post_init__(self) -> None:
        settle(self)


def mitigate(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    mitigations: Sequence[Mapping[str, Any]] = (),
    label_smoothing: float = 0.0,
    seed: int = 0,
    *,
    max_source: int = 256,
    max_target: int = 48,
    logits: bool = False,
    forwards: int = 0,
) -> PreTrainedModel:
    """Return the same model, whose forward returns the loss of these mitigations where it is training on labels.

    ``mitigations`` are rows as in a recipe: ``[{"name": "random_replacement", "rate": 0.3}]``. In evaluation, without
    labels, without gradients, in ``generate`` and in ``save_pretrained`` the model is what it was. Without mitigations
    and label smoothing it is what it was everywhere. Call this before PEFT, accelerate or a ``Trainer`` gets the model.

    - The loss is a mean over labels: over ``num_items_in_batch`` of them where the caller gives it, as ``Trainer`` does
      for a whole update, otherwise over those of the forward. (The own forwards of T5, BART and others ignore
      ``num_items_in_batch``; ``{"name": "random_replacement", "weight": 0}`` is teacher forcing that does not.) Losses
      by examples, as of ``mrt``, are means over a forward, weighted by its share of the labels.
    - ``label_smoothing`` is here because that of ``TrainingArguments`` takes the labels away before the forward.
    - Draws are a function of (``seed``, training forward, process, row). Under gradient accumulation each micro-batch
      is a forward of its own. A resumed run continues where it was with ``forwards``, the number of those before it.
      ``example_seeds`` [B] among the tensors of a batch replace all of this: the draws of a row are a function of its
      seed, as in ``s2s train``. ``start_step`` and ``ramp_steps`` count training forwards, the first being step 1.
    - A ``teacher`` or ``reference`` is the folder of a run, or of a checkpoint of ``transformers`` with its tokenizer.
    - ``max_source`` and ``max_target`` are those of a recipe's ``data:``; samples have at most ``max_target`` tokens.
    - With ``logits`` the output has the clean logits too, at the cost of a forward without gradients, which nothing
      else needs; otherwise it has the loss alone.

    Batches: rows padded on either side. An encoder-decoder's ``decoder_input_ids`` have to be its labels moved by one,
    and may choose the first input. A causal model's target begins at a row's first label and is one piece, and its
    source is the prompt before it, which may be empty.

    Errors: a UserError for a model, a method or a batch that this cannot be right for, by name and reason.
    """
    if not isinstance(mitigations, list | tuple):
        raise UserError(
            f"mitigations: {mitigations!r} is no list of rows; [] has none, and "
            '[{"name": "random_replacement", "rate": 0.3}] one'
        )
    values = {
        "mitigations": [*mitigations],
        "label_smoothing": label_smoothing,
        "seed": seed,
        "max_source": max_source,
        "max_target": max_target,
        "logits": logits,
        "forwards": forwards,
    }
    settings: LossSettings = merge(
        Schema(LossSettings, listed={"mitigations": MITIGATIONS}), [Layer("mitigate", values, {})]
    )
    methods = settings.mitigations
    names = [name_of(MITIGATIONS, method) for method in methods]
    # An update may have several processes and micro-batches, and a forward sees one of them.
    check(Composition(methods, updates_in_parts=True, label_smoothing=label_smoothing), names)
    shape = _shape(model, tokenizer)
    if not methods and not label_smoothing:
        return model
    vocabulary = PretrainedVocabulary(tokenizer)
    context = TrainingContext(vocabulary, _no_split, max_source, max_target, load_frozen)
    prepared = []
    for index, (name, method) in enumerate(zip(names, methods, strict=True)):
        try:
            prepared.append(PreparedMethod(name, method, method.prepare(context)))
        except UserError as error:
            raise UserError(f"mitigations[{index}]: '{name}': {error}") from error
    kind: Any = BACKBONES[shape.backbone][0]
    # In the type of the weights, where a caller's autocast would round.
    with trial(shape), evaluating(model), torch.autocast(model.device.type, enabled=False):
        backbone = kind(shape, model)
        check_backbone(backbone, max_source, max_target)
    objective = Objective(backbone, ObjectiveSettings(settings.label_smoothing), prepared)
    model.forward = MitigatedForward(model, objective, vocabulary, seed, logits, forwards)
    return model


def _shape(model: Any, tokenizer: Any) -> ForeignArchitecture:
    """Return the shape of a model as a backbone. Errors: a UserError for one that cannot be mitigated."""
    if not isinstance(model, PreTrainedModel):
        raise UserError(
            f"model: a {type(model).__name__} is no model of transformers; mitigate it before PEFT, accelerate or "
            "torch.compile wraps it"
        )
    if not isinstance(tokenizer, PreTrainedTokenizerBase):
        raise UserError(
            f"tokenizer: a {type(tokenizer).__name__} is no tokenizer of transformers; give "
            "AutoTokenizer.from_pretrained of the model's checkpoint"
        )
    config, name = model.config, type(model).__name__
    if "forward" in vars(model):
        raise UserError("model: its forward was replaced before, by mitigate or by hooks such as those of device_map")
    kind = kind_of(config)
    family: Any = None if kind is None else MAPPINGS[kind][0][type(config)]
    if kind is None or not isinstance(model, family):
        raise UserError(f"model: a {name} is no AutoModelForSeq2SeqLM or AutoModelForCausalLM of transformers")
    if getattr(config, "quantization_config", None):
        raise UserError("model: its weights are quantised; take the unquantised ones")
    if getattr(config, "output_router_logits", False):
        raise UserError("model: config.output_router_logits adds the router's loss, which mitigated losses lack")
    rows = model.get_input_embeddings().weight.shape[0]
    if (pieces := len(tokenizer)) > rows:
        raise UserError(f"tokenizer: {pieces} pieces, but the model has {rows} rows; call resize_token_embeddings")
    return ForeignArchitecture(kind, rows, plain(config))


def load_frozen(folder: str) -> FrozenRun:
    """Load the frozen model of a run, or of a checkpoint of ``transformers``, for a method that reads another model.

    Errors: an OSError where there is neither, a UserError where it cannot be right.
    """
    if not (Path(folder) / RUN).is_file() and (Path(folder) / "config.json").is_file():
        model, _ = start(ModelSettings(pretrained=folder), 0, {})
        check_backbone(model)
        return FrozenRun(model.eval().requires_grad_(False), read_tokenizer(folder))
    frozen = load_model(folder)
    if getattr(frozen.model.shape, "prefix", None):
        raise UserError(f"'{folder}': its decoder reads ids before every target, which are tokens of the targets here")
    return frozen


def _no_split() -> TokenisedSplit:
    raise UserError("it reads the whole train split, which a forward does not know; train it with s2s train")


class MitigatedForward:
    """The forward of one model: mitigated losses in training, the model's own forward otherwise.

    An object and no function, so that a copy of the model, or one that is read from a pickle, calls its own.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        objective: Objective,
        vocabulary: Vocabulary,
        seed: int,
        logits: bool,
        forwards: int,
    ) -> None:
        self.model, self.objective, self.vocabulary = model, objective, vocabulary
        self.seed, self.logits, self.forwards = seed, logits, forwards

    @property
    def __signature__(self) -> Signature:
        """The signature of the own forward with ``ADDED``, by which ``Trainer`` chooses a data set's columns."""
        parameters = [*self._own_parameters()]
        names = {parameter.name for parameter in parameters}
        added = [Parameter(name, Parameter.KEYWORD_ONLY, default=None) for name in ADDED if name not in names]
        rest = [parameters.pop()] if parameters[-1].kind is Parameter.VAR_KEYWORD else []
        return Signature([*parameters, *added, *rest])

    def __call__(self, *positional: Any, **named: Any) -> Any:
        """Return the model's output. Errors: a UserError for a batch that mitigated losses cannot be right for."""
        # Without gradients nothing trains, whatever the mode.
        if not (self.model.training and torch.is_grad_enabled()):
            return self._own(*positional, **named)
        given = self._bound(positional, named)
        if given.get("labels") is None:
            if given.get("num_items_in_batch") is not None:
                raise UserError(
                    "labels: a Trainer has taken them away before the forward, for label_smoothing_factor or "
                    "compute_loss_func; give label_smoothing to mitigate, and leave these out"
                )
            return self._own(*positional, **named)
        return self._mitigated(given)

    def _own(self, *positional: Any, **named: Any) -> Any:
        named.pop("example_seeds", None)
        # A Trainer gives it to every forward with ``**kwargs``, the others do not know it.
        if not any(parameter.kind is Parameter.VAR_KEYWORD for parameter in self._own_parameters()):
            named.pop("num_items_in_batch", None)
        return type(self.model).forward(self.model, *positional, **named)

    def _own_parameters(self) -> tuple[Parameter, ...]:
        kind: Any = type(self.model)
        return own_parameters(kind)

    def _bound(self, positional: tuple[Any, ...], named: dict[str, Any]) -> dict[str, Any]:
        """Return all arguments by their names."""
        given = dict(self.__signature__.bind(*positional, **named).arguments)
        for name, parameter in self.__signature__.parameters.items():
            if parameter.kind is Parameter.VAR_KEYWORD:
                given |= given.pop(name, {})
        return given

    def _mitigated(self, given: dict[str, Any]) -> Any:
        self.forwards += 1
        batch = self._batch(given)
        refuse_sharded(self.model)
        with recomputing(self.model):
            loss = self.objective(batch, self.forwards, counts(batch, given.get("num_items_in_batch"))).total
        config = self.model.config
        kind: Any = Seq2SeqLMOutput if config.is_encoder_decoder else CausalLMOutputWithPast
        output = kind(loss=loss)
        if self.logits:
            read = {name: value for name, value in given.items() if name not in ADDED}
            with torch.no_grad():
                clean = self._own(**read | {"return_dict": True, "use_cache": False})
            output = type(clean)(**{**clean, "loss": loss})
        as_dict = given.get("return_dict")
        return output if (config.return_dict if as_dict is None else as_dict) else output.to_tuple()

    def _batch(self, given: dict[str, Any]) -> Batch:
        for name, value in given.items():
            if name not in READ and value is not None and value is not False:
                raise UserError(f"{name}: mitigated training takes {', '.join(sorted(READ))} alone; leave it out")
        if given.get("input_ids") is None:
            raise UserError("input_ids: mitigated training needs them; it computes embeddings itself")
        table = self.objective.model.token_table
        if (device := given["input_ids"].device) != table.device:
            raise UserError(
                f"input_ids: they are on {device} and the model on {table.device}; DataParallel calls copies of a "
                "forward that this cannot follow, so start one process for each GPU, as torchrun does"
            )
        if torch.is_autocast_enabled(device.type) and torch.get_autocast_dtype(device.type) is torch.float16:
            self._refuse_half()
        seeds = self._seeds(given)
        if self.model.config.is_encoder_decoder:
            return of_encoder_decoder(self.model, given, self.vocabulary.padding, seeds)
        return of_causal_lm(given, self.vocabulary.padding, seeds)

    def _refuse_half(self) -> None:
        """Refuse methods whose gradients within the forward would underflow."""
        for name, method, _ in self.objective.mitigations:
            if isinstance(method, Perturbed):
                raise UserError(
                    f"mitigations: '{name}' differentiates within the forward, which in fp16 needs the scale of the "
                    "loss, and a forward does not know it; train in bf16"
                )

    def _seeds(self, given: dict[str, Any]) -> Tensor:
        """Return the seeds [B] of the rows' draws."""
        ids: Tensor = given["input_ids"]
        if (theirs := given.get("example_seeds")) is not None:
            if theirs.shape != ids.shape[:1] or theirs.dtype is not torch.long:
                raise UserError(f"example_seeds: {theirs.dtype} {list(theirs.shape)}; one int64 for each row is needed")
            return theirs
        process = distributed.get_rank() if distributed.is_available() and distributed.is_initialized() else 0
        seeds = [seed_of(self.seed, "forward", self.forwards, process, row) for row in range(len(ids))]
        return torch.tensor(seeds, device=ids.device)


@cache
def own_parameters(kind: Any) -> tuple[Parameter, ...]:
    """Return the parameters of a class's forward without ``self``."""
    return tuple(signature(kind.forward).parameters.values())[1:]


def counts(batch: Batch, items: Tensor | float | None) -> Counts:
    """Return the units that losses are divided by, given the number of labels of the whole update, or None."""
    counted = count(batch)
    if items is None:
        return counted
    labels = torch.as_tensor(items, device=batch.labels.device).flatten()[0]
    # Nobody counts the update's examples, so a forward's stand for them in proportion to its labels.
    ratio = labels / counted.target_tokens.clamp(min=1)
    return Counts(labels, counted.source_tokens * ratio, counted.examples * ratio)


def refuse_sharded(model: nn.Module) -> None:
    """Refuse sharded parameters: passes through parts of a model do not run the hooks that gather them."""
    parts = any(isinstance(part, FullyShardedDataParallel) for part in model.modules())
    if parts or is_sharded(model) or any(hasattr(parameter, "ds_id") for parameter in model.parameters()):
        raise UserError("model: its parameters are sharded (FSDP, DeepSpeed); use DDP here, or s2s train with FSDP2")


@contextmanager
def unmarked(module: nn.Module) -> Iterator[list[Any]]:
    """Take the marks of ``gradient_checkpointing_enable`` from the parts of a module; yield these parts."""
    marked: list[Any] = [part for part in module.modules() if getattr(part, "gradient_checkpointing", False) is True]
    for part in marked:
        part.gradient_checkpointing = False
    try:
        yield marked
    finally:
        for part in marked:
            part.gradient_checkpointing = True


class RecomputedLayer:
    """The forward of a layer whose backward computes it again from its inputs."""

    def __init__(self, layer: nn.Module) -> None:
        self.layer = layer

    def __call__(self, *rows: Any, **settings: Any) -> Any:
        return inputs(partial(self._once, settings), *rows)

    def _once(self, settings: dict[str, Any], *rows: Any) -> Any:
        # The backward comes when the marks are back.
        with unmarked(self.layer):
            return type(self.layer).forward(self.layer, *rows, **settings)


@contextmanager
def recomputing(model: nn.Module) -> Iterator[None]:
    """Recompute the marked layers of a model in the backward, with the cache of the source.

    The library's own recomputation drops the cache, and with it the source of a target.
    """
    with unmarked(model) as marked:
        layers = [part for part in marked if isinstance(part, GradientCheckpointingLayer)]
        for layer in layers:
            layer.forward = RecomputedLayer(layer)
        try:
            yield
        finally:
            for layer in layers:
                del layer.forward
