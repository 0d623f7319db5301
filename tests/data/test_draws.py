"""Laws of the random numbers that are functions of their place, against SplitMix64 written in unbounded integers."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from s2s.randomness import Draws, seed_of

few = settings(deadline=None, max_examples=20)
SEEDS = st.lists(st.integers(0, 2**63 - 1), min_size=1, max_size=5)
GOLDEN, FIRST, SECOND = 0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB
WORD = 1 << 64
MANY = 20000


def mixed(number: int) -> int:
    """SplitMix64's finaliser on unsigned 64-bit numbers."""
    number = (number ^ number >> 30) * FIRST % WORD
    number = (number ^ number >> 27) * SECOND % WORD
    return number ^ number >> 31


def unshifted(number: int, by: int) -> int:
    """The x with x ^ (x >> by) = number: each turn makes ``by`` more bits right."""
    found = number
    for _ in range(64 // by + 1):
        found = number ^ found >> by
    return found


def unmixed(number: int) -> int:
    number = unshifted(number, 31) * pow(SECOND, -1, WORD) % WORD
    number = unshifted(number, 27) * pow(FIRST, -1, WORD) % WORD
    return unshifted(number, 30)


def draws_of(rows: int, method: str = "method", purpose: str = "rows") -> Draws:
    return Draws(torch.tensor([seed_of(purpose, row) for row in range(rows)]), method)


def distance(values: torch.Tensor, distribution) -> float:
    """Kolmogorov and Smirnov's distance times the root of the count: above 2.2 once in 10,000 samples."""
    values = values.flatten().double().sort().values
    expected, count = distribution(values), len(values)
    steps = torch.arange(count + 1, dtype=torch.float64) / count
    return float(torch.maximum((expected - steps[:-1]).max(), (steps[1:] - expected).max())) * math.sqrt(count)


def correlation(first: torch.Tensor, second: torch.Tensor) -> float:
    return float(torch.corrcoef(torch.stack([first.flatten().double(), second.flatten().double()]))[0, 1])


@given(seeds=SEEDS, method=st.text(max_size=8), purpose=st.text(max_size=8), shape=st.lists(st.integers(1, 4)))
@few
def test_the_bits_are_splitmix_s_at_the_place(seeds, method, purpose, shape):
    shape = shape[:3]
    found = Draws(torch.tensor(seeds), method).uniform(purpose, *shape)
    assert found.shape == (len(seeds), *shape)
    assert found.dtype == torch.float32
    for seed, row in zip(seeds, found.flatten(1) if shape else found[:, None], strict=True):
        stream = mixed(seed ^ seed_of(method, purpose))
        for place, value in enumerate(row.tolist()):
            bits = mixed((stream + place * GOLDEN) % WORD)
            assert value == ((bits >> 41) + 0.5) / 2**23


@pytest.mark.parametrize("bits", [0, 1, 2**41 - 1, WORD - 2**41, WORD - 2**40, WORD - 2, WORD - 1])
def test_the_rarest_numbers_lie_inside_the_interval_too(bits):
    start = unmixed(unmixed(bits)) ^ seed_of("method", "purpose")
    assert mixed(mixed(start ^ seed_of("method", "purpose"))) == bits
    draws = Draws(torch.tensor([start - WORD if start >= WORD >> 1 else start]), "method")
    value = draws.uniform("purpose", 1)
    assert 0 < value < 1
    assert (value > 0.5) == (bits > 2**63)
    assert draws.gumbel("purpose", 1).isfinite()


@pytest.mark.parametrize("shape", [(1,), (MANY,), (100, 200), (40, 25, 20)])
@pytest.mark.parametrize("seeds", ["hashed", "consecutive"])
def test_the_numbers_are_uniform(shape, seeds):
    rows = max(1, MANY // math.prod(shape))
    draws = draws_of(rows) if seeds == "hashed" else Draws(torch.arange(rows), "method")
    for purpose in ("hit", "gate", "token"):
        found = draws.uniform(purpose, *shape)
        assert distance(found, lambda values: values) < 2.2
        assert len(found.unique()) > 0.995 * MANY


def test_low_and_high_bits_are_even():
    bits = (draws_of(100).uniform("hit", 1000) * 2**23).long()
    for place in range(23):
        ones = int((bits >> place & 1).sum())
        assert abs(ones - 50000) < 5 * math.sqrt(25000), place


def test_purposes_methods_rows_places_and_seeds_are_independent():
    draws, limit = draws_of(200), 5 / math.sqrt(MANY)
    found = draws.uniform("hit", 100)
    others = {
        "purpose": draws.uniform("gate", 100),
        "method": Draws(draws.seeds, "method 2").uniform("hit", 100),
        "seed": Draws(draws.seeds + 1, "method").uniform("hit", 100),
        "epoch": draws_of(200, purpose="other epoch").uniform("hit", 100),
        "row": found.roll(1, dims=0),
        "place": found.roll(1, dims=1),
    }
    for name, other in others.items():
        assert abs(correlation(found, other)) < limit, name
        assert abs(correlation((found - 0.5).abs(), (other - 0.5).abs())) < limit, name


def test_method_and_purpose_do_not_run_into_each_other():
    seeds = torch.arange(3)
    assert not torch.equal(Draws(seeds, "ab").uniform("c", 4), Draws(seeds, "a").uniform("bc", 4))


@given(seeds=SEEDS, sizes=st.tuples(st.integers(1, 6), st.integers(1, 6)), rest=st.lists(st.integers(1, 3), max_size=2))
@few
def test_more_columns_change_nothing(seeds, sizes, rest):
    draws = Draws(torch.tensor(seeds), "method")
    for kind in (draws.uniform, draws.normal, draws.gumbel):
        short, long = kind("x", min(sizes), *rest), kind("x", max(sizes), *rest)
        assert torch.equal(short, long[:, : min(sizes)])


@given(seeds=SEEDS, data=st.data())
@few
def test_other_rows_change_nothing(seeds, data):
    chosen = data.draw(st.lists(st.integers(0, len(seeds) - 1), min_size=1, max_size=5))
    whole, part = torch.tensor(seeds), torch.tensor([seeds[row] for row in chosen])
    for kind in ("uniform", "normal", "gumbel"):
        found = getattr(Draws(part, "method"), kind)("x", 3, 2)
        assert torch.equal(found, getattr(Draws(whole, "method"), kind)("x", 3, 2)[chosen])


def test_torch_s_generator_is_neither_read_nor_moved():
    found = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        before = torch.get_rng_state()
        draws = draws_of(3)
        found.append(torch.cat([draws.uniform("x", 5), draws.normal("x", 5), draws.gumbel("x", 5)]))
        assert torch.equal(before, torch.get_rng_state())
    assert torch.equal(*found)


def test_the_default_type_changes_nothing():
    expected = draws_of(3).uniform("x", 5)
    torch.set_default_dtype(torch.bfloat16)
    try:
        assert torch.equal(draws_of(3).uniform("x", 5), expected)
    finally:
        torch.set_default_dtype(torch.float32)


def test_normal_numbers_have_the_law_and_moments_of_the_normal_distribution():
    found = draws_of(100).normal("x", 1000).double()
    count = found.numel()
    assert distance(found, lambda values: (1 + (values / math.sqrt(2)).erf()) / 2) < 2.2
    # Moments 1 to 4 and the variance of each power: E x^2k - (E x^k)^2.
    for power, (moment, variance) in enumerate([(0, 1), (1, 2), (0, 15), (3, 96)], start=1):
        assert abs(float((found**power).mean()) - moment) < 5 * math.sqrt(variance / count), power
    assert abs(correlation(found[:, 1:], found[:, :-1])) < 5 / math.sqrt(count)


def test_gumbel_numbers_have_the_law_and_moments_of_the_gumbel_distribution():
    found = draws_of(100).gumbel("x", 1000).double()
    variance = math.pi**2 / 6
    assert distance(found, lambda values: (-(-values).exp()).exp()) < 2.2
    assert abs(float(found.mean()) - 0.5772156649) < 5 * math.sqrt(variance / found.numel())
    # The fourth central moment of a Gumbel variable is 5.4 times its variance squared.
    assert abs(float(found.var()) - variance) < 5 * variance * math.sqrt(4.4 / found.numel())


def test_the_largest_score_with_gumbel_numbers_samples_the_softmax():
    scores = torch.tensor([0.0, 1.0, -2.0, 3.0, -torch.inf, 0.5])
    chosen = (scores + draws_of(200).gumbel("word", 100, 6)).argmax(dim=-1)
    counts = torch.bincount(chosen.flatten(), minlength=6)
    for count, chance in zip(counts.tolist(), scores.softmax(dim=0).tolist(), strict=True):
        assert abs(count - MANY * chance) <= 5 * math.sqrt(MANY * chance * (1 - chance))
