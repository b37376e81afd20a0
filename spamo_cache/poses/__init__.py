"""Poses of clips: points of a signer's body, frame by frame, as an estimator saw them.

They are read from ``.pose`` files, the format of the sign-language community's package
``pose-format``. Nothing in a file is trusted, and nothing is aligned by counting frames.
"""

from spamo_cache.poses.clips import FOLDER, SUFFIX, digest, file_name, find, of_clip
from spamo_cache.poses.files import Body, pack, parse, read
from spamo_cache.poses.parts import parts
from spamo_cache.poses.pose import Pose

__all__ = [
    "FOLDER",
    "SUFFIX",
    "Body",
    "Pose",
    "digest",
    "file_name",
    "find",
    "of_clip",
    "pack",
    "parse",
    "parts",
    "read",
]
