"""Which tables are for an array: those of the host, or those of a GPU."""

from typing import Any

from numbanorm._call.kinds import is_on_device


def measured_by(name: str, x: Any) -> Any:
    """The module that measures the channels of an argument."""
    if is_on_device(name, x):
        from numbanorm._scaling import device_tables

        return device_tables
    from numbanorm._scaling import measured

    return measured


def tables_for(name: str, x: Any) -> Any:
    """The module that measures and scales the columns of an argument."""
    if is_on_device(name, x):
        from numbanorm._scaling import device_tables

        return device_tables
    from numbanorm._scaling import host_tables

    return host_tables
