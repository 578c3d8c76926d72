"""Studies: one module a study, each with what is varied, what is claimed and one figure.

A study is a module `experiments/NAME.py` (a leading underscore hides it) whose docstring's first
line says what it studies, and which has

    @dataclass(frozen=True)
    class Config: ...              # plain typed fields: int, float, str, bool, tuples of them
    SCALES: dict[str, Config]      # keys "quick", "default" and "paper"
    def run(config: Config, *, seed: int, store: Path) -> xr.Dataset
    CLAIMS: tuple[Claim, ...]      # jaxnn.report.Claim
    def figure(ds: xr.Dataset) -> matplotlib.figure.Figure

`run` is the only expensive part. It keeps resumable stores of its sweeps in the folder `store`
and returns everything that `CLAIMS` and `figure` read: both are given that dataset as reopened from
disk, so a figure is restyled without running anything. `jaxnn.report.gather` puts several sweeps in
one dataset, `part` takes one out again, and errors over seeds are those of `mean_and_error` or
`jackknife`. The quick scale is a test of every line: its claims hold for any seed tried.

A field of Config is a command line option of `scripts/reproduce.py`, next to that script's own
`scale`, `out`, `seed`, `fresh`, `list` and `all`, which a Config cannot use as names. Nothing
registers a study: being in this folder is enough.
"""
