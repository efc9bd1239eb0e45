"""Decide which files may be read, since what they hold is run.

A file or directory is trusted if it belongs to the user or the superuser, and nobody else can write to it.
"""

import errno
import functools
import os
import stat

try:
    import grp
    import pwd
except ImportError:  # Windows, where nothing is shared unless somebody arranges it
    grp = pwd = None

_CAREFULLY = getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_NOFOLLOW", 0)  # wait for no writer; follow no link


class Distrusted(PermissionError):
    """Report a file or directory that others could have changed. It is neither read nor written."""

    def __init__(self, reason):
        super().__init__(errno.EPERM, reason)


def check_directory(directory):
    """Raise Distrusted unless a directory can be trusted. If it does not exist yet, its parents are checked alone."""
    if pwd is None:
        return
    if any(_can_be_exchanged(parent) for parent in {*directory.absolute().parents, *directory.resolve().parents}):
        raise Distrusted("others can exchange what leads there")
    try:
        link, status = directory.lstat(), directory.stat()
    except FileNotFoundError:
        return
    _check_owner(link)
    _check(status)


def read(path):
    """Return the content of a regular file. Other kinds are not read: a pipe, say, may keep its readers waiting."""
    with open(path, "rb", buffering=0, opener=lambda name, flags: os.open(name, flags | _CAREFULLY)) as file:
        status = os.fstat(file.fileno())
        if not stat.S_ISREG(status.st_mode):
            raise OSError(errno.EINVAL, "no regular file")
        if pwd is not None:
            _check(status)
        return file.read()


def _check(status):
    _check_owner(status)
    mode = status.st_mode
    if mode & stat.S_IWOTH or (mode & stat.S_IWGRP and not _is_private_group(status.st_gid, status.st_uid)):
        raise Distrusted("others can write it")


def _check_owner(status):
    if status.st_uid not in (os.geteuid(), 0):
        raise Distrusted(f"it belongs to user {status.st_uid}")


def _is_private_group(group_id, user_id):
    """Return whether a group has one member, this user.

    On some systems each user has such a group, which may write.
    """
    try:
        user, group = pwd.getpwuid(user_id), grp.getgrgid(group_id)
    except KeyError:
        return False
    return group.gr_name == user.pw_name and set(group.gr_mem) <= {user.pw_name}


def _can_be_exchanged(parent):
    """Return whether others can replace a directory in this one, or replace the link that this one is."""
    try:
        link, status = parent.lstat(), parent.stat()
    except OSError:  # it does not exist, or cannot be entered
        return False
    if {link.st_uid, status.st_uid} - {os.geteuid(), 0, _unknown_user()}:
        return True
    mode = status.st_mode
    by_others = mode & stat.S_IWOTH or (mode & stat.S_IWGRP and not _has_no_other_member(status.st_gid, status.st_uid))
    return bool(by_others and not mode & stat.S_ISVTX)


@functools.cache
def _unknown_user():
    """Return the user to whom the superuser's directories seem to belong in a sandbox.

    Such a sandbox has its own user numbers.
    """
    try:
        with open("/proc/sys/kernel/overflowuid") as file:
            return int(file.read())
    except (OSError, ValueError):
        return 0


def _has_no_other_member(group_id, user_id):
    """Return whether a group has no members but this user and the superuser.

    The system may not list all its users.
    """
    try:
        user, group = pwd.getpwuid(user_id), grp.getgrgid(group_id)
    except KeyError:
        return False
    members = {*group.gr_mem, *(other.pw_name for other in pwd.getpwall() if other.pw_gid == group_id)}
    return members <= {user.pw_name, "root"}
