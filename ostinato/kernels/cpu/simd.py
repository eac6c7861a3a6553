"""Vectors of float32 inside Numba functions, so that a kernel says what stays in registers.

    s = load(S, offset)          16, 32 or 64 numbers from a flat array
    s = fma(splat(a), s, v)      a s + v in one rounding
    store(S, offset, s)

A vector is an LLVM vector of that many lanes; LLVM splits it in registers of the processor (four of AVX-512, eight of
AVX2, sixteen of NEON for 64 lanes). Numba's own loops leave that to the auto-vectoriser, which gives up on kernels with
many arrays because it cannot prove that they do not overlap: the same recurrence runs 14 times slower.
"""

from types import SimpleNamespace
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.core.extending import intrinsic, models, register_model

FLOAT = ir.FloatType()
INT = ir.IntType(32)


class Vector(types.Type):
    """Numba's type of a vector of float32."""

    def __init__(self, lanes: int):
        self.lanes = lanes
        super().__init__(name=f"float32x{lanes}")


@register_model(Vector)
class VectorModel(models.PrimitiveModel):
    def __init__(self, manager: Any, kind: Vector):
        super().__init__(manager, kind, ir.VectorType(FLOAT, kind.lanes))


def _address(context: Any, builder: Any, kind: Any, array: Any, index: Any) -> Any:
    return builder.gep(context.make_array(kind)(context, builder, array).data, [index])


