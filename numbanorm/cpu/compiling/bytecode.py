"""Compute a digest of the code that kernels are compiled from. It does not depend on where the code is installed."""

import functools
import hashlib
import importlib.util
import pkgutil
import types

CPU = "numbanorm.cpu"
_BESIDE = {  # the modules outside a package of kernels that its kernels are compiled from
    CPU: ["numbanorm._math"],
    "numbanorm.cuda": ["numbanorm._math", "numbanorm.cpu.compiling.jit"],  # jit: the options of the formulas
}


@functools.cache
def _imported(package):
    """Return the byte code of all modules that kernels are compiled from, as Python would import it now.

    It is read at once, since the files may change later. It is what Python runs: if Python takes an outdated compiled
    file for up to date, so does this function.
    """
    beside = [(name, importlib.util.find_spec(name).loader.get_code(name)) for name in _BESIDE[package]]
    path = importlib.import_module(package).__path__
    return [*beside, *sorted(_modules(path, f"{package}."), key=lambda pair: pair[0])]


def _modules(path, prefix):
    """Yield names and code of the modules in a folder and its subfolders. None of them is imported."""
    for finder, name, is_package in pkgutil.iter_modules(path, prefix):
        spec = finder.find_spec(name)
        yield name, spec.loader.get_code(name)
        if is_package:
            yield from _modules(spec.submodule_search_locations, f"{name}.")


_imported(CPU)


@functools.cache
def code_digest(package=CPU):
    """Return 32 bytes, the same for the same code in every installation."""
    return hashlib.sha256(repr([(name, _contents(code)) for name, code in _imported(package)]).encode()).digest()


def covered_modules(package=CPU):
    """Return the names of the modules whose code enters the digest."""
    return {name for name, _ in _imported(package)}


def _contents(code):
    """Return all of a code object that decides what it does, and nothing of where it stands."""
    constants = [
        _contents(constant)
        if isinstance(constant, types.CodeType)
        else (sorted(constant, key=repr) if isinstance(constant, frozenset) else constant)
        for constant in code.co_consts
    ]
    variables = code.co_varnames, code.co_cellvars, code.co_freevars, code.co_argcount, code.co_kwonlyargcount
    return code.co_name, code.co_code, code.co_flags, code.co_exceptiontable, code.co_names, variables, constants
