"""The interpreter of PTX catches what it is for, and leaves alone what is right."""

import numpy as np
import pytest

from tests.ptx import Divergence, Fault, Misaligned, OutOfBounds, Race, Uninitialised, Unsupported
from tests.ptx import run as launch
from tests.ptx.snippets import Device, program

MIRRORED = """
    shl.b32 %r4, %r0, 2;
    mov.u32 %r5, shared;
    add.s32 %r6, %r5, %r4;
    sub.s32 %r7, 252, %r4;
    add.s32 %r7, %r5, %r7;
"""
OWN = "mad.wide.u32 %rd4, %r3, 4, %rd0; mad.wide.u32 %rd5, %r3, 4, %rd1;"
MIRRORED_GLOBALLY = OWN + "xor.b32 %r4, %r3, 63; mad.wide.u32 %rd6, %r4, 4, %rd0;"
FAULTS = {  # name: fault, the text that is wrong and what is right in its place, the kernel; 64 threads in 2 blocks
    "missing barrier": (Race, "", "bar.sync 0;", MIRRORED + "st.shared.u32 [%r6], %r0; {} ld.shared.u32 %r8, [%r7];"),
    "missing barrier before a write": (
        Race,
        "",
        "bar.sync 0;",
        MIRRORED
        + """mov.u32 %r9, 0;
        again: st.shared.u32 [%r6], %r9; bar.sync 0; ld.shared.u32 %r8, [%r7]; {}
        add.s32 %r9, %r9, 1; setp.lt.s32 %p1, %r9, 3; @%p1 bra again;""",
    ),
    "all threads write a word": (
        Race,
        "",
        "setp.ne.s32 %p1, %r0, 5; @%p1 bra end;",
        "{} st.shared.u32 [shared], %r0; end:",
    ),
    "a warp without its barrier": (
        Race,
        "",
        "bar.warp.sync -1;",
        MIRRORED + "xor.b32 %r9, %r6, 4; st.shared.u32 [%r6], %r0; {} ld.shared.u32 %r8, [%r9];",
    ),
    "a warp's barrier among two warps": (
        Race,
        "bar.warp.sync -1;",
        "bar.sync 0;",
        MIRRORED + "st.shared.u32 [%r6], %r0; {} ld.shared.u32 %r8, [%r7];",
    ),
    "several readers before a writer": (
        Race,
        "bar.warp.sync -1;",
        "bar.sync 0;",
        MIRRORED + "st.shared.u32 [%r6], %r0; bar.sync 0; ld.shared.u32 %r8, [shared]; {}"
        "setp.ne.s32 %p1, %r0, 0; @%p1 bra end; st.shared.u32 [shared], 7; end:",
    ),
    "several readers of a warp before a writer": (
        Race,
        "",
        "bar.warp.sync -1;",
        """mov.u32 %r4, %warpid; shl.b32 %r4, %r4, 2; mov.u32 %r5, shared; add.s32 %r5, %r5, %r4;
        setp.ne.s32 %p1, %laneid, 0; @!%p1 st.shared.u32 [%r5], %r0; bar.sync 0; ld.shared.u32 %r6, [%r5]; {}
        @!%p1 st.shared.u32 [%r5], %r0;""",
    ),
    "a barrier in one branch": (
        Divergence,
        "bar.sync 0; join:",
        "join: bar.sync 0;",
        "setp.lt.s32 %p1, %r0, 40; @%p1 bra join; {}",
    ),
    "a barrier in each branch": (
        Divergence,
        "bar.sync 0; bra end; other: bar.sync 0;",
        "bra end; other: bra end;",
        "setp.lt.s32 %p1, %r0, 32; @%p1 bra other; {} end:",
    ),
    "some of a warp end before a barrier": (
        Divergence,
        "ret;",
        "bra end;",
        "setp.lt.s32 %p1, %r0, 50; @%p1 bra end; {} end: bar.sync 0;",
    ),
    "a shuffle in one branch": (
        Divergence,
        "0xFFFFFFFF",
        "0xFFFF0000",
        "setp.lt.s32 %p1, %laneid, 16; @%p1 bra end; shfl.sync.bfly.b32 %r4, %r0, 1, 31, {}; end:",
    ),
    "a shuffle from a lane that its mask leaves out": (
        Divergence,
        "16",
        "8",
        "setp.lt.s32 %p1, %laneid, 16; @%p1 bra end; shfl.sync.bfly.b32 %r4, %r0, {}, 31, 0xFFFF0000; end:",
    ),
    "a lane that is not in its mask": (Divergence, "0xFFFF", "-1", "vote.sync.ballot.b32 %r4, %p1, {};"),
    "some of a warp end before a shuffle": (
        Divergence,
        "ret;",
        "mov.u32 %r4, 0;",
        "setp.lt.s32 %p1, %r0, 50; @%p1 bra next; {} next: shfl.sync.idx.b32 %r4, %r0, 0, 31, -1;",
    ),
    "a load behind the end": (OutOfBounds, "+512", "+508", "ld.global.u32 %r4, [%rd0{}];"),
    "a load before the start": (OutOfBounds, "+-4", "+0", "ld.global.u32 %r4, [%rd0{}];"),
    "a store behind the end": (
        OutOfBounds,
        "512",
        "508",
        "setp.ne.s32 %p1, %r3, 3; @%p1 bra end; st.global.u32 [%rd0+{}], %r0; end:",
    ),
    "shared memory behind the end": (
        OutOfBounds,
        "256",
        "252",
        "setp.eq.s32 %p1, %r0, 0; @%p1 st.shared.u32 [shared+{}], 1;",
    ),
    "local memory behind the end": (
        OutOfBounds,
        "32",
        "28",
        ".local .align 4 .b8 own[32]; st.local.u32 [own+{}], 1;",
    ),
    "the null pointer": (OutOfBounds, "0", "%rd0", "mov.u64 %rd4, {}; ld.global.u32 %r4, [%rd4];"),
    "a vector at an odd address": (Misaligned, "+4", "+16", "ld.global.v4.f32 {{%f0, %f1, %f2, %f3}}, [%rd0{}];"),
    "a float at an odd address": (Misaligned, "3", "4", "ld.global.f32 %f0, [%rd0+{}];"),
    "shared memory at an odd address": (
        Misaligned,
        "4",
        "8",
        "setp.eq.s32 %p1, %r0, 0; @%p1 st.shared.v2.u32 [shared+{}], {{%r0, %r1}};",
    ),
    "shared memory that nobody wrote": (
        Uninitialised,
        "63",
        "64",
        MIRRORED + "setp.lt.s32 %p1, %r0, {}; @%p1 st.shared.u32 [%r6], %r0; bar.sync 0; ld.shared.u32 %r8, [%r6];",
    ),
    "a word that both blocks write": (Race, "%r0", "%r3", "mad.wide.u32 %rd4, {}, 4, %rd0; st.global.u32 [%rd4], %r3;"),
    "a word that another block reads": (
        Race,
        "%rd0",
        "%rd1",
        OWN + "ld.global.u32 %r4, [{}+16]; st.global.u32 [%rd4], %r3;",
    ),
    "a word that another block reads afterwards": (
        Race,
        "%rd4",
        "%rd5",
        OWN + "st.global.u32 [{}], %r3; bar.sync 0; ld.global.u32 %r4, [%rd0+256];",
    ),
    "a word that another thread of the block wrote": (
        Race,
        "",
        "bar.sync 0;",
        MIRRORED_GLOBALLY + "st.global.u32 [%rd4], %r3; {} ld.global.u32 %r5, [%rd6];",
    ),
    "a word that another thread of the block read": (
        Race,
        "",
        "bar.sync 0;",
        MIRRORED_GLOBALLY + "ld.global.u32 %r5, [%rd6]; {} st.global.u32 [%rd4], %r3;",
    ),
    "half a word that another thread writes": (
        Race,
        "and.b32 %r4, %r3, 126; mad.wide.u32 %rd6, %r4, 2, %rd0; ld.global.u32 %r5, [%rd6];",
        "ld.global.u16 %rs1, [%rd4];",
        "mad.wide.u32 %rd4, %r3, 2, %rd0; cvt.u16.u32 %rs0, %r3; st.global.u16 [%rd4], %rs0; {}",
    ),
    "a byte of a word that another thread writes": (
        Race,
        "%rd6",
        "%rd4",
        MIRRORED_GLOBALLY + "st.global.u32 [%rd4], %r3; ld.global.u8 %rs0, [{}+1];",
    ),
    "a constant that its reader writes": (
        Race,
        ".nc",
        "",
        OWN + "ld.global{}.u32 %r4, [%rd4]; st.global.u32 [%rd4], %r4;",
    ),
    "a constant that its writer reads": (
        Race,
        ".nc",
        ".cs",
        OWN + "st.global.u32 [%rd4], %r3; bar.sync 0; ld.global{}.u32 %r4, [%rd4];",
    ),
    "a jump beyond its table": (
        Fault,
        "1",
        "0",
        "table: .branchtargets one; min.u32 %r4, %r0, {}; brx.idx %r4, table; one:",
    ),
    "an atomic operation": (Unsupported, "atom.global.add.u32", "ld.global.u32 %r4, [%rd0]; //", "{} %r4, [%rd0], 1;"),
    "a trap": (Fault, "-1", "0", "setp.lt.s32 %p1, {}, 0; @%p1 trap;"),
}


