"""A part of train and a test split drawn from it."""

import pytest

from s2s.data import DataSettings, load
from s2s.data.settings import Draw
from s2s.errors import UserError


@pytest.fixture
def folder(tmp_path):
    for split, size in (("train", 50), ("dev", 5), ("test", 5)):
        rows = [f'{{"source": "{split} {number:02}", "target": "b"}}\n' for number in range(size)]
        (tmp_path / f"{split}.jsonl").write_text("".join(rows), encoding="utf-8")
    return str(tmp_path)


def sources(folder, **draw):
    dataset = load(DataSettings(path=folder, draw=Draw(**draw)))
    return {
        split: [example.source for example in getattr(dataset, split)] for split in ("train", "dev", "test")
    }, dataset


def test_the_parts_are_disjoint_and_in_the_order_of_train(folder):
    splits, dataset = sources(folder, train=20, test=10)
    assert [len(splits[name]) for name in ("train", "dev", "test")] == [20, 5, 10]
    assert not set(splits["train"]) & set(splits["test"])
    assert all(source.startswith("train") for source in splits["train"] + splits["test"])
    assert splits["train"] == sorted(splits["train"])
    assert splits["test"] == sorted(splits["test"])
    assert "train: 20 for train and 10 for test drawn from 50 with seed 0" in dataset.report


def test_another_size_of_train_keeps_the_test_split_and_another_seed_does_not(folder):
    splits, dataset = sources(folder, train=20, test=10)
    larger, other = sources(folder, train=40, test=10)
    assert larger["test"] == splits["test"]
    assert set(splits["train"]) < set(larger["train"])
    assert dataset.fingerprint != other.fingerprint
    assert sources(folder, train=20, test=10, seed=1)[0]["test"] != splits["test"]


def test_without_a_number_train_keeps_the_rest_and_test_stays_its_own(folder):
    assert len(sources(folder, test=10)[0]["train"]) == 40
    assert sources(folder, train=20)[0]["test"] == [f"test {number:02}" for number in range(5)]


@pytest.mark.parametrize("draw", [{"train": 51}, {"train": 45, "test": 6}, {"test": 50}])
def test_more_than_there_is_is_refused(folder, draw):
    with pytest.raises(UserError, match=r"data.draw: .* but train has 50 examples"):
        sources(folder, **draw)
