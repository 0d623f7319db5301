"""A study as its YAML file describes it: variants of one recipe, their seeds, the measurements and the hypotheses."""

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from functools import cached_property
from hashlib import sha256
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, cast

from s2s.config import Layer, Schema, merge, read_arguments, read_file
from s2s.config.layers import Written
from s2s.config.merge import name_of
from s2s.config.ranges import Count, CountOrZero, Few, PathText, Positive, Seed, Size, at_least, settle
from s2s.config.recipe_files import IN_WHEEL, SHIPPED, SUFFIXES, recipe_layers
from s2s.diagnose.settings import DiagnosisSettings
from s2s.errors import UserError, nearest
from s2s.files.paths import at_home
from s2s.heads.scoring import with_sums
from s2s.metrics.table import TEXT_METRICS, better
from s2s.recipe.recipe import SCHEMA, Recipe, flat
from s2s.search.methods.base import SearchMethod

STUDIES = SHIPPED / "studies"
"""The folder of the studies that come with the package."""
FOLDERS = (Path("recipes", "studies"), STUDIES)
"""The folders in which a study is looked for by its name."""
DECLARED = ("recipe", "variants", "searches")
"""Sections that hold keys of recipes; all other sections are keys of ``Study``."""
KEPT = ("damage_held_out", "damage_own_errors", "clean_cost", "beam_curse", "calibration_gap")
"""The quantities of the diagnosis that a study keeps unless it names others."""
OTHERS = (
    *("damage_seen", "overconfidence_gap", "eb_slope", "language_slope", "su_gap", "model_errors", "distracted"),
    *("hallucinations", "length_ratio", "repetition", "copying"),
)
"""Those that it may name besides them."""
UNDIRECTED = ("model_errors", "language_slope", "length_ratio", "copying")
"""Those of which neither more nor less is better, so that "no worse" means nothing."""
NAME = re.compile(r"[A-Za-z0-9_]+")
REFERENCE = "study://"
OTHER_RUN = re.compile(r"study://(run|decoded)/(\w+)(?:/(\d+(?:\+\d+)*))?")
"""A value of a recipe that is made from other runs: their folders, or what they write for train."""
FIXED = ("folder", "seed", "select")
"""Keys of ``run:`` that the study itself sets, for all variants."""


@dataclass
class Measured:
    """A study's ``diagnose:``: what is measured besides quality; the keys are those of ``s2s diagnose``."""

    examples: CountOrZero = 300  # test sentences; 0: nothing but scores
    prefixes: list[Count] = field(default_factory=lambda: [2, 5, 10])  # numbers of damaged tokens
    distances: Count = 10  # tokens after a damaged prefix whose cost is measured
    beams: list[Few] = field(default_factory=lambda: [1, 4, 16, 64])  # widths of the curve of quality
    search_examples: Count = 100  # test sentences of that curve
    samples: Few = 4  # texts drawn from the model for each source, for the accumulated error
    lengths: list[Count] = field(default_factory=list)  # tokens after which the accumulated error is reported
    # that are kept; none: damages, clean_cost, beam_curse and calibration_gap
    quantities: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        settle(self, "diagnose.")
        if unknown := [name for name in self.quantities if name not in (*KEPT, *OTHERS)]:
            raise UserError(f"diagnose.quantities: no '{unknown[0]}'{nearest(unknown[0], (*KEPT, *OTHERS))}")

    def settings(self, folder: Path) -> DiagnosisSettings:
        """Return the settings of the diagnosis of one run."""
        keys = {key: value for key, value in asdict(self).items() if key not in ("lengths", "quantities")}
        return DiagnosisSettings(run=str(folder), data="recipe", **keys)


@dataclass
class Declared:
    """A difference that was declared before the runs: ``variant`` minus ``baseline`` in an ``endpoint``."""

    endpoint: str = ""  # SEARCH.SCORE (beam_4.chrf), HEAD.SCORE (tags.entity_f1) or a quantity of the diagnosis; needed
    variant: str = ""  # needed
    baseline: str | None = None  # null: the study's first variant
    expected: Literal["higher", "lower", "either"] = "either"  # what was expected; p is two-sided all the same
    margin: Positive | None = None  # of equivalence and non_inferiority, in the endpoint's unit
    family: str = "primary"  # Holm's correction is over the hypotheses of one family

    def __post_init__(self) -> None:
        settle(self)
        if not self.endpoint or not self.variant:
            raise UserError(f"{'variant' if self.endpoint else 'endpoint'}: missing")
        if (self.margin is None) != (type(self) is Declared):
            needed = "is of equivalence and non_inferiority" if self.margin else "missing"
            raise UserError(f"margin: {needed}")


