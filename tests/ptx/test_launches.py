"""Whole launches: what they count, in which order they are executed, and kernels that Numba compiled."""

import math

import numpy as np
import pytest

from tests.ptx import GlobalMemory, OutOfBounds, Program, Race, Uninitialised, Unsupported, run
from tests.ptx.snippets import Device, program

THREADS = 128


@pytest.mark.parametrize(
    ("body", "offset", "sectors", "nbytes"),
    [
        ("mad.wide.u32 %rd4, %r3, 4, %rd0; ld.global.f32 %f0, [%rd4];", 0, 4, 4),
        ("mad.wide.u32 %rd4, %r3, 4, %rd0; ld.global.f32 %f0, [%rd4];", 4, 5, 4),
        ("mad.wide.u32 %rd4, %r3, 8, %rd0; ld.global.f64 %fd0, [%rd4];", 0, 8, 8),
        ("mad.wide.u32 %rd4, %r3, 16, %rd0; ld.global.cs.v4.f32 {%f0, %f1, %f2, %f3}, [%rd4];", 16, 17, 16),
        ("mad.wide.u32 %rd4, %r3, 16, %rd0; ld.global.nc.L1::no_allocate.v2.f64 {%fd0, %fd1}, [%rd4];", 0, 16, 16),
        ("mad.wide.u32 %rd4, %r3, 12, %rd0; ld.global.f32 %f0, [%rd4];", 0, 12, 4),
        ("mad.wide.u32 %rd4, %r3, 128, %rd0; ld.global.f32 %f0, [%rd4];", 0, 32, 4),
        ("ld.global.f32 %f0, [%rd0];", 0, 1, 4),
        ("sub.s32 %r4, 127, %r3; mad.wide.s32 %rd4, %r4, 4, %rd0; ld.global.f32 %f0, [%rd4];", 0, 4, 4),
        ("xor.b32 %r4, %r3, 21; mad.wide.s32 %rd4, %r4, 4, %rd0; ld.global.f32 %f0, [%rd4];", 0, 4, 4),
        ("and.b32 %r4, %r3, 15; mad.wide.s32 %rd4, %r4, 4, %rd0; ld.global.f32 %f0, [%rd4];", 0, 2, 4),
    ],
)
def test_sectors(body, offset, sectors, nbytes):
    device = Device()
    counts = run(program(body, 1), 1, THREADS, [device.put(np.zeros(4096), offset)], device.memory)
    assert (counts.load_requests, counts.loaded_sectors) == (THREADS // 32, sectors * THREADS // 32)
    assert counts.loaded_bytes == nbytes * THREADS
    assert (counts.store_requests, counts.stored_sectors, counts.stored_bytes) == (0, 0, 0)


def test_requests_of_some_threads():
    """Of 100 threads the last 60 store: 24 of their warp, 32, and 4."""
    device = Device()
    body = "setp.lt.s32 %p1, %r0, 40; mad.wide.u32 %rd4, %r0, 4, %rd0; @!%p1 st.global.u32 [%rd4], %r0;"
    counts = run(program(body, 1), 1, 100, [device.put(np.zeros(50))], device.memory)
    assert (counts.store_requests, counts.stored_sectors, counts.stored_bytes) == (3, 3 + 4 + 1, 240)
    assert counts.instructions["st.global.u32"] == 4
    assert counts.instructions["ret"] == 4


@pytest.mark.parametrize(
    ("address", "access", "wavefronts"),
    [
        ("%r0, 4", "b32 [%r4], %r0", 4),
        ("%r0, 8", "b32 [%r4], %r0", 8),
        ("%r0, 128", "b32 [%r4], %r0", 128),
        ("%r0, 132", "b32 [%r4], %r0", 4),
        ("%r0, 8", "b64 [%r4], %rd0", 8),
        ("%r0, 16", "v4.b32 [%r4], {%r0, %r0, %r0, %r0}", 16),
        ("%r0, 16", "b64 [%r4], %rd0", 16),
    ],
)
def test_bank_conflicts(address, access, wavefronts):
    device = Device()
    body = f"mul.lo.u32 %r4, {address}; st.shared.{access};"
    counts = run(program(body, 1, shared=20000), 1, THREADS, [0], device.memory)
    assert (counts.shared_requests, counts.shared_wavefronts) == (4, wavefronts)


def test_a_broadcast_is_no_conflict():
    body = "setp.eq.s32 %p1, %r0, 0; @%p1 st.shared.u32 [shared], 5; bar.sync 0; ld.shared.u32 %r4, [shared];"
    counts = run(program(body, 0, shared=16), 1, THREADS, [], Device().memory)
    assert (counts.shared_requests, counts.shared_wavefronts) == (5, 5)


def test_chosen_blocks():
    body = "mad.wide.u32 %rd4, %r3, 4, %rd0; st.global.u32 [%rd4], %r1;"
    device = Device()
    address = device.put(np.full(320, -1, np.int32))
    counts = run(program(body, 1), 10, 32, [address], device.memory, blocks=[2, 9])
    written = device.get(address, np.int32, 320).reshape(10, 32)
    np.testing.assert_array_equal(written, np.array([-1, -1, 2, -1, -1, -1, -1, -1, -1, 9])[:, None].repeat(32, 1))
    assert counts.stored_bytes == 2 * 128


def test_grids_of_three_axes():
    body = """mov.u32 %r4, %ctaid.x; mov.u32 %r5, %ctaid.y; mov.u32 %r6, %ctaid.z; mov.u32 %r7, %nctaid.x;
        mov.u32 %r8, %nctaid.y; mad.lo.s32 %r9, %r6, %r8, %r5; mad.lo.s32 %r9, %r9, %r7, %r4;
        mov.u32 %r10, %tid.y; mov.u32 %r11, %tid.z; mov.u32 %r12, %ntid.y; mad.lo.s32 %r13, %r11, %r12, %r10;
        mad.lo.s32 %r13, %r13, %r2, %r0; mad.lo.s32 %r14, %r9, 24, %r13;
        mad.wide.u32 %rd4, %r14, 4, %rd0; st.global.u32 [%rd4], %r14;"""
    device = Device()
    address = device.put(np.zeros(24 * 30, np.int32))
    run(program(body, 1), (2, 3, 5), (2, 3, 4), [address], device.memory)
    np.testing.assert_array_equal(device.get(address, np.int32, 720), np.arange(720))


def test_names_in_inner_blocks():
    body = """mov.u32 %r4, %r0;
        { .reg .b32 %r4; .reg .pred p; mov.u32 %r4, 7; setp.eq.u32 p, %r0, 3; @p bra skip; add.s32 %r5, %r4, 1; skip: }
        { .reg .b32 t, u; mov.b32 {t, _}, %rd0; setp.eq.u32 %p1, %r0, 3; @!%p1 bra skip; mov.u32 %r5, %r4; skip: }
        mad.wide.u32 %rd4, %r3, 4, %rd0; st.global.u32 [%rd4], %r5;"""
    device = Device()
    address = device.put(np.zeros(8, np.int32))
    run(program(body, 1), 1, 8, [address], device.memory)
    np.testing.assert_array_equal(device.get(address, np.int32, 8), [8, 8, 8, 3, 8, 8, 8, 8])


def test_generic_addresses():
    body = """.local .align 8 .b8 own[8];
        mov.u64 %rd5, own; cvta.local.u64 %rd5, %rd5; st.u32 [%rd5+4], %r0;
        mov.u64 %rd6, shared; cvta.shared.u64 %rd6, %rd6; mad.wide.u32 %rd6, %r0, 4, %rd6; add.s32 %r4, %r0, 100;
        st.u32 [%rd6], %r4; and.b32 %r5, %r0, 1; setp.eq.u32 %p1, %r5, 1; selp.b64 %rd7, %rd6, %rd5, %p1;
        @!%p1 add.s64 %rd7, %rd7, 4; ld.u32 %r6, [%rd7];
        cvta.to.global.u64 %rd8, %rd0; mad.wide.u32 %rd8, %r3, 4, %rd8; st.u32 [%rd8], %r6;"""
    device, n = Device(), np.arange(64)
    address = device.put(np.zeros(64, np.int32))
    run(program(body, 1, shared=256), 1, 64, [address], device.memory)
    np.testing.assert_array_equal(device.get(address, np.int32, 64), np.where(n % 2, n + 100, n))


def test_half_of_a_vector_behind_the_end():
    decoded, device = program("ld.global.v2.u32 {%r4, %r5}, [%rd0+8];", 1), Device()
    run(decoded, 1, 1, [device.put(np.arange(4))], device.memory)
    with pytest.raises(OutOfBounds):
        run(decoded, 1, 1, [device.put(np.arange(3, dtype=np.int32))], device.memory)


def test_global_memory():
    memory = GlobalMemory(1 << 16)
    first, second = memory.allocate(10), memory.allocate(100, offset=4)
    assert (first % 256, second % 256) == (0, 4)
    assert second - first >= 256 + 10
    assert (memory.bytes(first, 10) == 0xFF).all()
    memory.bytes(first, 10)[...] = 1
    for address, nbytes in ((first - 1, 2), (first, 11), (first + 10, 1), (second - 4, 4)):
        with pytest.raises(OutOfBounds):
            memory.bytes(address, nbytes)
    memory.release(first)
    with pytest.raises(OutOfBounds):
        memory.bytes(first, 10)
    assert memory.allocate(20) == first
    assert (memory.bytes(first, 20) == 0xFF).all()
    with pytest.raises(MemoryError):
        memory.allocate(1 << 16)


def test_what_is_not_taken():
    decoded, memory = program("bar.sync 0;"), GlobalMemory(1 << 16)
    with pytest.raises(TypeError, match="1 arguments for 2"):
        run(decoded, 1, 32, [1], memory)
    with pytest.raises(ValueError, match="threads in a block"):
        run(decoded, 1, 1025, [1, 2], memory)
    with pytest.raises(ValueError, match="not in the grid"):
        run(decoded, 2, 32, [1, 2], memory, blocks=[2])
    with pytest.raises(ValueError, match="no kernel"):
        Program("", "other")


def test_parameters():
    text = """.visible .entry other(.param .u64 .ptr .align 1 p) { ret; }
        .visible .entry one(.param .u64 .ptr .global .align 16 p, .param .f32 x, .param .f64 y, .param .s32 n)
        .maxntid 32, 1, 1
        { .reg .f64 %d<4>; .reg .f32 %f<2>; .reg .b64 %r<2>; .reg .b32 %n<2>;
          ld.param.u64 %r0, [p]; ld.param.f32 %f0, [x]; ld.param.f64 %d0, [y]; ld.param.s32 %n0, [n];
          cvt.f64.f32 %d1, %f0; cvt.rn.f64.s32 %d2, %n0; fma.rn.f64 %d3, %d0, %d2, %d1;
          st.global.f64 [%r0], %d3; }"""
    device, decoded = Device(), Program(text, "one")
    address = device.put(np.zeros(1))
    assert decoded.parameters == ["u64", "f32", "f64", "s32"]
    run(decoded, 1, 1, [np.uint64(address), 0.1, np.float64(2.5), np.int64(-3)], device.memory)
    assert device.get(address, np.float64, 1)[0] == np.float64(np.float32(0.1)) - 7.5
    with pytest.raises(ValueError, match="64 threads in a block of at most 32"):
        run(decoded, 1, 64, [0, 0, 0, 0], device.memory)
    with pytest.raises(TypeError, match="integer"):
        run(decoded, 1, 1, [address, 1, 1, 1.5], device.memory)
    with pytest.raises(Unsupported, match="not interpreted: 'call'"):
        run(program("call.uni helper;"), 1, 1, [0, 0], device.memory)


def layer_norm(dtype):
    """A kernel with a block for each row, which needs all its barriers."""
    cuda = pytest.importorskip("numba.cuda")
    from numba import types

    of_type = types.float32 if dtype is np.float32 else types.float64

    def kernel(x, y, eps):
        partial = cuda.shared.array(0, of_type)
        row, thread, threads = cuda.blockIdx.x, cuda.threadIdx.x, cuda.blockDim.x
        total = of_type(0)
        for i in range(thread, x.shape[1], threads):
            total += x[row, i]
        partial[thread] = total
        cuda.syncthreads()
        total = of_type(0)
        for i in range(threads):
            total += partial[i]
        mean = total / of_type(x.shape[1])
        cuda.syncthreads()
        total = of_type(0)
        for i in range(thread, x.shape[1], threads):
            total += (x[row, i] - mean) ** 2
        partial[thread] = total
        cuda.syncthreads()
        total = of_type(0)
        for i in range(threads):
            total += partial[i]
        rstd = of_type(1) / math.sqrt(total / of_type(x.shape[1]) + eps)
        for i in range(thread, x.shape[1], threads):
            y[row, i] = (x[row, i] - mean) * rstd

    return cuda, kernel, (of_type[:, ::1], of_type[:, ::1], of_type)


def flat(address, a):
    """What Numba passes for an array."""
    return [0, 0, a.size, a.itemsize, address, *a.shape, *a.strides]


@pytest.mark.parametrize("capability", [(8, 0), (10, 0)])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_kernel_that_numba_compiled(dtype, capability):
    pytest.importorskip("numba_cuda")
    cuda, kernel, types = layer_norm(dtype)
    decoded = Program(cuda.compile_ptx(kernel, types, cc=capability)[0])
    x = np.random.default_rng(0).standard_normal((5, 333)).astype(dtype) + 1
    expected = (x - x.mean(1, keepdims=True)) / np.sqrt(x.var(1, keepdims=True) + 1e-5)

    def normalized(decoded, order):
        device = Device()
        addresses = device.put(x), device.memory.allocate(x.nbytes)
        arguments = [*flat(addresses[0], x), *flat(addresses[1], x), 1e-5]
        counts = run(decoded, 5, 64, arguments, device.memory, order=order, shared=64 * x.itemsize)
        assert counts.stored_bytes == x.nbytes
        assert counts.loaded_bytes == 3 * x.nbytes
        return device.get(addresses[1], dtype, x.size).reshape(x.shape)

    y = normalized(decoded, None)
    np.testing.assert_allclose(y, expected, atol=20 * np.finfo(dtype).eps)
    for order in (0, 1):
        np.testing.assert_array_equal(normalized(decoded, order), y)
    assert len(decoded.barriers) == 3
    for number in decoded.barriers:
        with pytest.raises((Race, Uninitialised)):
            normalized(decoded.without(number), None)
