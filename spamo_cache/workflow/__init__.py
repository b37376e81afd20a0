"""What the commands do, as functions: from names and paths to stores, runs, scores and pages."""
