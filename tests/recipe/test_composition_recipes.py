"""Mitigations as lists in recipes: rows, edits, what may not stand together, and where an error points."""

import pytest

from s2s.errors import UserError
from s2s.mitigations import MITIGATIONS
from s2s.mitigations.adversarial import FastGradient
from s2s.recipe.build import build_mitigations
from s2s.recipe.recipe import Recipe, differences

SHAPERS = (
    *("fgm", "fgm_article", "pgd", "free_lb", "vat", "gradient_penalty", "gradient_penalty_article", "r_drop"),
    *("r_drop_article", "noise_consistency", "graduated_label_smoothing", "unlikelihood", "teaforn", "mixce"),
)
FGM = "mitigations=[{name: fgm, scope: target, epsilon: 1.0, weight: 0.5}]"


def load(*overrides):
    return Recipe.load("toy_copy", overrides)


def refused(*overrides):
    with pytest.raises(UserError) as caught:
        load(*overrides)
    return str(caught.value)


def test_a_row_is_its_class_with_the_keys_given():
    (row,) = load(FGM).mitigations
    assert row == FastGradient(scope="target", epsilon=1.0, weight=0.5)
    assert load("mitigations=[{name: fgm, scope: all, ramp_steps: 7}]").mitigations == [
        FastGradient(scope="all", ramp_steps=7)
    ]
    assert load().mitigations == []


@pytest.mark.parametrize("name", SHAPERS)
def test_every_shaper_is_made_by_its_name(name):
    recipe = load(f"mitigations=[{{name: {name}, weight: 0.25}}]")
    assert recipe.mitigations == [MITIGATIONS[name](weight=0.25)]
    ((built, method, _),) = build_mitigations(recipe, vocabulary=None)  # no shaper here asks for it
    assert (built, method) == (name, recipe.mitigations[0])
    assert recipe.values()["mitigations"][0]["name"] == name


def test_a_list_reads_back_as_it_is(tmp_path):
    recipe, file = load("mitigations=[{name: shift_noise, rate: 0.2}, {name: vat, xi: 3}]"), tmp_path / "again.yaml"
    file.write_text(recipe.to_yaml(), encoding="utf-8")
    assert Recipe.load(file) == recipe


def test_a_row_of_the_command_line_is_changed_in_its_place():
    rows = "mitigations=[{name: shift_noise}, {name: fgm, weight: 0.5}]"
    recipe = load(rows, "mitigations.1.epsilon=2", "mitigations.1.scope=all")
    assert recipe.mitigations == [
        MITIGATIONS["shift_noise"](),
        FastGradient(weight=0.5, epsilon=2.0, scope="all"),
    ]
    assert [line.split(":")[0] for line in differences(recipe, load(rows))] == [
        "mitigations[1].epsilon",
        "mitigations[1].scope",
    ]


def test_a_recipe_s_row_is_changed_from_the_command_line(tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text("base: toy_copy\nmitigations:\n- {name: fgm, epsilon: 3}\n", encoding="utf-8")
    assert Recipe.load(file).mitigations == [FastGradient(epsilon=3.0)]
    assert Recipe.load(file, ["mitigations.0.epsilon=2"]).mitigations == [FastGradient(epsilon=2.0)]
    assert Recipe.load(file, ["mitigations.0={name: vat}"]).mitigations == [MITIGATIONS["vat"]()]
    assert Recipe.load(file, ["mitigations=[]"]).mitigations == []


@pytest.mark.parametrize(
    ("rows", "line", "message"),
    [
        ("- {name: fgm}\n- name: shift_noise\n  ratte: 1\n", 4, "unknown key 'mitigations[1].ratte'; did you mean "),
        ("- name: fgm\n  epsilon: much\n", 3, "mitigations[0].epsilon: "),
        ("- name: fgm\n  epsilon: -2\n", 3, "mitigations[0].epsilon: -2.0 is not at least 0"),
        ("- name: fgm\n  weight: 1.5\n", 3, "mitigations[0].weight: 1.5 is not in [0, 1]"),
        ("- name: r_drop\n  scope: both\n", 3, "mitigations[0].scope: "),
        ("- name: unlikelyhood\n", 2, "mitigations[0].name: no 'unlikelyhood'; did you mean 'unlikelihood'?"),
        (
            "- {name: shift_noise}\n- {name: fgm}\n- {name: vat}\n",
            4,
            "mitigations[2]: 'vat' computes the loss, and so ",
        ),
    ],
)
def test_an_error_names_the_row_its_file_and_line(tmp_path, rows, line, message):
    file = tmp_path / "mine.yaml"
    file.write_text("mitigations:\n" + rows, encoding="utf-8")
    with pytest.raises(UserError) as caught:
        Recipe.load(file)
    assert str(caught.value).startswith(f"{file}:{line}: {message}")


def test_a_row_that_is_not_there_is_refused():
    assert "mitigations[0]: the list has 0 rows" in refused("mitigations.0.epsilon=2")


@pytest.mark.parametrize("first", ["fgm", "r_drop", "mixce", "fgm_article", "gradient_penalty"])
def test_two_shapers_are_refused_and_both_named(first):
    second = "mixce" if first != "mixce" else "vat"
    message = refused(f"mitigations=[{{name: {first}}}, {{name: word_dropout}}, {{name: {second}}}]")
    assert f"mitigations[2]: '{second}' computes the loss, and so does '{first}'" in message


def test_any_number_of_feeds_stands_beside_a_shaper():
    names = ["shift_noise", "shift_noise", "word_dropout", "teaforn", "swap_noise"]
    rows = ", ".join(f"{{name: {name}}}" for name in names)
    assert [type(row) for row in load(f"mitigations=[{rows}]").mitigations] == [MITIGATIONS[name] for name in names]


@pytest.mark.parametrize("part", ["run.processes=2", "run.accumulate=2"])
def test_fgm_of_the_article_needs_whole_updates(part):
    message = refused("mitigations=[{name: word_dropout}, {name: fgm_article}]", part)
    assert "mitigations[1]: 'fgm_article': " in message
    assert "run.processes 1 and run.accumulate 1" in message
    load("mitigations=[{name: fgm}]", part)


def test_graduated_smoothing_takes_the_place_of_label_smoothing():
    message = refused("mitigations=[{name: graduated_label_smoothing}]", "objective.label_smoothing=0.1")
    assert "mitigations[0]: 'graduated_label_smoothing': " in message
    assert "objective.label_smoothing" in message


def test_noise_consistency_needs_noise():
    message = refused("mitigations=[{name: noise_consistency, rate: 0}]")
    assert "mitigations[0]: 'noise_consistency': at rate 0 and without a method that edits prefixes" in message
    load("mitigations=[{name: shift_noise}, {name: noise_consistency, rate: 0}]")


def test_an_objective_is_built_with_its_methods():
    recipe = load("mitigations=[{name: shift_noise}, {name: shift_noise}, {name: teaforn, passes: 3}]", "data.size=300")
    _, objective = recipe.build()
    assert [(one.name, one.method) for one in objective.mitigations] == [
        ("shift_noise", MITIGATIONS["shift_noise"]()),
        ("shift_noise 2", MITIGATIONS["shift_noise"]()),
        ("teaforn", MITIGATIONS["teaforn"](passes=3)),
    ]
