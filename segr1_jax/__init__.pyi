from segr1_jax.api import Scorer as Scorer
from segr1_jax.api import Segmentation as Segmentation
from segr1_jax.api import Segmenter as Segmenter
from segr1_jax.api import load as load
from segr1_jax.api import score as score
from segr1_jax.api import train as train

__version__: str
