"""Which module measures and scales an array: one for the host, or one for a GPU."""

from typing import Any

from numbanorm._call.kinds import for_device

_ON_DEVICE = "numbanorm._scaling.device_tables"


def measured_by(name: str, x: Any) -> Any:
    """The module that measures the channels of an argument."""
    from numbanorm._scaling import measured

    return for_device(name, x, _ON_DEVICE) or measured


def tables_for(name: str, x: Any) -> Any:
    """The module that measures and scales the columns of an argument."""
    from numbanorm._scaling import host_tables

    return for_device(name, x, _ON_DEVICE) or host_tables
