"""Which tests run always, which in `.ci/run`, which at night; and which files come first.

The README's test command proves each kind of fault once. `.ci/run` adds the tests marked `slow`: what takes long, and
second variants of what the command has run (the other dtype, engine or threading layer, more shapes on the emulated
GPU, other processors' vectors). `-m ''` adds those marked `nightly`: more of the same, or gigabytes of memory.

A whole test, or a parameter that has its line anyway, is marked where it stands. The other variants are marked here:
for a part of the tests and a test, by a pattern of what pytest writes in brackets after the device. A part is a file
or, of tests that run on several devices, a file and a device: "test_layernorm on emulated". pytest-xdist gives a part
to one worker (`--dist loadfile`). `tests/test_tiers.py` holds that each alternative of a pattern marks some variants,
and that each pattern leaves some to another tier.
"""

import re
from pathlib import PurePath

import pytest

from tests.devices import DEVICES

_DEVICE = re.compile(rf"({'|'.join(device.name for device in DEVICES)})(?:-|]|$)")  # where a variant begins
COLLECTED = pytest.StashKey[list[pytest.Item]]()  # of a session, before pytest has chosen by markers

# Those that compile most, then those that take longest: one worker compiles for the GPU, the other for the CPU, and
# who comes later finds kernels in the cache. No long file is left for the end.
FIRST = [
    *("test_batchnorm on emulated", "test_command_line", "test_layernorm on emulated"),
    *("test_batchnorm on host", "test_layernorm on host"),
    *("test_cuda_code", "test_any_arguments", "test_faults_forks", "test_faults_threads", "test_cache"),
    *("test_faults_interruptions", "test_threads", "test_faults_workers", "test_memory_bounds", "test_cuda_functions"),
]

