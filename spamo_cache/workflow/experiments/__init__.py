"""Experiments: what they come to, the runs that answer them, and the processes that train these."""
