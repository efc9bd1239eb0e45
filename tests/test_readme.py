"""The README's examples run and do what it says."""

import re
from pathlib import Path

import pytest

README = (Path(__file__).parent.parent / "README.md").read_text(encoding="utf-8")
EXAMPLES = re.findall(r"```python\n(.*?)```", README, re.DOTALL)


def test_there_are_examples():
    assert len(EXAMPLES) >= 3


def test_the_tests_behind_the_table_of_faults_exist():
    table = README.partition("<!-- faults -->")[2].partition("<!-- faults end -->")[0]
    rows = [line.split("|")[-2] for line in table.splitlines() if line.startswith("| ")][1:]
    sources = {path.name: path.read_text(encoding="utf-8") for path in Path(__file__).parent.glob("test_*.py")}
    every = "".join(sources.values())
    assert len(rows) >= 10
    for row in rows:
        tests = re.findall(r"`(test_\w+)`", row)
        linked = re.findall(r"\(tests/(test_\w+\.py)\)", row)
        assert tests or linked, row
        assert [name for name in tests if f"def {name}(" not in every] == []
        assert [name for name in linked if name not in sources] == []


@pytest.mark.parametrize("source", EXAMPLES, ids=lambda source: source.splitlines()[1][:40])
def test_example_runs(source):
    exec(compile(source, "README.md", "exec"), {})


def test_the_trainer_learns(capsys):
    trainer = next(source for source in EXAMPLES if "norm.backward" in source)
    scope = {}
    exec(compile(trainer, "README.md", "exec"), scope)
    assert float(capsys.readouterr().out) < 0.05 * scope["target"].var()