@dataclass
class Equivalence(Declared):
    """The difference is within the margin, either way (two one-sided tests)."""


@dataclass
class NonInferiority(Declared):
    """The variant is not worse than the baseline by as much as the margin."""


KINDS: dict[str, type[Declared]] = {
    "difference": Declared,
    "equivalence": Equivalence,
    "non_inferiority": NonInferiority,
}


@dataclass
class Study:
    """The keys of a study. Its file also has the sections ``recipe``, ``variants`` and ``searches``.

    ``recipe`` holds keys of a recipe, and ``base`` names the recipe that they change. Each of the ``variants`` has a
    name, keys that change it once more, and ``minutes``, which a run takes on one core, until one is measured. Each of
    the ``searches`` has a name, keys of ``search:``, and ``examples``, the number of test sentences if not all. A run
    without targets has no use for ``searches``, ``scores`` and ``diagnose``: its endpoints are the scores of its heads.
    """

    study: PathText = ""  # a study's file, or the name of one that comes with the package; needed
    title: str = ""  # one line on what the study asks
    exploratory: bool = False  # it chooses what a later study tests, and so gives no p
    seeds: list[Seed] = field(default_factory=lambda: [1, 2, 3, 4, 5])  # a run of each variant for each
    split: Literal["test", "dev"] = "test"  # that is scored and diagnosed
    select: str = "chrf"  # the score on dev, such as tags.entity_f1, that chooses each run's checkpoint; see run.select
    scores: list[str] = field(default_factory=lambda: ["bleu", "chrf", "seq_rep_2", "length_ratio"])  # of each search
    diagnose: Measured = field(default_factory=Measured)
    hypotheses: list[Any] = field(default_factory=list)  # rows of difference, equivalence or non_inferiority
    resamples: Annotated[int, at_least(100, 100_000)] = 2000  # of every bootstrap
    weights: str | None = None  # the study whose runs these are, where it has the same ones; null: its own
    only: list[str] = field(default_factory=list)  # variants to work on now; none: all
    workers: Few | None = None  # runs at a time; null: one a GPU, or one
    threads: Size = 1  # of each run, on a processor
    # minutes after which the command stops; the same command continues; null: until the end
    budget: Positive | None = None
    folder: PathText | None = None  # of the runs' weights; null: runs/studies/NAME
    # folder of the small results; null: results/NAME next to the study's file, or in folder for an installed package
    results: PathText | None = None
    output: PathText | None = None  # folder of the page and its tables; null: the folder of results

    def __post_init__(self) -> None:
        settle(self)
        if len(set(self.seeds)) < len(self.seeds) or not self.seeds:
            raise UserError(f"seeds: {self.seeds} are not different numbers")
        for score in self.scores:
            if score not in TEXT_METRICS or TEXT_METRICS[score].needs not in ("references", "sources"):
                known = [name for name, row in TEXT_METRICS.items() if row.needs in ("references", "sources")]
                raise UserError(f"scores: no '{score}'{nearest(score, known)}")


STUDY = Schema(Study, listed={"hypotheses": KINDS})


class OtherRun(NamedTuple):
    """Runs of the study that a recipe's value refers to."""

    kind: str  # run or decoded
    variant: str
    seeds: tuple[int, ...]


class Search(NamedTuple):
    """A way of searching that a study scores, and the number of sentences if not all."""

    settings: SearchMethod
    examples: int | None


