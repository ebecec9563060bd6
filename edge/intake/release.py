"""What becomes of the taken files of one watch: moved, deleted or left, as its configuration says.

What cannot be moved or deleted stays, and is told; it was taken, and is known when it is seen again.
"""

from functools import partial
from typing import Final

from edge.config import Watch
from edge.intake import clearing
from edge.intake.tree import ChangedError, Entry
from edge.phrase import say
from edge.threads import Run

DONE: Final = "done"
"""The folder, in the watched one, into which files are moved; it is not watched."""


class Release:
    """Lets go of the files of one watch."""

    def __init__(self, watch: Watch, run: Run) -> None:
        self._watch = watch
        self._run = run
        self.stuck = ""
        """Why a file that was taken could be neither moved nor deleted, in this pass."""

    def begin(self) -> None:
        """Begin a pass."""
        self.stuck = ""

    async def release(self, entry: Entry) -> None:
        """Do with a taken file what the configuration says."""
        if self._watch.after == "keep":
            return
        act = partial(clearing.move, into=DONE) if self._watch.after == "move" else clearing.delete
        try:
            await self._run(partial(act, self._watch.path, entry))
        except ChangedError:
            pass  # another file has come in its place, and is looked at in its turn
        except OSError as e:
            self._cannot(entry, e)

    async def put_back(self, entry: Entry) -> bool:
        """Give its name to a file that a kill left on its way: it is read again, and was taken or is taken then."""
        try:
            return bool(await self._run(partial(clearing.put_back, self._watch.path, entry)))
        except FileNotFoundError:
            return True  # somebody did
        except OSError as e:
            self._cannot(entry, e)
            return False

    def _cannot(self, entry: Entry, error: OSError) -> None:
        self.stuck = say(
            "{path} in {watch}: {error}", path=entry.path, watch=self._watch.title, error=error.strerror or error
        )
