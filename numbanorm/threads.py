"""How many threads calls use: the public functions."""

from numbanorm._call import numbers
from numbanorm.cpu.engine import engines


def set_num_threads(n: int | None) -> None:
    """Let calls use at most n threads, from whatever thread they come.

    They use fewer where NUMBANORM_NUM_THREADS, NUMBA_NUM_THREADS, OMP_NUM_THREADS, the processors that the process may
    run on (its affinity) or the time that its control groups grant it (their quota) say so. Neither Numba's number of
    threads nor anyone else's is touched.

    Parameters
    ----------
    n : int or None
        With None, which it is at first, the other limits alone count, and in a child of multiprocessing one thread is
        used unless NUMBANORM_NUM_THREADS is set: its siblings use the other processors. Such a child does not take
        over the n of its parent.

    Raises
    ------
    TypeError, ValueError
        `n` is no int, or less than 1.

    Examples
    --------
    >>> from numbanorm import get_num_threads, set_num_threads
    >>> set_num_threads(1)
    >>> get_num_threads()
    1
    >>> set_num_threads(None)
    """
    engines.ask_for(None if n is None else numbers.size("n", n))


def get_num_threads() -> int:
    """How many threads calls use at most: see `set_num_threads`.

    Returns
    -------
    int
        With the thread that calls; 1 while the others are not to be had.

    Raises
    ------
    ValueError
        NUMBANORM_NUM_THREADS or NUMBANORM_ENGINE is set to what it cannot be.

    Examples
    --------
    >>> from numbanorm import get_num_threads
    >>> get_num_threads() >= 1
    True
    """
    return engines.thread_count_in_use()
