"""The results of a diagnosis in words: what is sure, what is not, and what to keep in mind."""

from s2s.diagnose.measurements import Plain
from s2s.metrics.bootstrap import LEAST, too_few

LEVEL = 0.05
FEW = 30
"""Sentences below which a bootstrap is not to be trusted."""
Row = tuple[bool, str]
"""Whether a result is sure, and the sentence about it."""


def findings(record: Plain) -> Plain:
    """Write sentences on what the intervals show, on what they do not, and on what to keep in mind."""
    rows = [row for method in record["methods"] for row in _of_method(method, record["settings"]["distances"])]
    rows += [_compared(row, record) for row in record["comparisons"] if row["p_holm"] is not None]
    return {
        "found": [text for sure, text in rows if sure],
        "not_found": [text for sure, text in rows if not sure],
        "notes": _notes(record),
    }


def _of_method(method: Plain, distances: int) -> list[Row]:
    # Without an interval nothing is sure, and "not sure" would read as if there were no effect.
    heads = {key: head for key, head in method["headlines"].items() if head["low"] is not None}
    rows = []
    for key, kind in (("damage_held_out", "damaged in held-out ways"), ("damage_own_errors", "with its own errors")):
        if key in heads:
            head, nats = heads[key], f"{_number(heads[key])} nats"
            costs = f"after prefixes {kind} the next {distances} gold tokens cost {nats} more"
            rows.append((True, costs) if head["low"] > 0 else (False, f"no sure damage after prefixes {kind}: {nats}"))
    if "eb_slope" in heads:
        grows = f"the gap of accuracies grows by {_number(heads['eb_slope'])} along a text; "
        grows += f"the language's own slope, the control, is {_number(method['headlines']['language_slope'])} nats"
        accumulates = heads["eb_slope"]["low"] > 0
        rows.append((accumulates, f"{'errors accumulate; ' if accumulates else 'no accumulation: '}{grows}"))
    for key, text in (
        ("su_gap", "sentences that are right at every step and wrong as a whole"),
        ("beam_curse", "chrF lost by the widest beam"),
        ("distracted", "sentences whose gold target is worth less than another sentence's"),
        ("hallucinations", "sentences whose text breaks when one word is put before the source"),
        ("excess_error_90", "percent of error in excess of what data would show"),
    ):
        if key in heads:
            sure = heads[key]["low"] > 0
            unsure = "; below 0" if heads[key]["high"] < 0 else "; not surely above 0"
            rows.append((sure, f"{text}: {_number(heads[key])}{'' if sure else unsure}"))
    return [(sure, f"{method['name']}: {text}") for sure, text in rows]


def _compared(row: Plain, record: Plain) -> Row:
    """Say what distinguishes a method from the baseline, at 5 % after Holm's correction."""
    head = record["headlines"][row["headline"]]
    gain = {"lower": -1, "higher": 1, "neither": 0}[head["better"]] * row["difference"]
    sure = row["p_holm"] < LEVEL
    # A quantity without a better side has gain 0 and is only called different.
    verdict = "better than" if gain > 0 else "worse than" if gain < 0 else "different from"
    difference = f"{row['difference']:+.3g} ({row['low']:+.3g} .. {row['high']:+.3g}) {head['unit']}"
    verdict = verdict if sure else "not surely different from"
    text = f"{row['method']} is {verdict} {row['baseline']} in {head['title']}: {difference}"
    return sure, f"{text}, p = {row['p_holm']:.2g} after Holm"


def _notes(record: Plain) -> list[str]:
    methods, pairs, most = record["methods"], record["data"]["pairs"], record["settings"]["search_examples"]
    runs_of_methods = [len(method["runs"]) for method in methods]
    seeds = ", and over seeds where a method has several runs" if max(runs_of_methods) > 1 else ""
    notes = [
        f"The endpoint declared beforehand is: {record['headlines'][record['primary']]['title']}."
        if record["primary"] in record["headlines"]
        else "Every corruption was seen in training; nothing is held out, so nothing can be claimed of damage.",
        f"Intervals hold the central 95 % of a bootstrap over sentences{seeds}.",
        "There is one reference for each source, so right tokens may count as wrong: levels say less than differences.",
    ]
    if len({run["vocabulary"] for run in record["runs"]}) > 1:
        notes.append("The runs' vocabularies differ, and so do their tokens: nats a token do not compare among them.")
    if few := too_few(pairs):
        notes.append(f"{few}: nothing here has an interval or a p-value, and nothing is found.")
    elif pairs < FEW:
        notes.append("There are few sentences: intervals are too narrow and p-values too small.")
    for name, exact in dict.fromkeys(
        (run["accumulation"]["oracle"], run["accumulation"]["exact"]) for run in record["runs"] if run["accumulation"]
    ):
        kind = "exact" if exact else "evidence, not proof: it has seen no bad prefixes in training either"
        notes.append(f"The oracle of the accumulated error is {name} ({kind}).")
    if seen := {name for run in record["runs"] for name in run["seen"]}:
        notes.append(f"Seen in the training of a run, and so not held out: {', '.join(sorted(seen))}.")
    if len(methods) > 1 and min(runs_of_methods) == 1:
        notes.append("A method with one run shows what that run does; other seeds may do otherwise.")
    if most < pairs:
        notes.append(f"The curve over beam widths, and Su's gap, are of the first {most} sentences.")
    if len(methods) > 1:
        corrected = f"Holm's correction is over the {len(methods) - 1} methods of a line"
        notes.append(f"{len(record['comparisons'])} comparisons were made; {corrected}.")
    cut = dict.fromkeys(line for run in record["runs"] for line in run["report"])
    return [*notes, *record["data"]["report"], *cut]


def _number(head: Plain) -> str:
    if head["estimate"] is None:
        return "no number"
    if head["low"] is None:
        return f"{head['estimate']:.3g} (of fewer than {LEAST} sentences)"
    return f"{head['estimate']:.3g} ({head['low']:.3g} .. {head['high']:.3g})"
