"""Tiny random models, batches and checkpoints.

The fixtures are functions that make them, and last for the session, as hypothesis wants of what its tests share.
"""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
import served
import tiny_runs
import torch
from mitigations_worker import TINY as TINY_RECIPE
from mitigations_worker import update
from shared_runs import shared_folder
from transformers import PreTrainedModel

import s2s
from s2s.batch import Batch, collate
from s2s.model import Architecture, PrefixTransformer, output_rows
from s2s.recipe.recipe import Recipe
from s2s.vocabulary import Vocabulary

TINY = {"vocabulary": 23, "layers": 2, "width": 12, "heads": 3, "feed_forward": 20, "positions": 40, "dropout": 0.0}
TINY_CHECKPOINT = {
    "vocab_size": 40,
    "hidden_size": 12,
    "num_hidden_layers": 3,
    "num_attention_heads": 3,
    "intermediate_size": 20,
    "max_position_embeddings": 16,
}
PADDING, BEGIN, END = 0, 2, 3


def randomise(model: torch.nn.Module, seed: int) -> None:
    """Draw every parameter, biases and normalisations too, so that none can be mistaken for another."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        parameter.data.normal_(0.1, 0.4, generator=generator)


@pytest.fixture(autouse=True)
def torch_as_it_was() -> Iterator[None]:
    """Fail a test that leaves torch in another state than it met, since the tests after it would fail in its place."""
    before = states_of_torch()
    yield
    assert states_of_torch() == before


def states_of_torch() -> dict[str, object]:
    return {
        "default dtype": torch.get_default_dtype(),
        "autocast": torch.is_autocast_enabled("cpu"),
        "gradients": torch.is_grad_enabled(),
        "threads": torch.get_num_threads(),
    }


@pytest.fixture(scope="session")
def random_model() -> Callable[..., PrefixTransformer]:
    def make(seed: int = 0, dtype: torch.dtype = torch.float64, **shape: object) -> PrefixTransformer:
        model = PrefixTransformer(Architecture(**(TINY | shape)))
        randomise(model, seed)
        return model.to(dtype).eval()

    return make


@pytest.fixture(scope="module", params=["plain", "filled"])
def tables(request: pytest.FixtureRequest) -> Iterator[None]:
    """Tables of pieces as they are, and filled with zeros as on a GPU."""
    with pytest.MonkeyPatch.context() as patch:
        if request.param == "filled":
            patch.setattr(output_rows, "DEVICE", "cpu")
            patch.setattr(output_rows, "MANY", 1)
        yield


@pytest.fixture(scope="session")
def random_batch() -> Callable[..., Batch]:
    """A batch of (source length with begin and end, target length with neither)."""

    def make(sizes: Sequence[tuple[int, int]], seed: int = 0, vocabulary: int = TINY["vocabulary"]) -> Batch:
        generator = torch.Generator().manual_seed(seed)

        def ids(length: int) -> list[int]:
            return torch.randint(END + 1, vocabulary, (length,), generator=generator).tolist()

        return collate([([BEGIN, *ids(source - 2), END], ids(target)) for source, target in sizes], PADDING, END)

    return make


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., tuple[Path, PreTrainedModel]]:
    """A random model of a class of ``transformers`` and the folder that it is saved in."""

    def make(kind: type[PreTrainedModel], **config: object) -> tuple[Path, PreTrainedModel]:
        model = kind(kind.config_class(**(TINY_CHECKPOINT | config))).eval()
        randomise(model, 0)
        folder = tmp_path_factory.mktemp(kind.__name__)
        model.save_pretrained(folder)
        return folder, model

    return make


@pytest.fixture(scope="session")
def materials(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Vocabulary, Batch]:
    """What every method can be tried with: the folder of a run, its vocabulary, and the batch of an update."""
    folder = tmp_path_factory.mktemp("methods")
    s2s.fit(Recipe.load("toy_copy", [*TINY_RECIPE, "run.steps=2", f"run.folder={folder / 'reference'}"]))
    return folder, *update(folder)


@pytest.fixture(scope="session")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a tiny run that is ready for training, for ``tiny_runs.ready`` to copy."""
    return shared_folder(tmp_path_factory, "base", tiny_runs.prepare)


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a tiny run of three steps, see ``tiny_runs.train``."""
    return shared_folder(tmp_path_factory, "tiny", tiny_runs.train)


@pytest.fixture(scope="session")
def other_tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same of another seed."""
    return shared_folder(tmp_path_factory, "other_tiny", lambda folder: tiny_runs.train(folder, "run.seed=1"))


@pytest.fixture(scope="session")
def roomy_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run whose model has positions for searches that last."""
    return shared_folder(tmp_path_factory, "roomy", served.run_with_room)
