"""Integer instructions that NumPy has no function for."""

import numpy as np

_WIDER = {np.dtype(f"{kind}{size}"): np.dtype(f"{kind}{2 * size}") for kind in "iu" for size in (1, 2, 4)}


def multiply_wide(a, b):
    return np.multiply(a, b, dtype=_WIDER[a.dtype])


def multiply_high(a, b):
    """The upper half of the product."""
    if a.itemsize < 8:
        return (multiply_wide(a, b) >> 8 * a.itemsize).astype(a.dtype)
    x, y = a.view(np.uint64), b.view(np.uint64)
    mask, half = np.uint64(0xFFFFFFFF), np.uint64(32)
    x_low, x_high, y_low, y_high = x & mask, x >> half, y & mask, y >> half
    middle = x_high * y_low + (x_low * y_low >> half)
    other = x_low * y_high + (middle & mask)
    high = x_high * y_high + (middle >> half) + (other >> half)
    if a.dtype.kind == "i":
        high = high - np.where(a < 0, y, 0).astype(np.uint64) - np.where(b < 0, x, 0).astype(np.uint64)
    return high.view(a.dtype)


def divide(a, b):
    """Towards zero; by zero all bits are set, as hardware has it."""
    quotient = np.floor_divide(a, b)
    if a.dtype.kind == "i":
        rest = a - quotient * b
        quotient = quotient + ((rest != 0) & ((a < 0) != (b < 0)))
    return np.where(b == 0, ~np.zeros_like(quotient), quotient)


def remainder(a, b):
    """With the sign of a; by zero a itself."""
    return np.where(b == 0, a, np.fmod(a, b))


def leading_zeros(a):
    """Bits above the highest that is set."""
    for shift in (1, 2, 4, 8, 16, 32):
        if shift < 8 * a.itemsize:
            a = a | a >> shift
    return 8 * a.itemsize - np.bitwise_count(a).astype(np.uint32)


def reverse(a):
    """The bits in the opposite order."""
    bits = np.unpackbits(np.ascontiguousarray(a).view(np.uint8).reshape(len(a), -1), axis=1, bitorder="little")
    return np.packbits(bits[:, ::-1], axis=1, bitorder="little").view(a.dtype).reshape(len(a))


def extract_field(a, start, length):
    """`length` bits of a from `start` on; signed, the last that there is fills the rest."""
    bits = 8 * a.itemsize
    start, length = (x.astype(np.int64) & 0xFF for x in (start, length))
    unsigned = a.view(f"u{a.itemsize}")
    kept = np.minimum(length, np.maximum(bits - start, 0))
    field = (unsigned >> start.astype(np.uint64)) & _ones(kept)
    if a.dtype.kind == "i":
        last = np.minimum(start + length - 1, bits - 1).astype(np.uint64)
        negative = ((unsigned.astype(np.uint64) >> last) & np.uint64(1) == 1) & (length > 0)
        field = np.where(negative, field | ~_ones(kept), field)
    return field.astype(np.uint64)


def insert_field(field, a, start, length):
    """`a`, with `length` of its bits from `start` on taken from the field."""
    start, length = (x.astype(np.uint64) & np.uint64(0xFF) for x in (start, length))
    mask = _ones(length) << start
    return field.astype(np.uint64) << start & mask | a & ~mask


def _ones(count):
    """So many low bits set."""
    return ~(np.uint64(0xFFFFFFFFFFFFFFFF) << count.astype(np.uint64))


def shift_left_funnel(low, high, count):
    """The upper half of high:low << count."""
    return _pair(low, high) << count.astype(np.uint64) >> np.uint64(32)


def shift_right_funnel(low, high, count):
    """The lower half of high:low >> count."""
    return _pair(low, high) >> count.astype(np.uint64)


def _pair(low, high):
    return high.astype(np.uint64) << np.uint64(32) | low


def wrapped(count):
    return count & np.uint32(31)


def clamped(count):
    return np.minimum(count, np.uint32(32))


def permute(a, b, selector):
    """Four of the eight bytes of b:a, chosen by four bits each, the last of which repeats the byte's sign."""
    pair, result = _pair(a, b), 0
    for place in range(4):
        choice = selector >> np.uint32(4 * place)
        byte = pair >> (choice.astype(np.uint64) & np.uint64(7)) * np.uint64(8) & np.uint64(0xFF)
        sign = np.where(byte >> np.uint64(7), np.uint64(0xFF), np.uint64(0))
        result = result | np.where(choice & np.uint32(8), sign, byte) << np.uint64(8 * place)
    return result


def logic(table):
    """The function of three operands whose result, bit by bit, is in a table of eight."""

    def run(a, b, c):
        result = np.zeros_like(a)
        for row in range(8):
            if table >> row & 1:
                result |= (a if row & 4 else ~a) & (b if row & 2 else ~b) & (c if row & 1 else ~c)
        return result

    return run
