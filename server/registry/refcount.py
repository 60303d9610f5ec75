"""Which requests use a bundle: it goes only when the last of them has its answer."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager


class RefCount:
    """Counts who uses a bundle. Used from the event loop's thread only, hence no lock."""

    def __init__(self) -> None:
        self._count = 0
        self._none = asyncio.Event()
        self.retired = False

    @contextmanager
    def one(self) -> Iterator[None]:
        """Hold the bundle for the block."""
        self._count += 1
        try:
            yield
        finally:
            self._count -= 1
            if not self._count:
                self._none.set()

    async def none_left(self) -> None:
        """Wait until nobody holds the bundle. Nobody new will where it can no longer be chosen."""
        while self._count:
            self._none.clear()
            await self._none.wait()
