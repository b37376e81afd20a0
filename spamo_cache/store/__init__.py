"""The seam between the two stages: one stream of one corpus as a verifiable Zarr v3 store."""
