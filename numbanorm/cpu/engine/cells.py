"""Keep what compiled code has to know of its process.

It is the engine in use, and the size from which results pass the caches. Machine code is kept from process to process,
so it may hold neither an address nor a size of the machine. It finds these words of memory by a symbol. The symbol is
known once this file has been imported, before any code is linked.
"""

import ctypes

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from numbanorm.cpu.compiling.numba_internals import define_symbol
from numbanorm.cpu.engine.atomic import WORD

ENGINE = 0  # the address of the engine in use, or 0 while the thread that calls does all the work
STREAMED = 1  # results are streamed past the caches if all arrays of a call take more bytes than this

_SYMBOL = "numbanorm_cells"

words = np.zeros(2, np.intp)
ctypes.pythonapi.Py_IncRef(ctypes.py_object(words))  # never freed: compiled code may run until the process ends
define_symbol(_SYMBOL, words.ctypes.data)


@intrinsic
def address(typing_context):
    """Return the address of the cells, in compiled code."""

    def codegen(context, builder, signature, args):
        symbol = builder.module.globals.get(_SYMBOL)
        if symbol is None:
            symbol = ir.GlobalVariable(builder.module, WORD, _SYMBOL)
        return builder.ptrtoint(symbol, WORD)

    return types.intp(), codegen
