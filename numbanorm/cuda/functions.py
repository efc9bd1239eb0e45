"""The public functions, of arrays on a GPU: check, see, allocate, launch. What they do is said where they are public.

Nothing is read back: what only the values would tell (a mask that is False everywhere, a negative variance) shows as
NaN in the results, not as an error.
"""

from typing import Any

import numpy as np

from numbanorm._call import arguments
from numbanorm._call.device import Call, Layout
from numbanorm._scaling.device_tables import column_extremes, column_moments, scaled, table
from numbanorm._states import State
from numbanorm._types import Forward, Gradients, Shape
from numbanorm.cuda import batchnorm, batchnorm_halves, layernorm
from numbanorm.cuda.grids import Run
from numbanorm.cuda.moments import measured

__all__ = [
    "batch_norm",
    "batch_norm_backward",
    "batch_norm_backward_apply",
    "batch_norm_backward_reduce",
    "batch_norm_forward",
    "column_extremes",
    "column_moments",
    "layer_norm",
    "layer_norm_backward",
    "layer_norm_forward",
    "moments",
    "scaled",
    "table",
]

_BOOL, _EIGHT = np.dtype(np.bool_), (8,)  # the strides of a vector of float64


def layer_norm(x: Any, weight: Any, bias: Any, axis: Any, eps: Any, out: Any) -> Any:
    return _layer_norm_forward(x, weight, bias, axis, eps, out, statistics=False)[0]


def layer_norm_forward(x: Any, weight: Any, bias: Any, axis: Any, eps: Any, out: Any) -> Forward:
    return Forward(*_layer_norm_forward(x, weight, bias, axis, eps, out, statistics=True))


def _layer_norm_forward(
    x: Any, weight: Any, bias: Any, axis: Any, eps: Any, out: Any, statistics: bool
) -> tuple[Any, Any, Any]:
    call = Call(x, weight=weight, bias=bias, out=out)
    lies = _layout(call, arguments.axes(axis, call.x.array), "weight", "bias")
    eps = arguments.eps(eps)
    _check_out(call, ("x",), ("weight", "bias"))

    seen, dtype = lies.split, lies.split.dtype
    own_weight, own_bias = (call.run(name, lies.parameter, dtype) for name in ("weight", "bias"))
    own_x = call.run("x", lies.strides, dtype)
    y, target = call.target(lies.strides)
    (mean, own_mean), (rstd, own_rstd) = ((None, Run(0, dtype, 0)),) * 2
    if statistics:
        mean, own_mean = call.empty(seen.kept_shape, lies.kept, dtype)
        rstd, own_rstd = call.empty(seen.kept_shape, lies.kept, dtype)
    columns = seen.inner != 1
    kernel = layernorm.layer_norm_columns_forward if columns else layernorm.layer_norm_forward
    sizes = seen.planes if columns else seen.planes[:2]
    kernel(call, own_x, own_weight, own_bias, eps, target, own_mean, own_rstd, *sizes)
    return call.deliver(y, target, lies.strides), mean, rstd


def layer_norm_backward(dy: Any, x: Any, mean: Any, rstd: Any, weight: Any, axis: Any, out: Any) -> Gradients:
    call = Call(x, dy=dy, mean=mean, rstd=rstd, weight=weight, out=out)
    lies = _layout(call, arguments.axes(axis, call.x.array), "weight")
    seen, dtype = lies.split, lies.split.dtype
    arguments.like("dy", call.array("dy"), call.x.array)
    _check_statistics(call, lies, seen.kept_shape, "mean", "rstd")
    _check_out(call, ("dy", "x"), ("mean", "rstd", "weight"))

    columns = seen.inner != 1
    own_dy, own_x = call.run("dy", lies.strides, dtype), call.run("x", lies.strides, dtype)
    own_mean, own_rstd = call.run("mean", lies.kept, dtype), call.run("rstd", lies.kept, dtype)
    own_weight = call.run("weight", lies.parameter, dtype)
    dx, target = call.target(lies.strides)
    dweight, own_dweight = call.empty(seen.parameter_shape, lies.parameter, dtype)
    dbias, own_dbias = call.empty(seen.parameter_shape, lies.parameter, dtype)
    kernel = layernorm.layer_norm_columns_backward if columns else layernorm.layer_norm_backward
    sizes = seen.planes if columns else seen.planes[:2]
    kernel(call, own_dy, own_x, own_mean, own_rstd, own_weight, target, own_dweight, own_dbias, *sizes)
    return Gradients(call.deliver(dx, target, lies.strides), dweight, dbias)


