"""What the package uses of Numba and llvmlite beyond their public names is there, and takes what it is given."""

import ast
import inspect
from importlib import import_module
from importlib.metadata import version
from pathlib import Path

import numba
import pytest
from numba import types

from numbanorm.cpu.compiling import numba_internals
from numbanorm.cpu.compiling.jit import inner

FILE = Path(numba_internals.__file__)
CPU = FILE.parents[1]
WHERE = f"Numba {version('numba')}, llvmlite {version('llvmlite')}"

# Each thing by the path to it, and the arguments that it takes, or None where it is not called.
USED = {
    "llvmlite.binding.add_symbol": ["name", "address"],
    "llvmlite.binding.ffi.lib._lock._lock.acquire": None,
    "numba.core.caching.NullCache.load_overload": ["self", "sig", "target_context"],
    "numba.core.caching.NullCache.save_overload": ["self", "sig", "*"],
    "numba.core.cgutils.alloca_once": ["builder", "ty", "..."],
    "numba.core.cgutils.alloca_once_value": ["builder", "value", "..."],
    "numba.core.cgutils.gep_inbounds": ["builder", "ptr", "*"],
    "numba.core.cgutils.get_or_insert_function": ["module", "fnty", "name"],
    "numba.core.cgutils.is_not_null": ["builder", "val"],
    "numba.core.cgutils.make_anonymous_struct": ["builder", "values", "..."],
    "numba.core.cgutils.pack_struct": ["builder", "values"],
    "numba.core.cgutils.unpack_tuple": ["builder", "tup", "..."],
    "numba.core.cgutils.voidptr_t": None,
    "numba.core.codegen.JITCodeLibrary": ["codegen", "name"],
    "numba.core.codegen.JITCodeLibrary._finalize_final_module": ["self"],
    "numba.core.codegen.JITCodeLibrary._optimize_final_module": ["self"],
    "numba.core.compiler.CompileResult._reduce": ["self"],
    "numba.core.compiler.CompileResult._rebuild": ["target_context", "*"],
    "numba.core.compiler.CompileResult._replace": ["self", "*"],
    "numba.core.compiler.Compiler.compile_extra": ["self", "func"],
    "numba.core.compiler_lock.global_compiler_lock._lock.acquire": None,
    "numba.core.compiler_lock.global_compiler_lock.is_locked": [],
    "numba.core.config.BOUNDSCHECK": None,
    "numba.core.config.CACHE_DIR": None,
    "numba.core.config.DEBUGINFO_DEFAULT": None,
    "numba.core.config.DISABLE_JIT": None,
    "numba.core.config.LOOP_VECTORIZE": None,
    "numba.core.config.NUMBA_DEFAULT_NUM_THREADS": None,
    "numba.core.config.NUMBA_NUM_THREADS": None,
    "numba.core.config.OPT": None,
    "numba.core.config.SLP_VECTORIZE": None,
    "numba.core.config.reload_config": [],
    "numba.core.registry.CPUDispatcher": ["py_func", "locals", "targetoptions", "pipeline_class"],
    "numba.core.registry.CPUDispatcher.compile": ["self", "sig"],
    "numba.core.registry.cpu_target.target_context.call_conv.call_function": [
        "builder",
        "callee",
        "resty",
        "argtys",
        "args",
        "...",
    ],
    "numba.core.registry.cpu_target.target_context.call_conv.return_user_exc": ["builder", "exc", "exc_args", "..."],
    "numba.core.registry.cpu_target.target_context.codegen": [],
    "numba.core.registry.cpu_target.target_context.declare_function": ["module", "fndesc"],
    "numba.core.registry.cpu_target.target_context.insert_user_function": ["func", "fndesc", "libs"],
    "numba.core.registry.cpu_target.target_context.make_array": ["typ"],
    "numba.core.registry.cpu_target.target_context.make_tuple": ["builder", "typ", "values"],
    "numba.core.registry.cpu_target.target_context.refresh": [],
    "numba.core.registry.cpu_target.typing_context.resolve_function_type": ["func", "args", "kws"],
    "numba.core.serialize.dumps": ["obj"],
    "numba.misc.appdirs.AppDirs": ["appname", "appauthor", "..."],
    "numba.np.ufunc.parallel._backend_init_thread_lock.acquire": None,
}


def found(path):
    """What a path leads to: a module, then attributes."""
    parts = path.split(".")
    for i in range(len(parts), 0, -1):
        try:
            value = import_module(".".join(parts[:i]))
        except ImportError:
            continue
        for part in parts[i:]:
            if not hasattr(value, part):
                pytest.fail(f"{WHERE}: {path} is gone ({part} is not there); see {FILE.name}", pytrace=False)
            value = getattr(value, part)
        return value
    pytest.fail(f"{WHERE}: {path} is gone; see {FILE.name}", pytrace=False)


