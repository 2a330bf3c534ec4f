"""A thread that lands one round's pages of one stream."""

import os
import threading

from migrate.pagesrv.receiver import PageReceiver
from migrate.pagesrv.sender import RoundCount


class Landing(threading.Thread):
    """Lands one round of one stream; `done` is readable when it has ended, well or not."""

    def __init__(self, receiver: PageReceiver, number: int) -> None:
        super().__init__(daemon=True)
        self._receiver = receiver
        self._number = number
        self.done = os.eventfd(0, os.EFD_CLOEXEC)
        self.count = RoundCount()
        self.error: Exception | None = None
        self.start()

    def run(self) -> None:
        """One round."""
        try:
            self.count = self._receiver.run_until_round_end(self._number)
        except Exception as error:  # noqa: BLE001 whatever it was, the keeper's thread reports it
            self.error = error
        finally:
            os.eventfd_write(self.done, 1)

    def close(self) -> None:
        """Forget it; a thread still reading ends with its stream."""
        os.close(self.done)
