"""Threads of each pass: as many as are fast beside whatever else the machine computes.

A pass through the layers has hundreds of short parallel parts, and each ends when its last thread
does. Beside other busy processes a thread has its processor for a part of the time only, and two
threads seldom have theirs at the same time: steps of two threads take five times as long then,
those of one thread hardly longer than on a quiet machine. The times of past steps tell which is the
case.

Compiled kernels compute each output in one thread, so the number of threads changes no bit.

Example: on two cores steps of one row take 5 ms with two threads and 7 ms with one. Each 64th step
has one thread. Two busy processes begin: steps of two threads take 25 ms, which is more than the 7
that one thread took, so one thread computes from the second slow step on. When they have ended, a
probe of two threads takes 5 ms; it is repeated at once until the mean says so too.
"""

from collections.abc import Hashable, Iterator
from contextlib import AbstractContextManager, contextmanager
from time import perf_counter

from bem.engine.native import Library

# Steps between two trials of another number of threads. They grow from the first to the second
# value while trials do not pay.
_FIRST_TRIAL, _LAST_TRIAL = 8, 64
# Weight of the newest step in the mean of the number in use, and of one that is tried seldom.
_NEWEST, _NEWEST_TRIAL = 0.2, 0.5
# Another number is taken if its steps are this much shorter: fewer changes by chance.
_BETTER = 0.9
# A step that takes this many times the mean is followed by a trial at once.
_SURPRISE = 2.0
# Prompts' positions below this number take about the same time; then below its doubles.
_NEAR = 512
# Seconds after a decode step in which a pass of prompts counts as beside it.
_BESIDE_S = 1.0


class ThreadChoice:
    """Choice of a number of threads for steps of about equal size.

    Args:
        most: Largest number of threads, at least 1; its halves down to 1 are the others.
    """

    def __init__(self, most: int) -> None:
        self._numbers = [most]
        while self._numbers[-1] > 1:
            self._numbers.append(self._numbers[-1] // 2)
        self._means: dict[int, float] = {}
        self._current, self._trial = 0, 0
        # The first trial comes early: nothing tells yet whether the machine is quiet.
        self._interval, self._left = _FIRST_TRIAL, 2
        self._upwards = False

    @property
    def current(self) -> int:
        """Number of threads in use, trials left out."""
        return self._numbers[self._current]

    def next(self) -> int:
        """Return the number of threads for the next step."""
        self._left -= 1
        if self._left <= 0 and self._trial == self._current:
            self._trial = self._neighbour()
        return self._numbers[self._trial]

    def observe(self, seconds: float) -> None:
        """Record the time of the step that ``next`` chose the threads for, in seconds."""
        place, is_trial = self._trial, self._trial != self._current
        newest = _NEWEST_TRIAL if is_trial else _NEWEST
        mean = self._means.get(place, seconds)
        self._means[place] = mean + newest * (seconds - mean)
        fastest = min(self._means, key=lambda one: self._means[one])
        if self._means[fastest] < _BETTER * self._means.get(self._current, float("inf")):
            self._current = self._trial = fastest
            self._interval = self._left = _FIRST_TRIAL
        elif not is_trial and seconds > _SURPRISE * mean:
            self._left = 0
        elif is_trial and seconds >= self._means[self._current]:
            self._interval = min(2 * self._interval, _LAST_TRIAL)
            self._left, self._trial = self._interval, self._current
        # A trial that was faster is repeated at once, until its mean is.

    def _neighbour(self) -> int:
        """Return the place of the next number to try: one up, one down, in turn."""
        self._upwards = not self._upwards
        wanted = self._current - 1 if self._upwards else self._current + 1
        if not 0 <= wanted < len(self._numbers):
            wanted = 2 * self._current - wanted
        return wanted if 0 <= wanted < len(self._numbers) else self._current


class PassThreads:
    """Sets the threads of the compiled kernels during each pass.

    Args:
        library: Compiled kernels; None where others compute, whose results may depend on the
            number of threads.
        most: Largest number of threads.
    """

    def __init__(self, library: Library | None, most: int) -> None:
        self._library, self._most = library, most
        self._choices: dict[Hashable, ThreadChoice] = {}
        self._decoded, self._decoded_at = 0, 0.0

    def decoding(self, rows: int) -> AbstractContextManager[None]:
        """Give a decode step its threads; steps of 1, 2 to 3, 4 to 7 rows… share a choice."""
        self._decoded_at, self._decoded = perf_counter(), rows.bit_length()
        return self._timed(self._decoded)

    def reading(self, tokens: int, begin: int, *, upper: bool) -> AbstractContextManager[None]:
        """Give a pass of prompts through one half its threads.

        Beside decode steps it has theirs: a trial of its own would keep running outputs waiting.

        Args:
            tokens: Tokens of all prompts of the pass, padding included.
            begin: Position of the first; attention makes late ones slower.
            upper: Whether it is the upper half.
        """
        beside = self._choices.get(self._decoded)
        if beside and perf_counter() - self._decoded_at < _BESIDE_S:
            return self._use_threads(beside.current)
        return self._timed((upper, tokens.bit_length(), (begin // _NEAR).bit_length()))

    @contextmanager
    def _use_threads(self, threads: int) -> Iterator[None]:
        """Give the pass in the body some threads."""
        if self._library is None:
            yield
            return
        self._library.threads = threads
        try:
            yield
        finally:
            self._library.threads = None

    @contextmanager
    def _timed(self, kind: Hashable) -> Iterator[None]:
        """Give the pass in the body its threads, and learn from its time.

        Args:
            kind: Passes of one kind take about the same time, and share a choice.
        """
        if self._library is None:
            yield
            return
        choice = self._choices.setdefault(kind, ThreadChoice(self._most))
        threads, began = choice.next(), perf_counter()
        with self._use_threads(threads):
            yield
        choice.observe(perf_counter() - began)