def run_fault(name, text, order=None, number=None):
    decoded = program(FAULTS[name][3].format(text), shared=256)
    if number is not None:
        decoded = decoded.without(number)
    device = Device()
    arguments = [device.put(np.arange(128, dtype=np.int32)) for _ in range(2)]
    return launch(decoded, 2, 64, arguments, device.memory, order=order)


@pytest.mark.parametrize("order", [None, 0, 1])
@pytest.mark.parametrize("name", FAULTS)
def test_a_fault(name, order):
    fault, wrong, right, _ = FAULTS[name]
    run_fault(name, right, order)
    with pytest.raises(fault) as raised:
        run_fault(name, wrong, order)
    assert type(raised.value) is fault
    assert "block " in str(raised.value)
    assert "thread " in str(raised.value)


@pytest.mark.parametrize("name", [name for name in FAULTS if FAULTS[name][:2] == (Race, "")])
def test_without_a_barrier(name):
    """Of kernels that need all their barriers."""
    text = FAULTS[name][2]
    decoded = program(FAULTS[name][3].format(text), shared=256)
    assert decoded.barriers or "bar" not in text
    for number in decoded.barriers:
        with pytest.raises((Race, Uninitialised)):
            run_fault(name, text, number=number)


def test_what_a_fault_says():
    with pytest.raises(
        OutOfBounds, match=r"(?s)block 0, thread 3: 4 bytes at .*: offset 512 of the 512 bytes at .*st.global"
    ):
        run_fault("a store behind the end", "512")
    with pytest.raises(Divergence, match=r"(?s)thread 0: waits at a barrier, thread 50 of its block has ended"):
        run_fault("some of a warp end before a barrier", "ret;")


