"""The output for people: one page, ``results.json``, and the rows of a table in Markdown, from small results alone."""

import math
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from importlib.resources import files
from pathlib import Path
from statistics import fmean
from typing import Any, cast

import numpy as np

from s2s.console.terminal import Log
from s2s.data.rows import json_text
from s2s.diagnose.record import plain
from s2s.errors import own_version
from s2s.files.atomic import write_atomically
from s2s.metrics.bootstrap import Numbers
from s2s.metrics.table import Better
from s2s.study import results as stored
from s2s.study.comparison import Comparisons, Row, spread
from s2s.study.figures import Curve, Effect, Panel, curves, forest
from s2s.study.results import Result
from s2s.study.settings import Plan
from s2s.study.statistics import LEAST_SEEDS, Kind
from s2s.study.svg import as_file

PAGE, RECORD, ROWS, PICTURE = "page.html", "results.json", "rows.md", "forest.svg"
OUTPUTS = (PAGE, RECORD, ROWS, PICTURE)
BEAM_WIDTHS = "beam_curse"
"""The quantity whose sums hold the quality at each beam width."""
COSTS = {
    "CPU minutes": ("train_cpu", 1 / 60, ".1f"),
    "parameters": ("parameters", 1.0, ",.0f"),
    "MB at most": ("peak_bytes", 1e-6, ".0f"),
    "MB of the optimizer": ("optimizer_bytes", 1e-6, ".1f"),
    "ms a step": ("step_seconds", 1e3, ".0f"),
}
"""Columns of the costs of training: the key in ``Result.cost``, a factor, and the form of the number."""


def write_page(plan: Plan, results: Sequence[Result], log: Log) -> Path:
    """Write the page, the record, the rows and the picture; return the page's path."""
    comparisons = Comparisons(plan, results)
    notes = remarks(comparisons)
    plan.output.mkdir(parents=True, exist_ok=True)
    write_atomically(plan.output / RECORD, json_text(plain(record(comparisons, notes)), indent=1) + "\n")
    write_atomically(plan.output / ROWS, markdown(comparisons, notes))
    if panels := _first_panels(comparisons):
        write_atomically(plan.output / PICTURE, as_file(forest(panels, plan.settings.title)))
    write_atomically(plan.output / PAGE, page(comparisons, notes))
    for line in [*notes, *map(sentence, comparisons.declared)]:
        log(f"  {line}")
    return plan.output / PAGE


def remarks(comparisons: Comparisons) -> list[str]:
    """Return what a reader must know before the numbers: few seeds, runs that have not converged, other hypotheses."""
    plan, variants = comparisons.plan, comparisons.variants
    lines = []
    few = [f"{len(rows)} of {name}" for name, rows in variants.items() if len(rows) < LEAST_SEEDS]
    if plan.settings.exploratory:
        lines.append("exploratory: it chooses what a later study tests, so differences have no p")
    elif few:
        lines.append(f"exploratory: too few seeds for a p (at least {LEAST_SEEDS}): {', '.join(few)}")
    if missing := len(plan.runs) - len(comparisons.results):
        lines.append(f"{missing} of {len(plan.runs)} runs have no results yet")
    unfinished = [name for name in variants if not comparisons.converged(name)]
    once = [name for name in unfinished if min(len(result.losses) for result in variants[name]) < 2]
    if once:
        lines.append(f"not known to have converged (fewer than two evaluations): {', '.join(once)}")
    if others := [name for name in unfinished if name not in once]:
        lines.append(f"not converged (the last evaluation lowers the best loss by more than 0.01): {', '.join(others)}")
    return [*lines, *stored.fitting(plan, comparisons.results), *comparisons.uneven, *comparisons.untested]


def sentence(row: Row) -> str:
    """Return a declared difference in words."""
    assert row.declared is not None
    difference, kind = row.difference, row.declared["name"]
    margin = "" if row.declared["margin"] is None else f" within {row.declared['margin']:g}"
    test = "no p" if row.p is None else f"p = {row.p:.4f}, {row.adjusted:.4f} after Holm"
    uncorrected = "" if row.p is None else " before Holm's correction"
    detectable = (
        ""
        if difference.detectable is None
        else f"; {difference.detectable:.3g} would have been found{uncorrected} in four of five cases"
    )
    return f"{row.endpoint}, {row.variant} - {row.baseline}: {_difference(row)}, {kind}{margin}: {test}{detectable}"


