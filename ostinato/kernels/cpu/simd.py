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
from numba import njit, types
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


def _read_16(
    context: Any, builder: Any, signature: Any, array: Any, index: Any, step: Any, kind: ir.VectorType
) -> list[Any]:
    """16 vectors from the array that is the first argument, one every `step` numbers."""
    vectors = []
    for i in range(16):
        at = builder.add(index, builder.mul(ir.Constant(index.type, i), step))
        address = _address(context, builder, signature.args[0], array, at)
        vectors.append(builder.load(builder.bitcast(address, kind.as_pointer())))
        vectors[-1].align = 4
    return vectors


def _exchange(builder: Any, vectors: list[Any], width: int) -> list[tuple[Any, Any]]:
    """For a and b, half the list apart: lower halves of their groups of 2 width lanes by turns, and the upper halves."""
    low = [at + lane for group in range(0, 16, 2 * width) for at in (group, 16 + group) for lane in range(width)]
    masks = [ir.Constant(ir.VectorType(INT, 16), part) for part in (low, [i + width for i in low])]
    pairs = zip(vectors[: len(vectors) // 2], vectors[len(vectors) // 2 :], strict=True)
    return [tuple(builder.shuffle_vector(a, b, mask) for mask in masks) for a, b in pairs]


@intrinsic
def transpose_16(typing: Any, array: Any, index: Any, step: Any, out: Any, out_index: Any, out_step: Any) -> Any:
    """16 rows of 16 numbers, `step` apart, written as columns: rows of `out`, `out_step` apart."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        kind = ir.VectorType(FLOAT, 16)
        sets = [_read_16(context, builder, signature, *arguments[:3], kind)]
        for width in (8, 4, 2, 1):
            exchanged = [_exchange(builder, vectors, width) for vectors in sets]
            sets = [[pair[half] for pair in pairs] for pairs in exchanged for half in (0, 1)]
        for i, (vector,) in enumerate(sets):
            at = builder.add(arguments[4], builder.mul(ir.Constant(arguments[4].type, i), arguments[5]))
            address = _address(context, builder, signature.args[3], arguments[3], at)
            builder.store(vector, builder.bitcast(address, kind.as_pointer())).align = 4
        return context.get_dummy_value()

    return types.void(array, types.intp, types.intp, out, types.intp, types.intp), generate


def _lanes_of(lanes: int) -> SimpleNamespace:
    """The operations on vectors of that many lanes."""
    vector = Vector(lanes)
    kind = ir.VectorType(FLOAT, lanes)
    ints = ir.VectorType(INT, lanes)

    def constant(value: float) -> ir.Constant:
        return ir.Constant(kind, [value] * lanes)

    def horner(builder: Any, x: Any, *coefficients: float) -> Any:
        value = constant(coefficients[0])
        for coefficient in coefficients[1:]:
            value = _call(builder, "fma", kind, value, x, constant(coefficient))
        return value

    def reduced(builder: Any, x: Any) -> tuple[Any, Any]:
        """n and r, with x = n log 2 + r and |r| <= log(2) / 2."""
        n = _call(builder, "rint", kind, builder.fmul(x, constant(1.4426950408889634)))
        r = _call(builder, "fma", kind, n, constant(-0.693145751953125), x)
        return n, _call(builder, "fma", kind, n, constant(-1.428606765330187e-06), r)

    def power_of_two(builder: Any, n: Any, times: Any) -> Any:
        """2^n times a number, written in the exponent bits."""
        bits = builder.shl(builder.fptosi(n, ints), ir.Constant(ints, [23] * lanes))
        return builder.bitcast(builder.add(builder.bitcast(times, ints), bits), kind)

    def exponential(builder: Any, x: Any) -> Any:
        # comparisons with what is not a number fail: it stays
        for limit, beyond in ((-88.0, ">"), (89.0, "<")):
            x = builder.select(builder.fcmp_ordered(beyond, constant(limit), x), constant(limit), x)
        # at 1.5 2^23 the unit in the last place is 1: there n + 127 is in the last bits, and these, shifted to the exponent,
        # are 2^n, which is 0 for n = -127 and infinity for n = 128
        base = constant(1.5 * 2**23 + 127)
        n = _call(builder, "fma", kind, x, constant(1.4426950408889634), base)
        power = builder.bitcast(builder.shl(builder.bitcast(n, ints), ir.Constant(ints, [23] * lanes)), kind)
        n = builder.fsub(n, base)
        r = _call(builder, "fma", kind, n, constant(-0.693145751953125), x)
        r = _call(builder, "fma", kind, n, constant(-1.428606765330187e-06), r)
        # 1 + r + r^2 (...) with the least relative error where |r| <= log(2) / 2
        curve = (0.00138145406, 0.00836874545, 0.041668389, 0.16666521, 0.49999994)
        return builder.fmul(horner(builder, r, *curve, 1.0, 1.0), power)

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

    def masked(builder: Any, name: str, result: Any, arguments: Any, count: Any) -> Any:
        """A load or store of the first count lanes."""
        count = builder.insert_element(ir.Constant(ints, ir.Undefined), builder.trunc(count, INT), ir.Constant(INT, 0))
        count = builder.shuffle_vector(count, count, ir.Constant(ints, [0] * lanes))
        chosen = builder.icmp_signed("<", ir.Constant(ints, list(range(lanes))), count)
        arguments = [*arguments, ir.Constant(INT, 4), chosen, *([] if name == "store" else [constant(0.0)])]
        function = ir.FunctionType(result, [argument.type for argument in arguments])
        name = f"llvm.masked.{name}.v{lanes}f32.p0"
        return builder.call(cgutils.get_or_insert_function(builder.module, function, name), arguments)

    @intrinsic
    def load_masked(typing: Any, array: Any, index: Any, count: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            address = _address(context, builder, signature.args[0], *arguments[:2])
            return masked(builder, "load", kind, [builder.bitcast(address, kind.as_pointer())], arguments[2])

        return vector(array, types.intp, types.intp), generate

    @intrinsic
    def store_masked(typing: Any, array: Any, index: Any, value: Any, count: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            address = _address(context, builder, signature.args[0], *arguments[:2])
            pointer = builder.bitcast(address, kind.as_pointer())
            masked(builder, "store", ir.VoidType(), [arguments[2], pointer], arguments[3])
            return context.get_dummy_value()

        return types.void(array, types.intp, vector, types.intp), generate

    @njit(inline="always")
    def load_some(array: Any, index: int, count: int) -> Any:
        """The next count numbers, zeros in the lanes beyond; a whole vector where that many or more are left."""
        return load(array, index) if count >= lanes else load_masked(array, index, count)

    @njit(inline="always")
    def store_some(array: Any, index: int, value: Any, count: int) -> None:
        """Write the first count lanes, or all where there are no more."""
        if count >= lanes:
            store(array, index, value)
        else:
            store_masked(array, index, value, count)

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

    def complex_product(sign: int) -> Any:
        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            a, b, c = arguments
            orders = ([i & ~1 for i in range(lanes)], [i | 1 for i in range(lanes)], [i ^ 1 for i in range(lanes)])
            even, odd, other = (ir.Constant(ints, order) for order in orders)
            signs = ir.Constant(kind, [-sign, sign] * (lanes // 2))
            imaginary = builder.fmul(builder.shuffle_vector(a, a, odd), signs)
            part = _call(builder, "fma", kind, builder.shuffle_vector(a, a, even), b, c)
            return _call(builder, "fma", kind, imaginary, builder.shuffle_vector(b, b, other), part)

        return generate

    @intrinsic
    def complex_fma(typing: Any, a: Any, b: Any, c: Any) -> Any:
        """a b + c of complex numbers, real and imaginary parts in turn."""
        return vector(vector, vector, vector), complex_product(1)

    @intrinsic
    def conjugate_fma(typing: Any, a: Any, b: Any, c: Any) -> Any:
        """conj(a) b + c of complex numbers, real and imaginary parts in turn."""
        return vector(vector, vector, vector), complex_product(-1)

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
            vectors = []
            for value in _read_16(context, builder, signature, *arguments, ir.Constant(arguments[1].type, lanes), kind):
                width = lanes
                while width > 16:
                    width //= 2
                    low, high = ([ir.Constant(INT, i) for i in range(s, s + width)] for s in (0, width))
                    masks = [ir.Constant(ir.VectorType(INT, width), part) for part in (low, high)]
                    value = builder.fadd(*(builder.shuffle_vector(value, value, mask) for mask in masks))
                vectors.append(value)
            # a vector holds partial sums of n vectors: two become one that holds those of 2 n
            for width in (8, 4, 2, 1):
                vectors = [builder.fadd(low, high) for low, high in _exchange(builder, vectors, width)]
            return vectors[0]

        return Vector(16)(array, types.intp), generate

    @intrinsic
    def exp(typing: Any, x: Any) -> Any:
        """e^x to 2 units in the last place; 0 below -87.7, where float32 has no normal number, infinity above 88.4."""

        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            return exponential(builder, *arguments)

        return vector(vector), generate

    @intrinsic
    def exp2(typing: Any, x: Any) -> Any:
        """2^x as exact as `exp`, with less work; 0 below -126.5, infinity above 127.5."""

        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            (x,) = arguments
            for limit, beyond in ((-127.0, ">"), (128.0, "<")):
                x = builder.select(builder.fcmp_ordered(beyond, constant(limit), x), constant(limit), x)
            base = constant(1.5 * 2**23 + 127)
            n = builder.fadd(x, base)
            power = builder.bitcast(builder.shl(builder.bitcast(n, ints), ir.Constant(ints, [23] * lanes)), kind)
            r = builder.fsub(x, builder.fsub(n, base))
            curve = (0.000153533212, 0.00133989262, 0.00961843785, 0.0555033237, 0.240226477, 0.693147182, 1.0)
            return builder.fmul(horner(builder, r, *curve), power)

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
        """1 / (1 + e^-x) to 3 units in the last place; 0 below -88.4."""

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
        load_some=load_some,
        store_some=store_some,
        splat=splat,
        fma=fma,
        complex_fma=complex_fma,
        conjugate_fma=conjugate_fma,
        mul=mul,
        add=add,
        sub=sub,
        div=div,
        total=total,
        totals=totals,
        exp=exp,
        exp2=exp2,
        maximum=maximum,
        sigmoid=sigmoid,
        tanh=tanh,
        log1p=log1p,
    )


OPERATIONS = {lanes: _lanes_of(lanes) for lanes in (16, 32, 64)}
