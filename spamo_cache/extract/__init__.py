"""Stage 1: from a manifest to feature stores."""
