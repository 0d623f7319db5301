"""The pictures of a study, read back from their SVG: where numbers are, what fits, and what words say."""

import re
from itertools import combinations, pairwise
from xml.etree import ElementTree

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.font_manager import FontProperties
from matplotlib.textpath import TextPath

from s2s.diagnose.report.svg import PALETTE
from s2s.study.figures import Curve, Effect, Panel, curves
from s2s.study.figures import forest as forest_of
from s2s.study.statistics import Difference
from s2s.study.svg import as_file, fitted, linear, logarithmic, number, width

LONG = "sequence-level distillation from three teachers, half of the batch on policy, minus teacher forcing"


def difference(estimate, error=0.2):
    reach = 2.2 * error
    return Difference(estimate, estimate - reach, estimate + reach, error, 10.0, 0.05, 3.1 * error, (6, 6), 500)


def effects(number_of):
    """Rows as different as a study has them."""
    generator = np.random.default_rng(number_of)
    rows = [
        Effect(label, difference(*generator.normal(size=1), error), adjusted, better)
        for label, error, adjusted, better in zip(
            [LONG, "R-Drop", "随机替换随机替换随机替换随机替换随机替换随机替换", '<b> & "quotes"'] * 3,
            generator.uniform(0.05, 0.5, 12),
            [None, 0.01, 0.4] * 4,
            ["higher", "lower", "neither", "higher"] * 3,
            strict=True,
        )
    ]
    return rows[:number_of]


def learning(names=("teacher forcing", "replacement"), seeds=6, steps=20):
    generator = np.random.default_rng(0)
    x = np.arange(1, steps + 1) * 100
    return [Curve(name, x, 3 + 2 / x + generator.normal(size=(seeds, steps)) / 10) for name in names]


def by_beams(seeds=4):
    generator = np.random.default_rng(1)
    return [Curve(name, [1, 2, 4, 8, 16, 32, 64], 40 + generator.normal(size=(seeds, 7))) for name in "ab"]


def forest(rows, title, unit, name="forest"):
    return forest_of([Panel(title, unit, rows)], name=name)


def parsed(svg):
    return ElementTree.fromstring(svg)


def numbers(item, *keys):
    return [float(item.get(key)) for key in keys]


def boxes(root):
    """The outlines (left, top, right, bottom) of all that is drawn, with the words of texts."""
    for item in root.iter():
        if item.tag == "text":
            x, y, size = numbers(item, "x", "y", "font-size")
            reach = width(item.text, size)
            left = x - {"start": 0, "middle": reach / 2, "end": reach}[item.get("text-anchor")]
            yield (left, y - 0.8 * size, left + reach, y + 0.25 * size), item.text
        elif item.tag == "line":
            x1, y1, x2, y2 = numbers(item, "x1", "y1", "x2", "y2")
            yield (min(x1, x2), min(y1, y2), max(x1, x2), max(y1, y2)), None
        elif item.tag == "rect":
            x, y, wide, high = numbers(item, "x", "y", "width", "height")
            yield (x, y, x + wide, y + high), None
        elif item.tag == "circle":
            x, y, r = numbers(item, "cx", "cy", "r")
            yield (x - r, y - r, x + r, y + r), None
        elif item.tag in ("polyline", "polygon"):
            points = np.array([[float(part) for part in point.split(",")] for point in item.get("points").split()])
            yield (*points.min(axis=0), *points.max(axis=0)), None


