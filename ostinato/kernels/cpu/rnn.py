"""Gated cells over time on a CPU: the product h R, the gates and the new state in one pass forwards, and one backwards.

    forwards    gates_t = x_t + h_{t-1} R;  h_t, memory_t = cell(gates_t, memory_{t-1})
    backwards   d gates_t from d h_t, d memory_t and what was saved;  d h_{t-1} = d y_{t-1} + d gates_t R^T

A head hears only itself and a row of the batch too, so (head, some rows) run all steps apart from all others. R is cut in
blocks of 32 or 64 columns, packed so that a block is read from its first number to its last; each vector of R serves all
rows at hand, whose sums stay in registers. The gradient of R is a matrix product over all steps, afterwards.

What is saved of each step: the gates after their nonlinearities, in the order of `SAVED`, and the memory.
"""

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import torch
from llvmlite import ir
from numba import njit, prange, types
from numba.core import cgutils
from numba.core.extending import intrinsic
from numba.extending import overload
from torch import Tensor
from torch.nn.functional import pad

from ostinato.kernels.cpu.launch import VERSION, flat, threads
from ostinato.kernels.cpu.simd import FLOAT, INT, OPERATIONS

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


@intrinsic(prefer_literal=True)
def product(typing: Any, rows: Any, lanes: Any, x: Any, x_step: Any, n: Any, R: Any, r_at: Any, y: Any, y_at: Any, y_step: Any):  # fmt: skip
    """y[row] = sum_k x[row][k] R[k] for some rows, with the `lanes` numbers of each R[k] behind those of the last."""
    kind = ir.VectorType(FLOAT, lanes.literal_value)

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        _, _, x, x_step, n, R, r_at, y, y_at, y_step = arguments
        x, R, y = (context.make_array(signature.args[i])(context, builder, arguments[i]).data for i in (2, 5, 7))
        fma = cgutils.get_or_insert_function(
            builder.module, ir.FunctionType(kind, [kind] * 3), f"llvm.fma.v{kind.count}f32"
        )
        nothing, first = ir.Constant(kind, ir.Undefined), ir.Constant(ir.VectorType(INT, kind.count), [0] * kind.count)
        sums = [
            cgutils.alloca_once_value(builder, ir.Constant(kind, [0.0] * kind.count)) for _ in range(rows.literal_value)
        ]
        of_row = [builder.mul(x_step, ir.Constant(x_step.type, row)) for row in range(len(sums))]
        for total in sums:
            builder.store(ir.Constant(kind, [0.0] * kind.count), total)
        with cgutils.for_range(builder, n) as loop:
            at = builder.add(r_at, builder.mul(loop.index, ir.Constant(r_at.type, kind.count)))
            r = builder.load(builder.bitcast(builder.gep(R, [at]), kind.as_pointer()))
            r.align = 4
            for row, total in zip(of_row, sums, strict=True):
                number = builder.load(builder.gep(x, [builder.add(row, loop.index)]))
                one = builder.insert_element(nothing, number, ir.Constant(INT, 0))
                both = builder.shuffle_vector(one, nothing, first)
                builder.store(builder.call(fma, [both, r, builder.load(total)]), total)
        for row, total in enumerate(sums):
            at = builder.add(y_at, builder.mul(y_step, ir.Constant(y_step.type, row)))
            builder.store(builder.load(total), builder.bitcast(builder.gep(y, [at]), kind.as_pointer())).align = 4
        return context.get_dummy_value()

    return types.void(rows, lanes, x, types.intp, types.intp, R, types.intp, y, types.intp, types.intp), generate


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


