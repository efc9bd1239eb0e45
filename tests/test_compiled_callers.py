"""Users' own compiled functions choose kernels, ask for the engine and launch, and get what Python's callers get."""

import os
import shutil

import pytest

from tests import compiled_callers
from tests.faults import ENGINES, python

BEGIN = """
    import sys
    sys.path.insert(0, {folder!r})
    import callers
    from tests import faults
    from numbanorm.cpu.engine.parallel import engine
"""


@pytest.fixture(scope="module")
def begin(tmp_path_factory):
    """The first lines of scripts, in which `callers` is a module of a user's, with compiled functions in its cache."""
    folder = tmp_path_factory.mktemp("user")
    shutil.copy(compiled_callers.__file__, folder / "callers.py")
    lines = BEGIN.format(folder=str(folder))
    script = "    callers.verify(callers.expected()); callers.chosen(0); assert callers.hits() == (0, 3)\n"
    python(lines + script, limit=240)  # it may be the first to compile the kernels
    return lines


@pytest.mark.parametrize("engine", ENGINES)
def test_with_any_number_of_threads_and_from_numbas_cache(begin, engine):
    """The first call comes before Python's: the thread that calls works alone then, also after a change."""
    script = """
    callers.verify_streams()
    assert callers.chosen(0)[0] == 0
    faults.use_threads(1)
    those = callers.expected()
    for count in (2, 1, 2):
        faults.use_threads(count)
        assert callers.chosen(0)[0] == 0
        callers.verify(those)
        assert engine() == callers.chosen(0)[0] != 0
        callers.verify(those)
    assert callers.hits() == (3, 0)
    """
    python(begin + script, NUMBANORM_ENGINE=engine)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
@pytest.mark.parametrize("engine", ENGINES)
def test_beside_a_fork(begin, engine):
    """A child works in the thread that calls until Python's code starts threads; the parent goes on with its own."""
    script = """
    faults.use_threads(1)
    those = callers.expected()
    faults.use_threads(2)
    address = engine()

    def child():
        assert callers.chosen(0)[0] == 0
        callers.verify(those)
        assert callers.chosen(0)[0] == 0
        callers.expected()
        assert callers.chosen(0)[0] == address
        callers.verify(those)

    callers.verify(those)
    for _ in range(3):
        faults.in_fork(child)
        assert callers.chosen(0)[0] == address
        callers.verify(those)
    """
    python(begin + script, NUMBANORM_ENGINE=engine)
