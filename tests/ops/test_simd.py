"""Vectors inside Numba: how exact e^x and 2^x are, rows that do not fill a vector, complex numbers."""

import numpy as np
import pytest
from numba import njit

from ostinato.kernels.cpu.simd import OPERATIONS

_op = OPERATIONS[16]
_load, _store, _load_some, _store_some = _op.load, _op.store, _op.load_some, _op.store_some
_exp, _exp2, _complex_fma, _conjugate_fma = _op.exp, _op.exp2, _op.complex_fma, _op.conjugate_fma


@njit
def _exp_of_all(x, y):
    for i in range(0, len(x), 16):
        _store(y, i, _exp(_load(x, i)))


@njit
def _exp2_of_all(x, y):
    for i in range(0, len(x), 16):
        _store(y, i, _exp2(_load(x, i)))


@njit
def _copy_some(x, y, count):
    _store_some(y, 0, _load_some(x, 0, count), count)


@njit
def _read_some(x, y, count):
    _store(y, 0, _load_some(x, 0, count))


@njit
def _complex(a, b, c, plain, conjugate):
    _store(plain, 0, _complex_fma(_load(a, 0), _load(b, 0), _load(c, 0)))
    _store(conjugate, 0, _conjugate_fma(_load(a, 0), _load(b, 0), _load(c, 0)))


def of_all(run, x):
    x = np.asarray(x, np.float32)
    y = np.empty(-(-len(x) // 16) * 16, np.float32)
    run(np.resize(x, len(y)), y)
    return y[: len(x)]


def units_off(run, exact, x):
    """The largest error in units in the last place."""
    x = x.astype(np.float32)
    exact = exact(x.astype(np.float64))
    return np.abs((of_all(run, x) - exact) / np.spacing(exact.astype(np.float32)).astype(np.float64)).max()


@pytest.mark.parametrize(("low", "high"), [(-87.0, 0.0), (-1.0, 0.0), (-0.001, 0.001), (0.0, 88.0)])
def test_exp_is_within_two_units_in_the_last_place(low, high):
    assert units_off(_exp_of_all, np.exp, np.linspace(low, high, 1 << 18)) <= 2


@pytest.mark.parametrize(("low", "high"), [(-126.0, 0.0), (-1.0, 0.0), (-0.001, 0.001), (0.0, 127.0)])
def test_exp2_is_within_two_units_in_the_last_place(low, high):
    assert units_off(_exp2_of_all, np.exp2, np.linspace(low, high, 1 << 18)) <= 2


@pytest.mark.parametrize("run", [_exp_of_all, _exp2_of_all])
def test_exponentials_at_the_ends(run):
    """A step of 0 keeps exactly, a reset forgets exactly, what is not a number stays."""
    assert of_all(run, [0.0, -0.0, -np.inf, -1e30, -127.0]).tolist() == [1.0, 1.0, 0.0, 0.0, 0.0]
    assert of_all(run, [np.inf, 1e30, 128.0]).tolist() == [np.inf] * 3
    assert np.isnan(of_all(run, [np.nan, -np.nan])).all()


@pytest.mark.parametrize(("run", "exact", "low"), [(_exp_of_all, np.exp, -87.0), (_exp2_of_all, np.exp2, -126.0)])
def test_exponentials_between_normal_numbers_and_zero(run, exact, low):
    """Below 1.2e-38 the result loses digits, or is zero; it is never large."""
    x = np.linspace(low - 30, low, 4096).astype(np.float32)
    assert np.abs(of_all(run, x) - exact(x.astype(np.float64))).max() < 1.2e-38


@pytest.mark.parametrize("count", [1, 5, 15, 16, 40])
def test_rows_that_do_not_fill_a_vector(count):
    x, y = np.arange(1, 17, dtype=np.float32), np.full(16, -1, np.float32)
    _copy_some(x, y, count)
    n = min(count, 16)
    assert y.tolist() == [*range(1, n + 1), *[-1] * (16 - n)]
    _read_some(x, y, count)
    assert y.tolist() == [*range(1, n + 1), *[0] * (16 - n)]


def test_complex_products():
    a, b, c = np.random.default_rng(0).standard_normal((3, 16)).astype(np.float32)
    plain, conjugate = np.empty((2, 16), np.float32)
    _complex(a, b, c, plain, conjugate)
    a, b, c = (part.view(np.complex64).astype(np.complex128) for part in (a, b, c))
    assert np.allclose(plain.view(np.complex64), a * b + c, rtol=1e-6, atol=1e-6)
    assert np.allclose(conjugate.view(np.complex64), a.conj() * b + c, rtol=1e-6, atol=1e-6)