@dataclass(frozen=True)
class Plan:
    """A study's settings and the layers of its variants' recipes."""

    name: str
    file: Path
    settings: Study
    base: tuple[Layer, ...]
    variants: dict[str, Layer]
    searches: dict[str, Layer]
    minutes: dict[str, float]  # that a run of a variant takes, as the study's author knows it

    @property
    def runs(self) -> list[tuple[str, int]]:
        """All runs, seed by seed, so that a study that was stopped has whole comparisons."""
        return [(variant, seed) for seed in self.settings.seeds for variant in self.variants]

    @cached_property
    def recipes(self) -> dict[str, Recipe]:
        """The recipe of each variant, with its references to other runs as they are written."""
        return {variant: self.recipe(variant, 0) for variant in self.variants}

    @property
    def baseline(self) -> str:
        """The first variant, with which the others are compared."""
        return next(iter(self.variants))

    @property
    def folder(self) -> Path:
        """The folder of the runs."""
        return Path(self.settings.folder or Path("runs", "studies", self.settings.weights or self.name))

    @property
    def results(self) -> Path:
        """The folder of the small results."""
        if self.settings.results:
            return Path(self.settings.results)
        # An installed package is no place for files of the user's.
        shipped = SHIPPED == IN_WHEEL and self.file.is_relative_to(STUDIES)
        return (self.folder if shipped else self.file.parent) / "results" / self.name

    @property
    def output(self) -> Path:
        """The folder of the page."""
        return Path(self.settings.output) if self.settings.output else self.results

    def run_folder(self, variant: str, seed: int) -> Path:
        """Return the folder of one run."""
        return self.folder / f"{variant}-{seed}"

    def trained(self, variant: str, seed: int) -> Path:
        """Return the file that marks a run as trained to its end."""
        return self.folder / f"{variant}-{seed}.trained"

    def begun(self, variant: str, seed: int) -> Path:
        """Return the file with the fingerprint of the variant whose run was begun in the folder."""
        return self.folder / f"{variant}-{seed}.recipe"

    def is_another(self, variant: str, seed: int) -> bool:
        """Return whether a run's folder holds one of the variant as the study had it before."""
        begun = self.begun(variant, seed)
        return begun.is_file() and begun.read_text(encoding="utf-8") != self.fingerprint(variant)

    def is_trained(self, variant: str, seed: int) -> bool:
        """Return whether a run has been trained to its end, so that other runs may read it."""
        # The mark may have outlived the folder, which people remove to have its space.
        has_run = self.trained(variant, seed).exists() and self.run_folder(variant, seed).is_dir()
        return has_run and not self.is_another(variant, seed)

    def declaration(self, variant: str, seed: int) -> Path:
        """Return the file with the hash of the hypotheses that were declared when a run was begun."""
        return self.folder / f"{variant}-{seed}.hypotheses"

    def recipe(self, variant: str, seed: int, places: Mapping[OtherRun, list[str]] | None = None) -> Recipe:
        """Return the recipe of a run; ``places`` has the paths for each reference to other runs."""
        # The same for all: checkpoints that were chosen by different rules would compare the rules.
        fixed = {"folder": str(self.run_folder(variant, seed)), "seed": seed, "select": self.settings.select}
        layers = [*self.base, self.variants[variant]]
        if places is not None:
            layers = [replace(layer, values=_placed(layer.values, seed, places)) for layer in layers]
        return cast(Recipe, merge(SCHEMA, [*layers, Layer("study", {"run": fixed}, {})]))

    def search(self, name: str, recipe: Recipe) -> Search:
        """Return the settings of a search for runs of a recipe."""
        layer = self.searches[name]
        values = dict(layer.values)
        part = {"examples": values.pop("examples")} if "examples" in values else {}
        count = merge(_Examples, [Layer(layer.origin, part, layer.lines)]).examples
        base = Layer("recipe", {"search": recipe.values()["search"]}, {})
        lines = {f"search.{key}": line for key, line in layer.lines.items()}
        merged = merge(SCHEMA, [base, Layer(layer.origin, {"search": values}, lines)])
        return Search(merged.search, count)

    def quantities(self, variant: str) -> set[str]:
        """Return the endpoints that the diagnosis of a variant gives."""
        measured, recipe = self.settings.diagnose, self.recipes[variant]
        if not measured.examples or not recipe.generates:
            return set()
        # The true distribution is known of one data set alone.
        lengths = measured.lengths if recipe.data.source == "synthetic" else []
        return {*(measured.quantities or KEPT), *(f"excess_error_after_{length}" for length in lengths)}

    def endpoints(self, variant: str) -> set[str]:
        """Return all endpoints of a variant."""
        return self.scores(variant) | self.quantities(variant)

    def scores(self, variant: str) -> set[str]:
        """Return the endpoints of a variant that are scores: of searches, where it generates, and of heads."""
        recipe = self.recipes[variant]
        scores = {f"{head}.{score}" for head, row in recipe.heads.items() for score in with_sums(row.metrics())}
        if recipe.generates:
            scores |= {f"{search}.{score}" for search in self.searches for score in self.settings.scores}
        return scores

    def needs(self, variant: str, seed: int) -> list[OtherRun]:
        """Return the references of a variant's recipe to other runs."""
        layers = (*self.base, self.variants[variant])
        return sorted({other for layer in layers for other in _others(layer.values, seed)})

    def fingerprint(self, variant: str) -> str:
        """Return digits that change where a written key of the variant's recipe, or of runs that it reads, does.

        Only written keys count: a later version may have more keys, and its defaults would make old results strange.
        """
        recipe = dict(flat(self.recipes[variant].values()))
        layers = (*self.base, self.variants[variant])
        written = {key for layer in layers for key in _written(layer.values)}
        values = {key: value for key, value in recipe.items() if key in written and key != "run.folder"}
        others = {other.variant for other in self.needs(variant, 0)}
        parts = [values, self.settings.select, {other: self.fingerprint(other) for other in sorted(others)}]
        return sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()[:16]

    def hypotheses(self) -> list[dict[str, Any]]:
        """Return the declared hypotheses as plain values, with the baseline that each is about."""
        rows = []
        for row in self.settings.hypotheses:
            values = {"name": name_of(KINDS, row), **asdict(row)}
            rows.append({**values, "baseline": row.baseline or self.baseline})
        return rows

    def hypotheses_hash(self) -> str:
        """Return digits that change with the hypotheses, the rule of selection or the split."""
        parts = [self.hypotheses(), self.settings.select, self.settings.split]
        return sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]

    def measured_hash(self, variant: str) -> str:
        """Return digits that change with all that is measured of a run after its training."""
        settings, searches = self.settings, {name: self.search(name, self.recipes[variant]) for name in self.searches}
        asked = {name: [given(search.settings), search.examples] for name, search in searches.items()}
        # Without keys at their defaults, so that a later version with more keys measures the same.
        parts = [asked, settings.split, settings.scores, given(settings.diagnose), self.seen]
        return sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]

    @cached_property
    def seen(self) -> list[str]:
        """The corruptions that some variant is trained on; a comparison holds out the others."""
        methods = [method for recipe in self.recipes.values() for method in recipe.mitigations]
        return sorted({name for method in methods for name in method.teaches()})


