"""Tests of the example; none of them needs Dagster or S3."""
