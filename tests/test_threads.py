"""How many threads calls use: what asks for fewer, what is passed over, and what nobody else notices."""

import os
import platform
import sys

import pytest
from numba.core import config

import numbanorm
from numbanorm.cpu.engine import threads
from numbanorm.cpu.engine.threads import cgroup_quota, thread_count
from tests.faults import ENGINES, python


@pytest.fixture
def machine(monkeypatch):
    """Eight processors, and no limit but what a test sets."""
    for name in ("NUMBANORM_NUM_THREADS", "NUMBA_NUM_THREADS", "OMP_NUM_THREADS"):
        monkeypatch.delenv(name, raising=False)
    for name in ("NUMBA_NUM_THREADS", "NUMBA_DEFAULT_NUM_THREADS"):
        monkeypatch.setattr(config, name, 8)
    monkeypatch.setattr(threads, "processors", lambda: set(range(8)))
    monkeypatch.setattr(threads, "cgroup_quota", lambda: None)
    return monkeypatch


def test_all_processors_are_used_without_limits(machine):
    assert thread_count(None) == 8


@pytest.mark.parametrize(
    ("openmp", "own", "asked", "expected"),
    [
        ("3", None, None, 3),
        ("2,1", None, None, 2),
        (" 2 , 1", None, None, 2),
        ("", None, None, 8),
        ("many", None, None, 8),
        ("0", None, None, 8),
        ("-2", None, None, 8),
        ("2.5", None, None, 8),
        ("3", "2", None, 2),
        ("3", "5", None, 3),
        (None, "5", None, 5),
        (None, "", None, 8),
        (None, " 4 ", None, 4),
        (None, "50", None, 8),
        (None, "5", 4, 4),
        ("2", "5", 4, 2),
        (None, None, 100, 8),
    ],
)
def test_the_smallest_limit_counts(machine, openmp, own, asked, expected):
    for name, value in {"OMP_NUM_THREADS": openmp, "NUMBANORM_NUM_THREADS": own}.items():
        if value is not None:
            machine.setenv(name, value)
    assert thread_count(asked) == expected


def test_what_numba_found_as_it_was_imported_is_no_limit(machine):
    """By a thread that was bound to one processor: the process has more. But what it was told is one."""
    for name in ("NUMBA_NUM_THREADS", "NUMBA_DEFAULT_NUM_THREADS"):
        machine.setattr(config, name, 1)
    assert thread_count(None) == 8
    machine.setenv("NUMBA_NUM_THREADS", "1")
    assert thread_count(None) == 1
    machine.delenv("NUMBA_NUM_THREADS")
    machine.setattr(config, "NUMBA_NUM_THREADS", 3)
    assert thread_count(None) == 3


@pytest.mark.parametrize("value", ["0", "-1", "two", "2.5", "1,2", "0x2", "1e1", "²"])
def test_a_wrong_number_of_threads_in_the_environment(machine, value):
    """It may be noticed by any call, which computes nothing then."""
    machine.setenv("NUMBANORM_NUM_THREADS", value)
    with pytest.raises(ValueError, match=f"NUMBANORM_NUM_THREADS: '{value}', must be a whole number of at least 1"):
        numbanorm.get_num_threads()


def test_a_wrong_engine_in_the_environment(monkeypatch):
    monkeypatch.setenv("NUMBANORM_ENGINE", "steam")
    with pytest.raises(ValueError, match=r"NUMBANORM_ENGINE: 'steam', must be (parked or prange|prange)$"):
        numbanorm.get_num_threads()


@pytest.mark.parametrize(
    ("n", "error"), [(0, ValueError), (-1, ValueError), (1.0, TypeError), ("1", TypeError), (True, TypeError)]
)
def test_a_wrong_number_of_threads_is_refused(n, error):
    before = numbanorm.get_num_threads()
    with pytest.raises(error, match=r"^n: "):
        numbanorm.set_num_threads(n)
    assert numbanorm.get_num_threads() == before


def test_a_number_of_threads_is_asked_for(machine):
    try:
        for n, expected in ((3, 3), (1, 1), (20, 8), (None, 8)):
            numbanorm.set_num_threads(n)
            assert numbanorm.get_num_threads() == expected
    finally:
        machine.undo()
        numbanorm.set_num_threads(None)


ONE_THREAD = """
import numbanorm
from tests import faults

shape = faults.LARGE[0]
faults.assert_contract(faults.results(shape), shape)
assert numbanorm.get_num_threads() == 1
assert "numbanorm" not in faults.tasks()
"""


