"""The operations in ONNX Runtime: a model of one operator, run on bound arrays: it writes where it wrote before.

It has no backward operators. Parameters are constants of the model, as in an exported network. An axis other than the
operator's own takes a transposition before and after it, as exporters write it.
"""

import numpy as np
import onnxruntime
from onnx import helper, numpy_helper

import numbanorm

EPS = 1e-5
OPSET = 17
SPIN = "2000"  # us that its threads wait for the next call; by default a second, for which all others run at half speed


def layer_norm(x, weight, bias, axis):
    """y."""
    node = helper.make_node("LayerNormalization", ["seen", "weight", "bias"], ["seen_y"], axis=-1, epsilon=EPS)
    call = _bound(x, axis, x.ndim - 1, [node], {"weight": weight, "bias": bias}, {})
    return lambda: call()[0]


def layer_norm_forward(x, weight, bias, axis):
    """y, mean, rstd."""
    outputs = ["seen_y", "mean", "rstd"]
    node = helper.make_node("LayerNormalization", ["seen", "weight", "bias"], outputs, axis=-1, epsilon=EPS)
    kept = [n for i, n in enumerate(x.shape) if i != axis % x.ndim]
    statistic = np.empty((*kept, 1), np.float32)  # whatever x is
    return _bound(
        x, axis, x.ndim - 1, [node], {"weight": weight, "bias": bias}, {"mean": statistic, "rstd": statistic.copy()}
    )


def batch_norm(x, mean, var, weight, bias, channel_axis):
    """y."""
    node = helper.make_node("BatchNormalization", ["seen", "weight", "bias", "mean", "var"], ["seen_y"], epsilon=EPS)
    constants = {"weight": weight, "bias": bias, "mean": mean, "var": var}
    call = _bound(x, channel_axis, 1, [node], constants, {})
    return lambda: call()[0]


def batch_norm_forward(x, weight, bias, running_mean, running_var, channel_axis):
    """y, mean, rstd. With a momentum of 0 the operator's running statistics are those of the batch."""
    inputs = ["seen", "weight", "bias", "running_mean", "running_var"]
    nodes = [
        helper.make_node(
            "BatchNormalization", inputs, ["seen_y", "mean", "var"], epsilon=EPS, momentum=0.0, training_mode=1
        ),
        helper.make_node("Add", ["var", "eps"], ["var_eps"]),
        helper.make_node("Sqrt", ["var_eps"], ["std"]),
        helper.make_node("Reciprocal", ["std"], ["rstd"]),
    ]
    constants = {"weight": weight, "bias": bias, "running_mean": running_mean, "running_var": running_var}
    constants["eps"] = np.array(EPS, x.dtype)
    return _bound(x, channel_axis, 1, nodes, constants, {"mean": np.empty_like(weight), "rstd": np.empty_like(weight)})


def _bound(x, axis, operator_axis, nodes, constants, statistics):
    """A call that runs `nodes`, from "seen" to "seen_y" and `statistics`, and returns y and those."""
    there, back = _order(x.ndim, axis, operator_axis), _order(x.ndim, operator_axis, axis)
    moved = there != sorted(there)
    source, result = ("x", "y") if moved else ("seen", "seen_y")
    if moved:
        before = helper.make_node("Transpose", [source], ["seen"], perm=there)
        nodes = [before, *nodes, helper.make_node("Transpose", ["seen_y"], [result], perm=back)]
    outputs = {result: np.empty_like(x), **statistics}
    session = _session(nodes, {source: x}, constants, outputs)
    binding = session.io_binding()
    binding.bind_cpu_input(source, x)
    for name, a in outputs.items():
        binding.bind_output(name, "cpu", 0, a.dtype.type, a.shape, a.ctypes.data)
    results = tuple(outputs.values())

    def call():
        session.run_with_iobinding(binding)
        return results

    return call


def _order(ndim, source, target):
    """The permutation that moves axis `source` to `target`."""
    order = list(range(ndim))
    order.insert(target % ndim, order.pop(source % ndim))
    return order


def _session(nodes, inputs, constants, outputs):
    def described(arrays):
        return [
            helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(a.dtype), a.shape)
            for name, a in arrays.items()
        ]

    values = [numpy_helper.from_array(a, name) for name, a in constants.items()]
    graph = helper.make_graph(nodes, "operation", described(inputs), described(outputs), values)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=10)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = numbanorm.get_num_threads()
    options.inter_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.spin_duration_us", SPIN)
    return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