@cache
def _sweeps(kind: int, rows: int) -> tuple[Callable[..., None], Callable[..., None]]:
    """The compiled passes over time for so many rows at once, made at their first use."""
    version, lanes, of_saved, hearing = VERSION, _lanes(rows), len(SAVED[kind]), HEARING[kind]
    parts, is_gru = MEMORY[kind], int(kind == GRU)

    @njit(parallel=True, nogil=True, cache=True)
    def forward(x, x_steps, R, bias, reset, h_0, c_0, m, y, saved, s_time, c_all, c_time, B, T, H, K, N):
        # N: columns of R, whole blocks; s_time, c_time: how many steps are saved, 1 or T; m becomes that after the last
        groups, part = (B + rows - 1) // rows, rows * K
        for item in prange(H * groups):
            head, first = item // groups, item % groups * rows
            n = min(rows, B - first)
            h, c, heard = np.zeros(part, np.float32), np.zeros(2 * part, np.float32), np.zeros(rows * N, np.float32)
            for row in range(n):
                h[row * K : row * K + K] = h_0[first + row, head]
                for s in range(parts):
                    c[s * part + row * K : s * part + row * K + K] = c_0[first + row, s, head]
            for t in range(T):
                for row in range(n):
                    if reset[first + row, t]:
                        h[row * K : row * K + K] = 0
                        for s in range(parts):
                            c[s * part + row * K : s * part + row * K + K] = 0
                        if parts == 2:
                            m_at = ((first + row) * H + head) * K
                            m[m_at : m_at + K] = -np.inf
                for j in range(0, N, lanes):
                    product(rows, lanes, h, K, K, R, (head * N + j) * K, heard, j, N)
                for row in range(n):
                    b = first + row
                    x_at = b * x_steps[0] + t * x_steps[1] + head * x_steps[3]
                    s_at = ((b * s_time + min(t, s_time - 1)) * of_saved * H + head) * K
                    step(kind, x, x_at, x_steps[2], heard, row * N, bias, head * K, h, c, row * K, part,
                         m, (b * H + head) * K, saved, s_at, H * K, K)  # fmt: skip
                    y_at = ((b * T + t) * H + head) * K
                    for k in range(0, K, 16):
                        _store(y, y_at + k, _load(h, row * K + k))
                    for s in range(parts):
                        c_at = (((b * c_time + min(t, c_time - 1)) * parts + s) * H + head) * K
                        for k in range(0, K, 16):
                            _store(c_all, c_at + k, _load(c, s * part + row * K + k))
        return version

    memories = parts + is_gru

    @njit(parallel=True, nogil=True, cache=True)
    def backward(saved, R, reset, c_0, c_all, d_y, y_steps, d_x, d_a, d_h_0, d_c_0, B, T, H, K, N):
        # R: transposed, N columns; d_c_0: at first the gradient of the last memory
        groups, part = (B + rows - 1) // rows, rows * K
        for item in prange(H * groups):
            head, first = item // groups, item % groups * rows
            n = min(rows, B - first)
            d_h, d = np.zeros(rows * N, np.float32), np.zeros(rows * 4 * K, np.float32)
            d_c, before = np.zeros(memories * part, np.float32), np.zeros(memories * part, np.float32)
            for row in range(n):
                for s in range(memories):
                    d_c[s * part + row * K : s * part + row * K + K] = d_c_0[first + row, s, head]
            for t in range(T - 1, -1, -1):
                for row in range(n):
                    b = first + row
                    begins, at = reset[b, t], row * K
                    y_at = b * y_steps[0] + t * y_steps[1] + head * y_steps[2]
                    for k in range(0, K, 16):
                        _store(d_h, row * N + k, _add(_load(d_h, row * N + k), _load(d_y, y_at + k)))
                    c_at, c_step = ((b * T + t) * memories * H + head) * K, memories * H * K
                    for s in range(memories):
                        into, of = s * part + at, c_at - c_step + s * H * K
                        if begins:
                            before[into : into + K] = 0
                        elif t == 0:
                            before[into : into + K] = c_0[b, s, head]
                        else:
                            for k in range(0, K, 16):
                                _store(before, into + k, _load(c_all, of + k))
                    s_at = ((b * T + t) * of_saved * H + head) * K
                    back(kind, saved, s_at, H * K, before, c_all, c_at, H * K, d_h, row * N, d_c, at, part,
                         d, row * 4 * K, K)  # fmt: skip
                    x_at = ((b * T + t) * hearing * H + head) * K
                    for g in range(hearing):
                        of = row * 4 * K + (3 * K if is_gru and g == 2 else g * K)
                        for k in range(0, K, 16):
                            _store(d_x, x_at + g * H * K + k, _load(d, of + k))
                    if is_gru:
                        for k in range(0, K, 16):
                            _store(d_a, ((b * T + t) * H + head) * K + k, _load(d, row * 4 * K + 2 * K + k))
                for j in range(0, N, lanes):
                    product(rows, lanes, d, 4 * K, hearing * K, R, (head * N + j) * hearing * K, d_h, j, N)
                for row in range(n):
                    if reset[first + row, t]:
                        d_h[row * N : row * N + N] = 0
                        for s in range(memories):
                            d_c[s * part + row * K : s * part + row * K + K] = 0
            for row in range(n):
                for k in range(K):
                    d_h_0[first + row, head, k] = d_h[row * N + k]
                    if is_gru:
                        d_h_0[first + row, head, k] += d_c[row * K + k]
                    for s in range(parts):
                        d_c_0[first + row, s, head, k] = d_c[s * part + row * K + k]
        return version

    return forward, backward


