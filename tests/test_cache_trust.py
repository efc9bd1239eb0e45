"""Kept kernels are run as they are read: none is read that somebody else could have put there."""

import hashlib
import os
import pickle
import stat
from types import SimpleNamespace

import pytest

from numbanorm.cpu.compiling import bytecode, trust
from tests.test_cache import NAME, copy, files, not_to_be_written, run

pytestmark = pytest.mark.skipif(not hasattr(os, "geteuid"), reason="no owners of files")

STRANGER = 54321
__all__ = ["copy"]


def is_trusted(path):
    try:
        trust.check_directory(path) if path.is_dir() else trust.read(path)
    except trust.Distrusted:
        return False
    return True


def give_away(path, monkeypatch):
    """Let a file belong to somebody else than the user and the superuser."""
    if os.geteuid() == 0:
        os.chown(path, STRANGER, -1, follow_symlinks=False)
    else:
        monkeypatch.setattr(os, "geteuid", lambda: STRANGER)


@pytest.fixture(params=["directory", "file"])
def kept(request, tmp_path):
    """A directory or a file of the user's own."""
    path = tmp_path / "kept"
    path.mkdir() if request.param == "directory" else path.write_bytes(b"kernel")
    return path


@pytest.mark.parametrize("is_private", [False, True])
def test_nobody_else_may_write(kept, is_private, monkeypatch):
    """Of all permissions, none of others; of a group's, those of one that is the user's alone."""
    group = SimpleNamespace(gr_name="me", gr_mem=[] if is_private else ["me", "you"])
    monkeypatch.setattr(trust, "pwd", SimpleNamespace(getpwuid=lambda _: SimpleNamespace(pw_name="me")))
    monkeypatch.setattr(trust, "grp", SimpleNamespace(getgrgid=lambda _: group))
    for others in range(8):
        for of_group in range(8):
            kept.chmod(0o700 | of_group << 3 | others)
            assert is_trusted(kept) == (not others & 2 and (is_private or not of_group & 2)), oct(kept.stat().st_mode)


@pytest.mark.parametrize(
    ("user", "group", "members", "expected"),
    [("me", "me", [], True), ("me", "me", ["me"], True), ("me", "me", ["you"], False), ("me", "staff", [], False)],
)
def test_a_private_group(user, group, members, expected, kept, monkeypatch):
    monkeypatch.setattr(trust, "pwd", SimpleNamespace(getpwuid=lambda _: SimpleNamespace(pw_name=user)))
    monkeypatch.setattr(
        trust, "grp", SimpleNamespace(getgrgid=lambda _: SimpleNamespace(gr_name=group, gr_mem=members))
    )
    kept.chmod(0o770)
    assert is_trusted(kept) == expected


def test_a_group_that_the_system_does_not_know(kept, monkeypatch):
    monkeypatch.setattr(trust, "grp", SimpleNamespace(getgrgid=lambda number: {}[number]))
    kept.chmod(0o770)
    assert not is_trusted(kept)


def test_the_owner_is_the_user_or_the_superuser(kept, monkeypatch):
    assert is_trusted(kept)
    give_away(kept, monkeypatch)
    assert not is_trusted(kept)


def test_what_the_superuser_owns(kept, monkeypatch):
    """As an installation is that serves all."""
    status = os.stat_result((stat.S_IFDIR | 0o755, 0, 0, 1, 0, 0, 0, 0, 0, 0))
    monkeypatch.setattr(os, "geteuid", lambda: STRANGER)
    trust._check(status)


@pytest.mark.parametrize(
    ("mode", "group", "expected"),
    [
        *((0o777, os.getegid(), False), (0o1777, os.getegid(), True), (0o755, STRANGER, True)),
        *((0o775, STRANGER, False), (0o1775, STRANGER, True)),
    ],
)
@pytest.mark.parametrize("is_there", [True, False])
def test_nobody_else_may_exchange_what_leads_there(mode, group, expected, is_there, tmp_path):
    """As anyone may in a directory that all or others of its group can write, unless it has the sticky bit."""
    directory = tmp_path / "shared" / "own" / "kernels"
    directory.mkdir(parents=True) if is_there else directory.parents[1].mkdir()
    give(directory.parents[1], -1, group)
    directory.parents[1].chmod(mode)
    assert is_trusted_directory(directory) == expected
    link = tmp_path / "link"
    link.symlink_to(directory)
    assert is_trusted_directory(link) == expected


