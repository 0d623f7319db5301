"""What was found and what was not, in words, from the numbers of a record."""

from typing import Any

from s2s.metrics.significance import LEAST, too_few

Plain = dict[str, Any]
LEVEL = 0.05
FEW = 30
"""Sentences below which a bootstrap is not to be trusted."""


def findings(record: Plain) -> Plain:
    """Sentences on what the intervals show, on what they do not, and on what to keep in mind."""
    rows = [*_levels(record), *_comparisons(record)]
    return {
        "found": [text for there, text in rows if there],
        "not_found": [text for there, text in rows if not there],
        "notes": _notes(record),
    }


def _levels(record: Plain) -> list[tuple[bool, str]]:
    """What holds of each method by itself."""
    return [row for method in record["methods"] for row in _level(method, record)]


def _level(method: Plain, record: Plain) -> list[tuple[bool, str]]:
    heads, name = method["headlines"], method["name"]
    distances = record["settings"]["distances"]
    rows = []
    for key, kind in (("damage_held_out", "of kinds that were held out"), ("damage_own_errors", "with its own errors")):
        if key in heads and (head := heads[key])["low"] is not None:
            text = f"{name}: behind prefixes {kind} the next {distances} gold tokens cost {_nats(head)} more"
            nothing = f"{name}: no sure damage behind prefixes {kind}: {_nats(head)}"
            rows.append((True, text) if head["low"] > 0 else (False, nothing))
    return [*rows, *_growth(name, heads), *_search(name, heads)]


def _growth(name: str, heads: Plain) -> list[tuple[bool, str]]:
    slope, control = heads["eb_slope"], heads["language_slope"]
    if slope["low"] is None:
        return []  # too few sentences to say that there is none
    language = f"the language's own slope, the control, is {_number(control)} nats"
    grows = f"the gap of accuracies grows by {_number(slope)} along a text; {language}"
    if slope["low"] > 0:
        return [(True, f"{name}: errors accumulate; {grows}")]
    return [(False, f"{name}: no accumulation: {grows}")]


def _search(name: str, heads: Plain) -> list[tuple[bool, str]]:
    found = []
    for key, text in (
        ("su_gap", "sentences that are right at every step and wrong as a whole"),
        ("beam_curse", "chrF lost by the widest beam"),
        ("distracted", "sentences whose gold target is worth less than another sentence's"),
        ("hallucinations", "sentences whose text breaks when one word is put before the source"),
        ("excess_error_90", "percent of error in excess of what data would show"),
    ):
        if key in heads and (head := heads[key])["low"] is not None:
            below = "; below 0" if head["high"] < 0 else "; not surely above 0"
            found.append((head["low"] > 0, f"{name}: {text}: {_number(head)}{'' if head['low'] > 0 else below}"))
    return found


def _comparisons(record: Plain) -> list[tuple[bool, str]]:
    """What sets a method apart from the baseline, at 5 % after Holm's correction."""
    return [_compared(one, record) for one in record["comparisons"] if one["p_holm"] is not None]


def _compared(one: Plain, record: Plain) -> tuple[bool, str]:
    head = record["headlines"][one["headline"]]
    good = {"lower": -1, "higher": 1, "neither": 0}[head["better"]] * one["difference"]
    verdict = "better than" if good > 0 else "worse than" if good < 0 else "different from"
    sure = one["p_holm"] < LEVEL
    told = f"{_signed(one)} {head['unit']}, p = {one['p_holm']:.2g} after Holm"
    if sure:
        return True, f"{one['method']} is {verdict} {one['baseline']} in {head['title']}: {told}"
    return False, f"{one['method']} is not surely different from {one['baseline']} in {head['title']}: {told}"


def _notes(record: Plain) -> list[str]:
    methods, settings = record["methods"], record["settings"]
    notes = [
        f"The endpoint declared beforehand is: {record['headlines'][record['primary']]['title']}."
        if record["primary"] in record["headlines"]
        else "Every corruption was seen in training; nothing is held out, so nothing can be claimed of damage.",
        "Intervals hold the central 95 % of a bootstrap over sentences"
        + (
            ", and over seeds where a method has several runs." if any(len(one["runs"]) > 1 for one in methods) else "."
        ),
        "There is one reference a source, so right tokens may count as wrong: levels say less than differences.",
    ]
    if len({run["vocabulary"] for run in record["runs"]}) > 1:
        notes.append("The runs' vocabularies differ, and so do their tokens: nats a token do not compare among them.")
    if few := too_few(record["data"]["pairs"]):
        notes.append(f"{few}: nothing here has an interval or a p-value, and nothing is found.")
    elif record["data"]["pairs"] < FEW:
        notes.append("There are few sentences: intervals are too narrow and p-values too small.")
    notes += _oracles(record)
    seen = {name for run in record["runs"] for name in run["seen"]}
    if seen:
        notes.append(f"Seen in the training of a run, and so not held out: {', '.join(sorted(seen))}.")
    if len(methods) > 1 and min(len(one["runs"]) for one in methods) == 1:
        notes.append("A method with one run shows what that run does; other seeds may do otherwise.")
    if (most := settings["search_examples"]) < record["data"]["pairs"]:
        notes.append(f"The curve over beam widths, and Su's gap, are of the first {most} sentences.")
    if len(methods) > 1:
        count = len(record["comparisons"])
        notes.append(
            f"{count} comparisons were made; Holm's correction is over the {len(methods) - 1} methods of a line."
        )
    cut = [line for run in record["runs"] for line in run["report"]]
    return [*notes, *record["data"]["report"], *dict.fromkeys(cut)]


def _oracles(record: Plain) -> list[str]:
    judged = [run["accumulation"] for run in record["runs"] if run["accumulation"]]
    proofs = {True: "exact", False: "evidence, no proof: it is off its own ground on bad prefixes too"}
    told = dict.fromkeys((one["oracle"], one["exact"]) for one in judged)
    return [f"The oracle of the accumulated error is {name} ({proofs[exact]})." for name, exact in told]


def _nats(head: Plain) -> str:
    return f"{_number(head)} nats"


def _number(head: Plain) -> str:
    if head["estimate"] is None:
        return "no number"
    if head["low"] is None:
        return f"{head['estimate']:.3g} (of fewer than {LEAST} sentences)"
    return f"{head['estimate']:.3g} ({head['low']:.3g} .. {head['high']:.3g})"


def _signed(one: Plain) -> str:
    return f"{one['difference']:+.3g} ({one['low']:+.3g} .. {one['high']:+.3g})"
