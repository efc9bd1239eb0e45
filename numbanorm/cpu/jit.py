"""The decorators of the CPU kernels: what is compiled how, and why."""

import numba

_INNER = {"error_model": "numpy", "no_cpython_wrapper": True, "no_cfunc_wrapper": True, "forceinline": True}

# Inner functions of kernels. Inlined by force: called, each would pass its arrays over the stack and count references.
# Loops that add up may be reassociated, into vector lanes; no other: (x - m) - delta would become x - (m + delta).
loop = numba.njit(fastmath={"contract", "nsz"}, **_INNER)
summing = numba.njit(fastmath={"reassoc", "contract", "nsz"}, **_INNER)

# What compiled code may call: one range of the work, and the whole of it.
range_kernel = numba.njit(nogil=True, error_model="numpy", no_cpython_wrapper=True, no_cfunc_wrapper=True)
launcher = numba.njit(nogil=True, error_model="numpy", cache=True)

block = numba.njit(error_model="numpy", no_cpython_wrapper=True, no_cfunc_wrapper=True, fastmath={"contract", "nsz"})