def _rows(B: int, H: int) -> int:
    """How many rows of the batch go together; what they compute does not depend on it."""
    rows = 8 if B > 4 and -(-B // 8) * 2 <= -(-B // 4) else min(4, 1 << (B - 1).bit_length())
    while rows > 1 and H * -(-B // rows) < torch.get_num_threads():
        rows //= 2
    return rows


def _lanes(rows: int) -> int:
    """As many columns as there are registers for: 16 of AVX-512, or 64 numbers elsewhere."""
    return min(64, (256 if torch.backends.cpu.get_cpu_capability() == "AVX512" else 64) // rows)


def _packed(R: Tensor, lanes: int) -> Tensor:
    """(H, I, O) in blocks of columns, (H, blocks, I, lanes), the last one filled up with zeros."""
    return pad(R, (0, -R.shape[-1] % lanes)).unflatten(-1, (-1, lanes)).transpose(1, 2).contiguous()


def _numbers(x: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """A tensor as flat numbers and its strides; not copied unless its last axis has gaps."""
    x = x if x.stride(-1) == 1 else x.contiguous()
    return flat(x)[0], np.array(x.stride())


def _array(x: Tensor) -> np.ndarray:
    return x.detach().contiguous().numpy()


def _begins(reset: Tensor | None, B: int, T: int) -> np.ndarray:
    return _array(torch.zeros(B, T, dtype=torch.bool) if reset is None else reset)


@torch.library.custom_op("ostinato::gated_cell", mutates_args=(), device_types="cpu")
def gated_cell(
    x: Tensor, R: Tensor, bias: Tensor | None, reset: Tensor | None, h: Tensor, memory: Tensor, scale: Tensor,
    kind: str, save: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    """The form "cpu" of op:rnn: x (B, T, G, H, K), float32, K a multiple of 16, for a cell of that kind.

    bias: (H, K), that of the GRU
    memory: (B, S, H, K), what the state has besides h: c, or c and n, or nothing
    scale: (B, H, K), m of the sLSTM, else empty
    save: whether a gradient will be wanted

    Returns y, memory and scale after the last step, and what `backward` needs: gates and memories of all steps.
    """
    (B, T, _, H, K), cell = x.shape, KINDS[kind]
    rows = _rows(B, H)
    kept = T if save else 1
    y, gates = torch.empty(B, T, H, K), torch.empty(B, kept, len(SAVED[cell]), H, K)
    memories, scale = torch.empty(B, kept, MEMORY[cell], H, K), scale.clone(memory_format=torch.contiguous_format)
    packed = _packed(R.detach(), _lanes(rows))
    with threads():
        _sweeps(cell, rows)[0](
            *_numbers(x), packed.view(-1).numpy(), _array(x.new_zeros(1) if bias is None else bias).reshape(-1),
            _begins(reset, B, T), _array(h), _array(memory), scale.view(-1).numpy(), y.view(-1).numpy(),
            gates.view(-1).numpy(), kept, memories.view(-1).numpy(), kept, B, T, H, K, packed[0, :, 0].numel(),
        )  # fmt: skip
    return y, memories[:, -1].clone(), scale, gates, memories


@gated_cell.register_fake
def _(
    x: Tensor, R: Tensor, bias: Tensor | None, reset: Tensor | None, h: Tensor, memory: Tensor, scale: Tensor,
    kind: str, save: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    (B, T, _, H, K), cell = x.shape, KINDS[kind]
    kept = T if save else 1
    gates, memories = x.new_empty(B, kept, len(SAVED[cell]), H, K), x.new_empty(B, kept, MEMORY[cell], H, K)
    return x.new_empty(B, T, H, K), torch.empty_like(memory), torch.empty_like(scale), gates, memories


@torch.library.custom_op("ostinato::gated_cell_backward", mutates_args=(), device_types="cpu")
def gated_cell_backward(
    R: Tensor, reset: Tensor | None, h: Tensor, memory: Tensor, y: Tensor, gates: Tensor, memories: Tensor,
    d_y: Tensor, d_memory: Tensor, kind: str,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    """Gradients of x, R, bias, h and memory; that of bias is empty where there is none."""
    (B, T, H, K), cell = y.shape, KINDS[kind]
    rows = _rows(B, H)
    packed = _packed(R.mT, _lanes(rows))
    d_x, d_h = torch.empty(B, T, HEARING[cell], H, K), torch.empty(B, H, K)
    d_a = torch.empty(B, T, H, K) if cell == GRU else torch.empty(0)
    if cell == GRU:  # its memory is h, whose gradient comes with y
        memory, memories, d_memory = h[:, None], y[:, :, None], torch.zeros(B, 1, H, K)
    d_memory = d_memory.clone(memory_format=torch.contiguous_format)
    with threads():
        _sweeps(cell, rows)[1](
            gates.view(-1).numpy(), packed.view(-1).numpy(), _begins(reset, B, T), _array(memory),
            _array(memories).reshape(-1), *_numbers(d_y), d_x.view(-1).numpy(), d_a.view(-1).numpy(), d_h.numpy(),
            d_memory.numpy(), B, T, H, K, packed[0, :, 0].numel(),
        )  # fmt: skip
    before = torch.cat([h[:, None], y[:, :-1]], 1)
    if reset is not None:
        before.masked_fill_(reset[..., None, None], 0)
    heard = [*d_x.unbind(2)[:2], d_a] if cell == GRU else d_x.unbind(2)
    before = before.flatten(0, 1).permute(1, 2, 0)
    d_R = torch.cat([before @ d.flatten(0, 1).transpose(0, 1) for d in heard], -1)
    return (
        d_x,
        d_R,
        d_a.sum((0, 1)) if cell == GRU else d_a,
        d_h,
        torch.empty_like(gates[:, 0, :0]) if cell == GRU else d_memory,
    )


@gated_cell_backward.register_fake
def _(
    R: Tensor, reset: Tensor | None, h: Tensor, memory: Tensor, y: Tensor, gates: Tensor, memories: Tensor,
    d_y: Tensor, d_memory: Tensor, kind: str,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    (B, T, H, K), cell = y.shape, KINDS[kind]
    bias = (H, K) if cell == GRU else (0,)
    new = y.new_empty
    return new(B, T, HEARING[cell], H, K), new(R.shape), new(bias), new(B, H, K), new(memory.shape)


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    _, R, bias, reset, h, memory, _, ctx.kind, saved = inputs
    y, _, scale, gates, memories = output
    ctx.mark_non_differentiable(scale, gates, memories)
    ctx.has_bias = bias is not None
    ctx.save_for_backward(R, reset, h, memory, y, gates, memories)


def _gradients(ctx: Any, d_y: Tensor, d_memory: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
    d_x, d_R, d_bias, d_h, d_memory = gated_cell_backward(*ctx.saved_tensors, d_y, d_memory, ctx.kind)
    return d_x, d_R, d_bias if ctx.has_bias else None, None, d_h, d_memory, None, None, None


gated_cell.register_autograd(_gradients, setup_context=_save)
