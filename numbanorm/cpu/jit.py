"""The decorators of the CPU kernels: what is compiled how, and why."""

import threading
from functools import partial

import numba
from numba import types
from numba.core.compiler_lock import global_compiler_lock
from numba.extending import intrinsic, register_jitable

from numbanorm.cpu.cache import KernelCache

_INNER = {"error_model": "numpy", "no_cpython_wrapper": True, "no_cfunc_wrapper": True}
_EXACT = {"contract", "nsz"}

# Loops over a run of values. Inlined by force: called, each would pass its arrays over the stack and count references.
# Without "reassoc": (x - m) - delta would become x - (m + delta).
loop = numba.njit(fastmath=_EXACT, forceinline=True, **_INNER)

# Work on a whole tile. Called, since inlining saves nothing there and takes a fifth longer to compile.
block = numba.njit(fastmath=_EXACT, **_INNER)

# Also called from Python, where nothing is compiled for it.
plain = register_jitable(error_model="numpy")


def _kept(**options):
    """Compiled functions that are kept from process to process."""
    compiled = numba.njit(**options)

    def decorate(function):
        dispatcher = compiled(function)
        dispatcher._cache = KernelCache(function)  # in place of Numba's, which trusts what it finds
        dispatcher.compile = partial(uninterrupted, dispatcher.compile)
        return dispatcher

    return decorate


def uninterrupted(function, *args):
    """function(*args), which compiles, where no signal handler can raise: Numba would be left by halves, for good.

    Handlers run in the main thread alone, so another one does it, unless this one has the compiler's lock.
    """
    if threading.current_thread() is not threading.main_thread() or global_compiler_lock.is_locked():
        return function(*args)
    ended = []

    def run():
        try:
            ended.append((function(*args), None))
        except BaseException as error:
            ended.append((None, error))

    thread = threading.Thread(target=run)
    try:
        thread.start()
    except RuntimeError:  # none is to be had, as at the interpreter's end
        return function(*args)
    thread.join()
    if not ended:  # in a child that a signal handler forked meanwhile, where that thread is not
        return function(*args)
    result, error = ended[0]
    if error is not None:
        raise error
    return result


# What others may call, from Python and from compiled code: one range of the work, and the whole of it.
range_kernel = _kept(nogil=True, error_model="numpy")
launcher = _kept(nogil=True, error_model="numpy")

# Loops of `prange`.
parallel = _kept(parallel=True)


@intrinsic
def compact(typing_context):
    """Keeps LLVM from unrolling the loops of the function that calls it.

    Vectors are explicit (`simd`), so unrolling gains nothing, and for some processors LLVM goes to 512 operations.
    """

    def codegen(context, builder, signature, args):
        builder.function.attributes.add("optsize")
        return context.get_dummy_value()

    return types.void(), codegen


def c_address(dispatcher, signature):
    """The address of a compiled function, to be called in C's convention."""
    dispatcher.compile(signature)
    compiled = dispatcher.overloads[signature.args]
    return compiled.library.get_pointer_to_function(compiled.fndesc.llvm_cfunc_wrapper_name)
