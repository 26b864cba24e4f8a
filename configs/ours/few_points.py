"""An own term of the reward: answers with few points."""

# Points that cost nothing.
FREE = 4


def few_points(answer):
    """Return 1 for up to FREE points, then FREE / points. `answer` is a segr1_jax.types.Answer."""
    return min(1.0, FREE / len(answer.points))
