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
from torch import Tensor
from torch.nn.functional import pad

from ostinato.kernels.cpu.cells import GRU, HEARING, KINDS, MEMORY, SAVED, VERSION, back, step
from ostinato.kernels.cpu.launch import flat, threads
from ostinato.kernels.cpu.simd import FLOAT, INT, OPERATIONS

_load, _store, _add, _splat = OPERATIONS[16].load, OPERATIONS[16].store, OPERATIONS[16].add, OPERATIONS[16].splat


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


@njit
def _copy(x, x_at, y, y_at, K):
    for k in range(0, K, 16):
        _store(y, y_at + k, _load(x, x_at + k))


@njit
def _fill(value, y, y_at, K):
    for k in range(0, K, 16):
        _store(y, y_at + k, _splat(np.float32(value)))


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
                _copy(h_0, ((first + row) * H + head) * K, h, row * K, K)
                for s in range(parts):
                    _copy(c_0, (((first + row) * parts + s) * H + head) * K, c, s * part + row * K, K)
            for t in range(T):
                for row in range(n):
                    if reset[first + row, t]:
                        _fill(0, h, row * K, K)
                        for s in range(parts):
                            _fill(0, c, s * part + row * K, K)
                        if parts == 2:
                            _fill(-np.inf, m, ((first + row) * H + head) * K, K)
                for j in range(0, N, lanes):
                    product(rows, lanes, h, K, K, R, (head * N + j) * K, heard, j, N)
                for row in range(n):
                    b, at = first + row, row * K
                    x_at = b * x_steps[0] + t * x_steps[1] + head * x_steps[3]
                    s_at = ((b * s_time + min(t, s_time - 1)) * of_saved * H + head) * K
                    step(kind, x, x_at, x_steps[2], heard, row * N, bias, head * K, h, c, at, part,
                         m, (b * H + head) * K, saved, s_at, H * K, K)  # fmt: skip
                    _copy(h, at, y, ((b * T + t) * H + head) * K, K)
                    for s in range(parts):
                        c_at = (((b * c_time + min(t, c_time - 1)) * parts + s) * H + head) * K
                        _copy(c, s * part + at, c_all, c_at, K)
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
                    _copy(d_c_0, (((first + row) * memories + s) * H + head) * K, d_c, s * part + row * K, K)
            for t in range(T - 1, -1, -1):
                for row in range(n):
                    b, at = first + row, row * K
                    y_at = b * y_steps[0] + t * y_steps[1] + head * y_steps[2]
                    for k in range(0, K, 16):
                        _store(d_h, row * N + k, _add(_load(d_h, row * N + k), _load(d_y, y_at + k)))
                    c_at = ((b * T + t) * memories * H + head) * K
                    for s in range(memories):
                        if reset[b, t]:
                            _fill(0, before, s * part + at, K)
                        elif t == 0:
                            _copy(c_0, ((b * memories + s) * H + head) * K, before, s * part + at, K)
                        else:
                            _copy(c_all, c_at + (s - memories) * H * K, before, s * part + at, K)
                    s_at, d_at = ((b * T + t) * of_saved * H + head) * K, row * 4 * K
                    back(kind, saved, s_at, H * K, before, c_all, c_at, H * K, d_h, row * N, d_c, at, part,
                         d, d_at, K)  # fmt: skip
                    x_at = ((b * T + t) * hearing * H + head) * K
                    for g in range(hearing):
                        of = 3 if is_gru and g == 2 else g
                        _copy(d, d_at + of * K, d_x, x_at + g * H * K, K)
                    if is_gru:
                        _copy(d, d_at + 2 * K, d_a, ((b * T + t) * H + head) * K, K)
                for j in range(0, N, lanes):
                    product(rows, lanes, d, 4 * K, hearing * K, R, (head * N + j) * hearing * K, d_h, j, N)
                for row in range(n):
                    if reset[first + row, t]:
                        _fill(0, d_h, row * N, K)
                        for s in range(memories):
                            _fill(0, d_c, s * part + row * K, K)
            for row in range(n):
                for k in range(0, K, 16):
                    d_k = _load(d_h, row * N + k)
                    if is_gru:
                        d_k = _add(d_k, _load(d_c, row * K + k))
                    _store(d_h_0, ((first + row) * H + head) * K + k, d_k)
                for s in range(parts):
                    _copy(d_c, s * part + row * K, d_c_0, (((first + row) * parts + s) * H + head) * K, K)
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


def _flat(x: Tensor) -> np.ndarray:
    return x.detach().contiguous().view(-1).numpy()


def _begins(reset: Tensor | None, B: int, T: int) -> np.ndarray:
    return (torch.zeros(B, T, dtype=torch.bool) if reset is None else reset).numpy()