def _difference(row: Row) -> str:
    if not math.isfinite(row.difference.estimate):
        return "undefined"
    low, high = row.difference.low, row.difference.high
    interval = "" if low is None or high is None else f" ({low:+.3g} .. {high:+.3g})"
    return f"{row.difference.estimate:+.3g}{interval}"


def record(comparisons: Comparisons, notes: Sequence[str]) -> dict[str, Any]:
    """Return all numbers of the page as plain values."""
    plan, endpoints = comparisons.plan, comparisons.endpoints
    return {
        "study": plan.name, "title": plan.settings.title, "version": f"s2s-{own_version()}", "remarks": list(notes),
        "hypotheses_hash": plan.hypotheses_hash(), "seeds": plan.settings.seeds, "select": plan.settings.select,
        "endpoints": {
            name: {"title": table.title, "unit": table.unit, "better": table.better, "sentences": len(table.rows)}
            for name, table in endpoints.items()
        },
        "variants": {
            name: {
                "runs": [_run(result, endpoints) for result in rows], "converged": comparisons.converged(name),
                "cost": comparisons.cost(name),
                "values": {
                    endpoint: {"mean": fmean(values), "deviation": spread(values), "seeds": values}
                    for endpoint in endpoints if (values := comparisons.values(name, endpoint))
                },
            }
            for name, rows in comparisons.variants.items()
        },
        "declared": [_plain(row) for row in comparisons.declared],
        "others": [_plain(row) for endpoint in endpoints for row in comparisons.others(endpoint)],
    }  # fmt: skip


def _run(result: Result, endpoints: Iterable[str]) -> dict[str, Any]:
    return {
        "seed": result.seed, "step": result.step, "steps": result.steps, "converged": result.converged,
        "cost": result.cost, "hardware": result.hardware, "version": result.version, "data": result.data,
        "recipe": result.recipe, "hypotheses": result.hypotheses,
        "values": {endpoint: result.value(endpoint) for endpoint in endpoints if endpoint in result.tables},
    }  # fmt: skip


def _plain(row: Row) -> dict[str, Any]:
    return {**row._asdict(), "difference": row.difference._asdict()}


def markdown(comparisons: Comparisons, notes: Sequence[str]) -> str:
    """Return the study's table in Markdown: a row for each variant, then one for each declared difference."""
    plan, names = comparisons.plan, shown(comparisons)
    seeds = sorted({len(rows) for rows in comparisons.variants.values()})
    number = " to ".join(map(str, seeds[:1] + seeds[1:][-1:]))
    lines = [f"| {plan.name}, {number} seeds | CPU minutes | {' | '.join(names)} |", "|---" * (len(names) + 2) + "|"]
    for variant in comparisons.variants:
        mark = "" if comparisons.converged(variant) else " (not converged)"
        cells = [_mean(comparisons.values(variant, name)) for name in names]
        lines.append(f"| `{variant}`{mark} | {_costs(comparisons.cost(variant))[0]} | {' | '.join(cells)} |")
    return "\n".join([*lines, "", *(f"- {line}" for line in [*notes, *map(sentence, comparisons.declared)])]) + "\n"


def shown(comparisons: Comparisons) -> list[str]:
    """Return the endpoints of tables: the declared ones first, then the others."""
    # The declared ones come first: a reader who stops there has seen the question of the study.
    declared = [values["endpoint"] for values in comparisons.plan.hypotheses()]
    return [name for name in dict.fromkeys([*declared, *comparisons.endpoints]) if name in comparisons.endpoints]


def _mean(values: Sequence[float]) -> str:
    if not values:
        return ""
    if undefined := sum(not math.isfinite(value) for value in values):
        return f"undefined in {undefined} of {len(values)} runs"
    deviation = spread(values)
    return f"{fmean(values):.3g}" + ("" if deviation is None else f" ± {deviation:.2g}")


