"""What the CUDA kernels compile to, which needs no GPU.

The default run compiles the kernels of float32 that load vectors, in their largest size, for compute capability 9.0.
The tests marked `slow` add other capabilities, the other kernels and float64; at night all is compiled, in every size.
"""

import re

import pytest

pytest.importorskip("numba_cuda", reason="numba-cuda is not installed")

from numba import types

from tests import compiled
from tests.kernels import every_kernel

REGISTERS = 1 << 16  # of a multiprocessor: a block must find room
MAIN = (9, 0)
ARITHMETIC = r"D(ADD|MUL|FMA|SETP|MNMX)\b"  # of float64
CONVERSION = r"F2F.*F64|I2F.*F64|F2I.*F64|MUFU.*64"  # to it or from it
CASES = list(every_kernel())


def largest(cases):
    """Of kernels that differ in their numbers of threads and steps alone, the one with the largest: it comes last."""
    return list({re.sub(r", \d+ threads|, \d+ steps", "", case.name): case for case in cases}.values())


DOUBLE = [case for case in CASES if case.dtype is not types.float32]
OTHERS = [case for case in CASES if not case.wide and case not in DOUBLE]
WIDE = [case for case in CASES if case.wide and case not in DOUBLE]
GROUPS = [
    pytest.param(largest(WIDE), MAIN, id="vectors of float32"),
    *(
        pytest.param(cases, capability, marks=pytest.mark.slow, id=name)
        for name, cases, capability in (
            ("others of float32", largest(OTHERS), MAIN),
            ("vectors of float64", [case for case in largest(DOUBLE) if case.wide], MAIN),
            ("vectors of float32 for 8.0", largest(WIDE), (8, 0)),
            ("vectors of float32 for 10.0", largest(WIDE), (10, 0)),
        )
    ),
    *(
        pytest.param(CASES, capability, marks=pytest.mark.nightly, id="all for {}.{}".format(*capability))
        for capability in compiled.CAPABILITIES
    ),
]
pytestmark = pytest.mark.skipif(compiled.tool("nvdisasm") is None, reason="nvidia-cuda-nvdisasm is not installed")


@pytest.mark.parametrize(("cases", "capability"), GROUPS)
def test_every_kernel_finds_room(cases, capability):
    """Nothing is kept in memory of the thread's, there are registers for the whole block, and arguments are of the
    sizes that a launch gives them.
    """
    codes = {case.name: (case.kernel, compiled.machine_code(case.kernel, capability)) for case in cases}
    assert len(codes) == len(cases) > 10
    for name, (kernel, code) in codes.items():
        assert code.argument_sizes == sizes_of_arguments(kernel), name
        assert code.stack == code.local == 0, name
        assert -(-code.registers // 8) * 8 * kernel.threads <= REGISTERS, name
        assert code.shared < 48 << 10, name


@pytest.mark.parametrize(("cases", "capability"), GROUPS)
def test_every_kernel_has_the_instructions_that_it_should(cases, capability):
    """128-bit accesses where they are meant, and in a kernel of float32 no arithmetic of float64."""
    codes = [compiled.machine_code(case.kernel, capability) for case in cases]
    for case, names in zip(cases, compiled.instructions(codes, capability), strict=True):
        assert named(names, r"STG\.E"), case.name
        if case.dtype is types.float32:
            assert not named(names, f"{ARITHMETIC}|{CONVERSION}"), case.name
        if case.wide and (case.dtype is types.float32 or capability == MAIN):
            assert named(names, r"LDG\.E\.128"), case.name
            assert bool(named(names, r"STG\.E\.128")) == case.stores_wide, case.name


def sizes_of_arguments(kernel):
    """In bytes, each integer of a tuple on its own."""
    flat = [one for kind in kernel.argument_types for one in (kind if isinstance(kind, types.BaseTuple) else (kind,))]
    return [kind.bitwidth // 8 if isinstance(kind, types.Float) else 8 for kind in flat]


def named(names, pattern):
    return [name for name in names if re.match(pattern, name)]


def test_what_is_looked_for_is_there_to_be_found():
    """In a kernel of float64."""
    case = next(case for case in DOUBLE if case.name.startswith("rows_forward"))
    for capability in compiled.CAPABILITIES:
        codes = [compiled.machine_code(case.kernel, capability)] * 2
        for names in compiled.instructions(codes, capability):
            assert named(names, ARITHMETIC)
            assert named(names, r"LDG\.E")
