"""A trained run: generate from it and score with it."""

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from operator import index
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from s2s.data.rows import Example, given_text, given_texts
from s2s.errors import UserError, first_line
from s2s.files.foreign import check_inside
from s2s.files.paths import at_home
from s2s.heads.prediction import Given, Prediction, predict
from s2s.heads.run_heads import Head, labelling_of
from s2s.inference.generate import ModelEnsemble, answer
from s2s.inference.results import Hypothesis, Piece, hypotheses, streamed
from s2s.losses.passes import token_log_probs
from s2s.machine.matmul import kernel, kernel_on
from s2s.machine.memory import enough_memory
from s2s.machine.precision import decoding_precision
from s2s.model.transformer import PrefixTransformer
from s2s.objective import Objective
from s2s.recipe.build import build_heads
from s2s.recipe.recipe import Recipe
from s2s.runs import checkpoints, export, run_folder
from s2s.runs.metadata import RunMetadata, check_weights
from s2s.runs.weight_files import check_tensors
from s2s.search.methods.base import SearchMethod
from s2s.search.methods.constraints import reader
from s2s.search.methods.keys import asked
from s2s.vocabulary import Vocabulary
from s2s.vocabulary.reports import unknowns

logger = logging.getLogger("s2s")

FEWER = "lower search.batch, the sources that are read together"
"""What needs less memory."""


