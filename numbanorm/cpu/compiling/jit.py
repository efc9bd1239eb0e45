"""Define the decorators of the CPU kernels. Each says how a kind of function is compiled, and why so."""

import importlib
import sys
import threading
from contextlib import contextmanager
from functools import partial

from numba import types
from numba.extending import intrinsic, register_jitable

from numbanorm.cpu.compiling.cache import KernelCache
from numbanorm.cpu.compiling.numba_internals import (
    CPUDispatcher,
    InnerCompiler,
    config,
    global_compiler_lock,
    has_compiler_lock,
    pointer_to_c_function,
)

_EXACT = {"contract", "nsz"}
_PACKAGE = f"{__package__.partition('.')[0]}."
_LOOK = 0.1  # seconds between two looks: if gevent is imported later, `join` may never return by itself
_STACK_BYTES = 16 << 20  # twice the stack of most programs' main threads


class Compiled(CPUDispatcher):
    """Compile a function as `numba.njit` does, even where NUMBA_DISABLE_JIT is set.

    Python cannot run the kernels.
    """

    def __reduce__(self):
        """Pickle the function by its name, if it is in a module of the package, and otherwise as Numba does.

        Numba pickles by value, and intrinsics then lose their `prefer_literal`.
        """
        for module in [module for name, module in list(sys.modules.items()) if name.startswith(_PACKAGE)]:
            for name, value in list(vars(module).items()):
                if value is self:
                    return _named, (module.__name__, name)
        return super().__reduce__()


def _named(module, name):
    return getattr(importlib.import_module(module), name)


class Inner(Compiled):
    """Compile a function that only compiled code calls. It is compiled with each of its callers."""

    def __init__(self, py_func, locals=None, targetoptions=None):
        super().__init__(py_func, locals, targetoptions, InnerCompiler)


class Formula(Inner):
    """Compile a function on scalars.

    A call from Python runs its Python code, so it also takes NumPy arrays there.
    """

    def __call__(self, *args):
        """Run the Python code."""
        return self.py_func(*args)


class Kept(Compiled):
    """Compile a function, and keep it from process to process. Anyone may call it."""

    def __init__(self, py_func, locals=None, targetoptions=None):
        super().__init__(py_func, locals, targetoptions)
        self._cache = KernelCache(py_func)  # instead of Numba's, which trusts any file that it finds

    def compile(self, sig):
        """Load the function for a signature, or compile it."""
        return uninterrupted(self._compile, sig)

    def _compile(self, sig):
        with global_compiler_lock, _jit_enabled(), self._cache.one_process():
            return super().compile(sig)


def compiled(kind=Compiled, **options):
    """Return a decorator that compiles functions with the options of `numba.njit`."""
    return partial(kind, targetoptions={"nopython": True, "boundscheck": None, **options})


@contextmanager
def _jit_enabled():
    """Suspend the effect of NUMBA_DISABLE_JIT in a context. Only a thread that holds the compiler's lock may do so.

    Numba's own functions are compiled there, too.
    """
    config.reload_config()  # now, since Numba would do so while it compiles, and undo the next line
    disabled, config.DISABLE_JIT = config.DISABLE_JIT, 0
    try:
        yield
    finally:
        config.DISABLE_JIT = disabled


class _Compiler(threading.Thread):
    """This thread computes function(*args)."""

    def __init__(self, function, args):
        super().__init__()
        self._call = partial(function, *args)
        self.ended = None  # when it has ended: its result and its error, one of which is None

    def run(self):
        try:
            self.ended = self._call(), None
        except BaseException as error:
            self.ended = None, error


starting = threading.RLock()  # held while a thread starts, since the size of stacks is one for the whole process


def uninterrupted(function, *args):
    """Run function(*args), which compiles, in a new thread, and return its result.

    A signal handler runs in the main thread. If it raised there while Numba compiles, Numba would stay half done for
    good. The new thread also has a stack that is large enough for LLVM, whatever size the user sets for threads.

    No thread is started from such a thread, nor from a thread that holds the compiler's lock.
    """
    if isinstance(threading.current_thread(), _Compiler) or has_compiler_lock():
        return function(*args)
    thread = _Compiler(function, args)
    try:
        _start_with_a_large_stack(thread)
    except RuntimeError:  # no thread can be started, as at the end of the interpreter
        return function(*args)
    while thread.ended is None and thread.is_alive():
        thread.join(_LOOK)
    if thread.ended is None:  # a signal handler forked meanwhile, and this is the child, which lacks that thread
        return uninterrupted(function, *args)
    result, error = thread.ended
    if error is not None:
        raise error
    return result


def _start_with_a_large_stack(thread):
    """Start a thread after setting the size of stacks for the whole process, since Python has no size for one thread.

    A thread that others start meanwhile has a large stack, too. A size that others set meanwhile is lost.
    """
    before = []
    with starting:
        try:
            before.extend(map(threading.stack_size, [_STACK_BYTES]))  # in one step: no signal handler can raise within
            thread.start()
        finally:
            for size in before:
                threading.stack_size(size)


# Functions that only compiled code calls.
inner = partial(compiled, kind=Inner, error_model="numpy", no_cpython_wrapper=True, no_cfunc_wrapper=True)

# Loops over a run of values. They are always inlined, since a call would pass arrays on the stack and count references.
# "reassoc" is not allowed: (x - m) - delta would become x - (m + delta).
loop = inner(fastmath=_EXACT, forceinline=True)

# Work on a whole tile. It is called: inlining would save no time here, and compiling would take a fifth longer.
block = inner(fastmath=_EXACT)

# Functions that Python calls, too. For Python they are not compiled.
plain = register_jitable(error_model="numpy")

# What others may call, from Python and from compiled code: a range kernel does a part of the work, a launcher all.
range_kernel = compiled(Kept, nogil=True, error_model="numpy")
launcher = compiled(Kept, nogil=True, error_model="numpy")

# A launcher that keeps Python's lock: no other thread runs Python meanwhile, so none forks.
python_locked = compiled(Kept, error_model="numpy")

# Functions with a loop of `prange`.
parallel = compiled(Kept, parallel=True)


@intrinsic
def compact(typing_context):
    """Keep LLVM from unrolling the loops of the function that calls this.

    Vectors are explicit (`simd`), so unrolling gains nothing. For some processors LLVM would unroll to 512 operations.
    """

    def codegen(context, builder, signature, args):
        builder.function.attributes.add("optsize")
        return context.get_dummy_value()

    return types.void(), codegen


def c_address(dispatcher, signature):
    """Compile a function for a signature, and return its address for calls in C's convention."""
    dispatcher.compile(signature)
    return pointer_to_c_function(dispatcher, signature.args)
