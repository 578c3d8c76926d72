"""Several sweeps in one dataset: `gather` puts them there by name, `part` takes one out again."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import xarray as xr

SECONDS = ("wall_seconds", "compile_seconds")


def gather(parts: "Mapping[str, xr.Dataset]", **attrs: Any) -> "xr.Dataset":
    """Return one dataset of several, whose variables, coordinates and dims carry their part's name.

    The `loss` of the part `mnist` is `mnist_loss`, along `mnist_seed`, so sweeps over the same
    axis with other values stand side by side; `part(ds, "mnist")` is what was gathered.

    Args:
        parts: datasets by name; `wall_seconds` and `compile_seconds` in their attributes are summed
            where they are.
        **attrs: other attributes of the result; those of the parts are not kept.

    Raises:
        ValueError: there is no part, or one's name and an underscore begin another's.
    """
    import xarray as xr

    names = list(parts)
    twins = [(a, b) for a in names for b in names if b.startswith(f"{a}_")]
    if not names or twins:
        came = f"{twins[0][0]!r} and {twins[0][1]!r}" if twins else "no parts"
        raise ValueError(
            "gather: expected names of which none begins another's before an underscore, "
            f"got {came}"
        )
    named = [
        ds.rename({each: f"{name}_{each}" for each in {*ds.variables, *ds.dims}})
        for name, ds in parts.items()
    ]
    seconds = {
        each: sum(ds.attrs[each] for ds in parts.values() if each in ds.attrs) for each in SECONDS
    }
    merged = xr.merge(named, combine_attrs="drop_conflicts")  # variables keep theirs
    return merged.drop_attrs(deep=False).assign_attrs({**seconds, **attrs})


def part(ds: "xr.Dataset", name: str) -> "xr.Dataset":
    """Return a dataset as it was gathered under a name, with the attributes of the whole.

    Raises:
        KeyError: nothing was gathered under that name.
    """
    prefix = f"{name}_"
    own = [each for each in {**ds.variables, **ds.sizes} if str(each).startswith(prefix)]
    if not own:
        raise KeyError(
            f"part: nothing was gathered as {name!r}; variables are {list(ds.variables)}"
        )
    chosen = ds[[each for each in own if each in ds.variables]]
    return chosen.rename({each: str(each).removeprefix(prefix) for each in own})
