"""Outputs that are inputs, links, devices or nowhere: no file is lost, and what cannot be written is said at once."""

import gzip
import importlib
import json
import os
import shutil
import stat
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
import tiny_runs

import s2s
from s2s.console.outputs import check_output, check_output_folder
from s2s.decoding import resumable_output
from s2s.diagnose.__main__ import main as diagnose
from s2s.errors import UserError
from s2s.files.atomic import new_folder, open_output, write_atomically

ROOT = Path(__file__).resolve().parents[2]

SOURCES = "a b c\nd e\n"


@pytest.fixture(scope="module")
def run(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run") / "run"
    return shutil.copytree(tiny_folder, folder)


def command(name: str) -> Callable[[list[str]], int]:
    return importlib.import_module(f"s2s.commands.{name}").main


def refusal(capsys: pytest.CaptureFixture[str], code: int) -> str:
    captured = capsys.readouterr()
    assert code == 2
    assert captured.out == ""
    assert captured.err.count("\n") == 1
    return captured.err


def other_names(path: Path) -> list[Path]:
    """Further names of a file: a link, a link of a link, a hard link, another spelling."""
    folder = path.parent
    (folder / "link").symlink_to(path.name)
    (folder / "second").symlink_to(folder / "link")
    (folder / "hard").hardlink_to(path)
    return [path, folder / "link", folder / "second", folder / "hard", folder / ".." / folder.name / path.name]


@pytest.mark.parametrize("at", range(5))
def test_an_output_that_is_the_input_is_refused(run: Path, tmp_path: Path, capsys, at: int) -> None:
    source = tmp_path / "s.txt"
    source.write_text(SOURCES, encoding="utf-8")
    output = other_names(source)[at]
    message = refusal(capsys, command("decode")([f"run={run}", f"input={source}", f"output={output}"]))
    assert message.startswith(f"error: output: {output} is the same file as {source}")
    assert source.read_text(encoding="utf-8") == SOURCES
    assert not list(tmp_path.glob("*.partial*"))
    refusal(capsys, command("predict")([f"run={run}", f"input={output}", f"output={source}"]))
    refusal(capsys, command("evaluate")([f"hypotheses={output}", f"references={run}/x", f"json={source}"]))
    refusal(capsys, command("evaluate")(["hypotheses=-", f"references={output}", f"json={source}"]))
    (tmp_path / "report.json").symlink_to(output)
    refusal(capsys, diagnose([f"run={run}", f"data={source}", f"output={tmp_path}"]))
    assert source.read_text(encoding="utf-8") == SOURCES


@pytest.mark.parametrize("name", ["recipe.yaml", "run.json", "log.jsonl", "vocabulary/new", "checkpoints/x"])
def test_files_of_a_run_that_is_read_are_no_outputs(run: Path, tmp_path: Path, capsys, name: str) -> None:
    (tmp_path / "s.txt").write_text(SOURCES, encoding="utf-8")
    (tmp_path / "run").symlink_to(run)
    before = (run / "recipe.yaml").read_bytes(), (run / "run.json").read_bytes()
    for folder in (run, tmp_path / "run"):
        arguments = [f"run={run}", f"input={tmp_path / 's.txt'}", f"output={folder / name}"]
        assert f"is a file of {run}" in refusal(capsys, command("decode")(arguments))
    assert ((run / "recipe.yaml").read_bytes(), (run / "run.json").read_bytes()) == before
    check_output("output", run / "mine.txt", [run])  # a user's own file in the folder


def test_a_hard_link_to_a_part_of_a_run_is_that_part(run: Path, tmp_path: Path) -> None:
    (tmp_path / "hard").hardlink_to(next(run.glob("checkpoints/*/weights.safetensors")))
    with pytest.raises(UserError, match="is a file of"):
        check_output("output", tmp_path / "hard", [run])
    with pytest.raises(UserError, match=r"exists already|is part of"):
        check_output_folder("output", run / "vocabulary" / "new", [run])


def test_the_allowed_file_and_the_unfinished_output_are_inputs_too(run: Path, tmp_path: Path, capsys) -> None:
    (tmp_path / "allowed.txt").write_text("a b\n", encoding="utf-8")
    (tmp_path / "out.partial").write_text(SOURCES, encoding="utf-8")
    allowed = tmp_path / "allowed.txt"
    arguments = [f"run={run}", "input=-", f"output={allowed}", f"search.allowed={allowed}"]
    assert "is the same file" in refusal(capsys, command("decode")(arguments))
    arguments = [f"run={run}", f"input={tmp_path / 'out.partial'}", f"output={tmp_path / 'out'}"]
    assert "out.partial is the same file" in refusal(capsys, command("decode")(arguments))
    (tmp_path / "s.txt").write_text("a\n", encoding="utf-8")
    arguments = [f"run={run}", f"input={tmp_path / 's.txt'}", f"output={tmp_path / 'out'}"]
    assert "not an output that was left unfinished" in refusal(capsys, command("decode")(arguments))
    assert (tmp_path / "out.partial").read_text(encoding="utf-8") == SOURCES


@pytest.mark.slow
def test_standard_streams_are_inputs_and_outputs(run: Path, tmp_path: Path) -> None:
    source = tmp_path / "s.txt"
    source.write_text(SOURCES, encoding="utf-8")
    script = f"{sys.executable} {ROOT / 'scripts' / 'decode.py'} run={run}"
    for shell in (f"{script} input=- output={source} < {source}", f"{script} input={source} output=- >> {source}"):
        done = subprocess.run(shell, shell=True, capture_output=True, text=True, check=False, encoding="utf-8")
        assert (done.returncode, done.stderr.count("\n")) == (2, 1)
        assert "is the same file as" in done.stderr
        assert source.read_text(encoding="utf-8") == SOURCES


@pytest.mark.parametrize("script", ["decode", "predict"])
def test_where_nothing_can_be_written_is_said_before_any_work(tmp_path: Path, capsys, script: str) -> None:
    (tmp_path / "file").write_text("x", encoding="utf-8")
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "in.txt").write_text("a\n", encoding="utf-8")
    places = {
        "no/out": "No such file or directory; make the folder",
        "": "is a folder",
        "new/": "is a folder",
        "file/out": "is not a folder",
        "loop": "",
        "x" * 300: "",
    }
    for place, message in places.items():
        # The run does not exist: nothing of it was read.
        arguments = [f"run={tmp_path / 'run'}", f"input={tmp_path / 'in.txt'}", f"output={tmp_path}/{place}"]
        found = refusal(capsys, command(script)(arguments))
        assert found.startswith("error: output: ")
        assert message in found
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "in.txt", "loop"]


