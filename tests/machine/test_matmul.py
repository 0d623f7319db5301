"""The choice of the kernel for float32 products."""

import os
import subprocess
import sys

import pytest
import torch

from s2s.machine import matmul
from s2s.machine.paths import KERNELS, kernel
from s2s.runs.paths import faster_kernel

SETTING = torch.backends.mkldnn.matmul  # type: ignore[attr-defined]


@pytest.fixture(params=["none", "ieee", "bf16"])
def before(request):
    own = SETTING.fp32_precision
    SETTING.fp32_precision = request.param
    yield request.param
    SETTING.fp32_precision = own


@pytest.mark.parametrize("name", KERNELS)
def test_torch_s_own_setting_comes_back(before, name):
    with kernel(name):
        assert SETTING.fp32_precision == KERNELS[name]
        with kernel("default"):
            assert SETTING.fp32_precision == KERNELS["default"]
        assert SETTING.fp32_precision == KERNELS[name]
    assert SETTING.fp32_precision == before
    with pytest.raises(ZeroDivisionError), kernel(name):
        1 / 0  # noqa: B018
    assert SETTING.fp32_precision == before


@pytest.mark.parametrize("shape", [(512, 256, 512), (3, 384, 1000), (77, 64, 64)])
def test_products_of_a_kept_kernel_are_float32_s(shape):
    rows, inner, columns = shape
    generator = torch.Generator().manual_seed(1)
    x, weight = torch.randn(rows, inner, generator=generator), torch.randn(columns, inner, generator=generator)
    exact = x.double() @ weight.double().T
    for name in {"default", faster_kernel()}:
        with kernel(name):
            product = x @ weight.T
        assert (product.double() - exact).norm() <= 1e-6 * exact.norm()


def test_bfloat16_in_software_is_told_with_its_cost(monkeypatch):
    assert matmul.bfloat16_cost() > 0
    monkeypatch.setattr(matmul, "bfloat16_cost", lambda: 46.2)
    (line,) = matmul.bfloat16_warning("search.precision")
    assert line.startswith("search.precision: ")
    assert "46 times" in line
    monkeypatch.setattr(matmul, "bfloat16_cost", lambda: 0.7)
    assert matmul.bfloat16_warning("search.precision") == []


STAND_IN = {"ATEN_CPU_CAPABILITY": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2"}
IN_BFLOAT16 = """
import torch
from s2s.model import Architecture, PrefixTransformer
from s2s.inference.precisions import PRECISIONS
shape = dict(vocabulary=23, layers=1, width=16, heads=2, feed_forward=20, positions=40, dropout=0.0)
PRECISIONS["bf16"](PrefixTransformer(Architecture(**shape)))
"""


@pytest.mark.slow
@pytest.mark.skipif("AVX" not in torch.backends.cpu.get_cpu_capability(), reason="no processor with AVX2")
def test_an_older_processor_is_told_when_it_decodes_in_bfloat16():
    done = subprocess.run(
        [sys.executable, "-c", IN_BFLOAT16],
        env=os.environ | STAND_IN,
        capture_output=True,
        text=True,
        check=True,
        encoding="utf-8",
    )
    assert "search.precision: this processor has no bfloat16 arithmetic" in done.stderr
