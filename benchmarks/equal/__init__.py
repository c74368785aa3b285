"""The peers of `all_equal.py`: each is a process that is driven by lines of JSON."""
