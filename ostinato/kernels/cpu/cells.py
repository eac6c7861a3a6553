"""One step of a gated cell for one row of a head on a CPU, forwards and backwards: 16 units at a time.

The equations are those of `ostinato.ops.cells`. `step` and `back` are compiled into the passes over time of
`ostinato.kernels.cpu.rnn`, one variant for each kind of cell.
"""

import zlib
from pathlib import Path
from typing import Any

import numpy as np
from numba import njit
from numba.extending import overload

from ostinato.kernels.cpu import launch
from ostinato.kernels.cpu.simd import OPERATIONS

VERSION = zlib.crc32(Path(__file__).read_bytes(), launch.VERSION)
"""What a cached function that uses these closes over."""

LSTM, GRU, SLSTM, SLSTM_EXP = range(4)
KINDS = {"lstm": LSTM, "gru": GRU, "slstm": SLSTM, "slstm exp": SLSTM_EXP}

SAVED = {LSTM: "ifgo", GRU: "rzan", SLSTM: "ifzou", SLSTM_EXP: "ifzo"}
"""a is what n hears of h; the sigmoid of the sLSTM needs its u = f before it was opened."""

HEARING = {LSTM: 4, GRU: 3, SLSTM: 4, SLSTM_EXP: 4}
"""How many of these hear h: the first ones."""

_op = OPERATIONS[16]
_load, _store, _splat, _fma, _mul, _add, _sub = _op.load, _op.store, _op.splat, _op.fma, _op.mul, _op.add, _op.sub
_div, _exp, _maximum, _sigmoid, _tanh, _log1p = _op.div, _op.exp, _op.maximum, _op.sigmoid, _op.tanh, _op.log1p


MEMORY = {LSTM: 1, GRU: 0, SLSTM: 2, SLSTM_EXP: 2}
"""Parts of the state that decay and add; that of the GRU is h itself."""


@njit(inline="always")
def _log_sigmoid(x: Any) -> Any:
    zero = _splat(np.float32(0))
    minus = _sub(zero, x)
    return _sub(zero, _add(_maximum(minus, zero), _log1p(_exp(_sub(zero, _maximum(x, minus))))))


def step(kind, x, x_at, x_step, heard, heard_at, bias, bias_at, h, c, at, part, m, m_at, saved, s_at, s_step, K):
    """One step of one row: h, c and m are written over; c has parts at a distance `part`."""
    raise NotImplementedError("only inside a kernel")


def _lstm(kind, x, x_at, x_step, heard, heard_at, bias, bias_at, h, c, at, part, m, m_at, saved, s_at, s_step, K):
    for k in range(0, K, 16):
        i = _sigmoid(_add(_load(x, x_at + k), _load(heard, heard_at + k)))
        f = _sigmoid(_add(_load(x, x_at + x_step + k), _load(heard, heard_at + K + k)))
        g = _tanh(_add(_load(x, x_at + 2 * x_step + k), _load(heard, heard_at + 2 * K + k)))
        o = _sigmoid(_add(_load(x, x_at + 3 * x_step + k), _load(heard, heard_at + 3 * K + k)))
        after = _fma(f, _load(c, at + k), _mul(i, g))
        _store(c, at + k, after)
        _store(h, at + k, _mul(o, _tanh(after)))
        _store(saved, s_at + k, i)
        _store(saved, s_at + s_step + k, f)
        _store(saved, s_at + 2 * s_step + k, g)
        _store(saved, s_at + 3 * s_step + k, o)


def _gru(kind, x, x_at, x_step, heard, heard_at, bias, bias_at, h, c, at, part, m, m_at, saved, s_at, s_step, K):
    for k in range(0, K, 16):
        r = _sigmoid(_add(_load(x, x_at + k), _load(heard, heard_at + k)))
        z = _sigmoid(_add(_load(x, x_at + x_step + k), _load(heard, heard_at + K + k)))
        a = _add(_load(bias, bias_at + k), _load(heard, heard_at + 2 * K + k))
        n = _tanh(_fma(r, a, _load(x, x_at + 2 * x_step + k)))
        # (1 - z) n + z h, which is h where z = 1 and n where z = 0
        after = _fma(z, _load(h, at + k), _mul(_sub(_splat(np.float32(1)), z), n))
        _store(h, at + k, after)
        _store(saved, s_at + k, r)
        _store(saved, s_at + s_step + k, z)
        _store(saved, s_at + 2 * s_step + k, a)
        _store(saved, s_at + 3 * s_step + k, n)


def _slstm(kind, x, x_at, x_step, heard, heard_at, bias, bias_at, h, c, at, part, m, m_at, saved, s_at, s_step, K):
    for k in range(0, K, 16):
        i = _add(_load(x, x_at + k), _load(heard, heard_at + k))
        u = _add(_load(x, x_at + x_step + k), _load(heard, heard_at + K + k))
        z = _tanh(_add(_load(x, x_at + 2 * x_step + k), _load(heard, heard_at + 2 * K + k)))
        o = _sigmoid(_add(_load(x, x_at + 3 * x_step + k), _load(heard, heard_at + 3 * K + k)))
        f = _add(_log_sigmoid(u) if kind == SLSTM else u, _load(m, m_at + k))
        scale = _maximum(f, i)
        i, f = _exp(_sub(i, scale)), _exp(_sub(f, scale))
        c_k = _fma(f, _load(c, at + k), _mul(i, z))
        n_k = _fma(f, _load(c, at + part + k), i)
        _store(m, m_at + k, scale)
        _store(c, at + k, c_k)
        _store(c, at + part + k, n_k)
        _store(h, at + k, _mul(o, _div(c_k, n_k)))
        _store(saved, s_at + k, i)
        _store(saved, s_at + s_step + k, f)
        _store(saved, s_at + 2 * s_step + k, z)
        _store(saved, s_at + 3 * s_step + k, o)
        if kind == SLSTM:
            _store(saved, s_at + 4 * s_step + k, u)


