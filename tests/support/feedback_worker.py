"""Producer or consumer of feedback as a process that tests kill.

``python -m tests.support.feedback_worker produce URL COUNT`` sends feedback 0 to COUNT - 1 with an
idempotency key each, repeats what was not acknowledged, and prints each acknowledged number.
``consume URL`` processes the queue until it is killed.
"""

import asyncio
import sys

from fleet.errors import UnavailableError

from tests.support.feedback import consumer, intake, record

_CALLS = 8
_PAUSE_S = 0.05


async def produce(url: str, count: int) -> None:
    """Send feedback until all of it is acknowledged."""
    numbers = iter(range(count))
    async with intake(url) as opened:

        async def send() -> None:
            for number in numbers:
                while True:
                    try:
                        await opened.submit(record(number), f"key-{number}")
                        break
                    except UnavailableError:
                        await asyncio.sleep(_PAUSE_S)
                sys.stdout.write(f"{number}\n")
                sys.stdout.flush()
                await asyncio.sleep(_PAUSE_S / 10)

        await asyncio.gather(*(send() for _ in range(_CALLS)))


async def consume(url: str) -> None:
    """Process the queue."""
    async with consumer(url) as one:
        await one.run()


if __name__ == "__main__":
    if sys.argv[1] == "produce":
        asyncio.run(produce(sys.argv[2], int(sys.argv[3])))
    else:
        asyncio.run(consume(sys.argv[2]))