def read_plan(arguments: Sequence[str]) -> Plan:
    """Return the study that ``study=`` names, with the other arguments as its overrides.

    Errors: a UserError that names the key, its file and line, and the nearest valid one.
    """
    overrides = read_arguments(arguments)
    named: Study = merge(STUDY, [layer for layer in overrides if "study" in layer.values])
    if not named.study:
        raise UserError("command line: study=NAME is missing, such as study=oracle")
    file = _find(named.study)
    layer = read_file(file)
    values, sections = dict(layer.values), {}
    keys = [*DECLARED, *(item.name for item in fields(Study))]
    if unknown := [key for key in values if key not in keys]:
        raise UserError(f"{layer.position(unknown[0])}: unknown key '{unknown[0]}'{nearest(unknown[0], keys)}")
    for section in DECLARED:
        sections[section] = values.pop(section, {})
        if not isinstance(sections[section], dict):
            raise UserError(f"{layer.position(section)}: {section}: expected keys and values")
    settings: Study = merge(STUDY, [replace(layer, values=values), *overrides])
    recipe, variants = _within(layer, sections["recipe"], "recipe"), sections["variants"]
    base = recipe.values.pop("base", None)
    if not isinstance(base, Written):
        raise UserError(f"{file}: recipe.base: missing; name the recipe that the study's variants change")
    minutes = _minutes(layer, variants)
    if not variants:
        raise UserError(f"{file}: variants: missing; give names and the keys that each changes")
    try:
        # A study may have the name of its base, and is none itself.
        bases = recipe_layers(base.text, None if base.text == file.stem else file.parent)
    except UserError as error:
        # A fault within the base names its own line; that it was not found is the fault of the line that names it.
        where = layer.position("recipe.base") if str(error).startswith("recipe ") else None
        raise UserError(f"{where}: recipe.base: {error}") if where else error from error
    plan = Plan(
        file.stem, file, settings, (*bases, recipe),
        {name: _within(layer, values, f"variants.{name}") for name, values in variants.items()},
        {name: _within(layer, values, f"searches.{name}") for name, values in sections["searches"].items()},
        minutes,
    )  # fmt: skip
    _check(plan)
    return plan


