"""Runs of all experiments and seeds, in processes beside each other."""

import json
import time
from concurrent.futures import BrokenExecutor, ProcessPoolExecutor, as_completed
from multiprocessing import active_children, get_context

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from threadpoolctl import threadpool_limits

import numbanorm
from bench.environment import cores
from bench.experiments.data import Missing
from bench.experiments.experiment import Result, module


def measure(console: Console, names: list[str], seeds: int) -> list[Result]:
    """Runs of all seeds, as many at once as there are cores, each on one."""
    columns = SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()
    runs, missing = {name: {} for name in names}, {}
    workers = ProcessPoolExecutor(cores(), get_context("spawn"), initializer=_use_one_thread)
    with Progress(*columns, console=console) as progress, workers:
        tasks = {name: progress.add_task(name, total=seeds) for name in names}
        started = {workers.submit(run, name, seed): (name, seed) for name in names for seed in range(seeds)}
        try:
            for future in as_completed(started):
                name, seed = started[future]
                try:
                    runs[name][seed] = future.result()
                except Missing as reason:
                    missing[name] = str(reason)
                except Exception as error:
                    if not isinstance(error, BrokenExecutor):  # which all that are waiting raise
                        error.add_note(f"{name}, seed {seed}")
                    raise
                progress.advance(tasks[name])
        except BaseException:
            workers.shutdown(wait=False, cancel_futures=True)
            for process in active_children():  # which would go on with what they have, for minutes
                process.terminate()
            raise
    ordered = {name: [of for _, of in sorted(runs[name].items())] for name in names}
    return [
        Result(name, [measured for measured, _ in of], [seconds for _, seconds in of], missing.get(name, ""))
        for name, of in ordered.items()
    ]


def run(name: str, seed: int) -> tuple[dict, float]:
    """In a process of its own: what one run measured, as its JSON says, and the seconds of a processor it took."""
    start = time.process_time()
    with threadpool_limits(1, "blas"):
        return json.loads(json.dumps(module(name).run(seed))), time.process_time() - start


def _use_one_thread() -> None:
    numbanorm.set_num_threads(1)
