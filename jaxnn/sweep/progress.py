"""Progress of a sweep, shown on a terminal only: members done, members a second, time left."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def progress(total: int, done: int) -> Iterator[Callable[[int], None]]:
    """Yield a function to call with the number of members just finished."""
    if not sys.stderr.isatty():
        yield lambda count: None
        return
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
    )

    columns = (
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("members, {task.fields[rate]:.1f} members/s,"),
        TimeRemainingColumn(),
        TextColumn("left"),
    )
    start = time.perf_counter()
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task("", total=total, completed=done, rate=0.0)
        finished = 0

        def advance(count: int) -> None:
            nonlocal finished
            finished += count
            bar.update(task, advance=count, rate=finished / (time.perf_counter() - start))

        yield advance
