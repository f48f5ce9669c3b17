"""A training run that can be stopped at any moment: what is saved, when, and how it goes on."""

import time
from collections.abc import Callable, Iterator
from typing import Any

from tqdm import tqdm

from ntkbook.checkpoints import Checkpoint, CheckpointError
from ntkbook.training import Stopping, Trainer

BETWEEN_STOPS = 20  # iterations between two looks at the stopping rule, the clock and the bar


class Expired(Exception):  # noqa: N818  (nothing went wrong)
    """The deadline of a checkpoint came before the end of the run; its state is saved."""


class Resumable:
    """A trainer, and what a run notes beside it: saved together, and together taken up again.

    Args:
        training: before its first iteration; where there is a state it goes on from that.
        checkpoint: where the state is kept, and until when the run may go on.
        notes: what the run would forget without it: tensors, numbers, strings, lists, tuples and dicts of them. A state
            replaces their values.

    Raises:
        CheckpointError: as :meth:`ntkbook.checkpoints.Checkpoint.load`, or the state is of another version.
    """

    def __init__(self, training: Trainer, checkpoint: Checkpoint, notes: dict[str, Any] | None = None) -> None:
        self.training, self.notes = training, {} if notes is None else notes
        #: seconds of the same run before it was stopped
        self.earlier_seconds = 0.0
        self._checkpoint, self._started = checkpoint, time.perf_counter()
        state = checkpoint.load(training.target.device)
        if state is not None:
            if state.keys() != {"training", "notes", "seconds"}:
                raise CheckpointError(
                    f"The checkpoint {str(checkpoint.path)!r} is of another version; delete it to start anew."
                )
            training.restore(state["training"])
            self.notes |= state["notes"]
            self.earlier_seconds = state["seconds"]

    def pause(self) -> None:
        """Save the state if it is time to. To be called between two iterations.

        Raises:
            Expired: the deadline has passed.
        """
        expired = self._checkpoint.expired  # before it is due: what ends here is saved
        if self._checkpoint.due:
            seconds = self.earlier_seconds + time.perf_counter() - self._started
            self._checkpoint.save({"training": self.training.state(), "notes": self.notes, "seconds": seconds})
        if expired:
            raise Expired

    def until(self, stopping: Stopping, best: Callable[[], tuple[int, float]], label: str) -> Iterator[int]:
        """Pause, and let the caller take some iterations, until the rule ends the run.

        Args:
            stopping: the rule.
            best: the best iteration so far and its PSNR in dB.
            label: of the progress bar.

        Yields:
            The next iteration.

        Raises:
            Expired: the deadline has passed.
        """
        training = self.training
        with tqdm(desc=label, unit="it", initial=training.iteration, leave=False, disable=None) as bar:
            while not stopping.ends(training.iteration, best()[0]):
                self.pause()
                yield training.iteration
                t, psnr = best()
                bar.total = stopping.last(t)
                bar.set_postfix(psnr=f"{training.psnr:.2f} dB", best=f"{psnr:.2f} at {t}", refresh=False)
                bar.update(training.iteration - bar.n)

    def advance_to(self, iteration: int) -> None:
        """Train up to an iteration, with pauses.

        Raises:
            Expired: the deadline has passed.
        """
        while self.training.iteration < iteration:
            self.pause()
            self.training.advance(min(BETWEEN_STOPS, iteration - self.training.iteration))
