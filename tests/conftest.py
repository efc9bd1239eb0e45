"""How many examples hypothesis draws, which tests are in which tier, and whether those of a GPU may be skipped.

The examples are the same on every run, or many new ones with --hypothesis-profile=nightly.
"""

import os

import pytest
from hypothesis import settings

from tests import tiers
from tests.devices import EMULATED, HOST, REAL

settings.register_profile("same", max_examples=100, derandomize=True, deadline=None)
settings.register_profile("nightly", max_examples=10_000, deadline=None, print_blob=True)
settings.load_profile("same")

_REQUIRED = "--require-gpu"
_REAL = [pytest.param(gpu, id=gpu.name, marks=pytest.mark.gpu) for gpu in REAL]
_GPUS = [pytest.param(EMULATED, id=EMULATED.name), *_REAL]


@pytest.fixture(autouse=True, scope="session")
def _shared_by_the_workers(tmp_path_factory):
    """A directory in which `tests.compiled` keeps what one of them has compiled."""
    own = tmp_path_factory.getbasetemp()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TESTS_SHARED_DIRECTORY", str(own.parent if "PYTEST_XDIST_WORKER" in os.environ else own))
        yield


@pytest.fixture(scope="module", params=[pytest.param(HOST, id=HOST.name), *_GPUS])
def device(request):
    """Each device in turn (`tests/devices.py`), on which calls run."""
    yield from _running(request.param)


@pytest.fixture(scope="module", params=_GPUS)
def gpu(request):
    """Each device but the host."""
    yield from _running(request.param)


def _running(device):
    if reason := device.lacking():
        pytest.skip(reason)
    with device.running():
        yield device


def pytest_addoption(parser):
    parser.addoption(
        _REQUIRED,
        action="store_true",
        help="with -m gpu: fail unless tests have passed on a GPU. Without it they are skipped where there is none.",
    )


@pytest.hookimpl(tryfirst=True)  # before pytest chooses by markers
def pytest_collection_modifyitems(config, items):
    for item in items:
        item.add_marker(pytest.mark.xdist_group(tiers.part(item)))
        if marker := tiers.marked(item):
            item.add_marker(marker)
    items.sort(key=tiers.place)
    config.stash[tiers.COLLECTED] = list(items)


def pytest_configure(config):
    config.option.loadscopereorder = False  # pytest-xdist takes parts in their order here, not by their count of tests
    if config.getoption(_REQUIRED) and not hasattr(config, "workerinput"):  # of pytest-xdist
        config.pluginmanager.register(_RequiredGpu())


class _RequiredGpu:
    """Skipped tests prove nothing, whatever they were skipped for: a driver, NVVM or a package is missing, say."""

    def __init__(self):
        self.passed = 0

    def pytest_runtest_logreport(self, report):
        self.passed += report.when == "call" and report.passed and "gpu" in report.keywords

    @pytest.hookimpl(trylast=True)
    def pytest_sessionfinish(self, session):
        if not self.passed and session.exitstatus in (pytest.ExitCode.OK, pytest.ExitCode.NO_TESTS_COLLECTED):
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def pytest_terminal_summary(self, terminalreporter):
        if not self.passed:
            terminalreporter.write_line(f"{_REQUIRED}: no test has passed on a GPU", red=True)
