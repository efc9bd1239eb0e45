"""Processes that reduce by pipes, as those of the README's example do."""

import multiprocessing
import traceback
from functools import partial

SECONDS = 120  # a child may compile


def in_processes(function, parts):
    """What `function(all_reduce, part)` returns in a process for each part."""
    fork = multiprocessing.get_context("fork")
    pipes, children = [], []
    try:
        for part in parts:
            pipe, end = fork.Pipe()
            pipes.append(pipe)
            children.append(fork.Process(target=_work, args=(end, function, part)))
            children[-1].start()
            end.close()
        return _serve(pipes)
    finally:
        for child in children:
            child.kill()
            child.join()


def _work(pipe, function, part):
    try:
        pipe.send(("done", function(partial(_all_reduce, pipe), part)))
    except BaseException:
        pipe.send(("failed", traceback.format_exc()))
    pipe.recv()


def _all_reduce(pipe, value):
    pipe.send(("sum", value))
    return pipe.recv()


def _serve(pipes):
    """Sums until all are done; all must be at the same."""
    while True:
        assert all(pipe.poll(SECONDS) for pipe in pipes), "a process does not answer"
        kinds, given = zip(*(pipe.recv() for pipe in pipes), strict=True)
        assert set(kinds) in ({"sum"}, {"done"}), given
        if "done" in kinds:
            return list(given)
        total = sum(given)
        for pipe in pipes:
            pipe.send(total)