def batch_norm(x: Any, mean: Any, var: Any, weight: Any, bias: Any, channel_axis: Any, eps: Any, out: Any) -> Any:
    call = Call(x, mean=mean, var=var, weight=weight, bias=bias, out=out)
    lies = _layout(call, arguments.channel_axes(channel_axis, call.x.array), "weight", "bias")
    seen, dtype = lies.split, lies.split.dtype
    _check_statistics(call, lies, seen.parameter_shape, "mean", "var")
    eps = arguments.eps(eps)
    _check_out(call, ("x",), ("mean", "var", "weight", "bias"))

    own_mean, own_var = _as_it_is(call, lies, "mean"), _as_it_is(call, lies, "var")
    own_weight, own_bias = (call.run(name, lies.parameter, dtype) for name in ("weight", "bias"))
    own_x = call.run("x", lies.strides, dtype)
    y, target = call.target(lies.strides)
    batchnorm.batch_norm(call, own_x, own_mean, own_var, own_weight, own_bias, eps, target, *seen.planes)
    return call.deliver(y, target, lies.strides)


def batch_norm_forward(
    x: Any,
    weight: Any,
    bias: Any,
    running_mean: Any,
    running_var: Any,
    momentum: Any,
    channel_axis: Any,
    eps: Any,
    mask: Any,
    out: Any,
) -> Forward:
    arrays = {"weight": weight, "bias": bias, "running_mean": running_mean, "running_var": running_var, "mask": mask}
    call = Call(x, **arrays, out=out)
    axis = arguments.channel_axis(channel_axis, call.x.array)
    lies = _layout(call, (axis,), "weight", "bias")
    seen, dtype = lies.split, lies.split.dtype
    eps, momentum = arguments.eps(eps), arguments.momentum(momentum)
    _check_mask(call, axis)
    _check_out(call, ("x",), ("weight", "bias", "mask"))
    apart = {name: call.array(name) for name in ("weight", "bias", "mask", "out")} | {"x": call.x.array}
    for name in ("running_mean", "running_var"):
        arguments.updated(name, call.array(name), seen.parameter_shape, dtype, apart)
        apart[name] = call.array(name)
    if mask is None:
        arguments.several_values(call.x.array, seen.outer * seen.inner, masked=False)

    own_weight, own_bias = (call.run(name, lies.parameter, dtype) for name in ("weight", "bias"))
    own_running_mean, own_running_var = (_as_it_is(call, lies, name) for name in ("running_mean", "running_var"))
    own_mask = call.run("mask", lies.others, _BOOL)
    own_x = call.run("x", lies.strides, dtype)
    y, target = call.target(lies.strides)
    mean, own_mean = call.empty(seen.parameter_shape, lies.parameter, dtype)
    rstd, own_rstd = call.empty(seen.parameter_shape, lies.parameter, dtype)
    given = own_x, own_weight, own_bias, own_running_mean, own_running_var, momentum, eps, own_mask
    batchnorm.batch_norm_forward(call, *given, target, own_mean, own_rstd, *seen.planes)
    for name, run in (("running_mean", own_running_mean), ("running_var", own_running_var)):
        call.put_back(name, run, (run.dtype.itemsize,))
    return Forward(call.deliver(y, target, lies.strides), mean, rstd)


def batch_norm_backward(
    dy: Any, x: Any, mean: Any, rstd: Any, weight: Any, channel_axis: Any, mask: Any, frozen: Any, out: Any
) -> Gradients:
    call = Call(x, dy=dy, mean=mean, rstd=rstd, weight=weight, mask=mask, out=out)
    axis = arguments.channel_axis(channel_axis, call.x.array)
    lies = _layout(call, (axis,), "weight")
    seen, dtype = lies.split, lies.split.dtype
    arguments.like("dy", call.array("dy"), call.x.array)
    _check_statistics(call, lies, seen.parameter_shape, "mean", "rstd")
    arguments.flag("frozen", frozen)
    _check_mask(call, axis)
    _check_out(call, ("dy", "x"), ("mean", "rstd", "weight", "mask"))

    own_dy, own_x = call.run("dy", lies.strides, dtype), call.run("x", lies.strides, dtype)
    own_weight, own_mask = call.run("weight", lies.parameter, dtype), call.run("mask", lies.others, _BOOL)
    if frozen:
        own_mean, own_rstd = _as_it_is(call, lies, "mean"), _as_it_is(call, lies, "rstd")
    else:
        own_mean, own_rstd = call.run("mean", lies.parameter, dtype), call.run("rstd", lies.parameter, dtype)
    dx, target = call.target(lies.strides)
    dweight, own_dweight = call.empty(seen.parameter_shape, lies.parameter, dtype)
    dbias, own_dbias = call.empty(seen.parameter_shape, lies.parameter, dtype)
    kernel: Any = batchnorm.batch_norm_backward_frozen if frozen else batchnorm.batch_norm_backward
    given = own_dy, own_x, own_mean, own_rstd, own_weight, own_mask
    kernel(call, *given, target, own_dweight, own_dbias, *seen.planes)
    return Gradients(call.deliver(dx, target, lies.strides), dweight, dbias)


def moments(x: Any, channel_axis: Any, mask: Any, omit_nan: bool) -> State:
    """The state of each channel, on the host."""
    call = Call(x, mask=mask)
    if call.x.array.ndim == 1:
        call.x = call.x._replace(array=call.x.array[:, None])
    axis = arguments.channel_axis(channel_axis, call.x.array)
    lies = _layout(call, (axis,))
    _check_mask(call, axis)
    own_x, own_mask = call.run("x", lies.strides, lies.split.dtype), call.run("mask", lies.others, _BOOL)
    state: State = measured(call, own_x, lies.split.planes, own_mask, omit_nan)
    return state


