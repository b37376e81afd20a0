"""Clips to frames: video files with time ranges, folders of images; always RGB, always exact."""

from spamo_cache.video.clip import (
    ClipLike,
    Probe,
    decode,
    each_frame,
    probe,
    probe_all,
    read,
    read_clip,
)

__all__ = ["ClipLike", "Probe", "decode", "each_frame", "probe", "probe_all", "read", "read_clip"]
