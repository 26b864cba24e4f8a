"""Tolerances are policy: named here, never loosened without a reason written beside them."""

TOL_SIMPLE = 1e-5  # float32, one operation or a short chain of them
TOL_COMPLEX = 1e-4  # float32, a whole model against another implementation, summed in another order
