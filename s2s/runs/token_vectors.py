"""Vectors of the tokens of texts, from a run's table or an encoder, for transport distances of generated texts."""

from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from transformers import AutoModel, AutoTokenizer

from s2s.console.terminal import plain_console, progress_bar
from s2s.errors import UserError, first_line, nearest
from s2s.files.foreign import FAILURES, check_checkpoint
from s2s.metrics.generated import DISTANCES, transport_statistics
from s2s.metrics.overlap import Statistics
from s2s.metrics.references import References, listed
from s2s.metrics.transport.bags import Vectors, array
from s2s.metrics.transport.vectors import Change, centring, changed, table_embedding, whitening
from s2s.model.pretrained import find
from s2s.runs import run_folder
from s2s.runs.run import load

BATCH = 32
CHANGES: dict[str, Callable[[Sequence[Vectors]], Change]] = {
    "plain": lambda _: array,
    "centred": centring,
    "whitened": whitening,
}
"""Changes of the vectors, each fitted to those of the references."""
Embedded = Callable[[Sequence[str]], list[Vectors]]
"""A function from texts to the vectors [n, D] of their n tokens, special ones left out."""


def embedded(name: str) -> Embedded:
    """Return a function that gives the vectors of texts: rows of a run's embedding table, or an encoder's last layer.

    ``name`` is a run's folder or else an encoder: a path, a name under $S2S_MODELS, an installed package or a hub name.
    Errors: a UserError for what is neither.
    """
    if run_folder.exists(Path(name)):
        run = load(name, device="cpu")
        embed = table_embedding(run.model.token_table, run.vocabulary.encode)
        return lambda texts: [array(embed(text)) for text in texts]
    return _encoder(name)


def _encoder(name: str) -> Embedded:
    source = find(name)
    if Path(source).is_dir():
        check_checkpoint(Path(source))
    try:
        tokenizer = AutoTokenizer.from_pretrained(source, trust_remote_code=False)
        model = AutoModel.from_pretrained(source, trust_remote_code=False, weights_only=True).eval()
    except FAILURES as error:
        raise UserError(f"embeddings: '{name}' is no run's folder and no encoder: {first_line(error)}") from error
    longest = min(tokenizer.model_max_length, getattr(model.config, "max_position_embeddings", 512))

    @torch.no_grad()
    def encode(texts: Sequence[str]) -> list[Vectors]:
        inputs = tokenizer(
            list(texts), padding=True, truncation=True, max_length=longest, return_tensors="pt",
            return_special_tokens_mask=True,
        )  # fmt: skip
        plain = ~inputs.pop("special_tokens_mask").bool() & inputs["attention_mask"].bool()
        return [array(rows[kept]) for rows, kept in zip(model(**inputs).last_hidden_state, plain, strict=True)]

    return encode


def token_vectors(
    texts: Sequence[str],
    references: Sequence[str],
    name: str,
    change: str = "plain",
    on_progress: Callable[[int], object] = lambda _: None,
) -> Callable[[str], Vectors]:
    """Return a look-up of the vectors of these texts and references, each embedded once, in batches of like length.

    ``change`` is a row of ``CHANGES``, fitted to the references. ``on_progress`` gets the number of texts done
    since its last call.
    """
    if change not in CHANGES:
        raise UserError(f"vectors: '{change}' is unknown{nearest(change, CHANGES)}")
    embed, known = embedded(name), dict[str, Vectors]()
    order = sorted({*texts, *references}, key=lambda text: (len(text), text))
    for start in range(0, len(order), BATCH):
        part = order[start : start + BATCH]
        known.update(zip(part, embed(part), strict=True))
        on_progress(len(part))
    try:
        fitted = CHANGES[change]([known[text] for text in references])
    except ValueError as error:
        raise UserError(f"vectors: {change}: {error}") from error
    lookup = changed(known.__getitem__, fitted)
    return lambda text: array(lookup(text)) if len(known[text]) else known[text]


def distance_statistics(
    texts: Sequence[str], references: References, name: str, change: str = "plain"
) -> tuple[dict[str, Statistics], str]:
    """Return the transport distances of texts from their references over these vectors, and their signature.

    Bars on standard error show the progress.
    """
    lists = listed(texts, references)
    gold = [reference for row in lists for reference in row]
    console = plain_console(stderr=True)
    with progress_bar(console) as bar:
        reading = bar.add_task("embedding", total=len({*texts, *gold}))
        lookup = token_vectors(texts, gold, name, change, lambda done: bar.advance(reading, done))
        moving = bar.add_task("transport", total=len(DISTANCES) * len(gold))
        distances = transport_statistics(texts, references, lookup, lambda done: bar.advance(moving, done))
    form = f"embeddings:{name}|vectors:{change}|nearest of references|times 100"
    return distances, f"{', '.join(DISTANCES)}|{form}"
