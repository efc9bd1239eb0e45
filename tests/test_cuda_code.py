"""What the CUDA kernels compile to, which needs no GPU."""

import re

import pytest

pytest.importorskip("numba_cuda", reason="numba-cuda is not installed")

from numba import types

from tests import compiled
from tests.kernels import every_kernel

CASES = list(every_kernel())
REGISTERS = 1 << 16  # of a multiprocessor: a block must find room
pytestmark = pytest.mark.skipif(compiled.tool("nvdisasm") is None, reason="nvidia-cuda-nvdisasm is not installed")


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_every_kernel_compiles_to_what_it_should(case):
    """128-bit accesses where they are meant, nothing kept in memory of the thread's, registers for the whole block,
    in a kernel of float32 no arithmetic of float64, and arguments of the sizes that a launch gives them.
    """
    sizes = [given.bitwidth // 8 if isinstance(given, types.Float) else 8 for given in flat(case.kernel.argument_types)]
    for capability, code in compiled.machine_codes(case.kernel):
        assert code.argument_sizes == sizes, capability
        assert code.stack == code.local == 0, capability
        assert -(-code.registers // 8) * 8 * case.kernel.threads <= REGISTERS, capability
        assert code.shared < 48 << 10, capability
        if case.dtype is types.float32:
            assert not named(code, r"D(ADD|MUL|FMA|SETP|MNMX)\b|F2F.*F64|I2F.*F64|F2I.*F64|MUFU.*64"), capability
        if case.wide and (case.dtype is types.float32 or capability == (9, 0)):
            assert named(code, r"LDG\.E\.128"), capability
            assert bool(named(code, r"STG\.E\.128")) == case.stores_wide, capability


def flat(argument_types):
    """With each integer of a tuple on its own."""
    return [one for kind in argument_types for one in (kind if isinstance(kind, types.BaseTuple) else (kind,))]


def named(code, pattern):
    return [name for name in code.instructions if re.match(pattern, name)]


def test_what_is_looked_for_is_there_to_be_found():
    """In a kernel of float64."""
    case = next(case for case in CASES if case.name.startswith("rows_forward") and case.dtype is types.float64)
    for _, code in compiled.machine_codes(case.kernel):
        assert named(code, r"D(ADD|MUL|FMA|SETP|MNMX)\b")
        assert named(code, r"LDG\.E")
