"""Any valid call of a function of arrays does what the reference says; any with a bad argument writes nothing."""

import inspect
import re

import pytest
from hypothesis import given, note
from hypothesis import strategies as st

from numbanorm._operations import OPERATIONS
from tests.arranged import assert_kept, snapshot
from tests.calls import CALLS, streamed
from tests.spoiled import WRITTEN, changes


def test_each_operation_has_its_calls():
    """But the halves of a backward pass, which `test_batchnorm_halves` holds against the whole."""
    assert CALLS.keys() == {name for name, one in OPERATIONS.items() if one.family != "batchnorm_halves"}


@pytest.mark.parametrize("name", CALLS)
@given(data=st.data(), streams=st.booleans())
def test_valid_arguments(name, data, streams):
    function, arguments, _, check = data.draw(CALLS[name])
    written = [(a, a.copy()) for key, a in arguments.items() if key in WRITTEN and a is not None]
    before = snapshot(arguments)
    with streamed(streams):
        result = function(**arguments)
    check(result)
    for a, original in written:
        a[...] = original
    assert_kept(before)


@pytest.mark.parametrize("name", CALLS)
@given(data=st.data())
def test_a_bad_argument(name, data):
    call = data.draw(CALLS[name])
    argument = data.draw(st.sampled_from(list(inspect.signature(call.function).parameters)))
    changed, error = data.draw(changes(call, argument))
    before = [snapshot(call.arguments), snapshot(changed)]
    with pytest.raises(error) as caught:
        call.function(**call.arguments | changed)
    note(repr(caught.value))
    names = call.arguments if argument == "x" else changed  # what goes with the old x does not with a new one
    assert re.match(rf"({'|'.join(names)}|axis|channel_axis): ", str(caught.value))
    for arrays in before:
        assert_kept(arrays)
