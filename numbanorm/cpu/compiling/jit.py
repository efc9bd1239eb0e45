"""The decorators of the CPU kernels: what is compiled how, and why."""

import importlib
import sys
import threading
from contextlib import contextmanager
from functools import partial

from numba import types
from numba.core import config
from numba.core.compiler_lock import global_compiler_lock
from numba.core.registry import CPUDispatcher
from numba.extending import intrinsic, register_jitable

from numbanorm.cpu.compiling.cache import KernelCache

_EXACT = {"contract", "nsz"}
_PACKAGE = f"{__package__.partition('.')[0]}."
_LOOK = 0.1  # seconds: gevent, when it comes after this package, may never tell that a thread has ended
_STACK_BYTES = 16 << 20  # twice what LLVM has in most programs' main threads


class Compiled(CPUDispatcher):
    """What `numba.njit` makes of a function, also where NUMBA_DISABLE_JIT is set: Python cannot run the kernels."""

    def __reduce__(self):
        """By name, if a module of the package has it. By value, as Numba does it, intrinsics lose `prefer_literal`."""
        for module in [module for name, module in list(sys.modules.items()) if name.startswith(_PACKAGE)]:
            for name, value in list(vars(module).items()):
                if value is self:
                    return _named, (module.__name__, name)
        return super().__reduce__()


def _named(module, name):
    return getattr(importlib.import_module(module), name)


class Kept(Compiled):
    """A compiled function that is kept from process to process, and that anyone may call."""

    def __init__(self, py_func, locals=None, targetoptions=None):
        super().__init__(py_func, locals, targetoptions)
        self._cache = KernelCache(py_func)  # in place of Numba's, which trusts what it finds

    def compile(self, sig):
        """Compile the function for a signature, or load it."""
        return uninterrupted(self._compile, sig)

    def _compile(self, sig):
        with global_compiler_lock, _jit_enabled(), self._cache.one_process():
            return super().compile(sig)


def compiled(kind=Compiled, **options):
    """A decorator, with the options of `numba.njit`."""
    return partial(kind, targetoptions={"nopython": True, "boundscheck": None, **options})


@contextmanager
def _jit_enabled():
    """Whatever NUMBA_DISABLE_JIT says, for Numba's own functions too. Only for who has the compiler's lock."""
    config.reload_config()  # as Numba does when it compiles: not in the midst of this
    disabled, config.DISABLE_JIT = config.DISABLE_JIT, 0
    try:
        yield
    finally:
        config.DISABLE_JIT = disabled


class _Compiler(threading.Thread):
    """A thread that computes function(*args)."""

    def __init__(self, function, args):
        super().__init__()
        self._call = partial(function, *args)
        self.ended = None  # a result and an error, one of which is None

    def run(self):
        try:
            self.ended = self._call(), None
        except BaseException as error:
            self.ended = None, error


starting = threading.RLock()  # a thread, whose stack's size is set for the whole process


def uninterrupted(function, *args):
    """function(*args), which compiles, in a thread of its own, unless this is one or has the compiler's lock.

    No signal handler can raise there, as in the main thread, and leave Numba by halves, for good. And its stack is
    large enough for LLVM, however small the user has those of threads.
    """
    if isinstance(threading.current_thread(), _Compiler) or global_compiler_lock.is_locked():
        return function(*args)
    thread = _Compiler(function, args)
    try:
        _start_with_a_large_stack(thread)
    except RuntimeError:  # none is to be had, as at the interpreter's end
        return function(*args)
    while thread.ended is None and thread.is_alive():
        thread.join(_LOOK)
    if thread.ended is None:  # in a child that a signal handler forked meanwhile, where that thread is not
        return uninterrupted(function, *args)
    result, error = thread.ended
    if error is not None:
        raise error
    return result


def _start_with_a_large_stack(thread):
    """What others start or set meanwhile has that stack, too, or is undone. Python has no size for one thread."""
    before = []
    with starting:
        try:
            before.extend(map(threading.stack_size, [_STACK_BYTES]))  # noted before a signal handler can raise
            thread.start()
        finally:
            for size in before:
                threading.stack_size(size)


# What is called from compiled code alone.
inner = partial(compiled, error_model="numpy", no_cpython_wrapper=True, no_cfunc_wrapper=True)

# Loops over a run of values. Inlined by force: called, each would pass its arrays over the stack and count references.
# Without "reassoc": (x - m) - delta would become x - (m + delta).
loop = inner(fastmath=_EXACT, forceinline=True)

# Work on a whole tile. Called, since inlining saves nothing there and takes a fifth longer to compile.
block = inner(fastmath=_EXACT)

# Also called from Python, where nothing is compiled for it.
plain = register_jitable(error_model="numpy")

# What others may call, from Python and from compiled code: one range of the work, and the whole of it.
range_kernel = compiled(Kept, nogil=True, error_model="numpy")
launcher = compiled(Kept, nogil=True, error_model="numpy")

# The same, while no other thread runs Python, so that none forks.
python_locked = compiled(Kept, error_model="numpy")

# Loops of `prange`.
parallel = compiled(Kept, parallel=True)


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
