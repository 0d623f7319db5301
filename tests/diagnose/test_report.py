"""The page of a diagnosis: whole, escaped, and in a browser."""

import json
import re
import shutil
import subprocess
from html.parser import HTMLParser

import pytest
from trained import trained

from s2s.diagnose.__main__ import diagnose
from s2s.diagnose.report import page
from s2s.diagnose.settings import DiagnosisSettings

pytestmark = pytest.mark.slow

CHROMIUM = shutil.which("chromium")
FIGURES = ["damage", "recovery", "accuracy", "cost", "entropy", "beams", "errors", "reliability", "margins"]
TABLES = ["table-headlines", "table-corruptions", "table-sets", "table-runs"]
OPTIONS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--enable-logging=stderr",
    "--v=0",
    "--dump-dom",
]
browser = pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed")


@pytest.fixture(scope="module")
def record(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    trained(folder)
    settings = DiagnosisSettings(
        run=str(folder), data="recipe", examples=30, search_examples=10, beams=[1, 2, 4], resamples=50, prefixes=[2, 5]
    )
    results = diagnose(settings)
    assert (folder / "diagnosis" / "report.html").read_text(encoding="utf-8") == page(results)
    return results


def dom(path, text):
    """The document that chromium makes of a page, and the lines of its console."""
    path.write_text(text, encoding="utf-8")
    command = [CHROMIUM, *OPTIONS, f"--user-data-dir={path.parent / 'profile'}", path.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=300, encoding="utf-8")
    return done.stdout, [line for line in done.stderr.splitlines() if "CONSOLE" in line]


class Tags(HTMLParser):
    """The identifiers of a page and what it would load."""

    def __init__(self, text):
        super().__init__()
        self.ids, self.loads, self.uses = [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):  # noqa: ARG002
        values = dict(attributes)
        self.ids += [values["id"]] if "id" in values else []
        self.loads += [values[key] for key in ("src", "href") if values.get(key) and not values[key].startswith("#")]
        self.uses += [values["href"][1:]] if (values.get("href") or "").startswith("#") else []


def test_the_page_needs_nothing_else_and_its_pictures_do_not_mix(record):
    text = page(record)
    tags = Tags(text)
    assert tags.loads == ["data:,"]
    assert len(tags.ids) == len(set(tags.ids))
    assert set(tags.uses) <= set(tags.ids)
    assert not re.search(r"https?:|@import|@font-face", text)
    assert [name for name in tags.ids if name.startswith("figure-")] == [f"figure-{name}" for name in FIGURES]
    assert "currentColor" in text
    assert "#010203" not in text


EVIL = '<script>document.title="broken"</script>&"\''


def test_texts_are_escaped(record):
    evil = json.loads(json.dumps(record))
    name = evil["methods"][0]["name"]
    evil = json.loads(json.dumps(evil).replace(json.dumps(name), json.dumps(EVIL)))
    for key in ("source", "prefix", "damaged", "free"):
        evil["samples"][0][key] = EVIL
    evil["samples"][0]["behind"][0]["text"] = EVIL
    evil["data"]["origin"] = evil["runs"][0]["name"] = EVIL
    text = page(evil)
    assert "<script>document.title" not in text
    assert text.count("<script>") == page(record).count("<script>") == 1


@browser
def test_a_browser_shows_every_picture_without_a_complaint(record, tmp_path):
    html, console = dom(tmp_path / "page.html", page(record))
    assert console == []
    for name in FIGURES:
        figure = html[html.index(f'id="figure-{name}"') :]
        assert "<path" in figure[: figure.index("</figure>")]
    assert "What was found" in html


SORT = """<script>
const tables = [];
for (const table of document.querySelectorAll("table.sortable")) {
  for (const turn of [0, 1]) {
    for (const column of [...table.tHead.rows[0].cells].keys()) {
      if (turn === 1) table.tHead.rows[0].cells[column].querySelector("button").click();
      table.tHead.rows[0].cells[column].querySelector("button").click();
      const rows = [...table.tBodies[0].rows];
      const values = rows.map((row) => row.cells[column].dataset.value ?? row.cells[column].textContent);
      const head = table.tHead.rows[0].cells[column];
      tables.push([table.id, head.classList.contains("n"), head.getAttribute("aria-sort"), values]);
    }
  }
}
document.body.dataset.tables = JSON.stringify(tables);
</script></body>"""


@browser
def test_tables_sort_up_and_down_by_every_column(record, tmp_path):
    html, console = dom(tmp_path / "page.html", page(record).replace("</body>", SORT))
    assert console == []
    tables = json.loads(re.search(r'data-tables="([^"]*)"', html)[1].replace("&quot;", '"').replace("&amp;", "&"))
    assert list(dict.fromkeys(table for table, *_ in tables)) == TABLES
    for _, numeric, order, values in tables:
        there = [value for value in values if value != ""]
        assert values == there + [""] * (len(values) - len(there))
        if numeric:
            numbers = [float(value) for value in there]
            assert numbers == sorted(numbers, reverse=order == "descending")
    assert {order for _, _, order, _ in tables} == {"ascending", "descending"}
