"""An actor between the driver of a training and the first of its workers, in a process that imports nothing else."""

import asyncio


class Relay:
    """Keeps what workers say until the driver asks, and the driver's wish to stop until it comes."""

    def __init__(self) -> None:
        self._said: list[bytes] = []
        self._stop = asyncio.Event()
        self._num_beginnings = 0

    async def say(self, message: bytes) -> None:
        """Keeps it for the driver."""
        self._said.append(message)

    async def heard(self) -> list[bytes]:
        """What has been said since the last time, in order."""
        said, self._said = self._said, []
        return said

    async def begin(self) -> bool:
        """Whether workers have begun in this launch before."""
        self._num_beginnings += 1
        return self._num_beginnings > 1

    async def ask_to_stop(self) -> None:
        """Lets `asked_to_stop` return."""
        self._stop.set()

    async def asked_to_stop(self) -> None:
        """Returns once the workers are to stop."""
        await self._stop.wait()

    async def request_resources(self, **_: object) -> None:
        """Nothing: where it takes the part of Ray's coordinator, no machines can be asked for."""

    async def cancel_request(self, **_: object) -> None:
        """Nothing, likewise."""
