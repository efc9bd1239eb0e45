"""Sum, or find the largest value, over the threads that share a row: a part of a warp, a warp, or a block of warps.

Every thread gets the same bits, since the threads add in pairs, in an order that their number fixes. A block of several
warps needs an array in shared memory with room for a vector of each warp. No other call in the kernel may use that
array, so one barrier is enough. In a loop there must be another barrier between a call and the next.
"""

from functools import lru_cache
from typing import NamedTuple

from llvmlite import ir

from numbanorm.cuda import cgutils, cuda, extending, types
from numbanorm.cuda.compiling import device
from numbanorm.cuda.vectors.arithmetic import select
from numbanorm.cuda.vectors.memory import each, load, store
from numbanorm.cuda.vectors.simd import lanes_of, number

WARP = 32  # threads
MOST_WARPS = 32  # to a block
_INT32 = ir.IntType(32)


class Group(NamedTuple):
    """Hold device functions over the threads of a group.

    Each takes a vector, and an array in shared memory that no other call uses.
    """

    sum: object
    largest: object  # of numbers that are not negative, and not NaN: from a NaN, threads get different results
    first: object  # the vector of the first thread


@device
def add(a, b):
    return a + b


@device
def larger(a, b):
    """Return the larger number, or a if one is NaN.

    So a search for the largest number must begin with one that is not NaN.
    """
    return select(a < b, b, a)


def _exchange(mode, segment):
    """Make an intrinsic that returns the vector of another thread of the warp.

    Every thread of the warp must call it. A float64 is passed as two words.
    """

    def word_of(builder, word, operand):
        function = ir.FunctionType(ir.LiteralStructType([_INT32, ir.IntType(1)]), [_INT32] * 5)
        shuffle = cgutils.get_or_insert_function(builder.module, function, "llvm.nvvm.shfl.sync.i32")
        every_lane, last = _INT32(-1), _INT32(((WARP - segment) << 8) + WARP - 1)
        given = builder.call(shuffle, [every_lane, _INT32(mode), word, operand, last])
        return builder.extract_value(given, 0)

    def number_of(builder, value, operand):
        if value.type == ir.FloatType():
            return builder.bitcast(word_of(builder, builder.bitcast(value, _INT32), operand), value.type)
        words = ir.VectorType(_INT32, 2)
        bits, found = builder.bitcast(value, words), ir.Constant(words, ir.Undefined)
        for k in range(2):
            word = word_of(builder, builder.extract_element(bits, _INT32(k)), operand)
            found = builder.insert_element(found, word, _INT32(k))
        return builder.bitcast(found, value.type)

    @extending.intrinsic
    def exchange(typing_context, vector, operand):
        def codegen(context, builder, signature, args):
            operand = builder.trunc(args[1], _INT32)
            if vector.lanes == 1:
                return number_of(builder, args[0], operand)
            found = ir.Constant(args[0].type, ir.Undefined)
            for k in range(vector.lanes):
                value = number_of(builder, builder.extract_element(args[0], _INT32(k)), operand)
                found = builder.insert_element(found, value, _INT32(k))
            return found

        return vector(vector, types.int64), codegen

    return exchange


_BUTTERFLY, _INDEX = 3, 0  # modes
of_partner = _exchange(_BUTTERFLY, WARP)  # the thread whose number differs in the bits of the operand


@lru_cache(None)
def group(threads):
    """Return the `Group` of 1, 2, 4, ... 32 threads of a warp, or of a block of more threads."""
    first = _first_of_block if threads > WARP else _first_of_lanes(threads)
    return Group(_over(add, threads), _over(larger, threads), first)


def _over(combine, threads):
    lanes = min(threads, WARP)
    steps = lanes.bit_length() - 1

    @device
    def over_lanes(vector):
        for k in each(steps):
            vector = combine(vector, of_partner(vector, lanes >> (k + 1)))
        return vector

    @device
    def over_part_of_a_warp(vector, shared):
        return over_lanes(vector)

    @device
    def over_block(vector, shared):
        warp, thread = cuda.threadIdx.x // WARP, cuda.threadIdx.x % WARP
        found, width = over_lanes(vector), lanes_of(vector)
        if thread == 0:
            store(shared, warp * width, found)
        cuda.syncthreads()
        found = number(0.0, shared, vector)
        if thread < cuda.blockDim.x // WARP:
            found = load(shared, thread * width, vector)
        return over_lanes(found)

    return over_part_of_a_warp if threads <= WARP else over_block


def _first_of_lanes(threads):
    of_lane = _exchange(_INDEX, threads)

    @device
    def first_of_lanes(vector, shared):
        return of_lane(vector, 0)

    return first_of_lanes


@device
def _first_of_block(vector, shared):
    if cuda.threadIdx.x == 0:
        store(shared, 0, vector)
    cuda.syncthreads()
    return load(shared, 0, vector)


@extending.intrinsic
def any_lane(typing_context, condition):
    """Return whether a condition of one lane holds in any thread of the warp. Every thread must call this."""

    def codegen(context, builder, signature, args):
        function = ir.FunctionType(ir.LiteralStructType([_INT32, ir.IntType(1)]), [_INT32, _INT32, ir.IntType(1)])
        vote = cgutils.get_or_insert_function(builder.module, function, "llvm.nvvm.vote.sync")
        every_lane, any_of_them = _INT32(-1), _INT32(1)
        return builder.extract_value(builder.call(vote, [every_lane, any_of_them, args[0]]), 1)

    return types.boolean(condition), codegen
