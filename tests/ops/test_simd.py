"""Vectors inside Numba: how exact e^x is, rows that do not fill a vector, complex numbers."""

import numpy as np
import pytest
from numba import njit

from ostinato.kernels.cpu.simd import OPERATIONS

_op = OPERATIONS[16]
_load, _store, _load_some, _store_some = _op.load, _op.store, _op.load_some, _op.store_some
_exp, _complex_fma, _conjugate_fma = _op.exp, _op.complex_fma, _op.conjugate_fma


@njit
def _exp_of_all(x, y):
    for i in range(0, len(x), 16):
        _store(y, i, _exp(_load(x, i)))


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


def exponentials(x):
    x = np.asarray(x, np.float32)
    y = np.empty(-(-len(x) // 16) * 16, np.float32)
    _exp_of_all(np.resize(x, len(y)), y)
    return y[: len(x)]


@pytest.mark.parametrize(("low", "high"), [(-87.0, 0.0), (-1.0, 0.0), (-0.001, 0.001), (0.0, 88.0)])
def test_exp_is_within_two_units_in_the_last_place(low, high):
    x = np.linspace(low, high, 1 << 18).astype(np.float32)
    exact = np.exp(x.astype(np.float64))
    unit = np.spacing(exact.astype(np.float32)).astype(np.float64)
    assert np.abs((exponentials(x) - exact) / unit).max() <= 2


def test_exp_at_the_ends():
    """A step of 0 keeps exactly, a reset forgets exactly, what is not a number stays."""
    assert exponentials([0.0, -0.0, -np.inf, -1e30, -88.0]).tolist() == [1.0, 1.0, 0.0, 0.0, 0.0]
    assert exponentials([np.inf, 1e30, 89.0]).tolist() == [np.inf] * 3
    assert np.isnan(exponentials([np.nan, -np.nan])).all()


def test_exp_between_normal_numbers_and_zero():
    """Below 1.2e-38 the result loses digits, or is zero; it is never large."""
    x = np.linspace(-104, -87, 4096).astype(np.float32)
    assert np.abs(exponentials(x) - np.exp(x.astype(np.float64))).max() < 1.2e-38


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
