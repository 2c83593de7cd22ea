"""Independent jobs over processes, with one progress bar, time left and a clean Ctrl-C."""

from __future__ import annotations

import functools
import multiprocessing
import os
import queue
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import Any, TypeVar

from tqdm import tqdm

from bench.cli.interrupt import left_to_parent
from bench.schema import BenchError, MeasurementFailed, OutOfTime

Job = TypeVar("Job")
Result = TypeVar("Result")
Report = Callable[[float, str], None]  # (share of this job done, what is known so far)

_messages: Any = None  # in a worker: where its reports go
_forked: Callable[..., Any] | None = None  # what forked workers run


def cores() -> int:
    """Processor cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def redrawn_every() -> float:
    """Seconds between two states of a progress bar: a log file gets few lines of it."""
    return 0.2 if sys.stderr.isatty() else 10.0


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
    and jobs must be picklable. A job whose process ends before it has answered is MeasurementFailed,
    and stops no other. Progress goes to stderr.
    """
    if not jobs:
        return
    bar = tqdm(
        total=float(len(jobs)), desc=label, disable=quiet, file=sys.stderr, dynamic_ncols=True,
        miniters=0, mininterval=redrawn_every(),
        smoothing=0,  # jobs differ too much for a recent rate to tell the time left
        bar_format="{desc}: {percentage:3.0f}% |{bar:20}| {elapsed} < {remaining} {postfix}",
    )  # fmt: skip
    shares = [0.0] * len(jobs)

    def show(place: int, share: float, text: str) -> None:
        # Shares add up to a rounding error more than all of it, of which tqdm would warn.
        if text:
            bar.set_postfix_str(text, refresh=False)
        bar.update(min(share - shares[place], bar.total - bar.n))
        shares[place] = share

    with bar:
        if workers <= 1 or len(jobs) == 1:
            for place, job in enumerate(jobs):
                yield job, _attempt(function, job, functools.partial(show, place))
                show(place, 1.0, "")
            return
        calls = {place: (_in_worker, function, job, place) for place, job in enumerate(jobs)}
        for place, result in _outlived(calls, min(workers, len(jobs)), show):
            yield jobs[place], result


def _outlived(
    calls: Mapping[int, tuple[Any, ...]], workers: int, show: Callable[[int, float, Any], None]
) -> Iterator[tuple[int, Any]]:
    """As _in_processes, in fresh processes; a call that ends its process fails alone."""
    left = dict(calls)
    try:
        for place, result in _in_processes(calls, workers, "spawn", show):
            del left[place]
            yield place, result
    except BrokenProcessPool:  # takes every call with it: one at a time tells whose doing it was
        for place, call in left.items():
            try:
                yield from _in_processes({place: call}, 1, "spawn", show)
            except BrokenProcessPool:
                yield (
                    place,
                    MeasurementFailed(
                        "its process ended before it was done, left by the model or killed, perhaps "
                        "for memory; what is finished is kept, and the same command goes on from there"
                    ),
                )


def run_here(
    function: Callable[[int, Callable[[float, Any], None]], Any],
    count: int,
    workers: int,
    observe: Callable[[int, float, Any], None],
) -> Iterator[tuple[int, Any]]:
    """Yields (place, function(place, report)) for place in 0..count-1 as they finish.

    function is any callable over what is in memory here: processes are forked, so nothing is pickled
    but what it returns. Where forking is not safe (no Linux, CUDA in use) it runs in this process.
    observe(place, share, news) is told of reports. A BenchError is yielded as the result.
    """
    global _forked
    if workers <= 1 or count == 1 or not _forks():
        for place in range(count):
            report = functools.partial(observe, place)
            result = _attempt(lambda p, r: function(p, r), place, report)
            if not isinstance(result, OutOfTime):
                observe(place, 1.0, None)
            yield place, result
        return
    _forked = function
    try:
        calls = {place: (_in_fork, place) for place in range(count)}
        yield from _in_processes(calls, min(workers, count), "fork", observe)
    finally:
        _forked = None


def _forks() -> bool:
    """Whether a child of this process may go on computing."""
    import torch

    return sys.platform == "linux" and not torch.cuda.is_initialized()


def _attempt(
    function: Callable[[Job, Report], Result], job: Job, report: Report
) -> Result | BenchError:
    try:
        return function(job, report)
    except BenchError as error:
        return error


def _in_processes(
    calls: Mapping[int, tuple[Any, ...]],
    workers: int,
    method: str,
    show: Callable[[int, float, Any], None],
) -> Iterator[tuple[int, Any]]:
    context = multiprocessing.get_context(method)
    messages = context.Queue()
    pool = ProcessPoolExecutor(
        workers, mp_context=context, initializer=_start_worker, initargs=(messages,)
    )
    try:
        futures: dict[Future[Any], int] = {
            pool.submit(*call): place for place, call in calls.items()
        }
        waiting = set(futures)
        while waiting:
            try:
                show(*messages.get(timeout=0.05))
                continue
            except queue.Empty:
                pass
            for future in [f for f in waiting if f.done()]:
                waiting.remove(future)
                result = future.result()
                if not isinstance(result, OutOfTime):  # what was stopped is not done
                    show(futures[future], 1.0, None)
                yield futures[future], result
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
    left_to_parent()
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


def _in_fork(place: int) -> Any:
    assert _forked is not None
    return _attempt(_forked, place, lambda share, news: _messages.put((place, share, news)))