def pictures():
    for rows in (0, 1, 2, 7, 12):
        yield f"forest of {rows}", forest(effects(rows), LONG, "chrF")
    yield "one value", forest([Effect("a", difference(0.0, 0.0))], "a", "nats")
    yield "large", forest([Effect("a", difference(-123456.0, 1000.0), 0.01)], "a", "tokens a second and more of it")
    yield "small", forest([Effect("a", difference(3e-5, 1e-5), 0.01)], "a", LONG)
    within = Effect("a", difference(-0.1), 0.01, "higher", "equivalence", 0.5)
    yield "margins", forest([within, within._replace(kind="non_inferiority", margin=1.7)], "a", "BLEU")
    plots = [Panel(LONG, "chrF", effects(2), LONG), Panel("b", "nats", [within], "a"), Panel("c", "BLEU", effects(1))]
    yield "several forests", forest_of(plots, LONG)
    yield "nothing", forest([Effect("a", Difference(np.nan, *[None] * 6, (5, 5), 0))], "a", "BLEU")
    yield "curves", curves(learning(), "Loss on dev", "updates", "nats a token")
    yield "many curves", curves(learning([f"{LONG[: n * 9]}" for n in range(1, 11)]), LONG, LONG, LONG)
    yield "one seed", curves(learning(seeds=1), "a", "b", "c")
    yield "one point", curves(learning(steps=1), "a", "b", "c")
    yield "beams", curves(by_beams(), "chrF", "beams", "chrF", logarithmic_x=True)
    yield "no values", curves([Curve("a", [1, 2], np.full((3, 2), np.nan))], "a", "b", "c")


PICTURES = dict(pictures())


@pytest.mark.parametrize("name", PICTURES)
def test_nothing_leaves_the_picture_and_no_words_overlap(name):
    root = parsed(PICTURES[name])
    _, _, right, bottom = map(float, root.get("viewBox").split())
    outlines = list(boxes(root))
    for (x1, y1, x2, y2), words in outlines:
        assert -0.01 <= x1 <= x2 <= right + 0.01, words
        assert -0.01 <= y1 <= y2 <= bottom + 0.01, words
    texts = [(box, words) for box, words in outlines if words]
    for (a, first), (b, second) in combinations(texts, 2):
        apart = a[2] <= b[0] or b[2] <= a[0] or a[3] <= b[1] or b[3] <= a[1]
        assert apart, (first, second)


@pytest.mark.parametrize("name", PICTURES)
def test_a_picture_can_be_read_without_seeing_it_and_takes_the_colours_of_its_page(name):
    root = parsed(PICTURES[name])
    assert root.get("role") == "img"
    labels = [root.find(f"*[@id='{label}']").text for label in root.get("aria-labelledby").split()]
    assert labels[0]
    assert "nan" not in PICTURES[name]
    colours = {item.get(key) for item in root.iter() for key in ("fill", "stroke")} - {None, "none"}
    assert colours <= {"currentColor", *PALETTE}


def test_a_forest_in_words_and_its_ids():
    rows = [Effect("R-Drop", difference(0.5), 0.012), Effect("noise", difference(-1.25), None, "lower")]
    svg = forest(rows, "chrF of beam 4", "chrF", name="primary")
    root = parsed(svg)
    assert root.find("title").text == "chrF of beam 4"
    assert root.find("desc").text == (
        "R-Drop: +0.50 chrF, 95 % interval 0.06 to 0.94, difference, p after Holm 0.012, "
        "could have found 0.62 before Holm, higher is better. noise: −1.25 chrF, 95 % interval −1.69 to −0.81, "
        "could have found 0.62, lower is better."
    )
    assert re.findall(r'id="([^"]*)"', svg) == ["primary-title", "primary-desc"]
    shown = [item.text for item in root.iter("text")]
    assert "+0.50 [0.06, 0.94] *" in shown
    assert "−1.25 [−1.69, −0.81]" in shown


def test_numbers_of_a_forest_are_where_the_axis_says():
    rows = [Effect("a", difference(0.5), 0.012), Effect("b", difference(-1.25), 0.3), Effect("c", difference(0.75))]
    root = parsed(forest(rows, "title", "chrF"))
    # The axis as a reader takes it from the ticks: two of them give every other place.
    ticks = {item.text: float(item.get("x")) for item in root.iter("text") if re.fullmatch("[−]?[0-9.]+", item.text)}
    place = np.poly1d(np.polyfit([-2.0, 1.0], [ticks["−2"], ticks["1"]], 1))
    intervals = [numbers(item, "x1", "x2") for item in root.iter("line") if item.get("stroke-width")]
    drawn = [[place(row.difference.low), place(row.difference.high)] for row in rows]
    assert np.array(intervals) == pytest.approx(np.array(drawn), abs=0.02)
    found, not_found, *_ = root.iter("circle")
    assert float(found.get("cx")) == pytest.approx(place(0.5), abs=0.02)
    assert (found.get("fill"), not_found.get("fill")) == (PALETTE[2], "none")
    bands = [numbers(item, "x", "width") for item in root.iter("rect") if item.get("fill-opacity")][:3]
    assert bands == [pytest.approx([place(-0.62), place(0.62) - place(-0.62)], abs=0.02)] * 3
    zeros = [numbers(item, "x1", "x2") for item in root.iter("line") if item.get("stroke-opacity")]
    assert zeros == [pytest.approx([place(0), place(0)], abs=0.02)] * 3


