"""Independent jobs over processes, with one progress bar, time left and a clean Ctrl-C."""

from __future__ import annotations

import multiprocessing
import os
import queue
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from typing import Any, TypeVar

from tqdm import tqdm

from bench.schema import BenchError

Job = TypeVar("Job")
Result = TypeVar("Result")
Report = Callable[[float, str], None]  # (share of this job done, what is known so far)

_messages: Any = None  # in a worker: where its reports go


def cores() -> int:
    """Processor cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def run(
    function: Callable[[Job, Report], Result],
    jobs: Sequence[Job],
    *,
    workers: int,
    label: str,
    quiet: bool = False,
) -> Iterator[tuple[Job, Result | BenchError]]:
    """Yields (job, result) as jobs finish; a BenchError is yielded as the result, others rise.

    One worker runs the jobs here; more start fresh processes with one torch thread each. function
    and jobs must be picklable. Progress goes to stderr.
    """
    if not jobs:
        return
    bar = tqdm(
        total=float(len(jobs)), desc=label, disable=quiet, file=sys.stderr, dynamic_ncols=True,
        bar_format="{desc}: {percentage:3.0f}% |{bar:20}| {elapsed} < {remaining} {postfix}",
    )  # fmt: skip
    shares = [0.0] * len(jobs)

    def show(place: int, share: float, text: str) -> None:
        bar.update(share - shares[place])
        shares[place] = share
        if text:
            bar.set_postfix_str(text)

    with bar:
        if workers <= 1 or len(jobs) == 1:
            for place, job in enumerate(jobs):
                yield job, _attempt(function, job, lambda s, t, p=place: show(p, s, t))  # type: ignore[misc]
                show(place, 1.0, "")
            return
        yield from _in_processes(function, jobs, min(workers, len(jobs)), show)


def _attempt(
    function: Callable[[Job, Report], Result], job: Job, report: Report
) -> Result | BenchError:
    try:
        return function(job, report)
    except BenchError as error:
        return error


def _in_processes(
    function: Callable[[Job, Report], Result],
    jobs: Sequence[Job],
    workers: int,
    show: Callable[[int, float, str], None],
) -> Iterator[tuple[Job, Result | BenchError]]:
    context = multiprocessing.get_context("spawn")
    messages = context.Queue()
    pool = ProcessPoolExecutor(
        workers, mp_context=context, initializer=_start_worker, initargs=(messages,)
    )
    try:
        futures: dict[Future[Any], int] = {
            pool.submit(_in_worker, function, job, place): place for place, job in enumerate(jobs)
        }
        waiting = set(futures)
        while waiting:
            try:
                show(*messages.get(timeout=0.2))
                continue
            except queue.Empty:
                pass
            for future in [f for f in waiting if f.done()]:
                waiting.remove(future)
                show(futures[future], 1.0, "")
                yield jobs[futures[future]], future.result()
    except BaseException:
        # Ctrl-C reaches this process only: stop the workers, their finished parts are on disk.
        processes = list((pool._processes or {}).values())
        pool.shutdown(wait=False, cancel_futures=True)
        for process in processes:
            process.terminate()
        for process in processes:
            process.join(5)
        raise
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
        messages.close()
        messages.join_thread()


def _start_worker(messages: Any) -> None:
    """One torch thread; Ctrl-C is the parent's business; no worker outlives a killed parent."""
    global _messages
    _messages = messages
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    assert parent is not None

    def follow() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=follow, daemon=True).start()
    import torch

    torch.set_num_threads(1)


def _in_worker(function: Callable[[Job, Report], Result], job: Job, place: int) -> Any:
    return _attempt(function, job, lambda share, text: _messages.put((place, share, text)))
