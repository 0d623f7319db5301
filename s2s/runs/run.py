"""A trained run: generate from it, score with it, and label with its heads."""

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
from s2s.machine.memory import enough_memory
from s2s.machine.paths import computing
from s2s.machine.precision import decoding_precision
from s2s.model.backbone import Backbone
from s2s.model.backbones import untrained
from s2s.model.backbones.check import check
from s2s.objective import Objective
from s2s.recipe.build import build_heads
from s2s.recipe.checks import check_search
from s2s.recipe.recipe import Recipe
from s2s.runs import checkpoints, export, run_folder, transformers_export
from s2s.runs.base_weights import load_base
from s2s.runs.metadata import RunMetadata, check_weights
from s2s.runs.paths import saved_or_measured
from s2s.runs.weight_files import check_tensors
from s2s.search.methods.base import SearchMethod
from s2s.search.methods.constraints import reader
from s2s.search.methods.keys import asked
from s2s.vocabulary import Vocabulary
from s2s.vocabulary.reports import unknowns

logger = logging.getLogger("s2s")

FEWER = "lower search.batch, the sources that are read together"
"""The remedy where memory runs out."""


@dataclass(frozen=True)
class Run:
    """A run's folder with the weights of one checkpoint, in evaluation mode.

    With ``partners``, the run is an ensemble: their next-token probabilities are averaged with its own, by ``weights``.
    """

    folder: Path
    recipe: Recipe
    vocabulary: Vocabulary
    objective: Objective
    paths: dict[str, str]  # the ways of s2s.machine.paths by which it computes
    step: int
    partners: tuple["Run", ...] = ()
    weights: tuple[float, ...] | None = None
    precision: str = "fp32"  # in which it was trained
    checkpoint: str | None = None  # the one that was asked for: best, last or average

    @property
    def device(self) -> torch.device:
        """The device of the model, on which its inputs must be."""
        return self.model.device

    def generate(
        self,
        texts: Sequence[str],
        beams: int | None = None,
        n_best: int | None = None,
        prefixes: Sequence[str] | None = None,
        **search: Any,
    ) -> list[list[Hypothesis]]:
        """Return the hypotheses of each text, best first, by beam search with one beam and one hypothesis unless given.

        Further ``search`` keys are those of a recipe's ``search:``, whose values are the defaults; a ``name`` picks
        another row of ``s2s.search.methods.SEARCHES``, and without it and ``beams`` the recipe's search is used. The
        hypotheses of each text begin with the text's one of ``prefixes``. The logger ``s2s`` warns of sources that are
        cut to ``data.max_source``, of those for which the settings allow nothing, and of unknown pieces.
        """
        settings = asked(self.recipe.search, beams, n_best, search)
        self.check_search(settings)
        return self.search(texts, settings, lambda _: None, prefixes)

    def search(
        self,
        texts: Sequence[str],
        settings: SearchMethod,
        on_progress: Callable[[int], object],
        prefixes: Sequence[str] | None = None,
    ) -> list[list[Hypothesis]]:
        """Search as ``generate``, with whole settings; ``on_progress`` gets the number of sources newly done."""
        rows = self.search_ids(self._read_sources(texts), settings, on_progress, prefixes)
        if nothing := sum(not row for row in rows):
            logger.warning("the search settings allow nothing for %d of %d sources", nothing, len(rows))
        return rows

    def search_ids(
        self,
        sources: Sequence[Sequence[int]],
        settings: SearchMethod,
        on_progress: Callable[[int], object],
        prefixes: Sequence[str] | None = None,
    ) -> list[list[Hypothesis]]:
        """Search as ``search``, for sources that are ids with begin and end."""
        begun = None if prefixes is None else given_texts(prefixes, "prefixes")
        if begun is not None and len(begun) != len(sources):
            raise UserError(f"prefixes: {len(begun)} for {len(sources)} sources; give each its own, or '' for none")
        max_length, read = self.max_length(settings), reader(settings, self.vocabulary)
        with computing(self.paths):
            results = answer(self.models(settings), sources, settings, max_length, on_progress, begun)
        return [hypotheses(read, result) for result in results]

    def stream(self, text: str, prefix: str | None = None, **search: Any) -> Iterator[Piece]:
        """Yield the text of greedy or sampled decoding piece by piece, as it comes.

        The ``search`` keys are those of ``generate``, for one beam or one sample. Errors: as there.
        """
        settings = asked(self.recipe.search, None, None, search)
        (source,) = self._read_sources([given_text(text, "text")])
        self.check_search(settings)
        begun = settings.prefix if prefix is None else given_text(prefix, "prefix")
        return streamed(self.models(settings), source, begun, settings, self.max_length(settings), self.paths)

    def predict(
        self, sources: Sequence[Given], on_progress: Callable[[int], object] = lambda _: None
    ) -> list[Prediction]:
        """Return the tags and labels that the run's heads give each source, a text or a list of tokens.

        ``on_progress`` gets the number of sources newly done. Sources are cut as in ``generate``; the tag of a token
        that a cut lost is None. Errors: a UserError for a run without heads.
        """
        if self.objective.heads is None:
            raise UserError(f"run '{self.folder}': it has no heads, only generation")
        if isinstance(sources, str | bytes) or not isinstance(sources, Iterable):
            raise UserError(f"sources: a list of sources is needed, not {type(sources).__name__}")
        sources = [_source(source, f"sources[{at}]") for at, source in enumerate(sources)]
        heads, data, rows = self.objective.heads, self.recipe.data, self.recipe.search.batch
        with computing(self.paths), enough_memory(lambda: f"predicting for {len(sources)} sources", FEWER):
            predictions, report = predict(self.model, heads, self.vocabulary, data, sources, rows, on_progress)
        if blank := sum(not "".join(source).strip() for source in sources):
            report = [*report, f"{blank} of {len(sources)} sources are blank; what heads say of them is invented"]
        for line in report:
            logger.warning(line)
        return predictions

    @property
    def heads(self) -> list[Head]:
        """The run's heads."""
        return [] if self.objective.heads is None else self.objective.heads.heads

    @torch.no_grad()
    def score(self, sources: Sequence[str], targets: Sequence[str | Sequence[int]]) -> list[Tensor]:
        """Return the log-probability of each target token, the end included: a tensor [tokens + 1] for each pair.

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
        self._warn_of_unknown("targets", [text for text, _ in texts], [row for _, row in texts])
        pairs = list(zip(self._read_sources(sources), ids, strict=True))
        self._check_room(pairs)
        size = self.recipe.search.batch
        batches = [pairs[start : start + size] for start in range(0, len(pairs), size)]
        with computing(self.paths), enough_memory(lambda: f"scoring of {len(sources)} pairs", FEWER):
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
        """Return the models that a search asks: the run's and its partners'."""
        models = [run.model for run in (self, *self.partners)]
        precision = decoding_precision(settings.precision, self.precision, self.device)
        return ModelEnsemble(self.vocabulary, models, self.weights, precision)

    @property
    def model(self) -> Backbone:
        """The model, without heads and losses."""
        return self.objective.model

    def save_pretrained(self, folder: str | Path) -> None:
        """Write weights, recipe and vocabulary, and no optimizer state, into a new folder that ``s2s.load`` reads."""
        export.save_pretrained(self, at_home(folder))

    def push_to_hub(self, name: str, private: bool | None = None) -> str:
        """Upload the same to the hub under a name such as ``someone/titles``, for ``s2s.load``; returns its address."""
        return export.push(self, name, private)

    def export_transformers(self, folder: str | Path) -> None:
        """Write a checkpoint of ``transformers`` and its tokenizer; a UserError says what these cannot hold.

        Of a prefix LM it is its encoder, as a BERT.
        """
        transformers_export.export_transformers(self, at_home(folder))

    def source_ids(self, texts: Sequence[str]) -> tuple[list[list[int]], int]:
        """Return the ids of sources, begin and end included, and how many of them are cut."""
        limit, read = self.recipe.data.max_source, labelling_of(self.heads, self.recipe.data).tokens
        # A run with taggers was trained on sources as lists of tokens, whose pieces do not cross their borders.
        if read is not None:
            tokens = self.vocabulary.encode_tokens([read(Example(text, "")) for text in texts])
            ids = [list(chain.from_iterable(row)) for row in tokens]
        else:
            ids = self.vocabulary.encode_sources(list(texts))
        room = limit - self.vocabulary.framing
        return [self.vocabulary.source_ids(row, limit) for row in ids], sum(len(row) > room for row in ids)

    def count_blank(self, ids: Sequence[Sequence[int]]) -> int:
        """Return how many sources have no token of a text: what is written for them is invented."""
        return sum(len(row) <= self.vocabulary.framing for row in ids)

    def _read_sources(self, given: Sequence[str]) -> list[list[int]]:
        texts = given_texts(given, "texts")
        ids, cut = self.source_ids(texts)
        if cut:
            logger.warning("%d of %d sources cut to %d tokens", cut, len(ids), self.recipe.data.max_source)
        if blank := self.count_blank(ids):
            logger.warning("%d of %d sources are blank; what is written for them is invented", blank, len(ids))
        self._warn_of_unknown("sources", texts, ids)
        return ids

    def _warn_of_unknown(self, kind: str, texts: Sequence[str], ids: Sequence[Sequence[int]]) -> None:
        for line in unknowns(self.vocabulary, texts, ids).report(kind, len(texts)):
            logger.warning(line)

    def max_length(self, settings: SearchMethod) -> int:
        """Return the search's limit in tokens, or else that of the training targets, within the model's room."""
        if not self.recipe.generates:
            raise UserError(f"run '{self.folder}': it was trained without targets and generates nothing; see predict")
        room = self.model.shape.room(self.recipe.data.max_source)
        length = settings.max_length or min(self.recipe.data.max_target, room)
        if length > room:
            raise UserError(f"search.max_length: {length} tokens, but after the sources there is room for {room}")
        return length

    def check_search(self, settings: SearchMethod) -> None:
        """Refuse keys that need more than a model of the run gives, and a least length beyond the greatest one.

        The greatest length is that of the settings, or else the run's.
        """
        for run in (self, *self.partners):
            check_search(type(run.model), settings)
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
    """Load a run from its folder or a hub name: the best checkpoint unless "last" or "average" is named.

    A run with ``run.ema`` gives its moving average. The device is a GPU where there is one, unless it is named. Errors:
    a UserError where there is no run or no whole checkpoint.
    """
    folder = export.folder_of(folder)
    check_inside(folder)
    return opened(folder, *run_folder.read(folder), checkpoint, device)


def _device(name: str) -> torch.device:
    try:
        device = torch.device(name)
        torch.empty(0, device=device)  # raises where the device is absent
    except (RuntimeError, AssertionError, TypeError) as error:  # torch has one for each kind of absence
        raise UserError(f"device: {name!r} cannot be used here: {first_line(error)}; give cpu or cuda") from error
    return device


def opened(
    folder: Path, recipe: Recipe, metadata: RunMetadata, checkpoint: str | None = None, device: str | None = None
) -> Run:
    """Return the run of a folder that is known to hold a run of this recipe."""
    stored = checkpoints.stored(folder, checkpoint)
    check_weights(folder, metadata, stored.file)
    shape = metadata.architecture
    heads = build_heads(recipe, shape.width, shape.vocabulary, metadata.labels)
    # On "meta", weights take no memory and no random numbers; the stored tensors replace them at once.
    with torch.device("meta"):
        objective = Objective(untrained(shape), recipe.objective, (), heads, recipe.generates)
    check_tensors(objective, stored.tensors, stored.file)
    load_base(folder, metadata, objective.model)
    objective.load_state_dict(stored.tensors, assign=True)
    check(objective.model)
    if recipe.generates:
        check_search(type(objective.model), recipe.search)
    chosen = _device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    ways, line = saved_or_measured(recipe, metadata, chosen)
    if line is not None:
        logger.warning("%s: %s", folder, line)
    vocabulary = run_folder.read_vocabulary(folder, metadata)
    return Run(
        folder,
        recipe,
        vocabulary,
        objective.to(chosen).eval(),
        ways,
        stored.step,
        precision=metadata.precision,
        checkpoint=checkpoint,
    )
