"""Threads of each decode step: as many as are fast beside whatever else the machine computes.

A decode step has hundreds of short parallel parts, and each ends when its last thread does. Beside
other busy processes a thread has its processor for a part of the time only, and two threads
seldom have theirs at the same time: steps of two threads take five times as long then, those of
one thread hardly longer than on a quiet machine. The times of past steps tell which is the case.

Compiled kernels compute each output in one thread, so the number of threads changes no bit.

Example: on two cores steps of one row take 5 ms with two threads and 7 ms with one. Each 64th step
has one thread. Two busy processes begin: steps of two threads take 25 ms, which is more than the 7
that one thread took, so one thread computes from the fourth slow step on. When they have ended, a
probe of two threads takes 5 ms; it is repeated at once until the mean says so too.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from time import perf_counter

from bem.engine.native import Library

# Steps between two trials of another number of threads. They grow from the first to the second
# value while trials do not pay.
_FIRST_TRIAL, _LAST_TRIAL = 8, 64
# Weight of the newest step in the mean of the number in use, and of one that is tried seldom.
_NEWEST, _NEWEST_TRIAL = 0.2, 0.5
# Another number is taken if its steps are this much shorter: fewer changes by chance.
_BETTER = 0.9


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
        self._interval = self._left = _FIRST_TRIAL
        self._upwards = False

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


class DecodeThreads:
    """Sets the threads of the compiled kernels during each decode step.

    Args:
        library: Compiled kernels; None where others compute, whose results may depend on the
            number of threads.
        most: Largest number of threads.
    """

    def __init__(self, library: Library | None, most: int) -> None:
        self._library, self._most = library, most
        self._choices: dict[int, ThreadChoice] = {}

    @contextmanager
    def step(self, rows: int) -> Iterator[None]:
        """Give the decode step in the body its threads, and learn from its time.

        Args:
            rows: Rows of the step; steps of 1, 2 to 3, 4 to 7 rows and so on share a choice.
        """
        if self._library is None:
            yield
            return
        choice = self._choices.setdefault(rows.bit_length(), ThreadChoice(self._most))
        self._library.threads = choice.next()
        began = perf_counter()
        try:
            yield
        finally:
            self._library.threads = None
        choice.observe(perf_counter() - began)
