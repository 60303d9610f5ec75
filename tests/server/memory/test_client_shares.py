"""Limits shared by clients: nobody alone takes all, and nothing is lost or counted twice."""

from hypothesis import given
from hypothesis import strategies as st

from server.memory.client_shares import ClientShares


def test_one_client_leaves_what_is_kept_for_others():
    shares = ClientShares(8, kept=2)
    taken = [shares.hold("hog").resize(1) for _ in range(20)]
    assert taken.count(True) == 6
    assert [shares.hold(name).resize(1) for name in ("ann", "bob", "eve")] == [True, True, False]


def test_single_holding_may_grow_to_all():
    holding = ClientShares(8, kept=2).hold("ann")
    assert all(holding.resize(amount) for amount in range(9))
    assert not holding.resize(9)


def test_what_is_released_is_free_again():
    shares = ClientShares(4, kept=1)
    first, second = shares.hold("ann"), shares.hold("ann")
    assert first.resize(3)
    assert not second.resize(1)
    first.release()
    assert second.resize(4)


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 12))), st.integers(1, 20), st.integers(0, 5))
def test_use_is_the_sum_of_what_is_held_and_never_above_the_total(moves, total, kept):
    shares = ClientShares(total, kept=min(kept, total))
    holdings = [shares.hold("abc"[place % 3]) for place in range(6)]
    for place, amount in moves:
        before = holdings[place].amount
        moved = holdings[place].resize(amount)
        assert holdings[place].amount == (amount if moved else before)
        assert moved or amount > before, "less is always granted"
        assert shares.used == sum(holding.amount for holding in holdings) <= total
    for holding in holdings:
        holding.release()
    assert shares.used == 0
    assert not shares._held
