"""The check of a card: it runs to its end on the fake CUDA, failures are rows, and without a card it says so."""

import sys
from pathlib import Path

import pytest
from fake_devices import needs_fake_cuda, on_devices, run

sys.path.append(str(Path(__file__).resolve().parents[2] / "scripts"))

import check_gpu
from benchmarks.gpu_card import SMALL, Card, Row, Rows

from s2s.mitigations import MITIGATIONS

SCRIPTS = Path(__file__).resolve().parents[2] / "scripts"
NEEDS_TRITON = {"run.compile", "run.fused_loss"}
"""Checks of kernels that Triton writes, which the fake CUDA does not have."""


def checked(capsys: pytest.CaptureFixture[str], checks: dict[str, object], until: float) -> list[str]:
    table = check_gpu.Table()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(check_gpu, "CHECKS", checks)
        check_gpu.run(Card(SMALL, Path()), list(checks), ["third"], table, until)
    return capsys.readouterr().out.splitlines()


def test_a_failure_is_a_row_and_not_the_end(capsys: pytest.CaptureFixture[str]) -> None:
    def fails(_: Card) -> Rows:
        print("not a row")
        yield Row("before", "1 | 2")
        raise RuntimeError("no kernel\nfor this")

    def works(_: Card) -> Rows:
        yield Row("after", "3")

    rows = checked(capsys, {"first": fails, "second": works, "third": works}, float("inf"))
    assert rows == [
        "| first | before | 1 / 2 |",
        "| first |  | failed: RuntimeError: no kernel |",
        "| second | after | 3 |",
        "| third |  | left out: as --leave-out says |",
    ]
    assert checked(capsys, {"first": works}, 0) == ["| first |  | left out: the time is up |"]


@pytest.mark.slow
def test_without_a_card_one_line_says_so() -> None:
    done = run([str(SCRIPTS / "check_gpu.py")], on_devices(0))
    assert done.returncode == 2
    assert (done.stdout, done.stderr) == ("", "error: there is no CUDA GPU here; nothing was checked\n")


@pytest.mark.slow
@needs_fake_cuda
def test_all_checks_run_to_their_end_on_the_smallest_sizes() -> None:
    triton = sorted(NEEDS_TRITON)
    done = run([str(SCRIPTS / "check_gpu.py"), "--small", "--leave-out", *triton], on_devices(1), timeout=1500)
    assert done.returncode == 0, done.stdout + done.stderr
    title, _, heads, _, *rows, _, last = done.stdout.splitlines()
    assert title.startswith("fake cuda (80 GiB), torch ")
    assert heads == "| check | case | result |"
    cells = [[cell.strip() for cell in row.split("|")[1:-1]] for row in rows]
    assert list(dict.fromkeys(check for check, *_ in cells)) == [*check_gpu.CHECKS]
    assert all(result for *_, result in cells)
    assert {check for check, _, result in cells if result.startswith("left out")} == NEEDS_TRITON
    assert last == f"{len(rows)} rows, 0 failed"
    results = {(check, case): result for check, case, result in cells}
    assert results["mitigations", "gradients of updates, fp64"].startswith(
        f"{len(MITIGATIONS)} of {len(MITIGATIONS)} within"
    )
    assert results["waits", "an update, fp32"].startswith("1 waits")
    assert all("4 of 4" in result for (check, _), result in results.items() if check == "searches")
