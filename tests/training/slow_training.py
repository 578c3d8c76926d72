"""A training, and the child process that a test kills in the middle of it.

`python -m tests.training.slow_training DIRECTORY` runs it with resume points in the directory.
"""

import sys

import jaxnn as jn
from jaxnn.training import long_run
from tests.training import problem

NUM_RECORDS = 20  # each takes the time of a resume point, about 0.1 s


def training(learning_rate=0.02, num_steps=NUM_RECORDS - 1, **changes):
    """Momentum on random batches: whatever is lost or done twice changes all that follows."""
    optimizer = jn.optimizer("sgd", learning_rate, momentum=0.9)
    options = {"sampling": "replacement", "batch_size": 2, "num_steps": num_steps, **changes}
    return problem.fit_linear(optimizer, build=jn.training, **options)


if __name__ == "__main__":
    long_run(training(), sys.argv[1], keep=2)
