"""Threads that exchange values, part and meet again."""

import numpy as np
import pytest

from tests.ptx import Unsupported, run
from tests.ptx.snippets import Device, evaluate, program


@pytest.mark.parametrize("distance", [0, 1, 3, 8, 31])
@pytest.mark.parametrize("width", [32, 8])
@pytest.mark.parametrize("mode", ["up", "down", "bfly", "idx"])
def test_shuffles(mode, width, distance):
    lane = np.arange(64)
    first = lane % 32 // width * width
    other = {"up": lane % 32 - distance, "down": lane % 32 + distance, "bfly": lane % 32 ^ distance}
    other = other.get(mode, first + distance % width)
    inside = (other >= first) if mode == "up" else (other < first + width)
    expected = np.where(inside, lane // 32 * 32 + other, lane)
    clamp = 32 - width << 8 | (0 if mode == "up" else 31)
    x = np.arange(1000, 1064, dtype=np.uint32)
    text = f"shfl.sync.{mode}.b32 %r20|%p1, $1, {{}}, {clamp}, -1; selp.b32 $0, %r20, 7, %p1"
    same, own = (
        evaluate(text.format(distance), np.uint32, x),
        evaluate(text.format("$2"), np.uint32, x, x * 0 + distance),
    )
    np.testing.assert_array_equal(same, np.where(inside, x[expected], 7))
    np.testing.assert_array_equal(own, same)
    np.testing.assert_array_equal(
        evaluate(text.format(distance).replace("7, %p1", "%r20, %p1"), np.uint32, x), x[expected]
    )


def test_votes():
    lane = np.arange(64, dtype=np.uint32)
    for name, expected in {"ballot.b32 $0": [0x1F, 0xFFFFFFFF], "all.pred %p2": [0, 1], "any.pred %p2": [1, 1]}.items():
        text = f"setp.lt.u32 %p1, $1, 5; setp.gt.or.u32 %p1, $1, 31, %p1; vote.sync.{name}, %p1, -1"
        text += "" if "ballot" in name else "; selp.u32 $0, 1, 0, %p2"
        np.testing.assert_array_equal(evaluate(text, np.uint32, lane), np.repeat(np.uint32(expected), 32))
    np.testing.assert_array_equal(
        evaluate("redux.sync.add.u32 $0, $1, -1", np.uint32, lane), np.repeat([31 * 16, 31 * 16 + 32 * 32], 32)
    )
    with pytest.raises(Unsupported):
        evaluate("setp.gt.u32 %p1, $1, 15; @!%p1 redux.sync.add.u32 $0, $1, 0xFFFF", np.uint32, lane[:32])
    np.testing.assert_array_equal(evaluate("activemask.b32 $0", np.uint32, lane[:40]), [0xFFFFFFFF] * 32 + [0xFF] * 8)


def test_threads_part_and_meet_again():
    """Each thread counts its own number down, and all still take part in what comes then."""
    body = """mov.u32 %r4, %r0; mov.u32 %r5, 0;
        again: setp.eq.s32 %p1, %r4, 0; @%p1 bra done;
        add.s32 %r5, %r5, %r4; sub.s32 %r4, %r4, 1; bra.uni again;
        done: shfl.sync.bfly.b32 %r6, %r5, 1, 31, -1;
        mad.wide.u32 %rd4, %r3, 4, %rd0; st.global.u32 [%rd4], %r6;"""
    n = np.arange(64)
    for order in (None, 0, 1, 2):
        device = Device()
        address = device.put(np.zeros(128, np.int32))
        counts = run(program(body, 1), 2, 64, [address], device.memory, order=order)
        sums = (n * (n + 1) // 2)[n ^ 1]
        np.testing.assert_array_equal(device.get(address, np.int32, 128), np.tile(sums, 2))
        if order is None:
            assert counts.instructions["add.s32"] == 2 * (31 + 63)


def test_a_jump_table():
    body = """rem.u32 %r4, %r0, 3; table: .branchtargets first, second, third;
        brx.idx %r4, table;
        first: mov.u32 %r5, 10; bra end; second: mov.u32 %r5, 20; bra end; third: mov.u32 %r5, 30;
        end: mad.wide.u32 %rd4, %r3, 4, %rd0; st.global.u32 [%rd4], %r5;"""
    device = Device()
    address = device.put(np.zeros(40, np.int32))
    run(program(body, 1), 1, 40, [address], device.memory)
    np.testing.assert_array_equal(device.get(address, np.int32, 40), np.arange(40) % 3 * 10 + 10)
