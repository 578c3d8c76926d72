"""Closed forms that networks are compared with; each function names its source.

Signals at initialisation: `mean_field` is the limit of infinite width, `finite_width` the exact law
of norms at a given width, `batch_norm` the growth of gradients behind it, `shattering` their
correlation between inputs, `dead_units` the probability to be born dead.
Learning: `linear_nets`, `least_squares`, `noise` (and stability), `regularisers`, `weight_decay`,
`recurrent`, `neural_collapse`, `memorisation`.
The rest: `search` of hyperparameters, and `fractals`, which counts the boxes that a boundary meets.

Only jax and `jaxnn.types` are needed: no model, no data, no training. Arguments are scalars or
arrays of one shape, `vmap` does the rest; jit what is called often, as eager calls compile each
operation apart.
"""

from jaxnn.theory import batch_norm as batch_norm
from jaxnn.theory import dead_units as dead_units
from jaxnn.theory import finite_width as finite_width
from jaxnn.theory import fractals as fractals
from jaxnn.theory import least_squares as least_squares
from jaxnn.theory import linear_nets as linear_nets
from jaxnn.theory import mean_field as mean_field
from jaxnn.theory import memorisation as memorisation
from jaxnn.theory import neural_collapse as neural_collapse
from jaxnn.theory import noise as noise
from jaxnn.theory import recurrent as recurrent
from jaxnn.theory import regularisers as regularisers
from jaxnn.theory import search as search
from jaxnn.theory import shattering as shattering
from jaxnn.theory import weight_decay as weight_decay