@pytest.mark.parametrize(
    ("name", "value"),
    [("NUMBANORM_NUM_THREADS", "1"), ("NUMBA_NUM_THREADS", "1"), ("OMP_NUM_THREADS", "1"), ("OMP_NUM_THREADS", "1,4")],
)
def test_one_thread_in_the_environment(name, value):
    python(ONE_THREAD, **{name: value})


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="no affinity")
@pytest.mark.parametrize("before", ["", "import numba\n"])
def test_one_processor(before):
    """The process may run on no other; Numba looks when it is imported."""
    python(before + "import os; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})\n" + ONE_THREAD)


@pytest.mark.parametrize("engine", ENGINES)
def test_nobody_elses_threads_are_touched(engine):
    script = """
        import os
        import numba
        from tests import faults
        import numbanorm

        before, environment = numba.get_num_threads(), dict(os.environ)
        numba.set_num_threads(1)
        assert faults.start_and_verify() == min(faults.threads.limits(None).values())
        for n in (1, 2, None):
            numbanorm.set_num_threads(n)
            faults.results(faults.LARGE[0])
            assert numba.get_num_threads() == 1
        numba.set_num_threads(before)
        faults.results(faults.LARGE[0])
        assert numba.get_num_threads() == before
        assert dict(os.environ) == environment
    """
    python(script, NUMBANORM_ENGINE=engine)


@pytest.mark.parametrize("own", [None, "2"])
def test_children_of_multiprocessing(own):
    """One thread each unless they are told otherwise themselves: what their parent asked for was for itself."""
    script = f"""
        import multiprocessing
        import numbanorm
        from numbanorm.cpu.engine.threads import limits

        most = min(limits(None).values())
        of_itself, asked = {"min(2, most)" if own else "1"}, min(2, most)
        for method in ("fork", "spawn", "forkserver"):
            for n in (2, 1):
                numbanorm.set_num_threads(n)
                assert numbanorm.get_num_threads() == min(n, most)
                if n == 1 and method != "fork":
                    continue  # nothing of the parent's is there
                with multiprocessing.get_context(method).Pool(1) as pool:
                    assert pool.apply(numbanorm.get_num_threads) == of_itself, method
                    pool.apply(numbanorm.set_num_threads, (2,))
                    assert pool.apply(numbanorm.get_num_threads) == asked, method
                    pool.apply(numbanorm.set_num_threads, (None,))
                    assert pool.apply(numbanorm.get_num_threads) == of_itself, method
    """
    python(script, **{"NUMBANORM_NUM_THREADS": own} if own else {})


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
def test_a_forked_child_that_is_none_of_multiprocessing():
    """It goes on as the process that it was."""
    script = """
        import numbanorm
        from numbanorm.cpu.engine.threads import limits
        from tests import faults

        def child():
            assert numbanorm.get_num_threads() == expected

        for n in (None, 1, 2):
            numbanorm.set_num_threads(n)
            expected = min(limits(n).values())
            child()
            faults.in_fork(child)
    """
    python(script)


FORBIDDEN = """
import ctypes, errno, os, platform, struct
import numbanorm
from tests import faults

number = {"x86_64": 204, "aarch64": 123}[platform.machine()]  # of sched_getaffinity
load, jump_if_equal, leave = 0x20, 0x15, 0x06
refused, allowed = 0x00050000 | errno.EPERM, 0x7FFF0000
steps = (load, 0, 0, 0), (jump_if_equal, 0, 1, number), (leave, 0, 0, refused), (leave, 0, 0, allowed)
filters = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *step) for step in steps))
program = ctypes.create_string_buffer(struct.pack("HP", len(steps), ctypes.addressof(filters)))
control = ctypes.CDLL(None, use_errno=True).prctl
assert control(38, 1, 0, 0, 0) == 0 and control(22, 2, program) == 0, os.strerror(ctypes.get_errno())
try:
    os.sched_getaffinity(0)
except PermissionError:
    pass
else:
    raise AssertionError("the filter is not at work")
faults.start_and_verify()
assert numbanorm.get_num_threads() <= os.cpu_count()
"""


@pytest.mark.skipif(platform.machine() not in ("x86_64", "aarch64"), reason="system calls have other numbers")
@pytest.mark.skipif(sys.platform != "linux", reason="no filters of system calls")
def test_a_filter_forbids_to_ask_for_the_processors():
    """As some sandboxes have."""
    python(FORBIDDEN)


