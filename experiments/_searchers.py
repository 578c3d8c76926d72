"""Searchers that choose as they go: Bayesian, a student by hand and a population.

Many repetitions of a searcher train side by side, in batches of one size. Settings are numbers
`[..., knob]`, one for each name in SPACE.
"""

from collections.abc import Callable, Generator
from typing import Any

import jax
import numpy as np

import jaxnn as jn
from jaxnn.sweep.devices import compile_options

SPACE = {  # lowest, highest, and the field's default
    "log_rate": (-4.0, 0.0, -3.0),  # decimal logarithm of AdamW's learning rate
    "log_gain": (-1.0, 1.0, 0.0),  # of the gain of He's initialisation
    "dropout": (0.0, 0.75, 0.5),
    "log_decay": (-3.0, 0.0, -2.0),  # of the weight decay
}
LOW, HIGH, DEFAULT = np.array(list(SPACE.values())).T
ROUNDS = 7  # of trainings in a budget; halving of 27 members costs as much as 7 trainings
PARTS = 9  # of a training, after each of which a population copies
COPIED = 0.2  # share of a population that gives way to copies of as many best
NUDGE = 0.02  # of a setting's range, in copies: a factor of 1.2 for the learning rate

Searcher = Generator[np.ndarray, np.ndarray, None]
"""Yields the settings `[setting, knob]` of a round, and is sent the losses seen of them."""


def import_optuna() -> Any:
    """Return optuna, made silent."""
    try:
        import optuna
    except ImportError as error:
        raise ImportError(
            'tuning: Bayesian search needs optuna, which is optional: pip install "jaxnn[tune]"'
        ) from error
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    return optuna


def bayesian(optuna: Any, round_size: int, seed: int) -> Searcher:
    """Search with a tree-structured Parzen estimator, random in the first two rounds."""
    sampler = optuna.samplers.TPESampler(n_startup_trials=2 * round_size, seed=seed)
    study = optuna.create_study(sampler=sampler)
    while True:
        trials = [study.ask() for _ in range(round_size)]
        asked = [[each.suggest_float(k, a, b) for k, (a, b, _) in SPACE.items()] for each in trials]
        for trial, loss in zip(trials, (yield np.array(asked)), strict=True):
            study.tell(trial, float(loss))


def student(round_size: int) -> Searcher:
    """Search by hand: from the field's defaults, one setting after the other, keeping the best."""
    best, lowest, number = DEFAULT, np.inf, 0
    ladder = np.linspace(-0.25, 0.25, round_size + 1)
    steps = ladder[1:]  # with 0: the defaults themselves are tried first
    while True:
        knob = np.eye(len(SPACE))[number % len(SPACE)]
        settings = np.clip(best + np.outer(steps, knob * (HIGH - LOW)), LOW, HIGH)
        losses = yield settings
        if losses.min() < lowest:
            best, lowest = settings[losses.argmin()], losses.min()
        number, steps = number + 1, ladder[ladder != 0]


class Crew:
    """Trains settings `[setting, repetition, knob]`, a round of all repetitions at once."""

    def __init__(
        self, train: Callable[..., jn.Training], *, round_size: int, repetitions: int, seed: int
    ):
        self.round_size, self.repetitions = round_size, repetitions
        options = compile_options(jax.devices()[0])

        def of(number: jax.Array, setting: jax.Array) -> jn.Training:
            key = jax.random.fold_in(jax.random.key(seed), number)
            return train(key, **dict(zip(SPACE, setting, strict=True)))

        def advance(number: jax.Array, setting: jax.Array, state: Any) -> tuple[Any, ...]:
            state = of(number, setting).advance(state)
            found = of(number, setting).records(state)
            return state, found["validation_seen"].values, found["validation_errors"].values

        begin = jax.vmap(lambda *member: of(*member).init())
        self._begin = jax.jit(begin, compiler_options=options)
        self._advance = jax.jit(jax.vmap(advance), compiler_options=options)

    def begin(self, settings: np.ndarray) -> Any:
        """Return the states of new trainings."""
        return self._in_rounds(self._begin, settings)

    def advance(self, settings: np.ndarray, states: Any) -> tuple[Any, np.ndarray, np.ndarray]:
        """Train a part further; return states, losses seen and errors `[setting, repetition]`."""
        states, *found = self._in_rounds(self._advance, settings, states)
        return states, *np.reshape(found, (2, *settings.shape[:2]))

    def _in_rounds(self, compiled: Callable[..., Any], settings: np.ndarray, *states: Any) -> Any:
        numbers = np.tile(np.arange(self.repetitions), len(settings))
        members = (numbers, np.float32(settings.reshape(-1, len(SPACE))), *states)
        size = self.round_size * self.repetitions
        rounds = [slice(start, start + size) for start in range(0, len(numbers), size)]
        parts = [compiled(*jax.tree.map(lambda leaf, k=k: leaf[k], members)) for k in rounds]
        return jax.tree.map(lambda *each: np.concatenate(each), *parts)


def asked(searchers: list[Searcher], crew: Crew) -> np.ndarray:
    """Let searchers ask, and train what all want; return the errors chosen `[round, repetition]`.

    Chosen is what has the least loss seen so far.
    """
    asking, losses, errors = [next(each) for each in searchers], [], []
    for _ in range(ROUNDS):
        settings = np.stack(asking, 1)
        states = crew.begin(settings)
        for _ in range(PARTS):
            states, seen, judged = crew.advance(settings, states)
        losses.append(seen)
        errors.append(judged)
        asking = [each.send(own) for each, own in zip(searchers, seen.T, strict=True)]
    so_far = range(1, ROUNDS + 1)
    return np.array(
        [choice(np.concatenate(losses[:k]), np.concatenate(errors[:k])) for k in so_far]
    )


def population(crew: Crew, rng: np.random.Generator) -> np.ndarray:
    """Train populations, whose worst members copy the best; return errors `[part, repetition]`."""
    shape, chosen = (ROUNDS * crew.round_size, crew.repetitions), []
    settings = rng.uniform(LOW, HIGH, (*shape, len(SPACE)))
    states = crew.begin(settings)
    for _ in range(PARTS):
        states, losses, errors = crew.advance(settings, states)
        chosen.append(choice(losses, errors))
        parents = copied(losses)
        members = (parents * shape[1] + np.arange(shape[1])).ravel()
        states = jax.tree.map(lambda leaf, of=members: leaf[of], states)
        is_copy = (parents != np.arange(shape[0])[:, None])[..., None]
        nudges = NUDGE * (HIGH - LOW) * rng.choice([-1, 1], settings.shape) * is_copy
        settings = np.take_along_axis(settings, parents[..., None], 0) + nudges
        settings = settings.clip(LOW, HIGH)
    return np.array(chosen)


def copied(losses: np.ndarray) -> np.ndarray:
    """Return whom each member `[member, repetition]` continues: itself, or a best one."""
    order, count = losses.argsort(0), int(COPIED * len(losses))
    parents = np.tile(np.arange(len(losses))[:, None], losses.shape[1])
    np.put_along_axis(parents, order[-count:], order[:count], 0)
    return parents


def choice(losses: np.ndarray, errors: np.ndarray) -> np.ndarray:
    """Return the errors `[repetition]` of the least loss of each `[trial, repetition]`."""
    return np.take_along_axis(errors, losses.argmin(0)[None], 0)[0]
