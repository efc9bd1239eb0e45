"""Kernels written as PTX: a few instructions each, with their operands at hand."""

from fractions import Fraction

import numpy as np

from tests.ptx import GlobalMemory, Program, run

_ENTRY = """
.version 9.0
.target sm_90
.address_size 64
{shared}
.visible .entry snippet({parameters})
{{
    .reg .pred %p<16>;
    .reg .b16 %rs<16>;
    .reg .f32 %f<32>;
    .reg .b32 %r<32>;
    .reg .f64 %fd<32>;
    .reg .b64 %rd<32>;
    {loads}
    mov.u32 %r0, %tid.x;
    mov.u32 %r1, %ctaid.x;
    mov.u32 %r2, %ntid.x;
    mad.lo.s32 %r3, %r1, %r2, %r0;
    {body}
    ret;
}}
"""


def program(body, pointers=2, shared=0):
    """A kernel that takes addresses in %rd0, %rd1, ... The thread is in %r0, the block in %r1, its size in %r2.

    %r3 is the number of the thread in the launch. `shared` bytes of memory are called `shared`.
    """
    text = _ENTRY.format(
        shared=f".shared .align 16 .b8 shared[{shared}];" if shared else "",
        parameters=", ".join(f".param .u64 p{i}" for i in range(pointers)),
        loads="\n    ".join(f"ld.param.u64 %rd{i}, [p{i}];" for i in range(pointers)),
        body=body,
    )
    return Program(text)


class Device:
    """Memory with arrays in it."""

    def __init__(self):
        self.memory = GlobalMemory(1 << 24)

    def put(self, a, offset=0):
        """The address of a copy."""
        a = np.asarray(a)
        address = self.memory.allocate(a.nbytes, offset)
        self.memory.bytes(address, a.nbytes)[...] = a.ravel().view(np.uint8)
        return address

    def get(self, address, dtype, count):
        return self.memory.bytes(address, np.dtype(dtype).itemsize * count).view(dtype).copy()


def evaluate(instruction, result, *operands):
    """One instruction for a number of threads, each with its own operands: `result` and the operands' dtypes.

    In the text $0 is the result and $1, $2, ... are the operands.
    """
    device, arrays = Device(), [np.atleast_1d(np.asarray(a)) for a in operands]
    count = max(a.size for a in arrays)
    result = np.dtype(result)
    body, text = [], instruction
    for i, a in enumerate(arrays):
        name = f"{_register(a.dtype)}{10 + i}"
        body += [f"mad.wide.u32 %rd30, %r3, {a.itemsize}, %rd{i + 1};", f"ld.global.b{8 * a.itemsize} {name}, [%rd30];"]
        text = text.replace(f"${i + 1}", name)
    target = f"{_register(result)}9"
    body.append(text.replace("$0", target) + ";")
    body += [
        f"mad.wide.u32 %rd30, %r3, {result.itemsize}, %rd0;",
        f"st.global.b{8 * result.itemsize} [%rd30], {target};",
    ]
    address = device.memory.allocate(result.itemsize * count)
    addresses = [device.put(np.broadcast_to(a, count)) for a in arrays]
    decoded = program("\n    ".join(body), len(arrays) + 1)
    run(decoded, 1, count, [address, *addresses], device.memory)
    return device.get(address, result, count)


def _register(dtype):
    if dtype.itemsize <= 2:
        return "%rs"
    return ("%f" if dtype.itemsize == 4 else "%fd") if dtype.kind == "f" else ("%r" if dtype.itemsize == 4 else "%rd")


def blocks(instruction, result, *operands):
    """`evaluate` for more operands than a block has threads."""
    pieces = range(0, len(operands[0]), 1024)
    return np.concatenate([evaluate(instruction, result, *[a[i : i + 1024] for a in operands]) for i in pieces])


def nearest(exact, dtype):
    """A fraction rounded, ties to even."""
    near = np.asarray(float(exact)).astype(dtype)[()]
    around = [near, np.nextafter(near, dtype(-np.inf)), np.nextafter(near, dtype(np.inf))]
    return min(around, key=lambda x: (abs(Fraction(float(x)) - exact), int(x.view(f"u{x.itemsize}")) & 1))
