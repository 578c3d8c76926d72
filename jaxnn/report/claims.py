"""Claims and verdicts: a falsifiable sentence, the number behind it, and whether it holds.

A `Claim` holds a check, a pure function from a study's dataset to a `Measurement`. The helpers
`agrees`, `exact`, `between`, `at_least` and `at_most` are the standard ways to reach one. A NaN
never holds, and a claim that fails, or whose check raises, stays in the report with its reason.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, NamedTuple

from jaxnn.report.results import strict_json

if TYPE_CHECKING:
    import xarray as xr
    from rich.table import Table


class Measurement(NamedTuple):
    """A measured number beside the one expected of it."""

    value: float
    standard_error: float  # of value; NaN: not stochastic, or not known
    expected: float | str  # theory's or the paper's number, or a short text
    bound: str  # what had to be true, with the numbers that decided it
    holds: bool


class Claim(NamedTuple):
    """One falsifiable sentence, where it comes from, and how to check it."""

    statement: str
    source: str  # author, year, equation or figure
    check: "Callable[[xr.Dataset], Measurement]"


class Verdict(NamedTuple):
    """A claim with what came of its check."""

    claim: Claim
    measurement: Measurement
    error: str = ""  # why the check could not measure; empty: it did

    @property
    def holds(self) -> bool:
        """Whether the check measured a number, and the claim is true of it."""
        found = self.measurement
        return bool(found.holds) and not self.error and not math.isnan(found.value)


def agrees(
    value: float, expected: float, standard_error: float, *, rtol: float, max_z: float = 3.0
) -> Measurement:
    """Compare an unbiased estimate with theory, in standard errors and relatively.

    Holds where `|z| <= max_z`, `z = (value - expected) / standard_error`, and `|value - expected|
    <= rtol |expected|`. The first alone lets a noisy run pass, the second alone fails a good one.

    Args:
        value: the estimate.
        expected: theory's number, not 0.
        standard_error: of the estimate, at least 0; a NaN does not hold.
        rtol: largest relative error.
        max_z: largest distance in standard errors.

    Raises:
        ValueError: `expected` is 0, or the standard error is negative.

    Example:
        >>> agrees(1.02, 1.0, 0.01, rtol=0.05).bound
        '|z| 2 (at most 3), off by 2% (at most 5%)'
    """
    value, expected, standard_error = float(value), float(expected), float(standard_error)
    if standard_error < 0:
        raise ValueError(f"agrees: expected a standard_error of at least 0, got {standard_error}")
    error = _relative_error("agrees", value, expected)
    distance = abs(value - expected)
    z = distance / standard_error if standard_error else (math.inf if distance else 0.0)
    bound = f"|z| {z:.3g} (at most {max_z:g}), off by {error:.3g}% (at most {100 * rtol:g}%)"
    holds = z <= max_z and error <= 100 * rtol
    return Measurement(value, standard_error, expected, bound, holds)


def exact(value: float, expected: float, *, rtol: float) -> Measurement:
    """Compare a number that has no noise with an identity's.

    Holds where `|value - expected| <= rtol |expected|`. Use rtol 1e-10 in float64 and 1e-4 in
    float32, or what the derivation gives.

    Raises:
        ValueError: `expected` is 0.
    """
    value, expected = float(value), float(expected)
    error = _relative_error("exact", value, expected) / 100
    bound = f"relative error {error:.3g} (at most {rtol:g})"
    return Measurement(value, math.nan, expected, bound, error <= rtol)


def between(
    value: float,
    low: float,
    high: float,
    standard_error: float = math.nan,
    *,
    expected: float | str = "",
) -> Measurement:
    """Hold a number to a range fixed beforehand: `low <= value <= high`.

    Args:
        value: the measured number.
        low: smallest that holds.
        high: largest that holds.
        standard_error: of `value`, reported and not used.
        expected: the paper's number, where there is one; otherwise the range stands there.

    Raises:
        ValueError: the range is empty.
    """
    value, text = float(value), f"{low:g} to {high:g}"
    if not low <= high:
        raise ValueError(f"between: expected low <= high, got {text}")
    holds = low <= value <= high
    return Measurement(value, float(standard_error), _or(expected, text), f"in {text}", holds)


def at_least(
    value: float, bound: float, standard_error: float = math.nan, *, expected: float | str = ""
) -> Measurement:
    """Hold a number to a smallest value fixed beforehand: `value >= bound`.

    For trends: state the direction and the ratio first, and use medians. The other arguments are
    those of `between`.
    """
    value, text = float(value), f"at least {bound:g}"
    return Measurement(value, float(standard_error), _or(expected, text), text, value >= bound)


def at_most(
    value: float, bound: float, standard_error: float = math.nan, *, expected: float | str = ""
) -> Measurement:
    """Hold a number to a largest value fixed beforehand: `value <= bound`; see `at_least`."""
    value, text = float(value), f"at most {bound:g}"
    return Measurement(value, float(standard_error), _or(expected, text), text, value <= bound)


def judge(claims: Iterable[Claim], ds: "xr.Dataset") -> list[Verdict]:
    """Check every claim on a dataset; a check that raises fails, and the others go on."""
    return [_verdict(claim, ds) for claim in claims]


def claims_json(verdicts: Sequence[Verdict]) -> str:
    """Return verdicts as strict JSON, a list of objects; NaN is null, infinities are text."""
    found = [
        {
            "statement": each.claim.statement,
            "source": each.claim.source,
            **each.measurement._asdict(),
            "holds": each.holds,
            "error": each.error,
        }
        for each in verdicts
    ]
    return strict_json(found)


def table(verdicts: Sequence[Verdict]) -> "Table":
    """Return verdicts as a table for `rich.console.Console.print`, a row for each claim."""
    from rich.table import Table
    from rich.text import Text

    drawn = Table(show_lines=True)
    for title, ratio in (("statement", 4), ("source", 2), ("expected", None)):
        drawn.add_column(title, ratio=ratio, overflow="fold")
    drawn.add_column("measured ± standard error", overflow="fold", max_width=28)
    drawn.add_column("bound", ratio=2, overflow="fold")
    drawn.add_column("holds", no_wrap=True)
    for each in verdicts:
        found = each.measurement
        expected = found.expected if isinstance(found.expected, str) else f"{found.expected:.6g}"
        measured = each.error or measured_text(found.value, found.standard_error)
        holds = Text("yes", style="green") if each.holds else Text("no", style="bold red")
        cells = (each.claim.statement, each.claim.source, expected, measured, found.bound)
        drawn.add_row(*map(Text, cells), holds)
    return drawn


def measured_text(value: float, standard_error: float = math.nan) -> str:
    """Write a number with its standard error: the error to two digits, the value as far.

    Example:
        >>> measured_text(1.47213, 0.01312)
        '1.472 ± 0.013'
        >>> measured_text(2.3456e-7, 1.2e-9)
        '(2.346 ± 0.012)e-07'
    """
    if math.isnan(standard_error):
        return f"{value:.4g}"
    if not (math.isfinite(value) and math.isfinite(standard_error) and standard_error > 0):
        return f"{value:.4g} ± {standard_error:.2g}"
    power = _power(max(abs(value), standard_error))
    if not -4 < power < 6:
        scaled = measured_text(value / 10.0**power, standard_error / 10.0**power)
        return f"({scaled})e{power:+03d}"
    digits = 1 - _power(float(f"{standard_error:.1e}"))
    rounded = round(value, digits) + 0.0  # no -0
    shown = max(digits, 0)
    return f"{rounded:.{shown}f} ± {round(standard_error, digits):.{shown}f}"


def _verdict(claim: Claim, ds: "xr.Dataset") -> Verdict:
    try:
        found = claim.check(ds)
        value, standard_error = float(found.value), float(found.standard_error)
        expected = found.expected if isinstance(found.expected, str) else float(found.expected)
        holds = bool(found.holds)
        return Verdict(claim, Measurement(value, standard_error, expected, found.bound, holds))
    except Exception as error:
        nothing = Measurement(math.nan, math.nan, "", "", False)
        return Verdict(claim, nothing, f"{type(error).__name__}: {error}")


def _relative_error(helper: str, value: float, expected: float) -> float:
    """Return |value - expected| / |expected| in percent."""
    if expected == 0:
        raise ValueError(
            f"{helper}: an error relative to an expected 0 is not defined; "
            "use between(value, low, high)"
        )
    return 100 * abs(value - expected) / abs(expected)


def _power(value: float) -> int:
    """Return the power of ten of a number's first digit."""
    return int(f"{value:e}".split("e")[1])


def _or(expected: float | str, text: str) -> float | str:
    return text if expected == "" else expected