@overload(step, prefer_literal=True)
def _step(kind, x, x_at, x_step, heard, heard_at, bias, bias_at, h, c, at, part, m, m_at, saved, s_at, s_step, K):
    return {LSTM: _lstm, GRU: _gru, SLSTM: _slstm, SLSTM_EXP: _slstm}[kind.literal_value]


def back(kind, saved, s_at, s_step, before, now, now_at, now_step, d_h, h_at, d_c, at, part, d, d_at, K):
    """The gradients of one row's gates, as many as are saved or 4, in d; from d h and d c; d c becomes that before."""
    raise NotImplementedError("only inside a kernel")


def _lstm_back(kind, saved, s_at, s_step, before, now, now_at, now_step, d_h, h_at, d_c, at, part, d, d_at, K):
    one = _splat(np.float32(1))
    for k in range(0, K, 16):
        i, f = _load(saved, s_at + k), _load(saved, s_at + s_step + k)
        g, o = _load(saved, s_at + 2 * s_step + k), _load(saved, s_at + 3 * s_step + k)
        seen, d_k = _tanh(_load(now, now_at + k)), _load(d_h, h_at + k)
        d_o = _mul(d_k, seen)
        d_memory = _fma(_mul(d_k, o), _sub(one, _mul(seen, seen)), _load(d_c, at + k))
        _store(d, d_at + k, _mul(_mul(d_memory, g), _mul(i, _sub(one, i))))
        _store(d, d_at + K + k, _mul(_mul(d_memory, _load(before, at + k)), _mul(f, _sub(one, f))))
        _store(d, d_at + 2 * K + k, _mul(_mul(d_memory, i), _sub(one, _mul(g, g))))
        _store(d, d_at + 3 * K + k, _mul(d_o, _mul(o, _sub(one, o))))
        _store(d_c, at + k, _mul(d_memory, f))


def _gru_back(kind, saved, s_at, s_step, before, now, now_at, now_step, d_h, h_at, d_c, at, part, d, d_at, K):
    one = _splat(np.float32(1))
    for k in range(0, K, 16):
        r, z = _load(saved, s_at + k), _load(saved, s_at + s_step + k)
        a, n = _load(saved, s_at + 2 * s_step + k), _load(saved, s_at + 3 * s_step + k)
        d_k = _add(_load(d_h, h_at + k), _load(d_c, at + k))
        kept = _sub(one, z)
        d_n = _mul(_mul(d_k, kept), _sub(one, _mul(n, n)))
        _store(d, d_at + k, _mul(_mul(d_n, a), _mul(r, _sub(one, r))))
        _store(d, d_at + K + k, _mul(_mul(d_k, _sub(_load(before, at + k), n)), _mul(z, kept)))
        _store(d, d_at + 2 * K + k, _mul(d_n, r))
        _store(d, d_at + 3 * K + k, d_n)
        _store(d_c, at + k, _mul(d_k, z))


def _slstm_back(kind, saved, s_at, s_step, before, now, now_at, now_step, d_h, h_at, d_c, at, part, d, d_at, K):
    one, zero = _splat(np.float32(1)), _splat(np.float32(0))
    for k in range(0, K, 16):
        i, f = _load(saved, s_at + k), _load(saved, s_at + s_step + k)
        z, o = _load(saved, s_at + 2 * s_step + k), _load(saved, s_at + 3 * s_step + k)
        n, d_k = _load(now, now_at + now_step + k), _load(d_h, h_at + k)
        mean = _div(_load(now, now_at + k), n)
        read = _mul(d_k, _div(o, n))
        of_c = _add(_load(d_c, at + k), read)
        of_n = _fma(_sub(zero, read), mean, _load(d_c, at + part + k))
        slope = f
        if kind == SLSTM:
            slope = _mul(f, _sigmoid(_sub(zero, _load(saved, s_at + 4 * s_step + k))))
        forgotten = _fma(of_c, _load(before, at + k), _mul(of_n, _load(before, at + part + k)))
        _store(d, d_at + k, _mul(i, _fma(of_c, z, of_n)))
        _store(d, d_at + K + k, _mul(slope, forgotten))
        _store(d, d_at + 2 * K + k, _mul(_mul(of_c, i), _sub(one, _mul(z, z))))
        _store(d, d_at + 3 * K + k, _mul(_mul(d_k, mean), _mul(o, _sub(one, o))))
        _store(d_c, at + k, _mul(of_c, f))
        _store(d_c, at + part + k, _mul(of_n, f))


@overload(back, prefer_literal=True)
def _back(kind, saved, s_at, s_step, before, now, now_at, now_step, d_h, h_at, d_c, at, part, d, d_at, K):
    return {LSTM: _lstm_back, GRU: _gru_back, SLSTM: _slstm_back, SLSTM_EXP: _slstm_back}[kind.literal_value]