@pytest.mark.parametrize(
    ("estimate", "better", "colour"),
    [
        (0.5, "higher", PALETTE[2]),
        (0.5, "lower", PALETTE[4]),
        (-0.5, "lower", PALETTE[2]),
        (-0.5, "higher", PALETTE[4]),
        (0.5, "neither", "currentColor"),
    ],
)
def test_a_difference_that_is_found_is_green_for_the_better_and_red_for_the_worse(estimate, better, colour):
    row = Effect("a", difference(estimate), 0.01, better)
    assert row.colour == colour
    assert row._replace(adjusted=0.2).colour == row._replace(adjusted=None).colour == PALETTE[-1]
    assert row._replace(kind="equivalence", margin=0.5).colour == PALETTE[0]


@pytest.mark.parametrize(
    ("kind", "better", "margins"),
    [
        ("equivalence", "lower", [-0.5, 0.5]),
        ("non_inferiority", "higher", [-0.5]),
        ("non_inferiority", "lower", [0.5]),
        ("difference", "higher", []),
    ],
)
def test_margins_are_on_the_side_where_a_variant_is_worse(kind, better, margins):
    row = Effect("a", difference(0.0), 0.01, better, kind, 0.5)
    assert row.margins == margins
    dashed = [item for item in parsed(forest([row], "a", "b")).iter("line") if item.get("stroke-dasharray")]
    assert len(dashed) == len(margins) + bool(margins)  # and one in the key


@pytest.mark.parametrize(
    ("ways", "words"),
    [
        (["higher", "higher"], {"← worse", "better →"}),
        (["lower", "lower"], {"← better", "worse →"}),
        (["higher", "lower"], set()),
        (["neither"], set()),
    ],
)
def test_the_ends_of_the_axis_say_which_is_better_where_it_is_the_same_for_all(ways, words):
    rows = [Effect("a", difference(0.1), better=better) for better in ways]
    shown = {item.text for item in parsed(forest(rows, "a", "b")).iter("text")}
    assert {text for text in shown if "→" in text or "←" in text} == words


def test_curves_are_means_with_the_range_over_seeds_at_their_places():
    values = np.array([[4.0, 3.0, 2.0], [5.0, 3.5, 2.0]])
    root = parsed(curves([Curve("a", [0, 500, 1000], values)], "Loss", "updates", "nats"))
    across = {item.text: float(item.get("x")) for item in root.iter("text") if item.get("text-anchor") == "middle"}
    up = {item.text: float(item.get("y")) - 4 for item in root.iter("text") if item.get("text-anchor") == "end"}
    x = np.poly1d(np.polyfit([0, 1000], [across["0"], across["1,000"]], 1))
    y = np.poly1d(np.polyfit([2, 5], [up["2"], up["5"]], 1))
    points = {
        item.tag: [tuple(map(float, point.split(","))) for point in item.get("points").split()]
        for item in root.iter()
        if item.get("points")
    }
    means = [(x(0), y(4.5)), (x(500), y(3.25)), (x(1000), y(2.0))]
    band = [(x(0), y(5)), (x(500), y(3.5)), (x(1000), y(2)), (x(1000), y(2)), (x(500), y(3)), (x(0), y(4))]
    assert np.array(points["polyline"]) == pytest.approx(np.array(means), abs=0.02)
    assert np.array(points["polygon"]) == pytest.approx(np.array(band), abs=0.02)
    assert root.find("desc").text.endswith("a: 4.5 at 0, 2.0 at 1000.")


