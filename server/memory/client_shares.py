"""Limits that clients share: part of each is kept for those that hold nothing of it."""

from collections import Counter


class ClientShares:
    """A limit on a `total`, of which `kept` stays free for clients without any. Used from one thread, hence no lock."""

    def __init__(self, total: int, *, kept: int) -> None:
        self.total, self.used = total, 0
        self._kept = kept
        self._held: Counter[str] = Counter()  # by client

    def hold(self, client: str) -> "Holding":
        """A holding of `client`, of nothing yet."""
        return Holding(self, client)

    def _move(self, client: str, own: int, amount: int) -> bool:
        free = self.total - self.used - (self._kept if self._held[client] > own else 0)
        if amount - own > max(0, free):
            return False
        self.used += amount - own
        self._held += Counter({client: amount - own}) if amount > own else Counter()
        self._held -= Counter({client: own - amount}) if own > amount else Counter()
        return True


class Holding:
    """A share of one client's request or connection."""

    def __init__(self, shares: ClientShares, client: str) -> None:
        self._shares, self._client = shares, client
        self.amount = 0

    def resize(self, amount: int) -> bool:
        """Hold `amount` instead; False, and as before, where that is more than is free for this client."""
        moved = self._shares._move(self._client, self.amount, amount)
        if moved:
            self.amount = amount
        return moved

    def release(self) -> None:
        """Hold nothing."""
        self.resize(0)