def _find(name: str) -> Path:
    """Return a study's file: a path, or a name in ./recipes/studies or among the shipped ones."""
    path = at_home(name)
    names = [path] if path.suffix in SUFFIXES else [folder / f"{name}.yaml" for folder in FOLDERS]
    for file in names:
        if file.is_file():
            return file
    raise UserError(f"study '{name}': no such study{nearest(name, _names(FOLDERS))}")


def _names(folders: Iterable[Path]) -> set[str]:
    """Return the names of the studies in these folders."""
    return {file.stem for folder in folders for file in folder.glob("*.yaml")}


def _within(layer: Layer, values: Any, section: str) -> Layer:
    """Return a section of a layer as a layer of its own, which knows the lines of its keys."""
    if not isinstance(values, dict):
        if isinstance(values, Written) and values.plain and not values.text:
            values = {}
        else:
            raise UserError(f"{layer.position(section)}: {section}: expected keys and values")
    inner = f"{section}."
    lines = {key.removeprefix(inner): line for key, line in layer.lines.items() if key.startswith(inner)}
    return Layer(layer.origin, dict(values), lines)


@dataclass
class _Minutes:
    minutes: Positive = 1.0

    def __post_init__(self) -> None:
        settle(self)


@dataclass
class _Examples:
    examples: Count | None = None

    def __post_init__(self) -> None:
        settle(self)


def _minutes(layer: Layer, variants: dict[str, Any]) -> dict[str, float]:
    """Return the ``minutes`` of the variants, and take them out of their sections: they are no key of a recipe."""
    minutes = {}
    for name, values in variants.items():
        if isinstance(values, dict) and "minutes" in values:
            key = f"variants.{name}.minutes"
            part = Layer(layer.origin, {"minutes": values["minutes"]}, {"minutes": layer.lines.get(key, 0)})
            minutes[name] = merge(_Minutes, [part]).minutes
            variants[name] = {key: value for key, value in values.items() if key != "minutes"}
    return minutes


def _check(plan: Plan) -> None:
    """Refuse, before any run, what would fail or mean nothing once the runs are there. Errors: a UserError."""
    for name in (*plan.variants, *plan.searches):
        if not NAME.fullmatch(name):
            raise UserError(f"{plan.file}: '{name}': a name of letters, digits and _ is needed")
    if unknown := [name for name in plan.settings.only if name not in plan.variants]:
        raise UserError(f"only: no variant '{unknown[0]}'{nearest(unknown[0], plan.variants)}")
    _check_recipes(plan)
    if plan.settings.diagnose.examples:
        try:
            plan.settings.diagnose.settings(Path("run"))
        except UserError as error:
            raise UserError(f"{plan.file}: diagnose.{error}") from error
    for variant in plan.variants:
        for search in plan.searches:
            plan.search(search, plan.recipes[variant])
        if not plan.endpoints(variant):
            raise UserError(
                f"{plan.file}: variants.{variant}: nothing would be measured of it; give searches, heads or "
                "diagnose.examples"
            )
    for index, row in enumerate(plan.settings.hypotheses):
        _check_hypothesis(plan, f"{plan.file}: hypotheses[{index}]", row)
    if (weights := plan.settings.weights) is not None:
        known = _names([plan.file.parent, *FOLDERS])
        if weights not in known:
            raise UserError(f"weights: no study '{weights}'{nearest(weights, known)}")


