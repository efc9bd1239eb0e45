"""`torch_peer` through ``torch.compile``, as a user would who looks for speed; each case is compiled for its shape.

Inductor takes as many threads as PyTorch has.
"""

import warnings

import torch

from bench import torch_peer


def _compiled(make):
    def make_compiled(*arrays_and_axis):
        torch.compiler.reset()  # else it gives up after a few shapes
        call = torch.compile(make(*arrays_and_axis), fullgraph=True, dynamic=False)
        try:
            call()
        except Exception as error:  # of many kinds, from Dynamo, Inductor and the C++ compiler
            warnings.warn(f"torch.compile, {make.__name__}: {type(error).__name__}: {error}", stacklevel=2)
            return None
        return call

    return make_compiled


layer_norm = _compiled(torch_peer.layer_norm)
layer_norm_forward = _compiled(torch_peer.layer_norm_forward)
layer_norm_backward = _compiled(torch_peer.layer_norm_backward)
rms_norm = _compiled(torch_peer.rms_norm)
rms_norm_forward = _compiled(torch_peer.rms_norm_forward)
rms_norm_backward = _compiled(torch_peer.rms_norm_backward)
batch_norm = _compiled(torch_peer.batch_norm)
batch_norm_forward = _compiled(torch_peer.batch_norm_forward)
batch_norm_backward = _compiled(torch_peer.batch_norm_backward)
