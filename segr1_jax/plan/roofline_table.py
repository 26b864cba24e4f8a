"""Tables of the programs that were compiled for GPUs, and of their loops."""

from segr1_jax.plan.roofline import Cost
from segr1_jax.plan.run_plan import Plan
from segr1_jax.plan.table import gigabytes, table

LIMITS = (
    "lower bounds in seconds at the rates that these GPUs reach, with kernels and collectives one "
    "after another and decoding up to the token limit"
)
COST = ("GB moved", "TFLOP", "kernels", "GB received", "ms")


def roofline_tables(plan: Plan) -> list[str]:
    """Return the tables of one call of each program and of one iteration of each loop."""
    return [_programs(plan), _loops(plan)] if plan.rooflines else []


def _programs(plan: Plan) -> str:
    rows = [
        (
            each.name,
            *_cost(plan.rooflines[each.name].total),
            gigabytes(each.temporaries),
            gigabytes(each.results),
            f"{each.seconds:.0f}",
        )
        for each in plan.compiled
    ]
    return table(
        ("one call of", *COST, "temporaries GB", "new results GB", "compile s"),
        rows,
    )


def _loops(plan: Plan) -> str:
    rows = [
        (
            f"{name}: {each.loop.source.partition('/')[2] or each.loop.name}",
            f"{each.loop.count}",
            *_cost(each.iteration),
        )
        for name, found in plan.rooflines.items()
        for each in found.loops
    ]
    return table(("one iteration of", "iterations", *COST), rows)


def _cost(cost: Cost) -> tuple[str, ...]:
    return (
        gigabytes(cost.bytes),
        f"{cost.flops / 1e12:.3f}",
        f"{cost.kernels:,.0f}",
        gigabytes(cost.wire),
        f"{1e3 * cost.seconds:.2f}",
    )
