"""Reports: claims checked against data, results on disk, figures.

Not for running anything: whatever is here reads an `xarray.Dataset` that a study has made.
Importing this package imports neither matplotlib nor rich nor xarray; figures are in
`jaxnn.report.figures`, which is imported by who draws.
"""

from jaxnn.report.claims import (
    Claim,
    Measurement,
    Verdict,
    agrees,
    at_least,
    at_most,
    between,
    claims_json,
    exact,
    judge,
    measured_text,
    table,
)
from jaxnn.report.page import read_studies, save_page, summary_table
from jaxnn.report.parts import gather, part
from jaxnn.report.results import (
    is_current,
    load_dataset,
    manifest,
    read_manifest,
    save_dataset,
    save_run,
    strict_json,
    sweeps_folder,
    write_text,
)
from jaxnn.report.statistics import first_where, jackknife, mean_and_error

__all__ = [
    "Claim",
    "Measurement",
    "Verdict",
    "agrees",
    "at_least",
    "at_most",
    "between",
    "claims_json",
    "exact",
    "first_where",
    "gather",
    "is_current",
    "jackknife",
    "judge",
    "load_dataset",
    "manifest",
    "mean_and_error",
    "measured_text",
    "part",
    "read_manifest",
    "read_studies",
    "save_dataset",
    "save_page",
    "save_run",
    "strict_json",
    "summary_table",
    "sweeps_folder",
    "table",
    "write_text",
]
