"""Closed forms that networks are compared with; each function names its source.

`mean_field` is the limit of infinite width, `finite_width` the exact law of norms at a given width,
`fractals` counts the boxes that a boundary meets.
Only jax and `jaxnn.types` are needed: no model, no data, no training.
"""

from jaxnn.theory import finite_width as finite_width
from jaxnn.theory import fractals as fractals
from jaxnn.theory import mean_field as mean_field
