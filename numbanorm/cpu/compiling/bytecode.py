"""A digest of the code that kernels are compiled from. It does not depend on where the code is installed."""

import functools
import hashlib
import importlib.util
import pkgutil
import types

import numbanorm.cpu

_FORMULAS = "numbanorm._math"


def _imported():
    """The byte code of all modules that kernels are compiled from, as Python would import it now.

    It is read at once, since the files may change later. It is what Python runs: if Python takes an outdated compiled
    file for up to date, so does this function.
    """
    formulas = importlib.util.find_spec(_FORMULAS).loader.get_code(_FORMULAS)
    return [
        (_FORMULAS, formulas),
        *sorted(_modules(numbanorm.cpu.__path__, "numbanorm.cpu."), key=lambda pair: pair[0]),
    ]


def _modules(path, prefix):
    """Names and code of the modules in a folder and its subfolders. None of them is imported."""
    for finder, name, is_package in pkgutil.iter_modules(path, prefix):
        spec = finder.find_spec(name)
        yield name, spec.loader.get_code(name)
        if is_package:
            yield from _modules(spec.submodule_search_locations, f"{name}.")


_CODE = _imported()


@functools.cache
def code_digest():
    """Return 32 bytes, the same for the same code in every installation."""
    return hashlib.sha256(repr([(name, _contents(code)) for name, code in _CODE]).encode()).digest()


def covered_modules():
    """The names of the modules whose code enters the digest."""
    return {name for name, _ in _CODE}


def _contents(code):
    """All of a code object that decides what it does, and nothing of where it stands."""
    constants = [
        _contents(constant)
        if isinstance(constant, types.CodeType)
        else (sorted(constant, key=repr) if isinstance(constant, frozenset) else constant)
        for constant in code.co_consts
    ]
    variables = code.co_varnames, code.co_cellvars, code.co_freevars, code.co_argcount, code.co_kwonlyargcount
    return code.co_name, code.co_code, code.co_flags, code.co_exceptiontable, code.co_names, variables, constants