@pytest.mark.parametrize("through_a_link", [False, True])
def test_nobody_else_owns_what_leads_there(through_a_link, tmp_path):
    """As a user does if the superuser works with that user's HOME, and could lead to anywhere."""
    directory = tmp_path / "cache" / "own"
    directory.mkdir(parents=True, exist_ok=True)
    assert is_trusted_directory(directory)
    if through_a_link:
        (tmp_path / "link").symlink_to(directory.parent)
        assert is_trusted_directory(tmp_path / "link" / "own")
        give(tmp_path / "link", STRANGER, -1)
        assert not is_trusted_directory(tmp_path / "link" / "own")
    else:
        give(directory.parent, STRANGER, -1)
        assert not is_trusted_directory(directory)


def give(path, user, group):
    if (user, group) != (-1, os.getegid()):
        if os.geteuid() != 0:
            pytest.skip("only the superuser can give a file away")
        os.chown(path, user, group, follow_symlinks=False)


def is_trusted_directory(directory):
    try:
        trust.check_directory(directory)
    except trust.Distrusted:
        return False
    return True


def test_a_link_of_somebody_elses(tmp_path, monkeypatch):
    (tmp_path / "kernels").mkdir()
    link = tmp_path / "link"
    link.symlink_to(tmp_path / "kernels")
    assert is_trusted(link)
    give_away(link, monkeypatch)
    assert not is_trusted(link)


@pytest.mark.parametrize("kind", ["fifo", "directory", "link", "device"])
def test_only_regular_files_are_read(kind, tmp_path):
    path = tmp_path / "kernel"
    make = {"fifo": os.mkfifo, "directory": os.mkdir, "link": lambda path: os.symlink(__file__, path)}
    if kind in make:
        make[kind](path)
    with pytest.raises(OSError):  # noqa: PT011
        trust.read(path if kind in make else os.devnull)


class Harm:
    """What a file would do that somebody made up."""

    def __reduce__(self):
        return print, ("harm",)


@pytest.fixture(scope="module")
def planted(tmp_path_factory):
    """The name of a kernel's file, and a content that passes for it, which anyone can compute."""
    cache = tmp_path_factory.mktemp("cache")
    assert run(NUMBA_CACHE_DIR=str(cache)) == "1.5 compiled"
    (path,) = files(cache)
    payload = pickle.dumps(Harm())
    content = hashlib.sha256(bytecode.code_digest() + payload).digest() + payload
    return path.name, content


def others_can_write(directory, file):
    directory.chmod(0o777)


def others_can_rename(directory, file):
    directory.parent.chmod(0o777)


def belongs_to_somebody_else(directory, file):
    give(file, STRANGER, -1)


@pytest.mark.parametrize(
    ("place", "spoil", "instead"),
    [
        ("", None, ""),
        ("site/numbanorm/cpu/__pycache__", others_can_write, f"own/numbanorm/{NAME}"),
        (f"own/numbanorm/{NAME}", others_can_rename, f"site/temporary/{NAME}-{os.geteuid()}"),
        (f"own/numbanorm/{NAME}", belongs_to_somebody_else, f"own/numbanorm/{NAME}"),
        (f"set/{NAME}", others_can_write, None),
    ],
)
def test_what_others_can_write_is_not_run(place, spoil, instead, planted, copy, tmp_path):
    """Wherever it lies; one warning says so, and the next directory that is safe takes its place."""
    name, content = planted
    directory = tmp_path / (place or f"own/numbanorm/{NAME}")
    directory.mkdir(parents=True, exist_ok=True)
    (directory / name).write_bytes(content)
    environment = {"XDG_CACHE_HOME": str(tmp_path / "own")}
    environment |= {"NUMBA_CACHE_DIR": str(tmp_path / "set")} if place.startswith("set") else {}
    if not place.startswith("site"):
        not_to_be_written(copy)
    if spoil is None:  # what would happen
        assert run(path=copy, **environment) == "harm\n1.5 compiled"
        return
    spoil(directory, directory / name)
    output = run(path=copy, errors=False, **environment)
    assert output.startswith("1.5 compiled")
    assert output.count("Warning") == 1
    assert f"RuntimeWarning: numbanorm reads no kernels that others may have put there: {directory} (" in output
    kept = [path.parent for path in files(tmp_path) if path.read_bytes() != content]
    assert kept == ([] if instead is None else [tmp_path / instead])
    if instead is not None:
        assert run(path=copy, errors=False, **environment).startswith("1.5 loaded")


def test_what_would_not_be_read_is_not_kept(copy, tmp_path):
    """Also said, where nothing else is at hand."""
    (tmp_path / "set").mkdir()
    (tmp_path / "set").chmod(0o777)
    output = run(path=copy, errors=False, NUMBA_CACHE_DIR=str(tmp_path / "set"))
    assert output.startswith("1.5 compiled")
    assert output.count("Warning") == 1
    assert "others can exchange what leads there" in output
    assert list((tmp_path / "set").iterdir()) == []