def fits(parameters, expected):
    """Whether arguments of these names can be given in this order; "*": any more, "...": more that have defaults."""
    names = [p.name for p in parameters]
    if expected[-1:] == ["*"]:
        return names[: len(expected) - 1] == expected[:-1] and len(names) >= len(expected)
    if expected[-1:] == ["..."]:
        rest = parameters[len(expected) - 1 :]
        optional = (p.default is not p.empty or p.kind in (p.VAR_POSITIONAL, p.VAR_KEYWORD) for p in rest)
        return names[: len(expected) - 1] == expected[:-1] and all(optional)
    return names == expected


@pytest.mark.parametrize("path", USED)
def test_each_is_there_and_takes_what_it_is_given(path):
    value, expected = found(path), USED[path]
    if expected is not None:
        parameters = [*inspect.signature(value).parameters.values()]
        assert fits(parameters, expected), f"{WHERE}: {path} takes {inspect.signature(value)}, not {expected}"


def test_a_thing_that_is_gone_is_named():
    with pytest.raises(pytest.fail.Exception, match=r"numba\.core\.caching\.Moved is gone"):
        found("numba.core.caching.Moved")
    parameters = [*inspect.signature(lambda self, signature: None).parameters.values()]
    assert not fits(parameters, ["self", "sig", "target_context"])


def test_a_compiled_function_has_what_is_read_of_it():
    function = numba.njit(lambda x: x + 1.0)
    function.compile((types.float64,))
    assert numba_internals.pointer_to_c_function(function, (types.float64,)) > 0
    compiled = function.overloads[(types.float64,)]
    assert compiled.fndesc.restype == types.float64
    assert compiled.fndesc.argtypes == (types.float64,)
    assert compiled.fndesc.qualname
    assert callable(compiled.library.codegen.magic_tuple)
    assert hasattr(compiled.library, "add_linking_library")


def test_an_inner_function_is_compiled_with_its_caller_alone():
    twice = inner()(lambda x: x + x)
    caller = numba.njit(lambda x: twice(x) + 1.0)
    assert caller(2.0) == 5.0
    (compiled,) = twice.overloads.values()
    code = caller.overloads[(types.float64,)].library
    assert compiled.library in code._linking_libraries
    assert compiled.fndesc.mangled_name not in code.get_asm_str()  # it was inlined: so it was optimized with its caller
    for arguments in ((), (2.0,), (2.0, 3.0)):
        with pytest.raises((TypeError, ValueError)):
            twice(*arguments)


def test_all_locks_that_a_fork_needs_are_found():
    locks = numba_internals.fork_locks()
    assert len(locks) == 3, f"{WHERE}: a lock of Numba's or LLVM's is gone, and a fork beside it could hang its child"
    for lock in locks:
        assert callable(lock._is_owned)
        assert callable(lock._at_fork_reinit)


PUBLIC = {"numba", "numba.extending", "numba.types", "llvmlite", "llvmlite.ir"}
HIDDEN = {  # attributes of Numba's objects that no other file may touch
    "_backend_init_thread_lock",
    "_rebuild",
    "_reduce",
    "active_code_library",
    "call_conv",
    "declare_function",
    "fndesc",
    "insert_user_function",
    "is_locked",
    "magic_tuple",
    "no_compile",
    "overloads",
    "resolve_function_type",
}


def reaches_for(tree):
    """What a module uses of Numba and llvmlite that is not public."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name.partition(".")[0] in ("numba", "llvmlite") and alias.name not in PUBLIC:
                    yield alias.name
        elif isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] in ("numba", "llvmlite"):
            for alias in node.names:
                if node.module not in PUBLIC or alias.name.startswith("_") or alias.name in ("core", "np", "misc"):
                    yield f"{node.module}.{alias.name}"
        elif isinstance(node, ast.Attribute) and node.attr in HIDDEN:
            yield node.attr


@pytest.mark.parametrize(
    "path", [p for p in sorted(CPU.rglob("*.py")) if p != FILE], ids=lambda p: str(p.relative_to(CPU))
)
def test_no_other_file_reaches_for_what_is_not_public(path):
    assert [*reaches_for(ast.parse(path.read_text()))] == []


def test_reaching_for_it_is_seen():
    for line in (
        "from numba.core import cgutils",
        "import numba.core.config",
        "from numba import core",
        "from llvmlite.binding import ffi",
        "f.overloads",
    ):
        assert [*reaches_for(ast.parse(line))], line


def test_each_import_of_the_file_is_in_the_table():
    imports = [node for node in ast.parse(FILE.read_text()).body if isinstance(node, ast.ImportFrom)]
    names = {f"{node.module}.{alias.name}" for node in imports if node.module not in PUBLIC for alias in node.names}
    names -= {"typing.Any"}
    assert len(names) > 8
    assert {name for name in names if not any(f"{path}.".startswith(f"{name}.") for path in USED)} == set()
