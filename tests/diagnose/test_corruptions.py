"""Each corruption by exact examples and by the law that names it."""

from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from s2s.diagnose.corruptions import CORRUPTIONS, RATE, Prefix, corrupt, other_target, seen
from s2s.mitigations import MITIGATIONS, LossMethod, Mitigation

PLAIN = tuple(range(4, 60))
targets = st.lists(st.integers(4, 9), min_size=2, max_size=12)


class Scripted(Random):
    """Returns the given draws: positions as numbers, coins as they come."""

    def __init__(self, *draws: float) -> None:
        super().__init__(0)
        self.draws = list(draws)

    def randrange(self, count):
        position = self.draws.pop(0)
        assert position < count
        return position

    def choice(self, pool):
        return list(pool)[self.randrange(len(pool))]

    def random(self):
        return self.draws.pop(0)


def prefix(target, length, other=(), greedy=(), plain=PLAIN):
    return Prefix(target, length, other, greedy, plain)


EXAMPLES = [
    (
        "replace_from_target",
        [4, 5, 6, 7],
        3,
        (2, 0.9, 0.1, 0.9, 0, 3),
        [4, 4, 7],
    ),  # the second by its coin, the third surely
    ("replace_from_target", [4, 5, 4], 2, (0, 0.9, 0.9, 0, 1), [5, 5]),  # its own token is drawn again
    ("replace_from_vocabulary", [4, 5, 6], 2, (1, 0.9, 0.9, 7), [4, 11]),
    ("swap", [4, 4, 5, 6], 3, (0,), [4, 5, 4]),  # only the second and third differ
    ("drop", [4, 5, 6, 7], 3, (1,), [4, 6]),
    ("duplicate", [4, 5, 6, 7], 3, (1,), [4, 5, 5, 6]),
]


@pytest.mark.parametrize(("name", "target", "length", "draws", "wanted"), EXAMPLES)
def test_a_corruption_of_given_draws(name, target, length, draws, wanted):
    random = Scripted(*draws)
    assert CORRUPTIONS[name](prefix(target, length), random) == wanted
    assert not random.draws


def test_other_words_are_taken_as_they_are():
    assert corrupt("distract", prefix([4, 5, 6], 2, other=[8, 9, 7]), 0, 0) == [8, 9]
    assert corrupt("own_errors", prefix([4, 5, 6], 2, greedy=[4, 9, 9]), 0, 0) == [4, 9]


@pytest.mark.parametrize(
    ("name", "which"),
    [
        ("replace_from_target", prefix([4, 4, 4], 2)),
        ("swap", prefix([4, 4, 5], 2)),
        ("distract", prefix([4, 5, 6], 2, other=[4, 5, 7])),
        ("distract", prefix([4, 5, 6], 2, other=[8])),
        ("own_errors", prefix([4, 5, 6], 2, greedy=[4, 5, 7])),
        ("replace_from_vocabulary", prefix([4, 4], 1, plain=[4])),
    ],
)
def test_what_cannot_be_changed_is_none(name, which):
    assert corrupt(name, which, 0, 0) is None


@given(targets, st.integers(0, 99), st.integers(0, 99), st.data())
@settings(deadline=None, max_examples=60)
def test_laws_of_the_corruptions(target, seed, example, data):
    length = data.draw(st.integers(1, len(target)))
    which = prefix(target, length, other=list(range(20, 40)), greedy=[token + 30 for token in target])
    corrupted = {name: corrupt(name, which, seed, example) for name in CORRUPTIONS}
    assert corrupted == {name: corrupt(name, which, seed, example) for name in CORRUPTIONS}  # again, the same
    gold = target[:length]
    assert all(tokens != gold for tokens in corrupted.values())
    assert corrupted["drop"] in [gold[:index] + gold[index + 1 :] for index in range(length)]
    assert corrupted["duplicate"] in [gold[: index + 1] + gold[index:] for index in range(length)]
    for name, pool in (("replace_from_target", target), ("replace_from_vocabulary", PLAIN)):
        tokens = corrupted[name]
        assert tokens is None or (len(tokens) == length and set(tokens) <= set(pool))
    swapped = corrupted["swap"]
    if swapped is not None:
        positions = [index for index in range(length) if swapped[index] != gold[index]]
        assert sorted(swapped) == sorted(gold)
        assert len(positions) == 2
        assert positions[1] == positions[0] + 1


def test_one_token_is_replaced_surely_and_each_other_one_at_the_rate():
    target = list(range(4, 14))
    hits = [
        sum(
            a != b
            for a, b in zip(target, corrupt("replace_from_vocabulary", prefix(target, 10), 0, example), strict=True)
        )
        for example in range(400)
    ]
    assert min(hits) >= 1
    assert sum(hits) / 400 == pytest.approx(1 + 9 * RATE, abs=4 * (9 * RATE * (1 - RATE) / 400) ** 0.5)


def test_the_distractor_is_another_target_that_is_long_enough_and_begins_otherwise():
    texts = [[4, 5, 6], [4, 5, 7], [8], [9, 9, 9]]
    assert {tuple(other_target(texts, 0, 2, seed)) for seed in range(20)} == {(9, 9, 9)}
    assert {tuple(other_target(texts, 0, 1, seed)) for seed in range(40)} == {(8,), (9, 9, 9)}
    assert other_target(texts, 0, 4, 0) == ()


@pytest.mark.parametrize(
    ("name", "keys", "wanted"),
    [
        ("random_replacement", {}, {"replace_from_target"}),
        ("random_replacement", {"pool": "unigram"}, {"replace_from_vocabulary"}),
        ("random_replacement", {"pool": "past"}, {"replace_from_target"}),
        ("random_replacement", {"pool": "model_top_k"}, {"replace_from_vocabulary", "own_errors"}),
        ("random_replacement", {"rate": 0.0}, set()),
        ("random_replacement", {"gate": 0.0, "pool": "unigram"}, set()),
        ("swap_noise", {}, {"swap"}),
        ("swap_noise", {"weight": 0.0}, set()),
        ("shift_noise", {}, {"drop"}),
        ("duplicate_noise", {}, {"duplicate"}),
        ("noise_consistency", {}, {"replace_from_target"}),
        ("scheduled_sampling", {}, {"own_errors"}),
        ("scheduled_sampling", {"rate": 0.0}, set()),
        ("raml", {}, {"replace_from_vocabulary"}),
        ("raml", {"temperature": 0.0}, set()),
        ("mrt", {}, {"own_errors"}),
        ("distillation", {"teacher": "x"}, {"own_errors"}),
        ("distillation", {"teacher": "x", "on_policy": 0.0}, set()),
        ("word_dropout", {}, set()),
        ("fgm", {}, set()),
    ],
)
def test_a_method_says_which_corruptions_it_teaches(name, keys, wanted):
    method = MITIGATIONS[name](**keys)
    assert seen([method]) == wanted
    assert seen([method, MITIGATIONS["swap_noise"]()]) == wanted | {"swap"}
    assert wanted <= CORRUPTIONS.keys()


def test_every_method_answers_what_it_teaches_and_a_new_one_that_does_not_fails():
    assert [name for name, kind in MITIGATIONS.items() if kind.teaches is Mitigation.teaches] == []
    with pytest.raises(NotImplementedError, match="LossMethod"):
        seen([LossMethod()])
