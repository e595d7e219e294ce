from hypothesis import given
from hypothesis import strategies as st

from autellix_sgl.core import CallQueue


@given(st.lists(st.tuples(st.integers(0, 5), st.booleans()), max_size=200))
def test_the_queue_stays_in_order_under_any_pushes_and_removals(
    operations: list[tuple[int, bool]],
) -> None:
    """It agrees with a plain sorted list after every operation."""
    queue, model = CallQueue(), {}
    for ticket, (level, remove) in enumerate(operations):
        if remove and model:
            key = sorted(model)[len(model) // 2]
            queue.remove(key)
            del model[key]
        else:
            model[(level, ticket)] = f"c{ticket}"
            queue.push((level, ticket), f"c{ticket}")
        expected = [model[key] for key in sorted(model)]
        assert list(queue) == expected
        assert queue.head(3) == expected[:3]
        assert queue.first_key() == (min(model) if model else None)
        assert len(queue) == len(model)
