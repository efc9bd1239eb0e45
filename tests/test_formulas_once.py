"""Each formula stands once in the code, in `numbanorm/_math.py`: no other file of the package has a second copy.

A copy is recognised by its structure, whatever its values are called: local names are replaced by what was assigned to
them first.
"""

import ast
import copy
from pathlib import Path

import pytest

import numbanorm

PACKAGE = Path(numbanorm.__file__).parent
FILES = sorted(path for path in PACKAGE.rglob("*.py") if path.name != "_math.py")
ROOTS = {"sqrt", "rsqrt", "rsqrtf", "fast_rsqrt"}


def root_names(tree):
    """The names under which a module has a root function: `math.sqrt` and what it has imported as something else."""
    imported = (node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom))
    return ROOTS | {a.asname for node in imported for a in node.names if a.name in ROOTS and a.asname}


def functions(tree):
    """The functions of a module, or the module itself, each without the functions in it."""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.Module):
            yield node


def statements(function):
    """The nodes of a function, without those of functions in it."""
    for child in ast.iter_child_nodes(function):
        if not isinstance(child, ast.FunctionDef):
            yield child
            yield from statements(child)


def local_values(function):
    """What each local name is assigned, of names that are assigned once."""
    values, seen = {}, set()
    for node in statements(function):
        if isinstance(node, ast.Assign):
            for target in node.targets:
                pairs = [(target, node.value)]
                if isinstance(target, ast.Tuple):
                    parts = node.value.elts if isinstance(node.value, ast.Tuple) else []
                    pairs = list(zip(target.elts, parts, strict=False))
                for name, value in pairs:
                    if isinstance(name, ast.Name):
                        values[name.id] = None if name.id in seen else value
                        seen.add(name.id)
    return {name: value for name, value in values.items() if value is not None}


class Expanded(ast.NodeTransformer):
    """Replace names by their values, a few levels deep."""

    def __init__(self, values, depth=2):
        self.values, self.depth = values, depth

    def visit_Name(self, node):
        value = self.values.get(node.id)
        if value is None or self.depth == 0 or not isinstance(node.ctx, ast.Load):
            return node
        rest = {name: other for name, other in self.values.items() if name != node.id}
        return Expanded(rest, self.depth - 1).visit(copy.deepcopy(value))


def same(a, b):
    return ast.dump(a) == ast.dump(b)


def is_root(node, roots):
    """Whether a node is a root of something, as a call or as a power."""
    if isinstance(node, ast.Call):
        called = node.func
        return (called.attr if isinstance(called, ast.Attribute) else getattr(called, "id", "")) in roots
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Pow):
        power = node.right.operand if isinstance(node.right, ast.UnaryOp) else node.right
        return isinstance(power, ast.Constant) and power.value == 0.5
    return False


def reciprocal_root(node, roots):
    """1 / sqrt(a), a / sqrt(b), rsqrt(a), a ** -0.5."""
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Div):
        return any(is_root(inner, roots) for inner in ast.walk(node.right))
    if isinstance(node, ast.Call):
        return is_root(node, roots - {"sqrt"}) and not is_root(node, {"sqrt"})
    return is_root(node, roots) and isinstance(node.right, ast.UnaryOp)


def is_less_one(node, of):
    less = isinstance(node, ast.BinOp) and isinstance(node.op, ast.Sub) and same(node.left, of)
    return less and isinstance(node.right, ast.Constant) and node.right.value == 1


def unbiased_factor(node, roots):
    """n / (n - 1)."""
    return isinstance(node, ast.BinOp) and isinstance(node.op, ast.Div) and is_less_one(node.right, node.left)


def merging(node, roots):
    """b / (a + b), of which a merged mean and M2 are made."""
    if not (isinstance(node, ast.BinOp) and isinstance(node.op, ast.Div)):
        return False
    total = node.right
    is_sum = isinstance(total, ast.BinOp) and isinstance(total.op, ast.Add)
    return is_sum and any(same(part, node.left) for part in (total.left, total.right))


def names_in(node):
    return {inner.id for inner in ast.walk(node) if isinstance(inner, ast.Name)}


def factors(node):
    """The factors of a product."""
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Mult):
        return factors(node.left) + factors(node.right)
    return [node.operand] if isinstance(node, ast.UnaryOp) else [node]


def other_factors_than_rstd(node):
    """Yield the factors beside each rstd of a product. This goes by the name."""
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Mult):
        found = factors(node)
        for i, factor in enumerate(found):
            if has_name(factor, "rstd"):
                yield from found[:i] + found[i + 1 :]


def has_name(node, part):
    return any(part in name for name in names_in(node))


def weighted_rstd(node, roots):
    """rstd * weight, with which the preparation of factor, slope and offset begins. This goes by the names."""
    return any(has_name(factor, "weight") for factor in other_factors_than_rstd(node))


