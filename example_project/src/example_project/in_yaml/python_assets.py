"""What needs Python: the assets at both ends of a chain, the day each scan came, jobs and the schedule."""

from example_project.defs.assets import cohort, raw_scans, report
from example_project.defs.daily import arrivals, daily, nightly
from example_project.defs.on_ray import on_ray
from example_project.defs.series import series

__all__ = ["arrivals", "cohort", "daily", "nightly", "on_ray", "raw_scans", "report", "series"]