def test_processors_where_the_system_does_not_say(monkeypatch):
    def refuse(_):
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "sched_getaffinity", refuse, raising=False)
    assert threads.processors() == set(range(os.cpu_count()))
    monkeypatch.delattr(os, "sched_getaffinity")
    assert threads.processors() == set(range(os.cpu_count()))


V1 = "11:memory:/a/b\n4:cpu,cpuacct:/a/b\n1:name=systemd:/a/b\n"
V2 = "0::/a/b/c\n"
QUOTA, PERIOD = "cpu.cfs_quota_us", "cpu.cfs_period_us"


@pytest.mark.parametrize(
    ("own", "files", "expected"),
    [
        (V2, {"a/b/c/cpu.max": "300000 100000"}, 3),
        (V2, {"a/b/c/cpu.max": "250000 100000"}, 2),
        (V2, {"a/b/c/cpu.max": "50000 100000"}, 1),
        (V2, {"a/b/c/cpu.max": "1000 100000"}, 1),
        (V2, {"a/b/c/cpu.max": "20000 10000"}, 2),
        (V2, {"a/b/c/cpu.max": "max 100000"}, None),
        (V2, {"a/b/c/cpu.max": "max 100000", "a/cpu.max": "400000 100000"}, 4),
        (V2, {"a/b/c/cpu.max": "600000 100000", "a/b/cpu.max": "200000 100000", "a/cpu.max": "max 100000"}, 2),
        (V2, {"a/b/c/cpu.max": "200000 100000", "a/b/cpu.max": "600000 100000"}, 2),
        (V2, {"a/b/other/cpu.max": "100000 100000"}, None),
        (V2, {"cpu.max": "500000 100000"}, 5),
        ("0::/\n", {"cpu.max": "500000 100000"}, 5),
        ("0::/../../host/group\n", {"cpu.max": "500000 100000"}, 5),
        ("0::/with:colons\n", {"with:colons/cpu.max": "500000 100000"}, 5),
        (V2, {"a/b/c/cpu.max": ""}, None),
        (V2, {"a/b/c/cpu.max": "many 100000"}, None),
        (V2, {}, None),
        (V1, {f"cpu,cpuacct/a/b/{QUOTA}": "300000", f"cpu,cpuacct/a/b/{PERIOD}": "100000"}, 3),
        (V1, {f"cpu/a/b/{QUOTA}": "250000", f"cpu/a/b/{PERIOD}": "100000"}, 2),
        (V1, {f"cpu/a/b/{QUOTA}": "50000", f"cpu/a/b/{PERIOD}": "100000"}, 1),
        (V1, {f"cpu/a/b/{QUOTA}": "-1", f"cpu/a/b/{PERIOD}": "100000"}, None),
        (
            V1,
            {
                f"cpu/a/b/{QUOTA}": "-1",
                f"cpu/a/b/{PERIOD}": "100000",
                f"cpu/a/{QUOTA}": "400000",
                f"cpu/a/{PERIOD}": "100000",
            },
            4,
        ),
        (V1, {f"cpu/{QUOTA}": "200000", f"cpu/{PERIOD}": "100000"}, 2),
        (V1, {f"cpu/a/b/{QUOTA}": "300000"}, None),
        (V1, {f"memory/a/b/{QUOTA}": "100000", f"memory/a/b/{PERIOD}": "100000"}, None),
        (V1 + V2, {"unified/a/b/c/cpu.max": "300000 100000"}, 3),
        (V1 + V2, {"unified/a/b/cpu.max": "700000 100000", f"cpu/{QUOTA}": "200000", f"cpu/{PERIOD}": "100000"}, 2),
        ("", {"cpu.max": "500000 100000"}, None),
        (None, {"cpu.max": "500000 100000"}, None),
    ],
)
def test_quotas_of_control_groups(tmp_path, own, files, expected):
    """Of the process's group and of those above it, the smallest."""
    mounts, groups = tmp_path / "mounts", tmp_path / "groups"
    for name, text in files.items():
        path = mounts / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text + "\n")
    if own is not None:
        groups.write_text(own)
    assert cgroup_quota(mounts, groups) == expected


def test_a_quota_limits_the_number_of_threads(machine):
    machine.setattr(threads, "cgroup_quota", lambda: 2)
    assert thread_count(None) == 2
    assert thread_count(5) == 2
