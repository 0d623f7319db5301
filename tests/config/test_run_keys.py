"""Fuzzing of a recipe's ``run:``: any junk gives one clear line and exit code 2, and writes nothing."""

import contextlib
import io
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from s2s import train
from s2s.errors import UserError
from s2s.recipe.recipe import Recipe

KEYS = [
    *("seed", "steps", "tokens", "accumulate", "precision", "checkpointing", "checkpointing_every", "clip", "ema"),
    *("average", "save_every", "keep", "evaluate_every", "evaluate_examples", "select", "patience", "trackers"),
]
JUNK = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=5), inner, max_size=2),
    max_leaves=4,
)


@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(values=st.dictionaries(st.sampled_from([*KEYS, "folder", "stepz"]), JUNK, min_size=1, max_size=2))
def test_junk_is_one_line(values: dict[str, Any], tmp_path: Path) -> None:
    """Processes that did not come up stop what is valid by chance, before anything is written."""
    folder, file = tmp_path / "run", tmp_path / "junk.yaml"
    run = {"folder": str(folder), "processes": 77} | values
    file.write_text(yaml.safe_dump({"base": "toy_copy", "run": run}, allow_unicode=True), encoding="utf-8")
    errors = io.StringIO()
    with contextlib.redirect_stderr(errors), contextlib.redirect_stdout(io.StringIO()):
        assert train.main([f"recipe={file}"]) == 2
    assert errors.getvalue().startswith("error: ")
    assert len(errors.getvalue().splitlines()) == 1
    assert not folder.exists()
    assert {path.name for path in tmp_path.iterdir()} == {"junk.yaml"}


@pytest.mark.parametrize(
    ("setting", "told"),
    [
        ("run.folder=''", "run.folder: an empty name"),
        ("run.ema=1", r"run.ema: 1.0 is not in \[0, 1\)"),
        ("run.average=0", "run.average: 0 is not at least 1"),
        ("run.patience=0", "run.patience: 0 is not at least 1"),
        ("run.precision=fp17", "run.precision"),
        ("run.trackers=5", "run.trackers"),
        ("run.clip=0", "run.clip: 0.0 is not above 0"),
    ],
)
def test_values_without_meaning_are_refused(setting: str, told: str) -> None:
    with pytest.raises(UserError, match=told):
        Recipe.load("toy_copy", [setting])
