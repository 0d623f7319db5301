"""Measure the layout and the prose of the package, and fail where a rule is broken: ``python scripts/check_layout.py``.

One table, ``FLOORS``, says which room may import which: a module imports from its own room and from floors below its
own. Imports inside functions and under TYPE_CHECKING count. The columns are printed for ``s2s``; every line that
breaks a rule is printed with its file, and the exit code is then 1. ``--report`` prints the columns alone.
"""

import ast
import io
import re
import sys
import tokenize
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from statistics import median, quantiles

ROOT = Path(__file__).resolve().parents[1]

FLOORS = """
__main__
study
train commands
training decoding serve diagnose integrations
runs
recipe
inference objective
search heads mitigations
data optim losses
vocabulary
metrics model batch
console
config
machine
files
errors randomness
"""
"""From the top of the house to its ground. A command (``__main__`` of any room, and ``s2s`` itself) is on the roof."""

LOOSE, LAYERS, SMALL, SMALL_MODULES, COMMENTS = 8, 20, 60, 40, 0.025
README_LINES, README_WORDS = 200, 2000
BACK = {("s2s.recipe.recipe", "s2s.recipe.build")}
"""Imports inside of functions that are allowed: ``Recipe.build`` of the library's contract delegates to plain functions
that read recipes."""

PHRASES = {
    "What as a noun": r"(?m)^\s*What\b",
    "so many, as many": r"\b(so|as) many\b",
    "behind": r"\bbehind\b",
    "beside": r"\bbeside\b",
    "anew": r"\banew\b",
    "hears": r"\bhears?\b",
    "is told, is said": r"\b(is|are) (told|said)\b",
    "stands": r"\bstands?\b(?! for)",
    "lies": r"\blies?\b",
    "goes on": r"\b(go|goes|going|gone) on\b",
}
"""House style: phrases that make a text hard to read, in docstrings, comments, messages and help texts."""

OLD_NAMES = {
    *("Turn", "Materials", "Shaped", "Words", "Feed", "Shaper", "Told", "Said", "Speaker", "Job", "Answer", "Models"),
    *("Standing", "Place", "Keeping", "Facts", "Shelf", "Scratch", "made_of", "alone", "start_processes", "hears"),
    *("listener", "found", "own", "one", "each", "ours", "place", "real"),
}
"""Words that had a better one: ``found`` names the thing that was found, ``real`` is ``valid`` or ``mask``."""


