"""What the CUDA kernels compile to: rungs of the ladder that need no GPU."""

import re

import pytest

pytest.importorskip("numba_cuda", reason="numba-cuda is not installed")

from numba import types

from tests import compiled
from tests.kernels import every_kernel

CASES = list(every_kernel())
REGISTERS = 1 << 16  # of a multiprocessor: a block must find room
pytestmark = pytest.mark.skipif(compiled.tool("nvdisasm") is None, reason="nvidia-cuda-nvdisasm is not installed")


@pytest.mark.parametrize("capability", compiled.CAPABILITIES, ids=lambda c: f"{c[0]}.{c[1]}")
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_every_kernel_compiles_to_what_it_should(case, capability):
    code = compiled.machine_code(case.kernel, capability)
    names = code.instructions
    assert code.stack == code.local == 0, "values are kept in memory of the thread's"
    assert not any(re.match(r"(LDL|STL)\b", name) for name in names)
    assert -(-code.registers // 8) * 8 * case.kernel.threads <= REGISTERS
    assert code.shared < 48 << 10
    if case.dtype is types.float32:
        double = [name for name in names if re.match(r"D(ADD|MUL|FMA|SETP|MNMX)|F2F.*F64|I2F.*F64|MUFU.*64", name)]
        assert not double, "double precision in a kernel of float32"
    if case.wide:
        assert any(re.match(r"LDG\.E\.128", name) for name in names)