SLOW = {
    "test_rmsnorm on emulated": {
        "test_every_shape": r"float64|\(2, 512\)|\(43, 65\)|\(4, 33\)|\(1, 1\)-",
        "test_without_a_weight": r"1000\.0",
        "test_every_layout": "shape[12]",
        "test_out_of_any_layout_and_in_place": "^(?!(shape1-.*-c|shape3-.*)$)",
        "test_non_finite_values_stay_in_their_row": "shape[134]|--inf$",
        "test_the_whole_range_of_the_dtype": r"float64",
        "test_others_keep_their_bits": "float64",
        "test_the_error_does_not_grow_with_the_count": r"\(1, 1000000\)",
    },
    "test_rmsnorm on host": {"test_the_error_does_not_grow_with_the_count": "10000000|5000000"},
    "test_batchnorm on host": {
        "test_the_error_does_not_grow_with_the_count": r"30000000",
        "test_the_error_of_the_gradients_does_not_grow_with_the_count": r"\(150000, 64\)",
    },
    "test_layernorm on host": {
        "test_the_error_of_the_gradients_does_not_grow_with_the_count": r"5000000",
    },
    "test_batchnorm on emulated": {
        "test_in_place_is_exact": "reversed|True-shape[13]",
        "test_every_shape": "float64",
        "test_the_error_is_the_same_at_any_offset": "float64|shape[35]",
        "test_squares_beyond_float32": r"1e-12|1e-22|1e-30",
        "test_the_error_of_dx_is_the_same_at_any_offset_of_dy": r"^(?!.*1\.0-1000000\.0$)",
        "test_every_layout": r"shape[12]",
        "test_out_of_any_layout": r"shape[12]",
    },
    "test_layernorm on emulated": {
        "test_every_shape": r"float64|\((3, 2|4, 31|4, 33|2, 511|43, 64)\)",
        "test_the_error_is_the_same_at_any_offset": "float64",
        "test_the_error_of_columns_of_float64_does_not_grow_with_the_count": r"^1\.0",
        "test_a_bad_first_guess_at_the_mean_is_made_good": "shape2--1-(one|two)",
        "test_squares_beyond_float32": r"shape2|1e-12|1e-22|1e-30",
        "test_the_error_of_dx_is_the_same_at_any_offset_of_dy": r"^(?!.*1\.0-1000000\.0$)",
    },
    "test_cuda_functions": {
        "test_whatever_the_import_raises_the_error_says_what_to_install": "imputils",
        "test_results_do_not_depend_on_the_order_of_blocks_and_threads": "shape[23]",
        "test_addresses_that_vectors_cannot_begin_at": "shape2-[24]",
        "test_gradients_in_place": "True-dy-4096",
        "test_sums_of_many_squares_that_float32_can_just_hold": "shape1",
    },
    "test_range on emulated": {
        "test_any_size_and_offset": "^$",
        "test_layer_norm": r"\((2, 4099|1, 16400)\).*float64",
        "test_batch_norm": r"float64-1e(\+300|\+155|-155|-300)",
    },
    "test_cuda_statistics on emulated": {
        "test_moments": "float64",
        "test_both_halves": "float64",
        "test_scalers": "True",
    },
    "test_memory_bounds": {"test_kernels_stay_within_their_arrays": "rmsnorm|halves"},
    "test_parallel": {"test_any_number_of_threads_agrees": "prange-[13]"},
    "test_cache": {
        "test_a_change_in_any_file_is_compiled": "None",
        "test_no_home_either": "dev|relative",
        "test_a_change_where_there_are_no_source_files": "archived",
        "test_a_program_that_unpacks_itself_at_each_start": "import",
        "test_what_one_user_compiles_others_can_read": "elsewhere",
    },
    "test_threads": {
        "test_one_thread_in_the_environment": "^NUMBA_",
        "test_children_of_multiprocessing": "2",
    },
    "test_faults_threads": {
        "test_many_threads_call_at_once": "prange",
        "test_many_threads_make_the_first_call": "prange",
        "test_a_foreign_parallel_kernel_runs_beside": "omp",
        "test_a_call_from_within_a_users_prange": "workqueue",
        "test_a_thread_that_loses_its_core_delays_one_chunk": "4",
        "test_joblib": "loky",
    },
    "test_faults_forks": {
        "test_fork_after_a_first_call": "prange",
        "test_a_fork_of_which_python_learns_afterwards": "^$",
        "test_fork_after_a_foreign_parallel_kernel": "parked",
        "test_fork_while_another_thread_is_inside_a_kernel": "prange",
        "test_fork_during_a_first_call_that_compiles": "0.2",
        "test_a_signal_handler_forks_or_calls_within_a_compilation": "calls",
    },
    "test_faults_interruptions": {
        "test_exceptions_of_a_signal_handler": "prange",
        "test_ctrl_c_in_first_calls_that_compile": "0.25",
        "test_exceptions_while_a_fork_waits_for_a_compilation": "0.02",
        "test_exceptions_of_a_signal_handler_arrive": "recycled",
    },
    "test_faults_workers": {
        "test_calls_at_exit": "prange",
        "test_a_daemon_thread_calls_while_the_process_ends": "prange",
    },
    "test_batchnorm_halves": {"test_four_processes_with_batches_of_different_sizes": "shape[01].*spawn"},
    "test_memory": {"test_no_memory_is_used_again_while_a_view_is_alive": "<lambda>|iter"},
    "test_any_arguments": {
        "test_valid_arguments": "^rms_norm(_forward)?$",
        "test_a_bad_argument": "^rms_norm(_forward)?$",
    },
    "test_any_layer": {
        "test_a_bad_argument_of_a_layer": "RMSNorm",
        "test_a_layer_refuses_and_stays_as_it_is": "RMSNorm",
    },
    "test_compiled_callers": {
        "test_with_any_number_of_threads_and_from_numbas_cache": "prange",
        "test_beside_a_fork": "prange",
    },
    "test_import": {"test_kernels_are_compiled_where_jit_is_disabled": "config"},
}


_LARGE = r"\((4, 1000|33, 3001|2, 300000|2, 700, 30)\)"  # of the whole range: smaller ones launch the same kernels