def batch_norm_backward_reduce(dy: Any, x: Any, mean: Any, rstd: Any, channel_axis: Any, mask: Any) -> tuple[Any, Any]:
    call = Call(x, dy=dy, mean=mean, rstd=rstd, mask=mask)
    lies = _halves(call, channel_axis)
    seen, dtype = lies.split, lies.split.dtype

    own_dy, own_x = call.run("dy", lies.strides, dtype), call.run("x", lies.strides, dtype)
    own_mean, own_rstd = (call.run(name, _EIGHT, arguments.FLOAT64) for name in ("mean", "rstd"))
    own_mask = call.run("mask", lies.others, _BOOL)
    sum_dy, own_sum_dy = call.empty(seen.parameter_shape, _EIGHT, arguments.FLOAT64)
    sum_dy_xhat, own_sum_dy_xhat = call.empty(seen.parameter_shape, _EIGHT, arguments.FLOAT64)
    given = own_dy, own_x, own_mean, own_rstd, own_mask
    batchnorm_halves.batch_norm_backward_reduce(call, *given, own_sum_dy, own_sum_dy_xhat, *seen.planes)
    call.finish()
    return sum_dy, sum_dy_xhat


def batch_norm_backward_apply(
    dy: Any,
    x: Any,
    mean: Any,
    rstd: Any,
    weight: Any,
    sum_dy: Any,
    sum_dy_xhat: Any,
    count: Any,
    channel_axis: Any,
    mask: Any,
    out: Any,
) -> Any:
    arrays = {"weight": weight, "sum_dy": sum_dy, "sum_dy_xhat": sum_dy_xhat, "mask": mask, "out": out}
    call = Call(x, dy=dy, mean=mean, rstd=rstd, **arrays)
    lies = _halves(call, channel_axis, "weight")
    seen, dtype = lies.split, lies.split.dtype
    _check_statistics(call, lies, seen.parameter_shape, "sum_dy", "sum_dy_xhat")
    own_count = arguments.count(count, seen.own, of_none=call.x.array.size == 0)
    _check_out(call, ("dy", "x"), ("mean", "rstd", "sum_dy", "sum_dy_xhat", "weight", "mask"))

    own_dy, own_x = call.run("dy", lies.strides, dtype), call.run("x", lies.strides, dtype)
    own_mean, own_rstd = (call.run(name, _EIGHT, arguments.FLOAT64) for name in ("mean", "rstd"))
    own_sum_dy, own_sum_dy_xhat = (call.run(name, _EIGHT, arguments.FLOAT64) for name in ("sum_dy", "sum_dy_xhat"))
    own_weight, own_mask = call.run("weight", lies.parameter, dtype), call.run("mask", lies.others, _BOOL)
    dx, target = call.target(lies.strides)
    given = own_dy, own_x, own_mean, own_rstd, own_weight, own_sum_dy, own_sum_dy_xhat, own_count, own_mask
    batchnorm_halves.batch_norm_backward_apply(call, *given, target, *seen.planes)
    return call.deliver(dx, target, lies.strides)


def _halves(call: Call, channel_axis: Any, *parameters: str) -> Layout:
    """`_layout`, and what both halves of the backward pass take checked."""
    axis = arguments.channel_axis(channel_axis, call.x.array)
    lies = _layout(call, (axis,), *parameters)
    arguments.like("dy", call.array("dy"), call.x.array)
    _check_statistics(call, lies, lies.split.parameter_shape, "mean", "rstd")
    _check_mask(call, axis)
    return lies


def _layout(call: Call, axes: Shape, *parameters: str) -> Layout:
    """How x is seen; x and the parameters checked."""
    arguments.array("x", call.x.array)
    lies = call.layout(axes)
    for name in parameters:
        if (array := call.array(name)) is not None:
            arguments.parameter(name, array, lies.split.parameter_shape, lies.split.dtype)
    return lies


def _check_statistics(call: Call, lies: Layout, shape: Shape, *names: str) -> None:
    for name in names:
        arguments.statistic(name, call.array(name), shape, lies.split.dtype)


def _check_out(call: Call, same: tuple[str, ...], apart: tuple[str, ...]) -> None:
    out = call.array("out")
    if out is not None:
        x = call.x.array
        others = [{name: x if name == "x" else call.array(name) for name in names} for names in (same, apart)]
        arguments.out(out, x, *others)


def _check_mask(call: Call, axis: int) -> None:
    mask, shape = call.array("mask"), call.x.array.shape
    if mask is not None:
        arguments.mask_type(mask, shape[:axis] + shape[axis + 1 :])


def _as_it_is(call: Call, lies: Layout, name: str) -> Run:
    """A vector of its own dtype."""
    array = call.array(name)
    dtype = lies.split.dtype if array is None else array.dtype
    return call.run(name, (dtype.itemsize,), dtype)
