"""Model cards: the README.md of a folder for others, with the recipe, the data, the scores and how to load it."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import yaml

from s2s.errors import UserError, first_line
from s2s.files.foreign import read_json
from s2s.objective import Objective
from s2s.recipe.recipe import Recipe, flat
from s2s.runs.log import read_log
from s2s.runs.metadata import FILE, read_metadata
from s2s.search.methods.base import SearchMethod
from s2s.vocabulary import Vocabulary

CARD = """\
---
library_name: {library}
---
# {title}

{kind} After {step} updates of s2s it has {parameters:.1f} million parameters.

```python
{usage}
```

## Training

{data}Settings that are not the defaults:

```yaml
{settings}```
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
    @property
    def checkpoint(self) -> str | None: ...
    def max_length(self, settings: SearchMethod) -> int: ...


@dataclass(frozen=True)
class Introduction:
    """The parts of a card that a form of export knows."""

    library: str
    title: str
    kind: str  # a sentence on the model
    usage: str  # lines of Python
    notes: list[str] = field(default_factory=list)  # sentences on what the folder lacks


def write_card(folder: Path, run: Trained, introduction: Introduction, scores: Path | None = None) -> None:
    """Write the card of a run into an export's folder.

    ``scores`` is a file that ``s2s evaluate json=FILE`` has written. Scores of the dev split are those of the run's
    log.
    """
    parts = {name: getattr(introduction, name) for name in ("library", "title", "kind", "usage")}
    millions = sum(parameter.numel() for parameter in run.objective.parameters()) / 1e6
    parts |= {"data": _data(run.folder), "settings": _settings(run.recipe)}
    text = CARD.format(**parts, step=run.step, parameters=millions)
    sections = [text, "\n\n".join(introduction.notes), _dev_scores(run), _test_scores(scores)]
    (folder / "README.md").write_text("\n".join(filter(None, sections)), encoding="utf-8", newline="\n")


def _data(folder: Path) -> str:
    """Return a sentence on the data set and the versions, or nothing for a run that was never saved."""
    if not (folder / FILE).is_file():
        return ""
    metadata = read_metadata(folder)
    versions = ", ".join(f"{name} {version}" for name, version in sorted(metadata.versions.items()))
    return f"Fingerprint of the data set (train and dev): `{metadata.data}`. Versions: {versions}.\n\n"


def _settings(recipe: Recipe) -> str:
    """Return the settings that differ from the defaults, as YAML; the run's folder says nothing to others."""
    default = dict(flat(Recipe().values()))
    changed = {key: value for key, value in flat(recipe.values()) if value != default.get(key, recipe)}
    changed.pop("run.folder", None)
    text: str = yaml.safe_dump(changed, allow_unicode=True, sort_keys=False)
    return text


def _dev_scores(run: Trained) -> str:
    """Return the scores of the dev split at the checkpoint's step, or nothing where the log has none."""
    # An average has no line in the log, only the last of its checkpoints.
    records = [] if run.checkpoint == "average" else read_log(run.folder)
    evaluations = [record["dev"] for record in records if record["step"] == run.step and "dev" in record]
    if not evaluations or not isinstance(scores := evaluations[-1], dict):
        return ""
    most = run.recipe.run.evaluate_examples
    heading = f"## Scores of the dev split\n\nOf the first {most} examples, during training; `loss` is of all.\n\n"
    return heading + _table(scores)


def _test_scores(path: Path | None) -> str:
    """Return the scores of a file of ``s2s evaluate``. Errors: a UserError for a file of something else."""
    if path is None:
        return ""
    try:
        values = read_json(path)
        count, arguments, signature = values["sentences"], values["arguments"], values["signature"]
        files = f"`{arguments['hypotheses']}` against `{arguments['references']}`"
        table = _table(values["values"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(
            f"scores: {path}: not the file of s2s evaluate json=FILE ({type(error).__name__}: {first_line(error)})"
        ) from error
    return f"## Scores\n\n{files}, {count} texts.\n\n{table}\nSignature: `{signature}`\n"


def _table(scores: Mapping[str, Any]) -> str:
    rows = "".join(f"| {name} | {json.dumps(round(value, 3))} |\n" for name, value in scores.items())
    return f"| score | value |\n|---|---|\n{rows}"