@torch.library.custom_op("ostinato::gated_cell", mutates_args=(), device_types="cpu")
def gated_cell(
    x: Tensor, R: Tensor, bias: Tensor | None, reset: Tensor | None, h: Tensor, memory: Tensor, scale: Tensor | None,
    kind: str, save: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    """The form "cpu" of op:rnn: x (B, T, G, H, K), float32, K a multiple of 16, for a cell of that kind.

    bias: (H, K), that of the GRU
    memory: (B, S, H, K), what the state has besides h: c, or c and n, or nothing
    scale: (B, H, K), m of the sLSTM
    save: whether a gradient will be wanted

    Returns y, memory and scale after the last step, and for the gradient the gates and memories of all steps.
    """
    (B, T, _, H, K), cell = x.shape, KINDS[kind]
    rows = _rows(B, H)
    kept = T if save else 1
    y, gates = (
        torch.empty(B, T, H, K, dtype=torch.float32),
        torch.empty(B, kept, len(SAVED[cell]), H, K, dtype=torch.float32),
    )
    memories = torch.empty(B, kept, MEMORY[cell], H, K, dtype=torch.float32)
    scale = torch.empty(0, dtype=torch.float32) if scale is None else scale.clone(memory_format=torch.contiguous_format)
    packed = _packed(R.detach(), _lanes(rows))
    with threads():
        _sweeps(cell, rows)[0](
            *_numbers(x), packed.view(-1).numpy(), _flat(x.new_zeros(1) if bias is None else bias),
            _begins(reset, B, T), _flat(h), _flat(memory), scale.view(-1).numpy(), y.view(-1).numpy(),
            gates.view(-1).numpy(), kept, memories.view(-1).numpy(), kept, B, T, H, K, packed[0, :, 0].numel(),
        )  # fmt: skip
    return y, memories[:, -1].clone(), scale, gates, memories


@gated_cell.register_fake
def _(
    x: Tensor, R: Tensor, bias: Tensor | None, reset: Tensor | None, h: Tensor, memory: Tensor, scale: Tensor | None,
    kind: str, save: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    (B, T, _, H, K), cell = x.shape, KINDS[kind]
    kept = T if save else 1
    gates, memories = x.new_empty(B, kept, len(SAVED[cell]), H, K), x.new_empty(B, kept, MEMORY[cell], H, K)
    scale = x.new_empty(0 if scale is None else scale.shape)
    return x.new_empty(B, T, H, K), x.new_empty(memory.shape), scale, gates, memories


@torch.library.custom_op("ostinato::gated_cell_backward", mutates_args=(), device_types="cpu")
def gated_cell_backward(
    R: Tensor, reset: Tensor | None, h: Tensor, memory: Tensor, y: Tensor, gates: Tensor, memories: Tensor,
    d_y: Tensor, d_memory: Tensor, kind: str,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    """Gradients of x, R, bias, h and memory; that of bias is empty where there is none."""
    (B, T, H, K), cell = y.shape, KINDS[kind]
    rows = _rows(B, H)
    packed = _packed(R.mT, _lanes(rows))
    d_x, d_h = torch.empty(B, T, HEARING[cell], H, K, dtype=torch.float32), torch.empty(B, H, K, dtype=torch.float32)
    d_a = torch.empty(B, T, H, K, dtype=torch.float32) if cell == GRU else torch.empty(0, dtype=torch.float32)
    if cell == GRU:  # its memory is h, whose gradient comes with y
        memory, memories, d_memory = h[:, None], y[:, :, None], torch.zeros(B, 1, H, K, dtype=torch.float32)
    d_memory = d_memory.clone(memory_format=torch.contiguous_format)
    with threads():
        _sweeps(cell, rows)[1](
            gates.view(-1).numpy(), packed.view(-1).numpy(), _begins(reset, B, T), _flat(memory),
            _flat(memories), *_numbers(d_y), d_x.view(-1).numpy(), d_a.view(-1).numpy(), d_h.view(-1).numpy(),
            d_memory.view(-1).numpy(), B, T, H, K, packed[0, :, 0].numel(),
        )  # fmt: skip
    before = torch.cat([h[:, None], y[:, :-1]], 1)
    if reset is not None:
        before.masked_fill_(reset[..., None, None], 0)
    heard = [*d_x.unbind(2)[:2], d_a] if cell == GRU else d_x.unbind(2)
    before = before.flatten(0, 1).permute(1, 2, 0)
    d_R = torch.cat([before @ d.flatten(0, 1).transpose(0, 1) for d in heard], -1)
    if cell == GRU:
        return d_x, d_R, d_a.sum((0, 1)), d_h, torch.empty(B, 0, H, K, dtype=torch.float32)
    return d_x, d_R, d_a, d_h, d_memory


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
    _, R, bias, reset, h, memory, _, ctx.kind, _ = inputs
    y, _, scale, gates, memories = output
    ctx.mark_non_differentiable(scale, gates, memories)
    ctx.has_bias = bias is not None
    ctx.save_for_backward(R, reset, h, memory, y, gates, memories)


def _gradients(ctx: Any, d_y: Tensor, d_memory: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
    d_x, d_R, d_bias, d_h, d_memory = gated_cell_backward(*ctx.saved_tensors, d_y, d_memory, ctx.kind)
    return d_x, d_R, d_bias if ctx.has_bias else None, None, d_h, d_memory, None, None, None


gated_cell.register_autograd(_gradients, setup_context=_save)