def test_in_place():
    """A thread may read what it then writes, before and after barriers, and what all read may be of one thread."""
    body = OWN + """ld.global.f32 %f0, [%rd4]; bar.sync 0; ld.global.f32 %f1, [%rd4]; add.f32 %f0, %f0, %f1;
        ld.global.f32 %f2, [%rd1]; fma.rn.f32 %f0, %f0, %f2, %f2; st.global.f32 [%rd4], %f0;
        ld.global.f32 %f3, [%rd4]; add.f32 %f3, %f3, %f2; st.global.f32 [%rd4], %f3;"""  # fmt: skip
    device, x = Device(), np.arange(1000 * 32, dtype=np.float32)
    addresses = device.put(x), device.put(np.float32([3]))
    launch(program(body), 1000, 32, addresses, device.memory)
    np.testing.assert_array_equal(device.get(addresses[0], np.float32, x.size), x * 6 + 6)


def test_a_race_far_apart():
    """Blocks that are not executed at once."""
    body = """setp.gt.s32 %p1, %r1, 0; @!%p1 ld.global.u32 %r4, [%rd0];
        setp.eq.s32 %p1, %r3, 99999; @%p1 st.global.u32 [%rd0], 1;"""
    for order in (None, 0, 1):
        device = Device()
        with pytest.raises(Race):
            launch(program(body, 1), 100000, 1, [device.put(np.zeros(1, np.int32))], device.memory, order=order)
