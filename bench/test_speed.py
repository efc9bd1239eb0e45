"""The cases of `bench.speed` for pytest-benchmark: ``pytest bench``."""

import pytest

from bench import peers
from bench.cases import all_cases, calls, check_agreement

SYSTEMS = ("numbanorm", "out=", *peers.installed())


@pytest.fixture(scope="module", params=all_cases(), ids=lambda case: f"{case.operation.name}, {case.shape}")
def systems(request):
    """The calls of one case; they agree."""
    systems = calls(request.param)
    check_agreement(systems)
    return systems


@pytest.mark.parametrize("name", SYSTEMS)
def test_speed(benchmark, systems, name, request):
    benchmark.group = request.node.callspec.id.removesuffix(f"-{name}")
    with peers.inference_mode():
        benchmark.pedantic(systems[name], rounds=5, warmup_rounds=1)