@intrinsic
def scalar(typing: Any, array: Any, index: Any) -> Any:
    """array[index], without the check for negative indices."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.load(_address(context, builder, signature.args[0], *arguments))

    return types.float32(array, types.intp), generate


def _call(builder: Any, name: str, kind: ir.VectorType, *arguments: Any) -> Any:
    suffix = f"v{kind.count}f32"
    function = cgutils.get_or_insert_function(
        builder.module, ir.FunctionType(kind, [kind] * len(arguments)), f"llvm.{name}.{suffix}"
    )
    return builder.call(function, arguments)


def _lanes_of(lanes: int) -> SimpleNamespace:
    """The operations on vectors of that many lanes."""
    vector = Vector(lanes)
    kind = ir.VectorType(FLOAT, lanes)
    ints = ir.VectorType(INT, lanes)

    def constant(value: float) -> ir.Constant:
        return ir.Constant(kind, [value] * lanes)

    @intrinsic
    def load(typing: Any, array: Any, index: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            address = _address(context, builder, signature.args[0], *arguments)
            value = builder.load(builder.bitcast(address, kind.as_pointer()))
            value.align = 4
            return value

        return vector(array, types.intp), generate

    @intrinsic
    def store(typing: Any, array: Any, index: Any, value: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            address = _address(context, builder, signature.args[0], *arguments[:2])
            builder.store(arguments[2], builder.bitcast(address, kind.as_pointer())).align = 4
            return context.get_dummy_value()

        return types.void(array, types.intp, vector), generate

    @intrinsic
    def splat(typing: Any, x: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            nothing = ir.Constant(kind, ir.Undefined)
            one = builder.insert_element(nothing, arguments[0], ir.Constant(INT, 0))
            return builder.shuffle_vector(one, nothing, ir.Constant(ints, [0] * lanes))

        return vector(types.float32), generate

    @intrinsic
    def fma(typing: Any, a: Any, b: Any, c: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            return _call(builder, "fma", kind, *arguments)

        return vector(vector, vector, vector), generate

    @intrinsic
    def mul(typing: Any, a: Any, b: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            return builder.fmul(*arguments)

        return vector(vector, vector), generate

    @intrinsic
    def add(typing: Any, a: Any, b: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            return builder.fadd(*arguments)

        return vector(vector, vector), generate

    @intrinsic
    def sub(typing: Any, a: Any, b: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            return builder.fsub(*arguments)

        return vector(vector, vector), generate

    @intrinsic
    def div(typing: Any, a: Any, b: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            return builder.fdiv(*arguments)

        return vector(vector, vector), generate

    @intrinsic
    def total(typing: Any, a: Any) -> Any:
        """The sum of the lanes, in halves: the same order for the same number of lanes."""

        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            (value,), width = arguments, lanes
            while width > 1:
                width //= 2
                low, high = ([ir.Constant(INT, i) for i in range(start, start + width)] for start in (0, width))
                masks = [ir.Constant(ir.VectorType(INT, width), part) for part in (low, high)]
                value = builder.fadd(*(builder.shuffle_vector(value, value, mask) for mask in masks))
            return builder.extract_element(value, ir.Constant(INT, 0))

        return types.float32(vector), generate

    @intrinsic
    def totals(typing: Any, array: Any, index: Any) -> Any:
        """The sums of the lanes of 16 vectors that follow one another, as 16 lanes: a third of the work of 16 `total`s."""

        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            def pick(a: Any, b: Any, indices: list[int]) -> Any:
                return builder.shuffle_vector(a, b, ir.Constant(ir.VectorType(INT, len(indices)), indices))

            def read(i: int) -> Any:
                at = builder.add(arguments[1], ir.Constant(arguments[1].type, i * lanes))
                address = _address(context, builder, signature.args[0], arguments[0], at)
                value = builder.load(builder.bitcast(address, kind.as_pointer()))
                value.align = 4
                for width in (32, 16):
                    if lanes > width:
                        value = builder.fadd(*(pick(value, value, list(range(s, s + width))) for s in (0, width)))
                return value

            # n groups of lanes hold partial sums of n vectors: two such become one with twice as many groups, half as wide
            vectors, width = [read(i) for i in range(16)], 16
            while width > 1:
                width //= 2
                low = [
                    at + lane
                    for group in range(0, 16, 2 * width)
                    for at in (group, 16 + group)
                    for lane in range(width)
                ]
                pairs = zip(vectors[: len(vectors) // 2], vectors[len(vectors) // 2 :], strict=True)
                vectors = [builder.fadd(pick(a, b, low), pick(a, b, [i + width for i in low])) for a, b in pairs]
            return vectors[0]

        return Vector(16)(array, types.intp), generate

    def reduced(builder: Any, x: Any) -> tuple[Any, Any]:
        """n and r, x = n log 2 + r with |r| <= log(2) / 2."""
        n = _call(builder, "rint", kind, builder.fmul(x, constant(1.4426950408889634)))
        r = _call(builder, "fma", kind, n, constant(-0.693145751953125), x)
        return n, _call(builder, "fma", kind, n, constant(-1.428606765330187e-06), r)

    def horner(builder: Any, x: Any, *coefficients: float) -> Any:
        value = constant(coefficients[0])
        for coefficient in coefficients[1:]:
            value = _call(builder, "fma", kind, value, x, constant(coefficient))
        return value

    def power_of_two(builder: Any, n: Any, times: Any) -> Any:
        """2^n times a number, written in the exponent bits."""
        bits = builder.shl(builder.fptosi(n, ints), ir.Constant(ints, [23] * lanes))
        return builder.bitcast(builder.add(builder.bitcast(times, ints), bits), kind)

    def exponential(builder: Any, x: Any) -> Any:
        n, r = reduced(builder, x)
        polynomial = horner(builder, r, 1.0 / 5040, 1.0 / 720, 1.0 / 120, 1.0 / 24, 1.0 / 6, 0.5, 1.0, 1.0)
        small = builder.fcmp_ordered("<", x, constant(-87.0))
        large = builder.fcmp_ordered(">", x, constant(88.7228))
        outside = builder.or_(builder.or_(small, large), builder.fcmp_unordered("uno", x, x))
        scaled = power_of_two(builder, builder.select(outside, constant(0.0), n), polynomial)
        value = builder.select(small, constant(0.0), builder.select(large, constant(float("inf")), scaled))
        return builder.select(builder.fcmp_unordered("uno", x, x), x, value)

    @intrinsic
    def exp(typing: Any, x: Any) -> Any:
        """e^x to 2 units in the last place; 0 below -87, where float32 has no normal number, infinity above 88.7."""

        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            return exponential(builder, *arguments)

        return vector(vector), generate

    @intrinsic
    def maximum(typing: Any, a: Any, b: Any) -> Any:
        """The larger one, NaN where either is."""

        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            a, b = arguments
            larger = builder.select(builder.fcmp_ordered(">", a, b), a, b)
            return builder.select(builder.fcmp_unordered("uno", a, a), a, larger)

        return vector(vector, vector), generate

    @intrinsic
    def sigmoid(typing: Any, x: Any) -> Any:
        """1 / (1 + e^-x) to 3 units in the last place; 0 below -88.7."""

        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            e = exponential(builder, builder.fneg(*arguments))
            return builder.fdiv(constant(1.0), builder.fadd(constant(1.0), e))

        return vector(vector), generate

    @intrinsic
    def tanh(typing: Any, x: Any) -> Any:
        """To 4 units in the last place, also near 0: with e = e^(-2 |x|) - 1 it is -e / (2 + e)."""

        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            (x,) = arguments
            size = builder.fmul(_call(builder, "fabs", kind, x), constant(-2.0))
            # beyond 10 it is 1 in float32; the comparison is false for NaN too, which is put back at the end
            within = builder.select(builder.fcmp_ordered(">", size, constant(-20.0)), size, constant(-20.0))
            n, r = reduced(builder, within)
            curve = horner(builder, r, 1.0 / 5040, 1.0 / 720, 1.0 / 120, 1.0 / 24, 1.0 / 6, 0.5, 1.0)
            scale = power_of_two(builder, n, constant(1.0))
            e = _call(builder, "fma", kind, scale, builder.fmul(r, curve), builder.fsub(scale, constant(1.0)))
            value = builder.fdiv(builder.fneg(e), builder.fadd(constant(2.0), e))
            value = _call(builder, "copysign", kind, value, x)
            return builder.select(builder.fcmp_unordered("uno", x, x), x, value)

        return vector(vector), generate

    @intrinsic
    def log1p(typing: Any, x: Any) -> Any:
        """log(1 + x) to 3 units in the last place for x from 0 to 1, where it is 2 artanh(x / (2 + x)); NaN stays NaN."""

        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            (x,) = arguments
            s = builder.fdiv(x, builder.fadd(constant(2.0), x))
            square = builder.fmul(s, s)
            curve = horner(builder, square, 2 / 15, 2 / 13, 2 / 11, 2 / 9, 2 / 7, 2 / 5, 2 / 3, 2.0)
            return builder.fmul(s, curve)

        return vector(vector), generate

    return SimpleNamespace(
        lanes=lanes,
        load=load,
        store=store,
        splat=splat,
        fma=fma,
        mul=mul,
        add=add,
        sub=sub,
        div=div,
        total=total,
        totals=totals,
        exp=exp,
        maximum=maximum,
        sigmoid=sigmoid,
        tanh=tanh,
        log1p=log1p,
    )


OPERATIONS = {lanes: _lanes_of(lanes) for lanes in (16, 32, 64)}
