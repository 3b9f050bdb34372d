"""The same definitions with components: pipelines and the store in YAML, what is Python's own from `defs/`."""
