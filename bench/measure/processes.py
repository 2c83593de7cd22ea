"""Independent jobs over processes, with one progress bar, time left and a clean Ctrl-C."""

from __future__ import annotations

import contextlib
import functools
import multiprocessing
import os
import queue
import sys
import threading
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import Any, TypeVar

from tqdm import tqdm

from bench.cli import watch
from bench.cli.interrupt import left_to_parent
from bench.schema import BenchError, MeasurementFailed, OutOfTime

Job = TypeVar("Job")
Result = TypeVar("Result")
Report = Callable[[float, str], None]  # (share of this job done, what is known so far)
Told = Callable[[int, float, Any], None]  # (which job, share of it done, what is known so far)

_work: Any = None  # in a worker: (what it runs, the queue of its reports)


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

    One worker runs the jobs here; more are processes with one torch thread each, for which function and
    jobs must be picklable. A job whose process ends before it has answered is MeasurementFailed, and
    stops no other. Progress goes to stderr.
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

    def show(place: int, share: float, text: str | None) -> None:
        # Shares add up to a rounding error more than all of it, of which tqdm would warn.
        if text:
            bar.set_postfix_str(text, refresh=False)
        bar.update(min(share - shares[place], bar.total - bar.n))
        shares[place] = share

    numbered, workers = dict(enumerate(jobs)), min(workers, len(jobs))
    with bar:
        for place, result in (_outlived if workers > 1 else _here)(
            function, numbered, workers, show
        ):
            yield jobs[place], result


def run_here(
    function: Callable[[int, Callable[[float, Any], None]], Result],
    count: int,
    workers: int,
    observe: Told,
) -> list[Result]:
    """[function(place, report) for place in 0..count-1], over what is in memory here.

    Where processes cannot be forked this one does it all. observe(place, share, news) is told of
    reports. Raises the first BenchError; OutOfTime, once the others are finished; MeasurementFailed
    for a process that was killed.
    """
    places, workers = {place: place for place in range(count)}, min(workers, count)
    found: dict[int, Any] = {}
    late: OutOfTime | None = None
    apart = workers > 1 and _method() == "fork" and _gradients_survive_a_fork()
    start = _pooled if apart else _here
    results = start(function, places, workers, observe)
    try:
        with contextlib.closing(results):  # what still runs is stopped where one has failed
            for place, result in results:
                if isinstance(result, OutOfTime):
                    late = result
                elif isinstance(result, BenchError):
                    raise result
                found[place] = result
    except _Stuck as stuck:
        raise MeasurementFailed(str(stuck)) from None
    except BrokenProcessPool:
        raise MeasurementFailed(
            "a worker process was killed, perhaps for memory; use fewer --workers or a smaller --batch"
        ) from None
    if late is not None:
        raise late
    return [found[place] for place in range(count)]


def _method() -> str:
    """How processes are started: forked, which costs least, or afresh where that is not safe."""
    import torch

    return "fork" if sys.platform == "linux" and not torch.cuda.is_available() else "spawn"


def _gradients_survive_a_fork() -> bool:
    """Whether a forked process can take gradients.

    It cannot once autograd has started threads here, as it does for a compiled network.
    """
    child = multiprocessing.get_context("fork").Process(target=_take_a_gradient)
    child.start()
    child.join(60)
    child.kill()
    return child.exitcode == 0


def _take_a_gradient() -> None:
    import torch

    x = torch.ones(1, requires_grad=True)
    try:
        torch.autograd.grad(x.square().sum(), x)
    except RuntimeError:
        os._exit(1)
    os._exit(0)


def _here(
    function: Callable[[Any, Any], Any], jobs: Mapping[int, Any], workers: int, told: Told
) -> Generator[tuple[int, Any], None, None]:
    for place, job in jobs.items():
        result = _attempt(function, job, functools.partial(told, place))
        if not isinstance(result, OutOfTime):  # what was stopped is not done
            told(place, 1.0, None)
        yield place, result


def _outlived(
    function: Callable[[Any, Any], Any], jobs: Mapping[int, Any], workers: int, told: Told
) -> Generator[tuple[int, Any], None, None]:
    """As _pooled; a job that ends its process fails alone."""
    left = dict(jobs)
    try:
        for place, result in _pooled(function, jobs, workers, told):
            del left[place]
            yield place, result
    except BrokenProcessPool:  # takes every job with it: one at a time tells whose doing it was
        for place, job in left.items():
            try:
                yield from _pooled(function, {place: job}, 1, told)
            except _Stuck as stuck:
                yield place, MeasurementFailed(str(stuck))
            except BrokenProcessPool:
                yield (
                    place,
                    MeasurementFailed(
                        "its process ended before it was done, left by the model or killed, perhaps "
                        "for memory; what is finished is kept, and the same command goes on from there"
                    ),
                )


class _Stuck(BrokenProcessPool):
    """A worker waits for a model that does not return; its words say so."""


def _pooled(
    function: Callable[[Any, Any], Any],
    jobs: Mapping[int, Any],
    workers: int,
    told: Told,
) -> Generator[tuple[int, Any], None, None]:
    context = multiprocessing.get_context(_method())
    messages = context.Queue()
    pool = ProcessPoolExecutor(
        workers, mp_context=context, initializer=_start_worker, initargs=(function, messages)
    )
    try:
        waiting = {pool.submit(_in_worker, place, job): place for place, job in jobs.items()}
        while waiting:
            try:
                told(*messages.get(timeout=0.05))
                continue
            except queue.Empty:
                _look_after(pool)
            for future in [f for f in waiting if f.done()]:
                place, result = waiting.pop(future), future.result()
                if not isinstance(result, OutOfTime):
                    told(place, 1.0, None)
                yield place, result
    except BaseException:
        # Ctrl-C reaches this process only: stop the workers, their finished parts are on disk.
        processes = list((pool._processes or {}).values())
        pool.shutdown(wait=False, cancel_futures=True)
        for process in processes:
            process.terminate()
        for process in processes:
            process.join(5)
            process.kill()  # where the model would not hear
        raise
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
        messages.close()
        messages.join_thread()


def _look_after(pool: ProcessPoolExecutor) -> None:
    """Raises _Stuck where a pass of a worker takes too long."""
    for pid in list(pool._processes or {}):
        late = watch.overdue(pid)
        if late is not None:
            raise _Stuck(watch.sentence(late))


def _start_worker(function: Callable[[Any, Any], Any], messages: Any) -> None:
    """One torch thread; Ctrl-C is the parent's business; no worker outlives a killed parent."""
    global _work
    _work = function, messages
    left_to_parent()
    parent = multiprocessing.parent_process()
    assert parent is not None

    def follow() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=follow, daemon=True).start()
    import torch

    torch.set_num_threads(1)


def _in_worker(place: int, job: Any) -> Any:
    function, messages = _work
    return _attempt(function, job, lambda share, news: messages.put((place, share, news)))


def _attempt(
    function: Callable[[Job, Any], Result], job: Job, report: Callable[[float, Any], None]
) -> Result | BenchError:
    try:
        return function(job, report)
    except BenchError as error:
        return error
