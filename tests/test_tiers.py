"""The tables of `tests.tiers` speak of tests that there are, and leave none of them to the night alone."""

from collections import defaultdict

import pytest

from tests import tiers

ENTRIES = [
    pytest.param(marker, part, test, id=f"{marker}, {part}, {test}")
    for marker, table in (("slow", tiers.SLOW), ("nightly", tiers.NIGHTLY))
    for part, tests in table.items()
    for test in tests
]


@pytest.fixture(scope="module")
def collected(pytestconfig):
    """For a part and a test the markers of each variant."""
    found = defaultdict(list)
    for item in pytestconfig.stash[tiers.COLLECTED]:
        found[tiers.part(item), tiers.name(item)].append({marker.name for marker in item.iter_markers()})
    return found


@pytest.mark.parametrize(("marker", "part", "test"), ENTRIES)
def test_each_pattern_marks_some_variants_and_not_all(marker, part, test, collected):
    if part not in {collected_part for collected_part, _ in collected}:
        pytest.skip(f"{part} is not of this run, or skipped as a whole")
    variants = collected[part, test]
    assert any(marker in markers for markers in variants)
    if len(variants) == 1:  # of this device: then the host's runs always
        variants = collected[part.replace("emulated", "host"), test]
    assert any(marker not in markers for markers in variants)
    assert any("nightly" not in markers for markers in variants)


@pytest.mark.parametrize("part", tiers.FIRST)
def test_parts_that_come_first_are_there(part, pytestconfig):
    file, _, device = part.partition(" on ")
    assert list((pytestconfig.rootpath / "tests").rglob(f"{file}.py"))
    assert device in ("", "host", "emulated")
