"""Wrap everything of Numba and llvmlite that is not public. No other file of the CPU kernels uses such things.

Each was seen, by this name and with these arguments, in Numba 0.62.0 to 0.68.1 with llvmlite 0.45.0 to 0.50.0: the
first and the last version that `tests/test_numba_internals.py` has passed with. That test names what another version
has moved.
"""

from typing import Any

from llvmlite import ir
from llvmlite.binding import add_symbol, ffi
from numba import types
from numba.core import cgutils, config
from numba.core.caching import NullCache
from numba.core.codegen import JITCodeLibrary
from numba.core.compiler import Compiler, CompileResult
from numba.core.compiler_lock import global_compiler_lock
from numba.core.registry import CPUDispatcher, cpu_target
from numba.core.serialize import dumps
from numba.misc.appdirs import AppDirs
from numba.np.ufunc import parallel as threading_layer

__all__ = [
    "CPUDispatcher",
    "InnerCompiler",
    "NullCache",
    "call_compiled",
    "cgutils",
    "compile_and_link",
    "config",
    "define_symbol",
    "deserialize",
    "fork_locks",
    "global_compiler_lock",
    "has_compiler_lock",
    "machine_of",
    "pointer_to_c_function",
    "return_error",
    "serialize",
    "this_machine",
    "user_cache_directory",
]


def serialize(compile_result: Any) -> bytes:
    """Return the bytes of a compiled function, with its machine code."""
    return dumps(compile_result._reduce())


def deserialize(target_context: Any, parts: tuple[Any, ...]) -> Any:
    """Return a compiled function, from what `pickle` reads from the bytes of `serialize`."""
    return CompileResult._rebuild(target_context, *parts)


def machine_of(codegen: Any) -> tuple[str, str, str]:
    """Return the triple, the processor and the features that a code generator compiles for, by LLVM's names."""
    return codegen.magic_tuple()


def this_machine() -> tuple[str, str, str]:
    """Return `machine_of` the code generator of all CPU kernels."""
    return machine_of(cpu_target.target_context.codegen())


def user_cache_directory(name: str) -> str:
    """Return the directory in which this system's users have the caches of a program."""
    return AppDirs(name, appauthor=False).user_cache_dir


def has_compiler_lock() -> bool:
    """Return whether this thread holds the lock of Numba's compiler."""
    return global_compiler_lock.is_locked()


def fork_locks() -> list[Any]:
    """Return the reentrant locks that Numba and LLVM hold while they compile or start threads.

    They are in the order of taking them. The list is shorter where a version lacks one of the locks. Then a process
    that forks while another thread holds that lock may have a child that waits for ever, but all else works.
    """
    compiler = getattr(global_compiler_lock, "_lock", None)
    starter = getattr(threading_layer, "_backend_init_thread_lock", None)
    llvm = getattr(getattr(ffi.lib, "_lock", None), "_lock", None)
    return [lock for lock in (compiler, starter, llvm) if lock is not None]


def define_symbol(name: str, address: int) -> None:
    """Let compiled code find an address by a name, also code that is read from a file in another process."""
    add_symbol(name, address)


def pointer_to_c_function(dispatcher: Any, argument_types: tuple[Any, ...]) -> int:
    """Return the address of a function that has been compiled for these types, for calls in C's convention."""
    compiled = dispatcher.overloads[argument_types]
    return compiled.library.get_pointer_to_function(compiled.fndesc.llvm_cfunc_wrapper_name)


def compile_and_link(typing_context: Any, dispatcher: Any, argument_types: tuple[Any, ...]) -> Any:
    """Compile a function for these types. Return ``descriptor_of(target)``.

    Call `descriptor_of` while Numba generates the code of a caller. It returns the descriptor for `call_compiled`, and
    adds the compiled function to what the caller is linked with.
    """
    signature = typing_context.resolve_function_type(types.Dispatcher(dispatcher), argument_types, {})

    def descriptor_of(target: Any) -> Any:
        compiled = dispatcher.overloads[signature.args]
        target.active_code_library.add_linking_library(compiled.library)
        return compiled.fndesc

    return descriptor_of


def call_compiled(target: Any, builder: ir.IRBuilder, descriptor: Any, args: list[Any]) -> Any:
    """Call a compiled function, in Numba's convention. Return the LLVM value that tells whether it raised an error."""
    callee = target.declare_function(builder.module, descriptor)
    status, _ = target.call_conv.call_function(builder, callee, descriptor.restype, descriptor.argtypes, args)
    return status.is_error


def return_error(target: Any, builder: ir.IRBuilder, error: type[Exception], message: str) -> None:
    """Return from the function that is being compiled with an error."""
    target.call_conv.return_user_exc(builder, error, (message,))


class InnerCompiler(Compiler):
    """Compile to LLVM's code the functions that only compiled code calls. Each caller takes in that code.

    Numba would optimize that code as it is and make machine code of it, then do so again as a part of each caller, and
    again of each caller of these. Here both are done once, for the outermost caller: that takes a fifth less time.
    """

    def compile_extra(self, func: Any) -> Any:
        """Compile a function. The result has LLVM's code alone."""
        self.state.flags.no_compile = True
        self.state.library = _LinkedLibrary(self.state.targetctx.codegen(), func.__qualname__)
        result = super().compile_extra(func)
        # Numba knows a compiled function by the builtin function that Python would call. This one is like no other, and
        # raises an error whatever it is given.
        entry_point = [].index
        self.state.targetctx.insert_user_function(entry_point, result.fndesc, [result.library])
        return result._replace(entry_point=entry_point)


class _LinkedLibrary(JITCodeLibrary):  # type: ignore[misc]
    """Hold the code of a function, to be linked with that of its callers."""

    def _optimize_final_module(self) -> None:
        pass

    def _finalize_final_module(self) -> None:
        self._finalized = True
