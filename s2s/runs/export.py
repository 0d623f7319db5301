"""Runs for others: a small folder that ``s2s.load`` reads, also on a hub, and a BERT checkpoint of ``transformers``.

The small folder holds recipe.yaml, run.json, vocabulary/, weights.safetensors and a README.md, and no optimizer state.
"""

import copy
import re
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Protocol

from huggingface_hub import HfApi, snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HTTPError
from safetensors.torch import save_file
from tokenizers.processors import TemplateProcessing
from transformers import BertConfig

from s2s import vocabulary as vocabularies
from s2s.errors import UserError, first_line
from s2s.files.atomic import new_folder
from s2s.files.folders import entries
from s2s.files.paths import at_home
from s2s.model.bert_export import as_bert, bert_config, bert_state
from s2s.objective import Objective
from s2s.recipe.recipe import Recipe
from s2s.runs.metadata import FILE, LISTED, RECIPE, VOCABULARY, WEIGHTS, read_metadata, write_metadata
from s2s.runs.weight_files import save_tensors
from s2s.vocabulary import Vocabulary
from s2s.vocabulary.pretrained import PretrainedVocabulary

CARD = """\
---
library_name: s2s
pipeline_tag: text2text-generation
---
# {name}

A sequence-to-sequence model of s2s after {step} updates, {parameters:.1f} million parameters. `recipe.yaml` says what
it was trained on and how, `run.json` with which versions.

```python
import s2s

run = s2s.load("{name}")
run.generate(["a source"], beams=4)[0][0].text
```
"""


class Trained(Protocol):
    """The parts of a ``Run`` that are written; ``s2s.runs.run`` imports this module and not the other way round."""

    @property
    def folder(self) -> Path: ...
    @property
    def recipe(self) -> Recipe: ...
    @property
    def vocabulary(self) -> Vocabulary: ...
    @property
    def objective(self) -> Objective: ...
    @property
    def step(self) -> int: ...


def save_pretrained(run: Trained, folder: Path, name: str | None = None) -> None:
    """Write the run's weights, recipe and vocabulary into a new folder; ``name`` is what its README calls it."""
    with new_folder(folder) as partial:
        tensors = run.objective.state_dict()
        (partial / RECIPE).write_text(run.recipe.to_yaml(), encoding="utf-8", newline="\n")
        (partial / VOCABULARY).mkdir()
        vocabularies.save(run.vocabulary, partial / VOCABULARY)
        metadata = replace(read_metadata(run.folder), files=entries(partial, LISTED))
        save_tensors(partial / WEIGHTS, tensors, run.step, metadata.identity)
        write_metadata(partial, metadata)
        millions = sum(tensor.numel() for tensor in tensors.values()) / 1e6
        card = CARD.format(name=name or folder.name, step=run.step, parameters=millions)
        (partial / "README.md").write_text(card, encoding="utf-8", newline="\n")


def export_transformers(run: Trained, folder: Path) -> None:
    """Write the run's model and tokenizer into a new folder that ``AutoModel`` and ``AutoTokenizer`` read.

    The encoder gives the hidden states of the source; ``model.pretrained`` takes the folder for a warm start. Errors: a
    UserError with the reason for a model or a vocabulary that BERT cannot hold.
    """
    model = as_bert(run.objective.model)
    tokenizer = _tokenizer(run.vocabulary, model.shape.positions)
    with new_folder(folder) as partial:
        BertConfig(**bert_config(model, run.vocabulary.padding)).save_pretrained(partial)
        save_file(bert_state(model), partial / "model.safetensors", metadata={"format": "pt"})
        tokenizer.save_pretrained(partial)


def _tokenizer(vocabulary: Vocabulary, positions: int) -> Any:
    """Return the vocabulary's tokenizer, set up to put begin and end around a text as a source has them."""
    if not isinstance(vocabulary, PretrainedVocabulary):
        raise UserError(
            "export: no tokenizer of transformers cuts text exactly as a sentencepiece model of this run does; "
            "train with vocabulary.kind: pretrained"
        )
    tokenizer = copy.deepcopy(vocabulary.tokenizer)
    tokenizer.model_max_length = positions
    if _frames(tokenizer, vocabulary):
        return tokenizer
    if not getattr(tokenizer, "is_fast", False):
        raise UserError("export: the run's tokenizer does not put begin and end around a source, and cannot be told to")
    begin, end = (str(tokenizer.convert_ids_to_tokens(id)) for id in (vocabulary.begin, vocabulary.end))
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single=f"{begin}:0 $A:0 {end}:0",
        pair=f"{begin}:0 $A:0 {end}:0 $B:1 {end}:1",
        special_tokens=[(begin, vocabulary.begin), (end, vocabulary.end)],
    )
    return tokenizer


def _frames(tokenizer: Any, vocabulary: Vocabulary) -> bool:
    """Say whether the tokenizer, too, makes begin, text, end of a source."""
    return bool(tokenizer("a").input_ids == vocabulary.source_ids(vocabulary.encode("a")))


NAME = re.compile(r"\w[\w.-]*/\w[\w.-]*", re.ASCII)
HUB_FILES = [FILE, RECIPE, WEIGHTS, f"{VOCABULARY}/*", "README.md"]


def folder_of(name: str | Path) -> Path:
    """Return a run's folder: the path itself, or the files of a hub name such as ``someone/titles``, downloaded once.

    A name whose part before the slash is an existing folder is a path. Errors: a UserError where the hub has no such
    run.
    """
    path = at_home(name)
    if path.exists() or (path.parent.is_dir() and path.parent != Path()) or not NAME.fullmatch(str(name)):
        return path
    try:
        return Path(snapshot_download(str(name), allow_patterns=HUB_FILES))
    except (OSError, ValueError, HTTPError, HfHubHTTPError) as error:
        raise UserError(f"run '{name}': no folder of that name, and from the hub: {first_line(error)}") from error


def push(run: Trained, name: str, private: bool | None) -> str:
    """Upload what ``save_pretrained`` writes to the hub, under a name such as ``someone/titles``; returns its address.

    Errors: a UserError for what is no name, and where the hub refuses or cannot be reached.
    """
    if not NAME.fullmatch(name):
        raise UserError(f"hub: '{name}' is no name of a repository; such as someone/titles")
    hub = HfApi()
    with TemporaryDirectory() as temporary:
        save_pretrained(run, Path(temporary) / "run", name)
        try:
            address = hub.create_repo(name, private=private, exist_ok=True)
            hub.upload_folder(
                repo_id=name, folder_path=Path(temporary) / "run", commit_message=f"A run after {run.step} updates"
            )
        except (OSError, ValueError, HTTPError, HfHubHTTPError) as error:
            raise UserError(f"hub: '{name}' was not uploaded: {first_line(error)}") from error
    return str(address)