def _check_recipes(plan: Plan) -> None:
    """Refuse recipes that are wrong, set what the study sets, or read runs that are not there before them."""
    for layer in (plan.base[-1], *plan.variants.values()):
        for key in FIXED:
            if key in layer.values.get("run", {}):
                hint = "; give the study's select" if key == "select" else ""
                raise UserError(f"{layer.position(f'run.{key}')}: run.{key}: the study sets it for all variants{hint}")
        for key, text in _texts(layer.values):
            if text.startswith(REFERENCE) and not OTHER_RUN.fullmatch(text):
                raise UserError(
                    f"{layer.position(key)}: {key}: '{text}': expected study://run/VARIANT or study://decoded/VARIANT, "
                    f"and /SEED or /SEED+SEED after it where the seeds are others than the run's own"
                )
    for changes in plan.variants.values():
        if "search" in changes.values:
            where = changes.position("search")
            raise UserError(f"{where}: search: it is the same for all variants; give searches, or recipe.search")
    names = list(plan.variants)
    for index, variant in enumerate(plan.recipes):
        for other in plan.needs(variant, plan.settings.seeds[0]):
            if other.variant not in names[:index]:
                hint = nearest(other.variant, names[:index])
                if other.variant in names:
                    hint = ", which is itself" if other.variant == variant else ", which comes later"
                raise UserError(f"{plan.file}: variants.{variant}: it reads no earlier variant '{other.variant}'{hint}")


def _check_hypothesis(plan: Plan, where: str, row: Declared) -> None:
    """Refuse a hypothesis on what the study does not have, or whose test means nothing."""
    for key in ("variant", "baseline"):
        if (name := getattr(row, key)) is not None and name not in plan.variants:
            raise UserError(f"{where}.{key}: no '{name}'{nearest(name, plan.variants)}")
    baseline = row.baseline or plan.baseline
    if baseline == row.variant:
        raise UserError(f"{where}.variant: '{row.variant}' is compared with itself")
    known = plan.endpoints(row.variant) & plan.endpoints(baseline)
    if row.endpoint not in known:
        alike = sorted(name for name in known if ("." in name) == ("." in row.endpoint))
        hint = nearest(row.endpoint, alike)
        if row.endpoint.startswith("excess_error_after_"):
            hint = "; it needs data whose true distribution is known, and its length in diagnose.lengths"
        raise UserError(f"{where}.endpoint: no '{row.endpoint}'{hint}")
    score = row.endpoint.rpartition(".")[2]
    undirected = better(score) == "neither" if "." in row.endpoint else row.endpoint in UNDIRECTED
    if isinstance(row, NonInferiority) and undirected:
        raise UserError(
            f"{where}.name: non_inferiority: of {row.endpoint} neither more nor less is better; take equivalence"
        )


def given(settings: Any) -> dict[str, Any]:
    """Return the keys of a settings object that are not at their defaults, and its class."""
    values, defaults = asdict(settings), asdict(type(settings)())
    return {"": type(settings).__name__, **{key: value for key, value in values.items() if value != defaults[key]}}


def _others(values: Any, seed: int) -> Iterator[OtherRun]:
    """Yield the references to other runs in nested values."""
    for _, text in _texts(values):
        if match := OTHER_RUN.fullmatch(text):
            yield _other(match, seed)


def _texts(value: Any, key: str = "") -> Iterator[tuple[str, str]]:
    """Yield the dotted key and the text of each written value in nested ones."""
    if isinstance(value, dict):
        for name, inner in value.items():
            yield from _texts(inner, f"{key}.{name}" if key else name)
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            yield from _texts(inner, f"{key}[{index}]")
    elif isinstance(value, Written):
        yield key, value.text


def _other(match: re.Match[str], seed: int) -> OtherRun:
    seeds = tuple(int(number) for number in match[3].split("+")) if match[3] else (seed,)
    return OtherRun(match[1], match[2], seeds)


def _placed(value: Any, seed: int, places: Mapping[OtherRun, list[str]]) -> Any:
    """Return nested values with the references to other runs replaced by paths."""
    if isinstance(value, dict):
        return {key: _placed(inner, seed, places) for key, inner in value.items()}
    if isinstance(value, list):
        return [_placed(inner, seed, places) for inner in value]
    if isinstance(value, Written) and (match := OTHER_RUN.fullmatch(value.text)):
        texts = [replace(value, text=path) for path in places[_other(match, seed)]]
        return texts[0] if len(texts) == 1 else texts
    return value


def _written(values: Any, prefix: str = "") -> Iterator[str]:
    """Yield the dotted keys of a layer's values, those of rows of a list with their numbers, as ``flat`` has them."""
    for key, value in values.items():
        if isinstance(value, dict):
            yield from _written(value, f"{prefix}{key}.")
        elif isinstance(value, list) and any(isinstance(row, dict) for row in value):
            for index, row in enumerate(value):
                yield from _written(row, f"{prefix}{key}[{index}].")
        else:
            yield f"{prefix}{key}"
