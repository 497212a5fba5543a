"""The drawn "face" of test_anonymize and test_bad_input: a pure red square, and a stub finder that
knows red.
"""

import shutil
import subprocess

import numpy as np
import pytest

ffmpeg = pytest.mark.skipif(
    not (shutil.which("ffmpeg") and shutil.which("ffprobe")),
    reason="ffmpeg and ffprobe are not on the PATH: install ffmpeg to test movies",
)


def encode(path, frames, *options, rate=25):
    """Write frames (H, W, 3) uint8 as a movie of `rate` a second; options: ffmpeg's, for it."""
    height, width = frames[0].shape[:2]
    pipe = f"ffmpeg -v error -y -f rawvideo -pix_fmt rgb24 -s {width}x{height} -r {rate} -i -"
    subprocess.run(
        [*pipe.split(), *options, f"file:{path}"], input=np.stack(frames).tobytes(), check=True
    )


def red(frame):
    """Which pixels (H, W) of a frame are still face."""
    frame = frame.astype(int)
    return (frame[..., 0] > 150) & (frame[..., 1] < 100) & (frame[..., 2] < 100)


def find_red(frames):
    """A finder: the one red box of each frame, or none."""
    boxes = []
    for frame in frames:
        ys, xs = np.nonzero(red(np.asarray(frame)))
        boxes.append(
            [[xs.min(), ys.min(), xs.max() + 1, ys.max() + 1]] if len(xs) else np.zeros((0, 4))
        )
    return boxes
