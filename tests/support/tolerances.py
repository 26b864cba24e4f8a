"""Tolerances are policy: named here, never loosened without a reason written beside them."""

TOL_SIMPLE = 1e-5  # float32, one operation or a short chain of them
TOL_COMPLEX = 1e-4  # float32, a whole model against another implementation, summed in another order
TOL_S_MEASURE = 1e-12  # float64, the S-measure's formula with its sums in another order
TOL_FLOAT64 = 1e-13  # float64, one operation or a short chain of them
TOL_GOLDEN = 1e-9  # float64, against figures that another program printed
# Distance of our bfloat16 logits to the float32 truth, over that of transformers: they round at
# other places.
MAX_BF16_DISTANCE_RATIO = 1.2
# Share of a step: its phases by one clock against the step by another. A loss of the processor
# between
# the two readings counts fully, and a tiny step is short: a whole phase left out is what must show.
MAX_PHASE_GAP = 0.25
# IoU and S-measure of one mask, GPU against CPU: pixels on its outline flip, in bfloat16 some more.
TOL_GPU_SCORE = 0.03
# bfloat16 at 4 layers: 8 bits of each state are kept, and other programs round in other places.
MAX_BF16_SAMPLER_GAP = 0.1  # nats, one token, sampler against scorer; measured 0.05
MEAN_BF16_SAMPLER_GAP = 0.01  # measured 0.006
MAX_BF16_GRADIENT_ERROR = 0.06  # of a weight's gradient, relative to float32's; measured 0.04
MIN_BF16_STEP_COSINE = 0.96  # between the first steps of AdamW; measured 0.983
