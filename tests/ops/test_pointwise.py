"""Norms and gates: every form against its formula, values and gradients."""

import subprocess
import sys

import pytest
import torch
from torch.testing import assert_close

from ostinato.ops.pointwise import NORM_FORMS, SWIGLU_FORMS, rms_norm, swiglu


def values_and_gradients(form, *arguments):
    arguments = [a if a is None else a.clone().requires_grad_() for a in arguments]
    y = form(*arguments)
    weights = torch.linspace(-1, 2, y.numel(), dtype=y.dtype).view_as(y)
    return y, *torch.autograd.grad((y * weights).sum(), [a for a in arguments if a is not None])


@pytest.mark.parametrize("form", ["torch", "cpu"])
@pytest.mark.parametrize("gated", [False, True])
@pytest.mark.parametrize("shape", [(3, 16), (2, 37, 48), (2, 11, 3, 32)])
def test_norm_equals_its_formula(form, gated, shape):
    torch.manual_seed(0)
    x, weight = torch.randn(shape) * 3, torch.randn(shape[-1])
    gate = torch.randn(*shape[:-1], 3 * shape[-1])[..., shape[-1] : 2 * shape[-1]] * 4 if gated else None
    expected = values_and_gradients(
        lambda *a: NORM_FORMS["reference"](*a, 1e-5),
        x.double(),
        weight.double(),
        None if gate is None else gate.double(),
    )
    if gate is None:
        found = values_and_gradients(lambda a, b: NORM_FORMS[form](a, b, None, 1e-5), x, weight)
    else:
        # the kernel reads the gate where it stands in the projection
        found = values_and_gradients(lambda *a: NORM_FORMS[form](*a, 1e-5), x, weight, gate)
    for one, other in zip(found, expected, strict=True):
        assert_close(one.double(), other, rtol=1e-5, atol=1e-5 * other.abs().max().item())


def test_a_gate_in_the_middle_of_a_projection_is_read_in_place():
    torch.manual_seed(0)
    projection = torch.randn(2, 50, 4, 96, requires_grad=True)
    x, gate = projection[..., :32], projection[..., 64:]
    y = NORM_FORMS["cpu"](x, torch.ones(32), gate, 1e-5)
    expected = NORM_FORMS["reference"](x, torch.ones(32), gate, 1e-5)
    assert_close(y, expected)
    weights = torch.randn_like(y)
    (one,) = torch.autograd.grad((y * weights).sum(), projection)
    (other,) = torch.autograd.grad((expected * weights).sum(), projection)
    assert_close(one, other, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("size", [1.0, 30.0, 1000.0])
def test_swiglu_equals_its_formula(size):
    torch.manual_seed(0)
    x = torch.randn(5, 7, 64) * size
    expected = values_and_gradients(SWIGLU_FORMS["reference"], x.double())
    for one, other in zip(values_and_gradients(SWIGLU_FORMS["cpu"], x), expected, strict=True):
        assert_close(one.double(), other, rtol=2e-5, atol=1e-6 * other.abs().max().item())


def test_kernels_are_chosen_for_large_float32_only():
    x = torch.randn(64, 512)
    assert_close(swiglu(x), SWIGLU_FORMS["cpu"](x), rtol=0, atol=0)
    assert_close(rms_norm(x, torch.ones(512)), NORM_FORMS["cpu"](x, torch.ones(512), None, 1e-5), rtol=0, atol=0)
    with pytest.raises(ValueError, match="float32 rows of a multiple of 16"):
        NORM_FORMS["cpu"](x.double(), torch.ones(512).double(), None, 1e-5)
    assert rms_norm(x.bfloat16(), torch.ones(512)).dtype == torch.bfloat16


def test_norm_does_not_depend_on_threads():
    x, weight, threads = torch.randn(300, 64), torch.randn(64), torch.get_num_threads()
    found = []
    for number in (1, 2):
        torch.set_num_threads(number)
        found.append(values_and_gradients(lambda a, b: NORM_FORMS["cpu"](a, b, None, 1e-5), x, weight))
    torch.set_num_threads(threads)
    assert_close(found[0], found[1], rtol=0, atol=0)


def test_nan_stays_nan():
    x = torch.randn(4, 32)
    x[1, 3] = torch.nan
    y = NORM_FORMS["cpu"](x, torch.ones(32), None, 1e-5)
    assert y[1].isnan().all()
    assert y[[0, 2, 3]].isfinite().all()


def test_kernels_run_where_nothing_can_be_kept_on_disk(tmp_path):
    """One line, no exception: Numba refuses to cache when neither the package nor the user's cache can be written to."""
    script = (
        "import numba.core.caching as c\n"
        "c.CacheImpl._locator_classes = []\n"
        "import torch; from ostinato.ops.pointwise import SWIGLU_FORMS as f\n"
        "print(f['cpu'](torch.ones(2, 32)).shape)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "torch.Size([2, 16])"
    assert done.stderr.strip().splitlines() == [
        "ostinato: CPU kernels are compiled again in each process; set NUMBA_CACHE_DIR to a folder to keep them"
    ]


def test_without_numba_everything_works_through_torch():
    script = (
        "import sys; sys.modules['numba'] = None\n"
        "import torch, ostinato\n"
        "model = ostinato.LanguageModel(256, 64, layers=2, pattern=['gla', 'mamba', 'gated_deltanet'])\n"
        "model.loss(torch.randint(256, (2, 64))).backward(); print('done')"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "done"
    assert done.stderr.count("no CPU kernels, torch is used instead") == 1
