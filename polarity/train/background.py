"""Work of the first worker beside the training: one piece at a time, and no error of it is lost."""

import threading
from collections.abc import Callable
from concurrent.futures import Future
from types import TracebackType

from polarity.errors import PolarityError
from polarity.train.world import World


class Background:
    """At most one piece of work, in a thread. As a context it ends no earlier than its work, also where the block fails.

    A thread of its own, not an executor's, which would keep a process alive whose storage never answers.
    """

    def __init__(self, world: World) -> None:
        self._world = world
        self._under_way: Future[None] | None = None

    def start(self, work: Callable[[], None]) -> None:
        """Begin `work`; the one before must have been met."""
        if self._under_way is not None:
            raise RuntimeError("the work before was not met")
        self._under_way = Future()
        threading.Thread(target=_do, args=(work, self._under_way), name="polarity-background", daemon=True).start()

    def meet(self) -> None:
        """Wait for the work, on all workers. Raises `RunError` on all of them where it failed, and on the first one what is no fault of
        the user's or of the machine."""
        failure = self._ended()
        if failure is not None and not isinstance(failure, PolarityError):
            raise failure
        self._world.raise_together(None if failure is None else str(failure))  # the others would wait for the one whose disk is full

    def _ended(self) -> BaseException | None:
        """What the work failed with, once it has ended. A wait that is broken off (by a second Ctrl-C, say) is not begun again."""
        work, self._under_way = self._under_way, None
        return None if work is None else work.exception()

    def __enter__(self) -> "Background":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """The others may have failed or not, so this worker waits alone, and tells of both errors."""
        failure = self._ended()
        if failure is None:
            return
        if error is None:
            raise failure
        if isinstance(error, PolarityError):  # shown without notes
            error.args = (f"{error}; and what was being written beside the training failed: {failure}",)
        else:
            error.add_note(f"What was being written beside the training failed: {failure!r}")


def _do(work: Callable[[], None], future: Future[None]) -> None:
    try:
        work()
    except BaseException as error:  # whatever it is, it is raised where the work is waited for
        future.set_exception(error)
    else:
        future.set_result(None)
