"""A digest of the code that kernels are compiled from: what it says, wherever it stands."""

import functools
import hashlib
import importlib.util
import pkgutil
import types

import numbanorm.cpu

_FORMULAS = "numbanorm._math"


def _imported():
    """The byte code of all modules that kernels are compiled from, as Python imports it, now: it may change later.

    That of another file than the source, if Python takes one for up to date that is not.
    """
    formulas = importlib.util.find_spec(_FORMULAS).loader.get_code(_FORMULAS)
    return [
        (_FORMULAS, formulas),
        *sorted(_modules(numbanorm.cpu.__path__, "numbanorm.cpu."), key=lambda pair: pair[0]),
    ]


def _modules(path, prefix):
    """Names and code of the modules in a folder and in those below it. None is imported."""
    for finder, name, is_package in pkgutil.iter_modules(path, prefix):
        spec = finder.find_spec(name)
        yield name, spec.loader.get_code(name)
        if is_package:
            yield from _modules(spec.submodule_search_locations, f"{name}.")


_CODE = _imported()


@functools.cache
def code_digest():
    """32 bytes, the same for the same code in every installation."""
    return hashlib.sha256(repr([(name, _contents(code)) for name, code in _CODE]).encode()).digest()


def covered_modules():
    """The names of the modules whose code is in the digest."""
    return {name for name, _ in _CODE}


def _contents(code):
    """What code does, wherever it stands."""
    constants = [
        _contents(constant)
        if isinstance(constant, types.CodeType)
        else (sorted(constant, key=repr) if isinstance(constant, frozenset) else constant)
        for constant in code.co_consts
    ]
    variables = code.co_varnames, code.co_cellvars, code.co_freevars, code.co_argcount, code.co_kwonlyargcount
    return code.co_name, code.co_code, code.co_flags, code.co_exceptiontable, code.co_names, variables, constants
