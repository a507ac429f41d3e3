"""One thing beside another: what a store takes to answer must not delay requests."""

import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeVar

Found = TypeVar("Found")


def aside(do: Callable[[], Found]) -> Future[Found]:
    """Do it in a thread of its own, which keeps no process alive; return what comes."""
    future: Future[Found] = Future()

    def work() -> None:
        try:
            future.set_result(do())
        except BaseException as error:  # noqa: BLE001 - raised where it is asked for
            future.set_exception(error)

    threading.Thread(target=work, daemon=True).start()
    return future