def test_widths_are_evenly_spaced_on_a_logarithmic_axis():
    root = parsed(PICTURES["beams"])
    places = {item.text: float(item.get("x")) for item in root.iter("text") if item.get("text-anchor") == "middle"}
    gaps = [b - a for a, b in pairwise(places[str(2**n)] for n in range(7))]
    assert gaps == pytest.approx([gaps[0]] * 6, abs=0.02)


def test_points_without_a_value_for_every_seed_are_left_out():
    values = np.array([[4.0, 3.0, np.nan], [5.0, 3.5, 2.0]])
    root = parsed(curves([Curve("a", [1, 2, 3], values)], "Loss", "updates", "nats"))
    assert len(root.find("polyline").get("points").split()) == 2
    assert root.find("desc").text.endswith("a: 4.50 at 1, 3.25 at 2.")


def test_curves_differ_in_more_than_their_colours():
    lines = list(parsed(PICTURES["many curves"]).iter("polyline"))
    assert len({(item.get("stroke"), item.get("stroke-dasharray")) for item in lines[:8]}) == 8
    assert all(a.get("stroke-dasharray") != b.get("stroke-dasharray") for a, b in pairwise(lines))


def test_one_seed_has_no_band():
    assert "polygon" not in PICTURES["one seed"]
    assert "polygon" in PICTURES["curves"]


def test_a_file_of_its_own_has_a_namespace_and_both_colours_of_text():
    root = ElementTree.fromstring(as_file(PICTURES["curves"]))
    assert root.tag == "{http://www.w3.org/2000/svg}svg"
    assert "prefers-color-scheme:dark" in root.find("{*}style").text


@settings(deadline=None)
@given(st.lists(st.floats(-1e9, 1e9).map(lambda x: float(f"{x:.6g}")), min_size=1, max_size=6))
def test_an_axis_holds_its_numbers_and_has_few_round_ticks_whose_labels_are_exact(values):
    axis = linear(values)
    rounding = 1e-9 * (axis.high - axis.low)
    assert axis.low - rounding <= min(values) <= max(values) <= axis.high + rounding
    assert 2 <= len(axis.ticks) <= 8
    labels = [number(tick, axis.decimals) for tick in axis.ticks]
    assert len(set(labels)) == len(labels)
    read = [float(label.replace(",", "").replace("−", "-")) for label in labels]
    assert read == pytest.approx(axis.ticks, abs=rounding)


def test_labels_of_a_logarithmic_axis_that_would_touch_are_left_out():
    axis = logarithmic(range(1, 65)).within(30, 460)
    assert axis.ticks[-1] == 64
    places = [(axis.at(tick), width(f"{tick:g}") / 2) for tick in axis.ticks]
    assert all(b - a >= one + other for (a, one), (b, other) in pairwise(places))


def test_words_that_do_not_fit_end_in_an_ellipsis():
    assert fitted("short", 100) == "short"
    assert fitted(LONG, 100).endswith("…")
    assert width(fitted(LONG, 100)) <= 100


@pytest.mark.parametrize(
    "words", ["teacher forcing", "WMT MAMMOTH", "mmmm", "+1.40 [−1.87, −0.92] *", "← better", "1,000", LONG, "100 %"]
)
def test_words_are_no_wider_than_expected_in_a_wide_type(words):
    path = TextPath((0, 0), words, size=11, prop=FontProperties(family="DejaVu Sans"))
    assert 0.75 * width(words, 11) <= path.get_extents().width <= width(words, 11)


@pytest.mark.parametrize(
    ("value", "decimals", "text"), [(-0.001, 2, "0.00"), (1234.5, 1, "+1,234.5"), (-2, 0, "−2"), (0, 1, "0.0")]
)
def test_numbers_have_a_minus_and_zero_has_no_sign(value, decimals, text):
    assert number(value, decimals, sign=True) == text
