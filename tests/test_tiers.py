"""The tables of `tests.tiers` speak of tests that there are, and leave none of them to the night alone."""

from collections import defaultdict

import pytest

from tests import tiers

ENTRIES = [
    pytest.param(marker, file, test, id=f"{marker}, {file}, {test}")
    for marker, table in (("slow", tiers.SLOW), ("nightly", tiers.NIGHTLY))
    for file, tests in table.items()
    for test in tests
]


@pytest.fixture(scope="module")
def collected(pytestconfig):
    """For a file and a test the markers of each variant."""
    found = defaultdict(list)
    for item in pytestconfig.stash[tiers.COLLECTED]:
        found[item.path.stem, tiers.name(item)].append({marker.name for marker in item.iter_markers()})
    return found


@pytest.mark.parametrize(("marker", "file", "test"), ENTRIES)
def test_each_pattern_marks_some_variants_and_not_all(marker, file, test, collected):
    if file not in {collected_file for collected_file, _ in collected}:
        pytest.skip(f"{file} is not of this run, or skipped as a whole")
    variants = collected[file, test]
    assert any(marker in markers for markers in variants)
    assert any(marker not in markers for markers in variants)
    assert any("nightly" not in markers for markers in variants)


@pytest.mark.parametrize("file", tiers.FIRST)
def test_files_that_come_first_are_there(file, pytestconfig):
    assert list((pytestconfig.rootpath / "tests").rglob(f"{file}.py"))
