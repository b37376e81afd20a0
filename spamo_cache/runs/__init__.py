"""Run folders: what a run wrote, read by the types that wrote it."""