@dataclass(frozen=True)
class Run:
    """A run folder with the weights of one checkpoint, in evaluation mode; ``partners`` speak along with it."""

    folder: Path
    recipe: Recipe
    vocabulary: Vocabulary
    objective: Objective
    kernel: str
    step: int
    partners: tuple["Run", ...] = ()
    weights: tuple[float, ...] | None = None
    precision: str = "fp32"  # that it was trained in

    @property
    def device(self) -> torch.device:
        """Where the model is, and where what is given to it must be."""
        return self.model.output_bias.device

    def generate(
        self,
        texts: Sequence[str],
        beams: int | None = None,
        n_best: int | None = None,
        prefixes: Sequence[str] | None = None,
        **search: Any,
    ) -> list[list[Hypothesis]]:
        """The hypotheses of each text, best first, by beam search with one beam and one hypothesis unless given.

        Further ``search`` keys are those of a recipe's ``search:``, whose values are the defaults; a ``name`` picks
        another row of ``s2s.search.methods.SEARCHES``, and without it and ``beams`` the recipe's own is used. Each
        text's hypotheses begin with its own one of ``prefixes``. Sources cut to ``data.max_source`` are counted in a
        warning of the logger ``s2s``, as are those for which the settings allow nothing, and unknown pieces.
        """
        settings = asked(self.recipe.search, beams, n_best, search)
        self.check_lengths(settings)
        return self.search(texts, settings, lambda _: None, prefixes)

    def search(
        self,
        texts: Sequence[str],
        settings: SearchMethod,
        on_progress: Callable[[int], object],
        prefixes: Sequence[str] | None = None,
    ) -> list[list[Hypothesis]]:
        """Return the same for whole settings; ``on_progress`` gets the number of sources done since its last call."""
        found = self.search_ids(self._sources(texts), settings, on_progress, prefixes)
        if nothing := sum(not hypotheses for hypotheses in found):
            logger.warning("the search settings allow nothing for %d of %d sources", nothing, len(found))
        return found

    def search_ids(
        self,
        sources: Sequence[Sequence[int]],
        settings: SearchMethod,
        on_progress: Callable[[int], object],
        prefixes: Sequence[str] | None = None,
    ) -> list[list[Hypothesis]]:
        """The same for sources as ids with begin and end."""
        begun = None if prefixes is None else given_texts(prefixes, "prefixes")
        if begun is not None and len(begun) != len(sources):
            raise UserError(f"prefixes: {len(begun)} for {len(sources)} sources; give each its own, or '' for none")
        max_length, read = self.max_length(settings), reader(settings, self.vocabulary)
        with kernel(self.kernel):
            found = answer(self.models(settings), sources, settings, max_length, on_progress, begun)
        return [hypotheses(read, each) for each in found]

    def stream(self, text: str, prefix: str | None = None, **search: Any) -> Iterator[Piece]:
        """The text that greedy or sampled decoding writes, piece by piece as it comes.

        The ``search`` keys are those of ``generate``, for one beam or one sample. Errors: as there.
        """
        settings, sources = asked(self.recipe.search, None, None, search), self._sources([given_text(text, "text")])
        self.check_lengths(settings)
        begun = settings.prefix if prefix is None else given_text(prefix, "prefix")
        return streamed(self.models(settings), sources[0], begun, settings, self.max_length(settings), self.kernel)

    def predict(
        self, sources: Sequence[Given], on_progress: Callable[[int], object] = lambda _: None
    ) -> list[Prediction]:
        """Return what the run's heads say of each source, a text or a list of tokens.

        ``on_progress`` gets the number of sources done since its last call. Sources are cut as in
        ``generate``; a tag whose token is lost by that is None. Errors: a UserError for a run without heads.
        """
        if self.objective.heads is None:
            raise UserError(f"run '{self.folder}': it has no heads, only generation")
        if isinstance(sources, str | bytes) or not isinstance(sources, Iterable):
            raise UserError(f"sources: a list of sources is needed, not {type(sources).__name__}")
        sources = [_source(source, f"sources[{at}]") for at, source in enumerate(sources)]
        heads, data, rows = self.objective.heads, self.recipe.data, self.recipe.search.batch
        with kernel(self.kernel), enough_memory(lambda: f"predicting for {len(sources)} sources", FEWER):
            found, report = predict(self.model, heads, self.vocabulary, data, sources, rows, on_progress)
        if blank := sum(not "".join(source).strip() for source in sources):
            report = [*report, f"{blank} of {len(sources)} sources are blank; what heads say of them is invented"]
        for line in report:
            logger.warning(line)
        return found

    @property
    def heads(self) -> list[Head]:
        """The run's heads."""
        return [] if self.objective.heads is None else self.objective.heads.heads

    @torch.no_grad()
    def score(self, sources: Sequence[str], targets: Sequence[str | Sequence[int]]) -> list[Tensor]:
        """Log-probability of each target token, the end included: a tensor [tokens + 1] for each pair.

        A target is a text or a sequence of ids without begin and end. Sources are cut as in ``generate``.
        """
        sources = given_texts(sources, "sources")
        if isinstance(targets, str | bytes) or not isinstance(targets, Iterable):
            raise UserError(f"targets: a list is needed, not {type(targets).__name__}")
        targets = list(targets)
        if len(sources) != len(targets):
            raise UserError(f"targets: {len(targets)} for {len(sources)} sources; give each source one")
        ids = [self._target_ids(target, f"targets[{at}]") for at, target in enumerate(targets)]
        texts = [(target, row) for target, row in zip(targets, ids, strict=True) if isinstance(target, str)]
        self._tell_unknown("targets", [text for text, _ in texts], [row for _, row in texts])
        pairs = list(zip(self._sources(sources), ids, strict=True))
        self._check_room(pairs)
        size = self.recipe.search.batch
        batches = [pairs[start : start + size] for start in range(0, len(pairs), size)]
        with kernel(self.kernel), enough_memory(lambda: f"scoring of {len(sources)} pairs", FEWER):
            return [row for batch in batches for row in token_log_probs(self.model, self.vocabulary, batch)]

    def _target_ids(self, target: str | Sequence[int], key: str) -> list[int]:
        if isinstance(target, str):
            return self.vocabulary.encode(given_text(target, key))
        try:
            ids = [index(token) for token in target]
        except TypeError as error:
            raise UserError(f"{key}: a text or a list of ids is needed ({error})") from error
        size = self.vocabulary.size
        if strange := [token for token in ids if not 0 <= token < size]:
            raise UserError(f"{key}: no id {strange[0]}; the vocabulary has the ids 0 .. {size - 1}")
        return ids

    def _check_room(self, pairs: Sequence[tuple[Sequence[int], Sequence[int]]]) -> None:
        """Refuse targets that the model has no positions for, and a run that has learned none."""
        if not self.recipe.generates:
            raise UserError(f"run '{self.folder}': it was trained without targets and scores nothing; see predict")
        for source, target in pairs:
            room = self.model.shape.room(len(source))
            if len(target) + 1 > room:
                raise UserError(
                    f"run '{self.folder}': a target has {len(target)} tokens and an end here, but after a source of "
                    f"{len(source)} its model has room for {room}; shorten the target, or take a smaller max_length"
                )

    def models(self, settings: SearchMethod) -> ModelEnsemble:
        """What is searched: the prefix LM and its partners'."""
        models = [run.model for run in (self, *self.partners)]
        precision = decoding_precision(settings.precision, self.precision, self.device)
        return ModelEnsemble(self.vocabulary, models, self.weights, precision)

    @property
    def model(self) -> PrefixTransformer:
        """The prefix LM."""
        return self.objective.model

    def save_pretrained(self, folder: str | Path) -> None:
        """Write weights, recipe and vocabulary, and no optimizer state, into a new folder that ``s2s.load`` reads."""
        export.save_pretrained(self, at_home(folder))

    def push_to_hub(self, name: str, private: bool | None = None) -> str:
        """Upload the same to the hub under a name such as ``someone/titles``, for ``s2s.load``; returns its address."""
        return export.push(self, name, private)

    def export_transformers(self, folder: str | Path) -> None:
        """Write a BERT checkpoint of ``transformers`` and its tokenizer; a UserError says what BERT cannot hold."""
        export.export_transformers(self, at_home(folder))

    def source_ids(self, texts: Sequence[str]) -> tuple[list[list[int]], int]:
        """The ids of sources, begin and end included, and how many of them are cut."""
        limit, read = self.recipe.data.max_source, labelling_of(self.heads, self.recipe.data).tokens
        if read is not None:  # sources were read as tokens in training
            tokens = self.vocabulary.encode_tokens([read(Example(text, "")) for text in texts])
            ids = [list(chain.from_iterable(row)) for row in tokens]
        else:
            ids = self.vocabulary.encode_all(list(texts))
        return [self.vocabulary.source_ids(row, limit) for row in ids], sum(len(row) > limit - 2 for row in ids)

    def count_blank(self, ids: Sequence[Sequence[int]]) -> int:
        """Return how many sources have no token but begin and end: what is written for them is invented."""
        return sum(len(row) <= 2 for row in ids)

    def _sources(self, given: Sequence[str]) -> list[list[int]]:
        texts = given_texts(given, "texts")
        ids, cut = self.source_ids(texts)
        if cut:
            logger.warning("%d of %d sources cut to %d tokens", cut, len(ids), self.recipe.data.max_source)
        if blank := self.count_blank(ids):
            logger.warning("%d of %d sources are blank; what is written for them is invented", blank, len(ids))
        self._tell_unknown("sources", texts, ids)
        return ids

    def _tell_unknown(self, kind: str, texts: Sequence[str], ids: Sequence[Sequence[int]]) -> None:
        for line in unknowns(self.vocabulary, texts, ids).report(kind, len(texts)):
            logger.warning(line)

    def max_length(self, settings: SearchMethod) -> int:
        """The search's own limit, or that of the training targets; both end within the model's room."""
        if not self.recipe.generates:
            raise UserError(f"run '{self.folder}': it was trained without targets and generates nothing; see predict")
        room = self.model.shape.room(self.recipe.data.max_source)
        length = settings.max_length or min(self.recipe.data.max_target, room)
        if length > room:
            raise UserError(f"search.max_length: {length} tokens, but after the sources there is room for {room}")
        return length

    def check_lengths(self, settings: SearchMethod) -> None:
        """Refuse a least length beyond the greatest one that the settings, or else the run, allow."""
        longest = self.max_length(settings)
        if settings.min_length > longest:
            raise UserError(
                f"search.min_length: {settings.min_length} is beyond the {longest} tokens that a hypothesis may have; "
                f"give at most {longest}, or a greater search.max_length"
            )