NIGHTLY = {
    "test_batchnorm on host": {
        "test_the_error_is_the_same_at_any_offset": r"-(1\.0|1000\.0|10000\.0)$",
        "test_the_error_of_dx_is_the_same_at_any_offset_of_dy": r"-(1\.0|100\.0|10000\.0)$",
    },
    "test_batchnorm on emulated": {
        "test_every_shape": r"^(?!\((60, 100|4, 600, 49|2, 3, 5)\)-1).*float64|\(5000, 64\)-0",
        "test_the_error_is_the_same_at_any_offset": r"-(0\.0|1\.0|1000\.0|10000\.0)$",
        "test_in_place_is_exact": r"(shape2-.*|fortran|channels_last|unaligned|big_endian|subclass)$",
        "test_the_error_of_dx_is_the_same_at_any_offset_of_dy": r"-(1\.0|100\.0|10000\.0)$",
        "test_a_few_large_dy_do_not_spoil_the_sums": "float64|one per eighth",
        "test_the_error_does_not_grow_with_the_count": r"15000000|30000000",
        "test_the_error_of_the_gradients_does_not_grow_with_the_count": r"\(150000, 64\)|10000000",
    },
    "test_layernorm on host": {
        "test_the_error_is_the_same_at_any_offset": r"-(1\.0|1000\.0|10000\.0)$",
    },
    "test_layernorm on emulated": {
        "test_every_shape": r"^(?!\((4, 32|43, 65|1, 4099|2, 3, 5|3, 1, 700|2, 300, 600)\)).*float64|300001",
        "test_the_error_is_the_same_at_any_offset": r"-(0\.0|1\.0|1000\.0|10000\.0)$",
        "test_the_error_of_dx_is_the_same_at_any_offset_of_dy": r"-(1\.0|100\.0|10000\.0)$",
        "test_squares_beyond_float32": "shape2-.*(e-12|e-22|e-30)",
        "test_non_finite_values_stay_in_their_row": r"shape3[678]",
        "test_in_place_is_exact": "shape[24]-.*(fortran|channels_last|unaligned|big_endian|subclass)",
        "test_the_error_of_the_gradients_does_not_grow_with_the_count": r"\(1, 1000000\)|10000000|5000000",
        "test_the_error_does_not_grow_with_the_count": r"30000000",
    },
    "test_cuda_functions": {
        "test_whatever_the_import_raises_the_error_says_what_to_install": r"cudaimpl|imputils-[MA]|cuda-Attribute",
        "test_results_do_not_depend_on_the_order_of_blocks_and_threads": "-2$",
    },
    "test_rmsnorm on emulated": {
        "test_any_shape_axes_and_layout": "^$",
        "test_every_shape": r"^(?!\((4, 32|43, 65|1, 4099|2, 3, 5|3, 1, 700)\)).*float64|300001",
        "test_the_error_does_not_grow_with_the_count": "10000000|5000000",
        "test_the_whole_range_of_the_dtype": _LARGE,
    },
    "test_batchnorm_halves on emulated": {
        "test_any_shape_and_offset": r"^(?!\(60, 100\))",
        "test_any_layout_and_out": "channels_last|reversed|unaligned|big_endian|subclass",
    },
    "test_range on emulated": {
        "test_layer_norm": rf"{_LARGE}|\((2, 4099|1, 16400)\).*float64-.*e(\+300|-150|-300|-310)",
        "test_batch_norm": r"\((5000, 64|70, 9, 49|3, 2, 90000)\)|\(9, 2, 300\).*float64",
    },
    "test_threads": {
        "test_one_thread_in_the_environment": "^OMP_NUM_THREADS-1$",
        "test_one_processor": "import",
        "test_nobody_elses_threads_are_touched": "prange",
    },
    "test_faults_threads": {
        "test_a_foreign_parallel_kernel_runs_beside": "tbb",
        "test_a_call_from_within_a_users_prange": "tbb",
        "test_many_threads_call_at_once_without_openmp": "parked",
    },
    "test_faults_forks": {
        "test_fork_during_a_first_call_that_compiles": r"0\.7",
        "test_fork_after_a_foreign_parallel_kernel": "prange-(tbb|workqueue)",
    },
    "test_faults_interruptions": {
        "test_ctrl_c_in_first_calls_that_compile": r"0\.11",
        "test_exceptions_at_each_moment": "prange",
        "test_a_signal_handler_calls": "prange",
    },
    "test_faults_signals": {
        "test_signals_come_all_the_time": "prange",
        "test_signals_come_while_a_launch_waits_for_the_last_worker": "prange",
    },
    "test_memory_bounds": {"test_kernels_stay_within_their_arrays": "(rmsnorm|halves).*after"},
    "test_memory": {"test_no_memory_is_used_again_while_a_view_is_alive": "<lambda>[123]"},
    "test_batchnorm_halves": {"test_four_processes_with_batches_of_different_sizes": "shape0.*spawn"},
}


def marked(item):
    """The marker of a variant that a table names: nightly, or else slow."""
    for marker, table in ((pytest.mark.nightly, NIGHTLY), (pytest.mark.slow, SLOW)):
        pattern = table.get(part(item), {}).get(name(item))
        if pattern is not None and re.search(pattern, variant(item)):
            return marker
    return None


def name(item):
    """Of the function that is the test, without its parameters."""
    return getattr(item, "originalname", item.name)


def variant(item):
    """What pytest writes in brackets, but for the device."""
    found = _DEVICE.match(item.callspec.id)
    return item.callspec.id[found.end() :] if found else item.callspec.id


def part(item):
    """The file and, where tests run on several devices, the device."""
    return part_of(item.nodeid)


def part_of(nodeid):
    """The part of a test, by what pytest writes for it."""
    path, _, name = nodeid.partition("::")
    stem, found = PurePath(path).stem, _DEVICE.match(name.partition("[")[2])
    return f"{stem} on {found[1]}" if found else stem


def place(item):
    """Where its part comes among the others."""
    return FIRST.index(part(item)) if part(item) in FIRST else len(FIRST)
