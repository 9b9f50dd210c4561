"""How many samples a forward call takes: what is fastest is found while scanning.

Small networks are fastest where a batch's numbers stay in the cache, linear ones with large
batches, large ones with any. The first batches of a scan try the sizes; nothing is computed twice,
and a sample's logits are the same bits in each.
"""

from __future__ import annotations

import math
import threading

# Multiples of 16: vector instructions compute what is left over in another way, and a sample's last
# bits would hang on its place in the batch.
SIZES = (16, 64, 256, 1024)
MAX_BYTES = 8 * 2**20  # of float32 input; activations are a multiple of it
MAX_SECONDS = 0.2  # no size is tried whose batch would take longer: the scan is to stop promptly
TRIES = 3  # the first of a size allocates
# A size must save so much to be worth the next: what a large batch's numbers take of memory, it has
# to be given first, page by page.
GAIN = 0.98
SMALLEST = 8  # fewer are not left over for a batch of their own


class BatchSize:
    """The size of the next batch; may be asked from several threads at once."""

    def __init__(self, input_size: int, most: int, given: int | None = None) -> None:
        """Start with the smallest.

        Args:
            input_size: Numbers in the network's input.
            most: Samples that no batch exceeds, such as those of a block.
            given: The user's choice, which ends the search.
        """
        fitting = max(SIZES[0], MAX_BYTES // (4 * input_size))
        larger = [size for size in SIZES[1:] if size <= min(fitting, most - SMALLEST)]
        self._sizes = [given] if given else [SIZES[0], *larger]
        self._given = given is not None
        self._times: list[float] = []  # a sample, of the size that is tried
        self._fastest = math.inf
        self._lock = threading.Lock()
        self._trying = 0
        self.best = self._sizes[0]

    def __call__(self, rest: int) -> int:
        """Samples of the next batch, of the `rest` of a block."""
        with self._lock:
            size = self._sizes[self._trying] if self._searching else self.best
        if self._given:
            return min(size, rest)
        return rest if rest < size + SMALLEST else size

    @property
    def _searching(self) -> bool:
        return len(self._sizes) > 1 and self._trying < len(self._sizes)

    def record(self, size: int, seconds: float) -> None:
        """A batch of this size took so long."""
        if not self._searching:
            return
        with self._lock:
            if not self._searching or size != self._sizes[self._trying]:
                return
            self._times.append(seconds / size)
            if len(self._times) < TRIES:
                return
            times, self._times = self._times, []
            before, self._fastest = self._fastest, min(self._fastest, min(times))
            worth = min(times) <= GAIN * before
            if worth:
                self.best = size
            self._trying += 1
            following = self._sizes[self._trying] if self._searching else size
            if not worth or following * min(times) > MAX_SECONDS:
                self._trying = len(self._sizes)