def _source(source: Given, key: str) -> Given:
    """Return a source of heads, a text or its tokens. Errors: a UserError for what is neither."""
    is_list = isinstance(source, Iterable) and not isinstance(source, str)
    return given_texts(source, key) if is_list else given_text(source, key)


def load(folder: str | Path, checkpoint: str | None = None, device: str | None = None) -> Run:
    """Load a run from its folder or a hub name: the best checkpoint, or "best", "last" or "average" as asked.

    Where the run has ``run.ema``, its average. The device is a GPU where there is one, unless named. Errors: a
    UserError when there is no run or no whole checkpoint.
    """
    folder = export.folder_of(folder)
    check_inside(folder)
    return opened(folder, *run_folder.read(folder), checkpoint, device)


def _device(name: str) -> torch.device:
    try:
        place = torch.device(name)
        torch.empty(0, device=place)  # whether it is there
    except (RuntimeError, AssertionError, TypeError) as error:  # torch has one for each kind of absence
        raise UserError(f"device: {name!r} cannot be used here: {first_line(error)}; give cpu or cuda") from error
    return place


def opened(
    folder: Path, recipe: Recipe, metadata: RunMetadata, checkpoint: str | None = None, device: str | None = None
) -> Run:
    """Return the run of a folder that is known to hold a run of this recipe."""
    stored = checkpoints.stored(folder, checkpoint)
    check_weights(folder, metadata, stored.file)
    shape = metadata.architecture
    heads = build_heads(recipe, shape.width, shape.vocabulary, metadata.labels)
    with torch.device("meta"):  # no memory and no random numbers for weights that are replaced at once
        objective = Objective(PrefixTransformer(shape), recipe.objective, (), heads, recipe.generates)
    check_tensors(objective, stored.tensors, stored.file)
    objective.load_state_dict(stored.tensors, assign=True)
    place = _device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    name = metadata.kernel
    if place.type == "cuda":
        name, _ = kernel_on(place, recipe.run.tf32)
    vocabulary = run_folder.read_vocabulary(folder)
    return Run(folder, recipe, vocabulary, objective.to(place).eval(), name, stored.step, precision=metadata.precision)