def mean_h_of_delta(node, roots):
    """delta * rstd. This goes by the names."""
    return any(isinstance(factor, ast.Name) and has_name(factor, "delta") for factor in other_factors_than_rstd(node))


def scaled_difference(node, roots):
    """(x - m) * rstd, where x and m are not products."""
    beside = (factor for factor in other_factors_than_rstd(node) if isinstance(factor, ast.BinOp))
    differences = (factor for factor in beside if isinstance(factor.op, ast.Sub))
    return any(len(factors(difference.left)) == 1 for difference in differences)


def mean_h_of_sum(node, roots):
    """sum_h / count. This goes by the name."""
    is_ratio = isinstance(node, ast.BinOp) and isinstance(node.op, ast.Div)
    return is_ratio and any(name.endswith(("sum_h", "sum_of_h")) for name in names_in(node.left))


def variance(node, roots):
    """sum_dd / n - delta * delta."""
    difference = isinstance(node, ast.BinOp) and isinstance(node.op, ast.Sub)
    if not (difference and isinstance(node.left, ast.BinOp) and isinstance(node.left.op, ast.Div)):
        return False
    square = node.right
    return isinstance(square, ast.BinOp) and isinstance(square.op, ast.Mult) and same(square.left, square.right)


FORMULAS = {
    "reciprocal_std": reciprocal_root,
    "unbiased_factor": unbiased_factor,
    "share_of": merging,
    "weighted_rstd": weighted_rstd,
    "mean_h_of_delta": mean_h_of_delta,
    "mean_h_of_sum": mean_h_of_sum,
    "scaled_difference": scaled_difference,
    "moments": variance,
}


def copies(tree):
    """The formulas of which a module has a copy, and the functions that have it."""
    roots = root_names(tree)
    for function in functions(tree):
        values = local_values(function)
        for node in statements(function):
            if isinstance(node, ast.BinOp | ast.Call):
                forms = [node]
                if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Div | ast.Sub):
                    forms.append(Expanded(values).visit(copy.deepcopy(node)))
                for name, is_copy in FORMULAS.items():
                    if any(is_copy(form, roots) for form in forms):
                        yield name, getattr(function, "name", "")


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_no_file_has_a_copy_of_a_formula(path):
    assert set(copies(ast.parse(path.read_text()))) == set()


def test_the_formulas_stand_where_they_should():
    found = set(copies(ast.parse((PACKAGE / "_math.py").read_text())))
    of_arrays = {("reciprocal_std", "reciprocal_stds")}  # math.sqrt, which GPUs have, takes none
    assert found == {(name, name) for name in FORMULAS} | of_arrays


@pytest.mark.parametrize(
    ("name", "body"),
    [
        ("reciprocal_std", "return 1 / math.sqrt(a + b)"),
        ("reciprocal_std", "deviation = np.sqrt(a + b)\n    return c / deviation"),
        ("reciprocal_std", "from math import sqrt as f\n    s = f(a)\n    t = s\n    return 1.0 / t"),
        ("reciprocal_std", "return (a + b) ** -0.5"),
        ("reciprocal_std", "return 1 / (a + b) ** 0.5"),
        ("reciprocal_std", "return libdevice.rsqrt(a + b)"),
        ("unbiased_factor", "return a / (a - 1)"),
        ("unbiased_factor", "less = a - 1.0\n    return b * (a / less)"),
        ("share_of", "both = a + b\n    part = b / both"),
        ("share_of", "return c + d * (a / (a + b))"),
        ("weighted_rstd", "return -rstd[a] * b * weight[a]"),
        ("mean_h_of_delta", "return rstd * delta"),
        ("mean_h_of_delta", "row_delta, scaled_rstd = a, b\n    c[0] = row_delta * scaled_rstd"),
        ("mean_h_of_sum", "row_sum_h = a\n    b[0] = row_sum_h / c"),
        ("scaled_difference", "return (a - b) * rstd[c]"),
        ("moments", "q = b / c\n    return a / c - q * q"),
    ],
)
def test_a_copy_is_seen(name, body):
    assert name in {
        found for found, _ in copies(ast.parse(f"def kernel(a, b, c, d, delta, rstd, weight):\n    {body}"))
    }


@pytest.mark.parametrize(
    "body",
    [
        "return math.sqrt(a)",
        "return (a - 1) // b",
        "return a / (b - 1)",
        "return a / (b + c)",
        "return a * weight",
        "return a * rstd",
        "return a * (b - c)",
    ],
)
def test_other_arithmetic_is_none(body):
    assert [*copies(ast.parse(f"def kernel(a, b, c, d, rstd, weight):\n    {body}"))] == []
