"""Ways of running the partitions of a plan; all give the same bytes."""
