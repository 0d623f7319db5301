"""Runs for others as checkpoints of ``transformers``: config.json, model.safetensors, tokenizer and README.md.

A model of ``transformers`` is written as its own, with generation_config.json; a prefix LM as the BERT of its encoder.
"""

import copy
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from tokenizers.processors import TemplateProcessing
from transformers import AutoTokenizer, BertConfig, PreTrainedTokenizerFast

from s2s.errors import UserError
from s2s.files.atomic import new_folder
from s2s.model.backbones.configuration import UNLIMITED
from s2s.model.backbones.foreign import ForeignBackbone
from s2s.model.bert_export import as_bert, bert_config, bert_state
from s2s.model.pretrained import quiet
from s2s.runs.generation_settings import generation_config
from s2s.runs.model_card import Introduction, Trained, write_card
from s2s.search.methods.beam import SearchSettings
from s2s.vocabulary import Vocabulary
from s2s.vocabulary.pretrained import PretrainedVocabulary

USAGES = {
    "prefix_lm": """\
from transformers import AutoModel, AutoTokenizer

model, tokenizer = AutoModel.from_pretrained("{name}"), AutoTokenizer.from_pretrained("{name}")
model(**tokenizer(["a source"], return_tensors="pt")).last_hidden_state""",
    "encoder_decoder": """\
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

model, tokenizer = AutoModelForSeq2SeqLM.from_pretrained("{name}"), AutoTokenizer.from_pretrained("{name}")
inputs = tokenizer([" ".join("a source".split())], return_tensors="pt")
tokenizer.batch_decode(model.generate(**inputs), skip_special_tokens=True)""",
    "causal_lm": """\
from transformers import AutoModelForCausalLM, AutoTokenizer

model, tokenizer = AutoModelForCausalLM.from_pretrained("{name}"), AutoTokenizer.from_pretrained("{name}")
inputs = tokenizer([" ".join("a source".split())], return_tensors="pt")
written = model.generate(**inputs)[:, inputs.input_ids.shape[1] :]
tokenizer.batch_decode(written, skip_special_tokens=True)""",
}
"""How to load each kind of model, in Python."""
KINDS = {
    "prefix_lm": "The encoder of a prefix LM, as a BERT of transformers.",
    "encoder_decoder": "An encoder-decoder of transformers ({family}).",
    "causal_lm": "A causal language model of transformers ({family}), which continues a source with its target.",
}
SPECIAL = ("pad_token_id", "eos_token_id", "decoder_start_token_id")
"""Tokens that a configuration names too, for readers without the settings of the search."""
INPUTS = ["input_ids", "attention_mask"]
"""The arguments of a model that its tokenizer makes; no model here has types of tokens."""
SAMPLE = "a text"
"""A text that shows what a tokenizer puts around it."""


def export_transformers(run: Trained, folder: Path, scores: Path | None = None) -> None:
    """Write the run's model and tokenizer into a new folder that ``transformers`` reads, with a README.

    An encoder-decoder or a causal language model comes with the settings of its search. Of a prefix LM, ``AutoModel``
    gives the hidden states of the source, and ``model.pretrained`` takes the folder for a warm start. ``scores`` is a
    file of ``s2s evaluate json=FILE`` for the README. Errors: a UserError with the reason for a model or a vocabulary
    that ``transformers`` cannot hold.
    """
    with new_folder(folder) as partial:
        write = _write_foreign if isinstance(run.objective.model, ForeignBackbone) else _write_bert
        introduction = write(run, partial, folder.name)
        write_card(partial, run, introduction, scores)


def _write_bert(run: Trained, folder: Path, title: str) -> Introduction:
    model = as_bert(run.objective.model)
    vocabulary = run.vocabulary
    tokenizer = _tokenizer(vocabulary, [vocabulary.begin], [vocabulary.end])
    tokenizer.model_max_length = model.shape.positions
    BertConfig(**bert_config(model, vocabulary.padding)).save_pretrained(folder)
    save_file(bert_state(model), folder / "model.safetensors", metadata={"format": "pt"})
    tokenizer.save_pretrained(folder)
    return Introduction("transformers", title, KINDS["prefix_lm"], USAGES["prefix_lm"].format(name=title))