def test_links_modes_and_owners_stay(run: Path, tmp_path: Path) -> None:
    (tmp_path / "s.txt").write_text(SOURCES, encoding="utf-8")
    (tmp_path / "place").mkdir()
    target, link = tmp_path / "place" / "out.txt", tmp_path / "out.txt"
    target.write_text("before", encoding="utf-8")
    target.chmod(0o640)
    if os.geteuid() == 0:
        os.chown(target, 1234, 4321)
    link.symlink_to(target)
    owner = target.stat().st_uid, target.stat().st_gid
    assert command("decode")([f"run={run}", f"input={tmp_path / 's.txt'}", f"output={link}", "search.beams=1"]) == 0
    assert len(target.read_text(encoding="utf-8").splitlines()) == 2
    write_atomically(link, "text")
    assert link.is_symlink()
    assert target.read_text(encoding="utf-8") == "text"
    assert stat.S_IMODE(target.stat().st_mode) == 0o640
    assert (target.stat().st_uid, target.stat().st_gid) == owner
    assert [path.name for path in target.parent.iterdir()] == ["out.txt"]
    (tmp_path / "dangling").symlink_to(tmp_path / "place" / "new")
    write_atomically(tmp_path / "dangling", "text")
    assert (tmp_path / "place" / "new").read_text(encoding="utf-8") == "text"


def test_a_failure_leaves_what_was_there(tmp_path: Path) -> None:
    path = tmp_path / "out"
    path.write_text("before", encoding="utf-8")

    class Stopped(BaseException):
        pass

    def stopped() -> None:
        with open_output(path) as file:
            file.write(b"half")
            raise Stopped

    with pytest.raises(Stopped):
        stopped()
    assert path.read_text(encoding="utf-8") == "before"
    assert list(tmp_path.iterdir()) == [path]


def test_somebody_s_partial_files_stay(tmp_path: Path) -> None:
    (tmp_path / "out.partial").write_text("mine", encoding="utf-8")
    write_atomically(tmp_path / "out", "text")
    (tmp_path / "folder.partial").mkdir()
    (tmp_path / "folder.partial" / "mine").touch()
    with new_folder(tmp_path / "folder") as folder:
        (folder / "a").touch()
    assert (tmp_path / "out.partial").read_text(encoding="utf-8") == "mine"
    assert (tmp_path / "folder.partial" / "mine").exists()


STREAMS = {
    "output=/dev/stdout > {0}": "{0}",
    "output=/dev/fd/1 >> {0}": "{0}",
    "output=/proc/self/fd/3 3> {0}": "{0}",
    "output={1}/link > {0}": "{0}",
    "output=>(cat > {0}; touch {1}/done)": "{0}",
    "output=/dev/stdout | cat > {0}": "{0}",
    "output=/dev/null > {0}": None,
}


WRITERS = [
    "from s2s.decoding.resumable_output import output_of; o = output_of(name); "
    "o.append(['x', 'y'], ''); o.finish(); o.close()",
    "from s2s.commands import predict; predict.write(name, ['x', 'y'])",
    "from s2s.files.atomic import write_atomically as w; from pathlib import Path; w(Path(name), 'x\\ny\\n')",
]