def modules() -> dict[str, Path]:
    """Return the modules of ``s2s`` by their dotted names, packages under their own."""
    files = sorted((ROOT / "s2s").rglob("*.py"))
    return {".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path for path in files}


@cache
def parsed(path: Path) -> ast.Module:
    """Return the syntax tree of a file."""
    return ast.parse(path.read_text(encoding="utf-8"))


def imports(tree: ast.AST, known: dict[str, Path]) -> set[str]:
    """Return the modules of the project that a tree imports, wherever in it."""
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module:
            parts = (f"{node.module}.{alias.name}" for alias in node.names)
            names.update(part if part in known else node.module for part in parts)
        elif isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
    return names & known.keys()


def room(module: str) -> str:
    """Return the room of a module: the roof for ``s2s`` and for commands."""
    parts = module.split(".")
    return "__main__" if len(parts) == 1 or parts[-1] == "__main__" else parts[1]


def arrows_up(graph: dict[str, set[str]]) -> Iterator[str]:
    """Yield the imports that lead to the same floor or up, and rooms that the table does not know."""
    floors = {name: floor for floor, line in enumerate(FLOORS.split("\n")) for name in line.split()}
    for module, targets in graph.items():
        if room(module) not in floors:
            yield f"{module}: the room {room(module)} is on no floor"
            continue
        for target in sorted(targets):
            upper, lower = room(module), room(target)
            if upper != lower and floors[upper] >= floors.get(lower, -1):
                yield f"{module} imports {target}: {lower} is not below {upper}"


def depths(graph: dict[str, set[str]]) -> tuple[dict[str, int], list[str]]:
    """Return on which import layer each module is, from 1, and the cycles that were met."""
    layers: dict[str, int] = {}
    cycles: list[str] = []

    def visit(module: str, path: tuple[str, ...]) -> int:
        if module in path:
            cycles.append(" -> ".join((*path[path.index(module) :], module)))
            return 0
        if module not in layers:
            layers[module] = 1 + max((visit(target, (*path, module)) for target in sorted(graph[module])), default=0)
        return layers[module]

    for module in graph:
        visit(module, ())
    return layers, cycles


def hidden_imports(known: dict[str, Path]) -> Iterator[str]:
    """Yield the imports of the project inside of functions, apart from those that ``BACK`` allows."""
    for module, path in known.items():
        for node in ast.walk(parsed(path)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                for target in sorted(imports(node, known)):
                    if (module, target) not in BACK:
                        yield f"{path.relative_to(ROOT)}:{node.lineno}: imports {target} inside of a function"


def comments(path: Path) -> list[tuple[int, str]]:
    """Return the comments of a file with their lines."""
    tokens = tokenize.generate_tokens(io.StringIO(path.read_text(encoding="utf-8")).readline)
    return [(token.start[0], token.string.lstrip("# ")) for token in tokens if token.type == tokenize.COMMENT]


def prose(path: Path) -> Iterator[tuple[int, str]]:
    """Yield the comments and the texts of a file with their lines, docstrings and messages alike."""
    yield from comments(path)
    for node in ast.walk(parsed(path)):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and " " in node.value:
            yield node.lineno, node.value


def phrases(path: Path) -> Iterator[str]:
    """Yield each phrase of a file that the house style has another word for."""
    for line, text in prose(path):
        for name, pattern in PHRASES.items():
            if found_at := re.search(pattern, text):
                yield f"{path.relative_to(ROOT)}:{line + text[: found_at.start()].count(chr(10))}: {name}"


def old_names(path: Path) -> Iterator[str]:
    """Yield each name that a file binds although the house has another word for it."""
    for node in ast.walk(parsed(path)):
        name = None
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            name = node.id
        elif isinstance(node, ast.arg):
            name = node.arg
        elif isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            name = node.name
        if name in OLD_NAMES:
            yield f"{path.relative_to(ROOT)}:{getattr(node, 'lineno', 0)}: the name {name}"


def measure(known: dict[str, Path]) -> tuple[list[tuple[str, str, bool]], list[str]]:
    """Return the columns, each with its value and whether it is within its aim, and the lines that break a rule."""
    back = {module: {module, *(target for source, target in BACK if source == module)} for module in known}
    graph = {module: imports(parsed(path), known) - back[module] for module, path in known.items()}
    layers, cycles = depths(graph)
    broken = [*(f"cycle: {cycle}" for cycle in cycles), *arrows_up(graph), *hidden_imports(known)]
    texts = [path.read_text(encoding="utf-8").splitlines() for path in known.values()]
    small = [
        path for path, lines in zip(known.values(), texts, strict=True) if "__" not in path.stem and len(lines) <= SMALL
    ]
    functions = [
        (node.end_lineno or node.lineno) - node.lineno + 1
        for path in known.values()
        for node in ast.walk(parsed(path))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    ]
    own_lines = sum(
        lines[line - 1].lstrip().startswith("#")
        for path, lines in zip(known.values(), texts, strict=True)
        for line, _ in comments(path)
    )
    code = sum(1 for lines in texts for line in lines if line.strip() and not line.lstrip().startswith("#"))
    loose = len(list((ROOT / "s2s").glob("*.py")))
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    for path in [*known.values(), *sorted((ROOT / "scripts").rglob("*.py"))]:
        if path != Path(__file__).resolve():
            broken += [*phrases(path), *old_names(path)]
    columns = [
        ("modules loose at the package root", f"{loose}", loose <= LOOSE),
        ("import layers", f"{max(layers.values())}", max(layers.values()) <= LAYERS),
        ("function lines: median, p90", f"{median(functions):.0f}, {quantiles(functions, n=10)[-1]:.0f}", True),
        ("modules of 60 lines or fewer", f"{len(small)} of {len(known)}", len(small) <= SMALL_MODULES),
        ("comment lines / code lines", f"{own_lines / code:.1%} ({own_lines})", own_lines / code >= COMMENTS),
        (
            "README: lines, words",
            f"{len(readme.splitlines())}, {len(readme.split())}",
            len(readme.splitlines()) <= README_LINES and len(readme.split()) <= README_WORDS,
        ),
        ("lines of the package", f"{sum(map(len, texts))}", True),
    ]
    return columns, broken


def main() -> int:
    """Print the columns and the broken rules."""
    columns, broken = measure(modules())
    for name, value, good in columns:
        print(f"{name:36} {value}{'' if good else '  <- beyond its aim'}")
    if "--report" in sys.argv[1:]:
        return 0
    print("\n".join(broken))
    print(f"{len(broken)} lines break a rule")
    return int(bool(broken) or not all(good for _, _, good in columns))


if __name__ == "__main__":
    sys.exit(main())
