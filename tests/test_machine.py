"""What the package takes the machine for."""

import pytest

from numbanorm.cpu.engine import machine


@pytest.mark.parametrize(
    ("texts", "expected"),
    [
        (["32K\n", "1024K\n", "16384K\n"], 16 << 20),
        (["2048K\n", "307200K\n"], 64 << 20),  # of a chip with many more processors
        ([], 32 << 20),
        (["a lot"], 32 << 20),
        ([""], 32 << 20),
    ],
)
def test_the_last_level_cache(texts, expected, tmp_path, monkeypatch):
    for i, text in enumerate(texts):
        (tmp_path / f"index{i}").mkdir()
        (tmp_path / f"index{i}" / "size").write_text(text)
    monkeypatch.setattr(machine, "_CACHES", tmp_path)
    monkeypatch.setattr(machine.os, "cpu_count", lambda: 4)
    machine.last_level_cache.cache_clear()
    try:
        assert machine.last_level_cache() == expected
        assert not machine.streams(expected // 2)
        assert machine.streams(expected // 2 + 1)
    finally:
        machine.last_level_cache.cache_clear()
