"""How instructions see registers and constants: as NumPy arrays with a value per lane.

While a program is decoded, each way in which one of its instructions sees a register (as which type, which half of
it) or a constant gets a number, its slot. Before blocks are executed, the slots become arrays over their lanes:
views of the registers, or constants repeated without memory.
"""

import re
import struct

import numpy as np

from tests.ptx.faults import Unsupported
from tests.ptx.text import SIZES, split

DTYPES = {
    **{f"b{8 * size}": np.dtype(f"u{size}") for size in (1, 2, 4, 8)},
    **{f"u{8 * size}": np.dtype(f"u{size}") for size in (1, 2, 4, 8)},
    **{f"s{8 * size}": np.dtype(f"i{size}") for size in (1, 2, 4, 8)},
    **{f"f{8 * size}": np.dtype(f"f{size}") for size in (2, 4, 8)},
    **{"bf16": np.dtype("u2"), "bf16x2": np.dtype("u4"), "f16x2": np.dtype("u4"), "pred": np.dtype(bool)},
}
LOCAL_WINDOW, SHARED_WINDOW = 0x6000_0000_0000, 0x6800_0000_0000  # of generic addresses
WINDOW = 1 << 32
_INTEGER = re.compile(r"[+-]?(0[xX][0-9a-fA-F]+|\d+)U?")
_ADDRESS = re.compile(r"\[\s*([^\s+\]]+)\s*(?:\+\s*(-?\w+))?\s*\]")
SPECIAL = re.compile(r"%(n?tid|n?ctaid)\.[xyz]|%laneid|%warpid|%\w+_smem_size|%clock|%clock64|%lanemask_\w\w")


class Operands:
    """Gives out slots for a kernel's operands."""

    def __init__(self, kernel):
        self.variables = kernel.variables
        self.parameters = {name: i for i, (_, name) in enumerate(kernel.parameters)}
        self.registers = {name: _stored(of_type) for name, of_type in kernel.registers.items()}
        self.slots = {}  # (kind, what, dtype or type, part) -> number

    def _slot(self, *key):
        return self.slots.setdefault(key, len(self.slots))

    def read(self, operand, of_type):
        """The slot of an operand that is read as this type."""
        if SPECIAL.fullmatch(operand):
            self.registers.setdefault(operand, np.dtype("u8" if operand == "%clock64" else "u4"))
        if operand in self.registers:
            return self._register(operand, of_type, 0)
        if operand in self.variables:
            return self._slot("constant", self.variables[operand][1], of_type, 0)
        return self._slot("constant", number(operand, of_type), of_type, 0)

    def write(self, operand, of_type):
        """The slot of a register that is written as this type: all of it, whatever its width."""
        if operand == "_":
            operand = f"_{of_type}"
            self.registers[operand] = _stored(of_type)
        if operand not in self.registers:
            raise Unsupported(f"operand {operand}")
        register = self.registers[operand]
        if register.itemsize <= SIZES[of_type] or of_type == "pred":
            return self._register(operand, of_type, 0)
        kind = "s" if of_type[0] == "s" else "u"
        return self._register(operand, f"{kind}{8 * register.itemsize}", 0)

    def _register(self, name, of_type, part):
        register = self.registers[name]
        if register.itemsize < SIZES[of_type]:
            raise Unsupported(f"{name}, a register of {register.itemsize} bytes, as {of_type}")
        return self._slot("register", name, of_type, part)

    def part(self, operand, of_type, part):
        """The slot of one of the parts of a register, of this type each."""
        if operand in self.registers:
            return self._register(operand, of_type, part)
        bits = 8 * SIZES[of_type]
        whole = number(operand, f"b{64 if bits == 32 else 32}")
        return self._slot("constant", whole >> bits * part & (1 << bits) - 1, of_type, 0)

    def vector(self, operand):
        """The operands between braces, or the one."""
        return split(operand[1:-1]) if operand.startswith("{") else [operand]

    def address(self, operand, space):
        """The slot of an address, and what is to be added to it."""
        base, offset = _ADDRESS.fullmatch(operand).groups()
        offset = int(offset or "0", 0)
        if base in self.registers:
            return self._register(base, "s64" if self.registers[base].itemsize == 8 else "u32", 0), offset
        if base in self.variables and self.variables[base][0] != space:
            raise Unsupported(f"{base} is not in {space} memory")
        return self.read(base, "s64"), offset

    def parameter(self, operand, of_type):
        """The slot of a parameter."""
        return self._slot("parameter", self.parameters[operand.strip("[] ")], of_type, 0)

    def arrays(self, registers, arguments, lanes):
        """The slots as arrays of so many lanes, given the registers' and the bits of the arguments."""
        return [_array(key, registers, arguments, lanes) for key in self.slots]


def _stored(of_type):
    """As what a register is kept: its bits."""
    return np.dtype(bool) if of_type == "pred" else np.dtype(f"u{SIZES[of_type]}")


def _array(key, registers, arguments, lanes):
    kind, what, of_type, part = key
    if kind != "register":
        what = arguments[what] if kind == "parameter" else what
        return np.broadcast_to(constant(what, of_type), (lanes, 2) if of_type == "f32x2" else lanes)
    whole = registers[what]
    if of_type == "f32x2":
        return whole.view(np.float32).reshape(-1, 2)
    ratio = whole.itemsize // SIZES[of_type]
    return whole.view(DTYPES[of_type])[part::ratio]


def constant(bits, of_type):
    """A number of this type from its bits."""
    if of_type == "pred":
        return np.bool_(bits)
    size = SIZES[of_type]
    value = np.array([bits & (1 << 8 * size) - 1], f"u{size}")
    return value.view(np.float32) if of_type == "f32x2" else value.view(DTYPES[of_type])


def number(operand, of_type):
    """The bits of a constant: 0f3F800000, 0d3FF0000000000000, 12, -1, 0xFF, 1.5."""
    prefix = operand[:2].lower()
    if prefix in ("0f", "0d") and len(operand) == {"0f": 10, "0d": 18}[prefix]:
        bits = int(operand[2:], 16)
        if prefix == "0d" and of_type == "f32":
            return _bits(struct.unpack("<d", struct.pack("<Q", bits))[0], of_type)
        return bits
    if _INTEGER.fullmatch(operand) and of_type not in ("f32", "f64"):
        return int(operand.rstrip("U"), 0)
    try:
        return _bits(float(operand), of_type)
    except ValueError:
        raise Unsupported(f"operand {operand}") from None


def _bits(value, of_type):
    return int(np.array(value, DTYPES[of_type]).view(f"u{SIZES[of_type]}"))
