"""The choice of the kernel for float32 products."""

import pytest
import torch

from s2s.matmul import KERNELS, choose, kernel

SETTING = torch.backends.mkldnn.matmul


@pytest.fixture(scope="module")
def choice():
    return choose()


def test_the_choice_is_a_known_kernel_with_its_line(choice):
    name, line = choice
    assert name in KERNELS
    assert line.startswith(f"float32 products: {name} kernel (onednn ")
    assert "\n" not in line


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


@pytest.mark.parametrize("before", ["bf16"], indirect=True)
def test_choosing_leaves_torch_s_own_setting(before):
    choose()
    assert SETTING.fp32_precision == before


@pytest.mark.parametrize("shape", [(512, 256, 512), (3, 384, 1000), (77, 64, 64)])
def test_products_of_a_kept_kernel_are_float32_s(choice, shape):
    rows, inner, columns = shape
    generator = torch.Generator().manual_seed(1)
    x, weight = torch.randn(rows, inner, generator=generator), torch.randn(columns, inner, generator=generator)
    exact = x.double() @ weight.double().T
    for name in {"default", choice[0]}:
        with kernel(name):
            product = x @ weight.T
        assert (product.double() - exact).norm() <= 1e-6 * exact.norm()
