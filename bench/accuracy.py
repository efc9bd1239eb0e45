"""How exact y is far from zero: its largest error for float32 values of standard deviation 1 around K.

The reference is float64 arithmetic on the same float32 values.
"""

import numpy as np

import numbanorm
from bench import peers
from bench.environment import append
from bench.tables import Table

OFFSETS = ("0", "1", "1e3", "1e4", "1e6")
EPS = 1e-5
SYSTEMS = (*peers.BASIC, "numbanorm")


def table() -> Table:
    """A row per offset, a column per system and norm."""
    header = ["K", *(f"{name} LN" for name in SYSTEMS), *(f"{name} BN" for name in SYSTEMS)]
    rows = []
    for K in OFFSETS:
        rng = np.random.default_rng(0)
        rows_around_K = (rng.standard_normal((256, 768)) + float(K)).astype(np.float32)
        columns_around_K = (rng.standard_normal((4096, 64)) + float(K)).astype(np.float32)
        layer = _errors(_layer_norms(rows_around_K), rows_around_K, axis=1)
        batch = _errors(_batch_norms(columns_around_K), columns_around_K, axis=0)
        rows.append([K, *layer, *batch])
    return Table("Largest error of y, float32 values of standard deviation 1 around K", header, rows)


def save(table: Table):
    """A row per offset; returns the path."""
    return append("accuracy", [dict(zip(table.header, row, strict=True)) for row in table.rows])


def _errors(results, x, axis) -> list[str]:
    exact = x.astype(np.float64)
    y = (exact - exact.mean(axis, keepdims=True)) / np.sqrt(exact.var(axis, keepdims=True) + EPS)
    errors = {name: np.abs(np.asarray(result) - y).max() for name, result in results.items()}
    return [f"{errors[name]:.1e}" if name in errors else "-" for name in SYSTEMS]


def _layer_norms(x):
    """y over the rows of x, by every system."""
    weight, bias = _parameters(x)
    results = {name: peer.layer_norm(x, weight, bias, -1)() for name, peer in peers.installed().items()}
    return results | {"numbanorm": numbanorm.layer_norm(x, weight, bias)}


def _batch_norms(x):
    """y over the columns of x, by every system."""
    weight, bias = _parameters(x)
    running = np.zeros_like(weight), np.ones_like(weight)
    results = {
        name: peer.batch_norm_forward(x, weight, bias, *running, 1)()[0] for name, peer in peers.installed().items()
    }
    return results | {"numbanorm": numbanorm.batch_norm_forward(x, weight, bias).y}


def _parameters(x):
    return np.ones(x.shape[1], np.float32), np.zeros(x.shape[1], np.float32)