def page(comparisons: Comparisons, notes: Sequence[str]) -> str:
    """Return the page: differences first, then curves, then tables."""
    plan = comparisons.plan
    # The style of a diagnosis, so that both pages look alike; the page loads nothing, and can be sent as one file.
    css = files("s2s.diagnose.report").joinpath("page.css").read_text(encoding="utf-8")
    sections = [
        f"<h1>{escape(plan.name)}</h1><p>{escape(plan.settings.title)}</p>",
        _list([*notes, _signature(comparisons)]),
        _differences(comparisons),
        _declared(comparisons),
        _curves(comparisons),
        _values(comparisons),
        _runs(comparisons),
    ]
    head = (
        f'<meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>{escape(plan.name)}</title>'
    )
    body = "\n".join(section for section in sections if section)
    return f'<!doctype html>\n<html lang="en"><head>{head}<style>\n{css}</style></head>\n<body>{body}</body></html>\n'


def _signature(comparisons: Comparisons) -> str:
    plan, first = comparisons.plan, comparisons.results[0]
    sentences = ", ".join(sorted({str(len(table.rows)) for table in comparisons.endpoints.values()}, key=int))
    hardware = sorted(
        {f"{result.hardware['processor']} ({result.hardware['precision']})" for result in comparisons.results}
    )
    return (
        f"{len(comparisons.results)} runs; checkpoint by {plan.settings.select} on dev; scored on "
        f"{plan.settings.split} ({sentences} sentences); data {first.data}; hypotheses {plan.hypotheses_hash()}; "
        f"{'; '.join(hardware)}"
    )


def _declared(comparisons: Comparisons) -> str:
    rows = comparisons.declared
    if not rows:
        return ""
    cells = [
        [row.endpoint, f"{row.variant} - {row.baseline}", (row.declared or {})["name"], _difference(row),
         _number(row.p, ".4f"), _number(row.adjusted, ".4f"), _number(row.difference.detectable, ".3g")]
        for row in rows
    ]  # fmt: skip
    head = [
        "endpoint",
        "difference of",
        "test",
        "estimate and 95 % interval",
        "p",
        "p after Holm",
        "found in 80 %, before Holm",
    ]
    return f"<h2>Declared hypotheses</h2>{_table(head, cells)}"


def _differences(comparisons: Comparisons) -> str:
    figures = [
        _figure(forest([panel], name="-".join(key).replace(".", "-")))
        for key, panel in _panels(comparisons, _all(comparisons)).items()
    ]
    return f"<h2>Differences</h2>{_grid(figures)}" if figures else ""


def _first_panels(comparisons: Comparisons) -> list[Panel]:
    """Return the plots of the picture: the first one of each family of tests, or of all endpoints."""
    first: dict[str, tuple[str, str]] = {}
    for row in comparisons.declared:
        first.setdefault((row.declared or {})["family"], (row.endpoint, row.baseline))
    if not first:
        return list(_panels(comparisons, _all(comparisons)).values())[:1]
    panels = _panels(comparisons, comparisons.declared)
    # Two families may begin with the same plot.
    return [panels[key] for key in dict.fromkeys(first.values())]


def _all(comparisons: Comparisons) -> list[Row]:
    return [row for endpoint in shown(comparisons) for row in comparisons.rows(endpoint)]


def _panels(comparisons: Comparisons, rows: Iterable[Row]) -> dict[tuple[str, str], Panel]:
    """Return a plot for each endpoint and baseline; differences that were declared show what their test found."""
    effects: dict[tuple[str, str], list[Effect]] = {}
    for row in rows:
        better = cast(Better, comparisons.endpoints[row.endpoint].better)
        effect = Effect(_marked(comparisons, row), row.difference, row.adjusted, better, *_tested(row))
        effects.setdefault((row.endpoint, row.baseline), []).append(effect)
    return {
        (endpoint, baseline): Panel(
            _title(comparisons, endpoint), comparisons.endpoints[endpoint].unit, members, baseline
        )
        for (endpoint, baseline), members in effects.items()
    }


def _title(comparisons: Comparisons, endpoint: str) -> str:
    search = endpoint.partition(".")[0] + ": " if "." in endpoint else ""
    return search + comparisons.endpoints[endpoint].title


def _tested(row: Row) -> tuple[Kind, float]:
    """Return the kind of a declared test and its margin."""
    declared = row.declared or {"name": "difference", "margin": None}
    return cast(Kind, declared["name"]), declared["margin"] or 0.0


def _marked(comparisons: Comparisons, row: Row) -> str:
    return row.variant + ("" if comparisons.converged(row.variant) else " (not converged)")