def _write_foreign(run: Trained, folder: Path, title: str) -> Introduction:
    """Write a model of ``transformers`` as its own, with the settings of the run's search."""
    vocabulary, search = run.vocabulary, run.recipe.search
    assert isinstance(run.objective.model, ForeignBackbone)
    model = run.objective.model.merged()
    shape, kind = model.shape, model.shape.backbone
    # A causal LM's target begins where its prompt ends, so that the begin symbol of targets is the prompt's last token.
    begun = [vocabulary.start] if kind == "causal_lm" else []
    before, after = [*vocabulary.opening], [*vocabulary.closing, *begun]
    tokenizer = _tokenizer(vocabulary, before, after)
    # Set as arguments too, since only those are saved.
    settings: dict[str, Any] = {"padding_side": "left" if kind == "causal_lm" else "right", "model_input_names": INPUTS}
    settings |= {"model_max_length": shape.positions} if shape.positions < UNLIMITED else {}
    for key, value in settings.items():
        setattr(tokenizer, key, value)
    tokenizer.init_kwargs |= settings
    generation, lost = generation_config(search, run.max_length(search), vocabulary, shape)
    config = copy.deepcopy(model.inner.config)
    if shape.model_type == "bart":
        config.normalize_before = False  # as BART's published checkpoints say; CTranslate2 asks for it
    config.update({"use_cache": True, **{key: vars(generation)[key] for key in SPECIAL if key in vars(config)}})
    with quiet():
        model.inner.save_pretrained(folder)
    # Over the library's, which has neither the search nor its special tokens.
    config.save_pretrained(folder)
    generation.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    _check_tokenizer(folder, vocabulary, [*before, *vocabulary.encode_sources([SAMPLE])[0], *after])
    notes = [f"The run cut sources to {run.recipe.data.max_source} tokens, those around the text included."]
    if lost:
        notes.append(f"`generation_config.json` cannot hold these settings of the run's search: {', '.join(lost)}.")
    has_penalty = isinstance(search, SearchSettings) and search.length_penalty != 0
    if generation.forced_bos_token_id is not None and has_penalty:
        first = vocabulary.piece(vocabulary.start)
        notes.append(f"The first token of a target, {first}, counts in `generate`'s length penalty, not in the run's.")
    if run.recipe.heads:
        notes.append(f"The run's heads ({', '.join(run.recipe.heads)}) are not part of this folder.")
    kind_line = KINDS[kind].format(family=shape.model_type)
    return Introduction("transformers", title, kind_line, USAGES[kind].format(name=title), notes)


def _check_tokenizer(folder: Path, vocabulary: Vocabulary, row: list[int]) -> None:
    """Refuse a folder whose tokenizer, read again, makes another row of a text than the run."""
    again = AutoTokenizer.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
    # The class that transformers chooses for a family may put its own tokens around texts.
    if (read := again(SAMPLE).input_ids) != row:
        raise UserError(
            f"export: transformers would read {SAMPLE!r} as {again.convert_ids_to_tokens(read)}, but the run reads it "
            f"as {[vocabulary.piece(id) for id in row]}"
        )


def _tokenizer(vocabulary: Vocabulary, before: list[int], after: list[int]) -> Any:
    """Return the vocabulary's tokenizer, set up to put these ids around a text as a source has them."""
    if not isinstance(vocabulary, PretrainedVocabulary):
        raise UserError(
            "export: no tokenizer of transformers cuts text exactly as a sentencepiece model of this run does; "
            "train with vocabulary.kind: pretrained"
        )
    tokenizer = copy.deepcopy(vocabulary.tokenizer)
    if tokenizer(SAMPLE).input_ids == [*before, *vocabulary.encode_sources([SAMPLE])[0], *after]:
        return tokenizer
    if not getattr(tokenizer, "is_fast", False):
        raise UserError("export: the run's tokenizer does not put begin and end around a source, and cannot be told to")
    # The library's general class keeps what is around a text; those of families make it again from their settings.
    whole = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer.backend_tokenizer,
        chat_template=tokenizer.chat_template,
        **_special_tokens(tokenizer, vocabulary),
    )
    around = {"opening": before, "closing": after}
    names = [
        {"id": name, "ids": ids, "tokens": [vocabulary.piece(id) for id in ids]} for name, ids in around.items() if ids
    ]
    first, last = (f"{name}:{{0}}" if ids else "" for name, ids in around.items())
    whole.backend_tokenizer.post_processor = TemplateProcessing(
        single=f"{first} $A:{{0}} {last}".format(0).strip(),
        pair=f"{first} $A:{{0}} {last} $B:{{1}} {last}".format(0, 1).strip(),
        special_tokens=names,
    )
    return whole


def _special_tokens(tokenizer: Any, vocabulary: Vocabulary) -> dict[str, str]:
    """Return the tokenizer's special tokens, and those of the run for the names that it lacks."""
    ids = (vocabulary.begin, vocabulary.end, vocabulary.padding, vocabulary.unknown)
    run = dict(zip(("bos_token", "eos_token", "pad_token", "unk_token"), ids, strict=True))
    given = {name: token for name, token in tokenizer.special_tokens_map.items() if isinstance(token, str)}
    return {name: vocabulary.piece(id) for name, id in run.items()} | given
