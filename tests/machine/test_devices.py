"""A GPU computes what the processor does: every row of every table, on the fake CUDA.

One process computes all rows (``devices_worker.py``); each test reads one. A row that a table gains is in by itself.
"""

from typing import Any

import pytest
from devices_worker import ATTENTIONS, BACKBONES, LIBRARY, LIMITS, PRECISIONS
from fake_devices import found_by, needs_fake_cuda
from foreign_models import FAMILIES
from mitigations_worker import CANCELLING, EXTRA

from s2s.heads import HEADS
from s2s.inference.precisions import PRECISIONS as DECODING
from s2s.mitigations import MITIGATIONS
from s2s.model.activation_checkpointing import CHECKPOINTING
from s2s.optim import OPTIMIZERS
from s2s.search.methods import SEARCHES

PATIENCE = 1800
"""Seconds in which a worker ends, on a busy machine too."""
pytestmark = [pytest.mark.slow, needs_fake_cuda]

METHODS = [*MITIGATIONS, *EXTRA]
CLOSE = 1e-6
ROUNDED = {"bf16": 2e-2, "fp16": 5e-3}
"""How far half precision may be from single precision on the processor: a few units of its last place."""
TRAINED = [*(("heads", name) for name in HEADS), *(("optimizers", name) for name in OPTIMIZERS)]
ON_PROCESSORS = "int8"

Found = dict[str, dict[str, Any]]


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> Found:
    folder = tmp_path_factory.mktemp("devices")
    rows: Found = found_by("devices_worker.py", "rows.json", folder, timeout=PATIENCE)
    return rows


def assert_close(row: dict[str, Any], limit: float = CLOSE) -> None:
    assert "error" not in row, row["error"]
    assert all(distance <= limit for distance in row.values()), row


@pytest.mark.parametrize("backbone", BACKBONES)
@pytest.mark.parametrize("name", METHODS)
def test_an_update_of_each_mitigation_on_each_backbone(name: str, backbone: str, found: Found) -> None:
    assert_close(found["mitigations"][f"{name} {backbone}"])


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("name", METHODS)
def test_an_update_of_each_mitigation_in_each_precision(name: str, precision: str, found: Found) -> None:
    limit = ROUNDED.get(precision, CLOSE)
    if name in CANCELLING:
        limit = float("inf") if precision in ROUNDED else 1000 * CLOSE
    assert_close(found["mitigations"][f"{name} {precision}"], limit)


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize(
    ("table", "name"), [("heads", name) for name in HEADS] + [("optimizers", name) for name in OPTIMIZERS]
)
def test_a_run_of_each_head_and_optimizer(table: str, name: str, precision: str, found: Found) -> None:
    assert_close(found[table][f"{name} {precision}"], ROUNDED.get(precision, 2 * CLOSE))


@pytest.mark.parametrize("backbone", BACKBONES)
@pytest.mark.parametrize("name", [*SEARCHES, *LIMITS, "score", "stream"])
def test_each_search_and_limit_on_each_backbone(name: str, backbone: str, found: Found) -> None:
    assert_close(found["searches"][f"{name} {backbone}"], 10 * CLOSE)


@pytest.mark.parametrize("backbone", BACKBONES)
@pytest.mark.parametrize("precision", DECODING)
def test_each_precision_of_decoding_on_each_backbone(precision: str, backbone: str, found: Found) -> None:
    row = found["searches"][f"{precision} {backbone}"]
    if precision == ON_PROCESSORS:
        assert "UserError: search.precision: int8 is for" in row["error"]
    else:
        assert_close(row, ROUNDED.get(precision, 10 * CLOSE))


@pytest.mark.parametrize("name", [*ATTENTIONS, *CHECKPOINTING])
def test_an_update_of_each_attention_and_way_to_keep_activations(name: str, found: Found) -> None:
    assert_close(found["models"][name])


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("name", LIBRARY)
def test_mitigated_forwards_of_other_peoples_loops(name: str, family: str, found: Found) -> None:
    # In single precision, as library models are made.
    assert_close(found["library"][f"{name or 'plain'} {family}"], 1000 * CLOSE if name in CANCELLING else CLOSE)