def _curves(comparisons: Comparisons) -> str:
    """Return the loss on dev over updates, and quality over beam widths where it was measured."""
    losses = [
        Curve(name, *_over_steps(rows, "loss")) for name, rows in comparisons.variants.items() if _has_dev(rows, "loss")
    ]
    figures = [curves(losses, "Loss on dev", "updates", "nats a token", name="dev")] if losses else []
    widths = comparisons.plan.settings.diagnose.beams
    # Runs that were measured over other widths are left out; a line at the top of the page names them.
    series = [
        Curve(name, [float(width) for width in widths], np.array([_by_width(result) for result in rows]))
        for name, rows in comparisons.variants.items()
        if comparisons.has(name, BEAM_WIDTHS) and all(_widths(result, widths) == widths for result in rows)
    ]
    if series:
        title = "Quality by beam width"
        figures.append(
            curves(series, title, "beams, without length penalty", "chrF, mean of sentences", True, name="beams")
        )
    return f"<h2>Curves</h2>{_grid([_figure(figure) for figure in figures])}" if figures else ""


def _has_dev(rows: Sequence[Result], score: str) -> bool:
    return all(any(score in row for row in result.dev) for result in rows)


def _over_steps(rows: Sequence[Result], score: str) -> tuple[list[float], Numbers]:
    """Return the steps that all runs were evaluated at, and each run's score there."""
    # Runs that ended early, or were evaluated at other steps by an earlier file, have only some steps in common.
    scores = [{row["step"]: row[score] for row in result.dev if score in row} for result in rows]
    steps = sorted(set(scores[0]).intersection(*scores[1:]))
    return [float(step) for step in steps], np.array([[run[step] for step in steps] for run in scores])


def _widths(result: Result, now: list[int]) -> list[int]:
    """Return the beam widths of a run's quality; for a result of an earlier version the present ones, if they fit."""
    return result.beams or (now if result.tables[BEAM_WIDTHS].rows.shape[1] == len(now) + 1 else [])


def _by_width(result: Result) -> list[float]:
    sums = result.tables[BEAM_WIDTHS].rows.sum(axis=0)
    return [float(value / sums[-1]) for value in sums[:-1]]


def _values(comparisons: Comparisons) -> str:
    names = shown(comparisons)
    cells = [
        [f"{variant}{'' if comparisons.converged(variant) else ' *'}", *_costs(comparisons.cost(variant)),
         *(_mean(comparisons.values(variant, name)) for name in names)]
        for variant in comparisons.variants
    ]  # fmt: skip
    note = "<p class=soft>Mean and standard deviation over seeds. * not converged.</p>"
    return f"<h2>Values</h2>{note}{_table(['variant', *COSTS, *names], cells)}"


def _costs(cost: Mapping[str, float]) -> list[str]:
    """Return the cells of ``COSTS``; results of earlier versions lack some."""
    return [format(cost[key] * factor, form) if key in cost else "" for key, factor, form in COSTS.values()]


def _runs(comparisons: Comparisons) -> str:
    names = shown(comparisons)
    cells = [
        [variant, str(result.seed), f"{result.step} of {result.steps}", _costs(result.cost)[0],
         *(f"{result.value(name):.4g}" if name in result.tables else "" for name in names)]
        for variant, rows in comparisons.variants.items() for result in rows
    ]  # fmt: skip
    return f"<h2>Runs</h2>{_table(['variant', 'seed', 'checkpoint', 'CPU minutes', *names], cells)}"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    def row(cells: Iterable[str], tag: str) -> str:
        return "<tr>" + "".join(f"<{tag}>{escape(cell)}</{tag}>" for cell in cells) + "</tr>"

    body = "\n".join(row(cells, "td") for cells in rows)
    return f'<div class="scroll"><table><thead>{row(head, "th")}</thead><tbody>\n{body}</tbody></table></div>'


def _figure(svg: str) -> str:
    return f"<figure>{svg}</figure>"


def _grid(figures: Sequence[str]) -> str:
    return f'<div class="figures">{"".join(figures)}</div>'


def _list(lines: Sequence[str]) -> str:
    return "<ul>" + "".join(f"<li>{escape(line)}</li>" for line in lines) + "</ul>"


def _number(value: float | None, form: str) -> str:
    return "" if value is None else format(value, form)