@pytest.mark.slow
@pytest.mark.parametrize("shell", STREAMS)
def test_what_is_no_regular_file_is_written_to_directly(tmp_path: Path, shell: str) -> None:
    source, out = tmp_path / "s.txt", tmp_path / "out.txt"
    source.write_text(SOURCES, encoding="utf-8")
    (tmp_path / "link").symlink_to("/dev/stdout")
    out.write_text("before\n", encoding="utf-8")
    inode = out.stat().st_ino
    writer = WRITERS[list(STREAMS).index(shell) % len(WRITERS)]
    name, _, rest = shell.format(out, tmp_path).removeprefix("output=").partition(" ")
    if name.startswith(">("):
        name, rest = shell.format(out, tmp_path).removeprefix("output="), ""
    program = f"import sys; sys.path.insert(0, {str(ROOT)!r}); name = sys.argv[1]\n{writer}"
    line = f"{sys.executable} - {name} {rest}"
    done = subprocess.run(
        ["bash", "-c", line], input=program, capture_output=True, text=True, check=False, encoding="utf-8"
    )
    assert (done.returncode, done.stderr) == (0, "")
    while name.startswith(">(") and not (tmp_path / "done").exists():
        pass  # the shell does not wait for a process of >( )
    kept = "before\n" if ">> " in shell else ""
    assert out.read_text(encoding="utf-8") == kept + ("" if STREAMS[shell] is None else "x\ny\n")
    assert out.stat().st_ino == inode
    assert stat.S_ISCHR(os.stat("/dev/null").st_mode)


def test_a_named_pipe_stays_open_between_pieces(tmp_path: Path) -> None:
    pipe, read = tmp_path / "pipe", []
    os.mkfifo(pipe)
    thread = threading.Thread(target=lambda: read.append(pipe.read_text(encoding="utf-8")))
    thread.start()
    output = resumable_output.output_of(str(pipe))
    for line in ("one", "two"):
        output.append([line], "")
    output.finish()
    output.close()
    thread.join()
    assert read == ["one\ntwo\n"]
    assert stat.S_ISFIFO(pipe.stat().st_mode)


def test_new_folders_follow_links_and_keep_their_mode(tmp_path: Path) -> None:
    (tmp_path / "place").mkdir(mode=0o750)
    (tmp_path / "link").symlink_to("place")
    with new_folder(tmp_path / "link") as folder:
        (folder / "a").touch()
    assert (tmp_path / "link").is_symlink()
    assert [path.name for path in (tmp_path / "place").iterdir()] == ["a"]
    assert stat.S_IMODE((tmp_path / "place").stat().st_mode) == 0o750
    for place in ("place", "place/a", "place/a/b"):
        with pytest.raises(UserError, match=r"exists already|cannot be made"):
            check_output_folder("output", tmp_path / place, [])


def test_prepared_sets_do_not_replace_what_they_are_made_of(tmp_path: Path, capsys) -> None:
    row = json.dumps({"id": 0, "title": "t", "abst": "a"}) + "\n"
    (tmp_path / "train.jsonl").write_text(row, encoding="utf-8")
    message = refusal(capsys, importlib.import_module("prepare_csl").main([str(tmp_path), str(tmp_path)]))
    assert message.startswith(f"error: OUTPUT: {tmp_path / 'train.jsonl'} is the same file as")
    assert (tmp_path / "train.jsonl").read_text(encoding="utf-8") == row


def test_figures_of_benchmarks_are_refused_before_they_are_measured(tmp_path: Path, capsys) -> None:
    options = importlib.import_module("benchmarks.options")
    for place in (tmp_path, tmp_path / "no" / "rows.json"):
        with pytest.raises(SystemExit):
            options.numbered(None, {}).parse_args(["--json", str(place)])
        assert "argument --json: " in capsys.readouterr().err
    assert options.numbered(None, {}).parse_args(["--json", str(tmp_path / "a")]).json == tmp_path / "a"


def test_compressed_predictions_are_whole(tmp_path: Path) -> None:
    importlib.import_module("s2s.commands.predict").write(str(tmp_path / "out.gz"), ["a", "b"])
    assert gzip.decompress((tmp_path / "out.gz").read_bytes()) == b"a\nb\n"


@pytest.mark.parametrize("name", ["recipe.yaml", "vocabulary/mine.txt", "log.jsonl"])
def test_a_new_run_takes_the_place_of_nobody_s_files(tmp_path: Path, name: str) -> None:
    mine = tmp_path / "folder" / name
    mine.parent.mkdir(parents=True)
    mine.write_text("base: toy_copy\n", encoding="utf-8")
    with pytest.raises(UserError, match=r"^run\.folder: .* is not of a run and would be lost"):
        s2s.fit(tiny_runs.recipe(tmp_path / "folder", "run.steps=1"))
    assert mine.read_text(encoding="utf-8") == "base: toy_copy\n"
    assert [path for path in (tmp_path / "folder").rglob("*") if path.is_file()] == [mine]


def test_what_a_killed_creation_has_left_is_gone_on_with(tmp_path: Path) -> None:
    recipe = tiny_runs.recipe(tmp_path / "folder", "run.steps=1")
    s2s.fit(recipe)
    saved = (tmp_path / "folder" / "recipe.yaml").read_bytes()
    for path in (tmp_path / "folder").iterdir():
        if path.name not in ("recipe.yaml", "vocabulary"):
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    s2s.fit(recipe)
    assert (tmp_path / "folder" / "recipe.yaml").read_bytes() == saved
