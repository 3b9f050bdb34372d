"""The definitions Dagster finds by itself: every module in this folder."""
