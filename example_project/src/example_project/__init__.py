"""An example Dagster project: scans in S3, resampled, measured and reported."""
