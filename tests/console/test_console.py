"""What is printed for people never ends the work, whatever the standard streams are."""

import errno
import io
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import pytest
from rich.table import Table
from tiny_runs import arguments, ready

import s2s
from s2s.console.terminal import SafeStream, open_standard_streams, plain_console
from s2s.decoding.resumable_output import Journal, Record
from s2s.errors import UserError
from s2s.files.paths import cache_folder

CHECKOUT = Path(s2s.__file__).resolve().parents[1]

KEYS = ("run.steps=6", "run.evaluate_every=3", "run.save_every=3")
ENCODINGS = [{"PYTHONIOENCODING": "ascii"}, {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}]


@pytest.fixture(scope="module")
def trained(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("trained") / "run"
    s2s.fit(ready(base, folder, *KEYS))
    return folder


def python(*rest: str) -> list[str]:
    return [sys.executable, *rest]


def shell(command: str, arguments: Sequence[str], **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a command line of bash, in which ``"$@"`` are the arguments."""
    return subprocess.run(
        ["bash", "-c", command, "bash", *arguments],
        env=os.environ | environment,
        capture_output=True,
        text=True,
        encoding="utf-8",
    )


def test_texts_are_printed_as_they_are(capsys: pytest.CaptureFixture[str]) -> None:
    text = "[/INST] [red]no colour[/red] :smile: [link=x]"
    console = plain_console()
    table = Table("text", title=text)
    table.add_row(text)
    console.print(text)
    console.print(table)
    assert capsys.readouterr().out.count(text) == 3


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp1252"])
def test_characters_outside_the_encoding_are_escaped(monkeypatch: pytest.MonkeyPatch, encoding: str) -> None:
    stream = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    monkeypatch.setattr(sys, "stdout", stream)
    plain_console().print("日本 great 😀 \ud83d")
    stream.flush()
    assert stream.buffer.getvalue().decode(encoding).strip() == "\\u65e5\\u672c great \\U0001f600 \\ud83d"


class Gone(io.StringIO):
    """A pipe that nobody reads."""

    def write(self, text: str) -> int:
        raise BrokenPipeError(text)

    def flush(self) -> None:
        raise BrokenPipeError


@pytest.mark.parametrize("stream", [None, Gone()])
def test_a_stream_that_takes_nothing_is_written_to_in_vain(
    monkeypatch: pytest.MonkeyPatch, stream: io.StringIO | None
) -> None:
    monkeypatch.setattr(sys, "stdout", stream)
    plain_console().print("nobody reads this")
    SafeStream("stdout").flush()
    assert not SafeStream("stdout").isatty()


def test_a_closed_file_is_written_to_in_vain(monkeypatch: pytest.MonkeyPatch) -> None:
    closed = io.StringIO()
    closed.close()
    monkeypatch.setattr(sys, "stderr", closed)
    plain_console(stderr=True).print("nobody reads this")


@pytest.mark.slow
@pytest.mark.parametrize("closing", [">&-", "<&- >&- 2>&-"])
def test_training_ends_with_closed_streams(base: Path, tmp_path: Path, closing: str) -> None:
    made = arguments(ready(base, tmp_path / "run", *KEYS))
    done = shell(f'"$@" {closing}', python("-m", "s2s.train", *made))
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "run" / "checkpoints" / "step-00000006").is_dir()


@pytest.mark.slow
def test_training_goes_on_when_the_reader_of_its_lines_leaves(base: Path, tmp_path: Path) -> None:
    made = arguments(ready(base, tmp_path / "run", *KEYS))
    done = shell('set -o pipefail; "$@" | head -n 1', python("-m", "s2s.train", *made))
    assert done.returncode == 0, done.stderr
    assert "BrokenPipe" not in done.stderr
    assert (tmp_path / "run" / "checkpoints" / "step-00000006").is_dir()


@pytest.mark.slow
@pytest.mark.parametrize("environment", ENCODINGS)
def test_commands_print_in_any_encoding(base: Path, tmp_path: Path, environment: dict[str, str]) -> None:
    folder = tmp_path / "Übung 日本"
    made = arguments(ready(base, folder, *KEYS))
    done = shell('"$@"', python("-m", "s2s.train", *made, "--dry-run"), **environment)
    assert done.returncode == 0, done.stderr
    done = shell('"$@"', python("-m", "s2s.train", *made, "run.selekt=日本"), **environment)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("environment", ENCODINGS)
def test_a_name_of_a_file_is_the_same_in_any_encoding(base: Path, tmp_path: Path, environment: dict[str, str]) -> None:
    """A recipe spells the characters, an argument in an ASCII locale the bytes of the name; results are UTF-8."""
    folder = tmp_path / "Übung 日本"
    ready(base, folder, *KEYS)
    written = f"run.folder={folder}"
    done = shell('"$@"', python("-m", "s2s.train", f"recipe={folder / 'recipe.yaml'}", written), **environment)
    assert done.returncode == 0, done.stderr
    assert s2s.load(folder).recipe.run.folder == str(folder)
    sources, output, scores = (folder / name for name in ("sources.txt", "output.txt", "scores.json"))
    sources.write_text("a b\n", encoding="utf-8")
    done = shell('"$@"', decoded(folder, f"input={sources}", f"output={output}"), **environment)
    assert done.returncode == 0, done.stderr
    evaluated = python(str(CHECKOUT / "scripts" / "evaluate.py"), f"hypotheses={output}", f"references={sources}")
    done = shell('"$@"', [*evaluated, f"json={scores}"], **environment)
    assert done.returncode == 0, done.stderr
    assert json.loads(scores.read_text(encoding="utf-8"))["arguments"]["hypotheses"] == str(output)


NAMES = r"""
import os
from s2s.errors import UserError
from s2s.files.paths import at_home, expanded, readable
given = os.fsdecode("/x/\xe9".encode())
assert expanded("/x/\xe9") == str(at_home("/x/\xe9")) == expanded(given) == given
assert readable(f"/y,{given}") == "/y,/x/\xe9"
assert readable("\udcff\ud800") == "\\udcff\\ud800"
assert os.fsencode(expanded("\udcff")) == b"\xff"
for half in ("\ud800", "\xe9\ud800"):
    try:
        expanded(half)
    except UserError as error:
        assert "half of a surrogate pair" in str(error)
    else:
        raise AssertionError(half)
"""


@pytest.mark.slow
@pytest.mark.parametrize("environment", [{}, *ENCODINGS])
def test_a_path_holds_the_bytes_of_a_name(environment: dict[str, str]) -> None:
    done = shell('"$@"', python("-c", NAMES), **environment)
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("program", ["s2s.train --help", "s2s.diagnose --help"])
def test_help_ends_quietly_when_nobody_reads_on(program: str) -> None:
    done = shell('"$@" | head -n 1; exit "${PIPESTATUS[0]}"', python("-m", *program.split()))
    assert done.returncode in (0, 141)
    assert done.stderr == ""


@pytest.mark.slow
def test_a_file_never_takes_the_place_of_a_closed_stream(tmp_path: Path) -> None:
    program = "from s2s.console.terminal import open_standard_streams as o; o(); print(open('file', 'w').fileno() > 2)"
    done = shell('"$@" <&- 2>&-', python("-c", f"import os; os.chdir({str(tmp_path)!r}); {program}"))
    assert done.stdout == "True\n"


def test_open_streams_stay_as_they_are() -> None:
    before = sys.stdin, sys.stdout, sys.stderr
    open_standard_streams()
    assert (sys.stdin, sys.stdout, sys.stderr) == before


def decoded(trained: Path, *rest: str) -> list[str]:
    return python(str(CHECKOUT / "scripts" / "decode.py"), f"run={trained}", *rest)


@pytest.mark.slow
@pytest.mark.parametrize("environment", ENCODINGS)
def test_results_on_standard_output_are_utf_8_everywhere(
    trained: Path, tmp_path: Path, environment: dict[str, str]
) -> None:
    """As they are in files: the locale changes what is told, never what is written."""
    sources = tmp_path / "sources.jsonl"
    sources.write_text('{"id": "日本 é", "source": "a b"}\n', encoding="utf-8")
    done = shell('"$@"', decoded(trained, f"input={sources}", "output=-"), **environment)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["id"] == "日本 é"


@pytest.mark.slow
@pytest.mark.parametrize("row", [r'{"source": "x \ud83d y"}', r'{"source": ["x", "\ud83d"]}'])
def test_half_a_surrogate_pair_is_one_line(trained: Path, tmp_path: Path, row: str) -> None:
    sources = tmp_path / "sources.jsonl"
    sources.write_text('{"source": "a b"}\n' + row + "\n", encoding="utf-8")
    done = shell('"$@"', decoded(trained, f"input={sources}", f"output={tmp_path / 'out.jsonl'}"))
    assert done.returncode == 2
    assert done.stderr == f"error: {sources}, line 2: field 'source' holds half of a surrogate pair\n"


@pytest.mark.slow
@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
def test_a_full_disk_is_told_with_the_file(trained: Path, tmp_path: Path) -> None:
    sources = tmp_path / "sources.txt"
    sources.write_text("a b\n", encoding="utf-8")
    done = shell('"$@"', decoded(trained, f"input={sources}", "output=/dev/full"))
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1] == "error: /dev/full: cannot be written (No space left on device)"
    done = shell('"$@" > /dev/full', decoded(trained, f"input={sources}", "output=-"))
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1] == "error: standard output: cannot be written (No space left on device)"


def test_a_journal_on_a_full_disk_names_its_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    journal = Journal(tmp_path / "out.jsonl")
    journal.start(Record({}))
    monkeypatch.setattr(os, "fsync", lambda _: (_ for _ in ()).throw(OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))))
    with pytest.raises(UserError, match=r"out\.jsonl\.partial: cannot be written \(No space left on device\)"):
        journal.append(["x"], "")
    journal.close()


def test_a_user_without_a_home_has_a_cache_of_his_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def homeless(_: Path) -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("S2S_CACHE", raising=False)
    monkeypatch.setattr(Path, "expanduser", homeless)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    folder = cache_folder()
    assert folder.parent == tmp_path
    assert cache_folder() == folder
    folder.chmod(0o777)  # somebody else could put a library there
    assert cache_folder() != folder
    with pytest.raises(UserError, match="this user has no home"):
        cache_folder("~/cache")


@pytest.mark.slow
def test_a_closed_standard_stream_gives_no_sources_and_takes_no_results(trained: Path, tmp_path: Path) -> None:
    texts, output = tmp_path / "texts.txt", tmp_path / "out.txt"
    texts.write_text("a b\n", encoding="utf-8")
    output.write_text("kept\n", encoding="utf-8")
    done = shell('"$@" <&-', decoded(trained, "input=-", f"output={output}"))
    assert (done.returncode, done.stderr) == (2, "error: standard input: it is closed\n")
    assert output.read_text(encoding="utf-8") == "kept\n"
    done = shell('"$@" >&-', decoded(trained, f"input={texts}", "output=-"))
    assert (done.returncode, done.stderr) == (2, "error: output: standard output is closed\n")
    evaluated = python(str(CHECKOUT / "scripts" / "evaluate.py"), f"hypotheses={texts}", f"references={texts}")
    done = shell('"$@" >&-', evaluated)
    assert (done.returncode, "the scores would be lost" in done.stderr) == (2, True)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["out.txt.partial", "out.txt.partial.json", "out.txt.partial.lock"])
@pytest.mark.parametrize("is_input", [True, False])
def test_files_beside_an_output_are_somebodys(trained: Path, tmp_path: Path, name: str, is_input: bool) -> None:
    theirs, texts = tmp_path / name, tmp_path / "texts.txt"
    theirs.write_text("a b\n", encoding="utf-8")
    texts.write_text("a b\n", encoding="utf-8")
    source = theirs if is_input else texts
    done = shell('"$@"', decoded(trained, f"input={source}", "format=lines", f"output={tmp_path / 'out.txt'}"))
    assert done.returncode == 2
    assert name in done.stderr
    assert theirs.read_text(encoding="utf-8") == "a b\n"


@pytest.mark.parametrize("name", ["log.jsonl", "curves.svg"])
def test_training_writes_through_no_link_out_of_its_folder(base: Path, tmp_path: Path, name: str) -> None:
    made, victim = ready(base, tmp_path / "run", *KEYS), tmp_path / "victim"
    victim.write_text("precious\n", encoding="utf-8")
    (tmp_path / "run" / name).unlink(missing_ok=True)
    (tmp_path / "run" / name).symlink_to(victim)
    with pytest.raises(UserError, match=f"{name}: a link that leads out"):
        s2s.fit(made)
    assert victim.read_text(encoding="utf-8") == "precious\n"


@pytest.mark.parametrize("damage", [b"\xff\xfe\n", b"[" * 100_000 + b"\n", b"null\n"])
def test_a_damaged_log_ends_no_run(base: Path, tmp_path: Path, damage: bytes) -> None:
    made = ready(base, tmp_path / "run", *KEYS)
    with (tmp_path / "run" / "log.jsonl").open("ab") as file:
        file.write(damage)
    assert s2s.fit(made).step in (3, 6)


@pytest.mark.parametrize(("processes", "code"), [("1", 0), ("2", 0), ("2", 3)])
def test_a_program_ends_with_its_code_after_the_exit_handlers(processes: str, code: int) -> None:
    program = (
        "import atexit\nfrom s2s.console.terminal import end\n"
        f"atexit.register(print, 'handled')\nprint('said')\nend({code})"
    )
    environment = os.environ | {"WORLD_SIZE": processes}
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, encoding="utf-8", env=environment)
    assert (done.returncode, done.stdout, done.stderr) == (code, "said\nhandled\n", "")
