"""Parts of a dataset come out as they went in."""

import numpy as np
import pytest
import xarray as xr

from jaxnn.report import gather, part


def swept(size, seconds):
    values = np.arange(2.0 * size).reshape(2, size)
    attrs = {"wall_seconds": seconds, "compile_seconds": seconds / 2, "plan": f"{size}"}
    loss = ("seed", "step"), values, {"units": "nat"}
    return xr.Dataset({"loss": loss}, {"step": 10 * np.arange(size)}, attrs)


def test_part_returns_what_was_gathered():
    first, second = swept(3, 1.0), swept(5, 2.0)
    whole = gather({"few": first, "many": second}, width=64)
    assert whole["few_loss"].dims == ("few_seed", "few_step")
    for name, ds in (("few", first), ("many", second)):
        xr.testing.assert_equal(part(whole, name), ds)
        assert part(whole, name)["loss"].attrs == {"units": "nat"}


def test_seconds_are_summed_and_only_named_attributes_kept():
    whole = gather({"few": swept(3, 1.0), "many": swept(5, 2.0)}, width=64)
    assert whole.attrs == {"wall_seconds": 3.0, "compile_seconds": 1.5, "width": 64}
    assert part(whole, "many").attrs["width"] == 64


def test_parts_without_seconds_can_be_gathered():
    whole = gather({"swept": swept(3, 1.0), "computed": xr.Dataset({"value": 2.0})})
    assert whole.attrs["wall_seconds"] == 1.0
    assert part(whole, "computed")["value"] == 2.0


@pytest.mark.parametrize("names", [(), ("mnist", "mnist_deep")])
def test_names_that_cannot_be_told_apart_are_refused(names):
    with pytest.raises(ValueError, match="gather: expected names"):
        gather(dict.fromkeys(names, swept(3, 1.0)))


def test_unknown_part_is_refused():
    with pytest.raises(KeyError, match="'deep'"):
        part(gather({"mnist": swept(3, 1.0)}), "deep")
