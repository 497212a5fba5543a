"""Make an action folder of DALY's annotated keyframes (paper Sec. 5.1 and Table 1).

    python data_scripts/prepare_daly.py SOURCE OUT

SOURCE holds daly1.1.0.pkl and the movies, ID.mp4 (or .webm, .mkv, .avi), beside it or in videos/.
ffmpeg must be installed. It decodes each movie once and counts frames, so a keyframe is exactly the
annotated frame, or the frame at the same time if the movie has another frame rate. Movies of
another length are left out, as are damaged ones, whose frames cannot be counted. OUT gets
ID/FRAME.png for each keyframe, annotations.csv and faces.csv. The first split's test videos are
test, the rest train. Missing movies and frames are named; keyframes without a box are counted.
Stop it when you like: the same command resumes. Fetch a missing movie and run it again.
"""

import errno
import os
import re
import shutil
import subprocess
import sys
import textwrap
from functools import partial
from pathlib import Path

import numpy as np
from _common import arguments, check_places, clipped, count_line, prepare_actions, run
from _faces import Faces
from _untrusted import load_pickle

from ppad import ffmpeg
from ppad.files import BadPicture, DataError, is_hidden, write_error

VIDEOS = 510  # Weinzaepfel et al., 2016: 310 videos train, 200 test
TEST_VIDEOS = 200
CLASSES = 10
SUFFIXES = (".mp4", ".webm", ".mkv", ".avi", ".flv")
SAME_RATE = 0.002  # ours: 29.97 and 30 frames a second are one rate, 30 and 50 are not
SLACK = 0.5, 0.02  # ours: copies' lengths may differ by 0.5 s + 2 %
# ours: no playlists, which could name other files
FORMATS = "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,flv"


def read_annotations(path):
    """Read DALY's pickle.

    Returns {video id: (split, {frame number from 1: [(action, box)]}, frame rate, seconds)} and how
    many keyframes have no box. A box is (x0, y0, x1, y1) in fractions of the frame. Frame rate and
    seconds are None for a video without metadata.
    """
    daly = load_pickle(path)
    videos = {}
    boxless = 0
    try:
        test = {str(name).rpartition(".")[0] or str(name) for name in daly["splits"][0]}
        for name, video_annotation in daly["annot"].items():
            video = name.rpartition(".")[0] or name  # "ID.mp4"
            if not re.fullmatch(r"[\w-]{1,64}", video):
                raise DataError(
                    f"{path}: names a movie {name!r}, not a YouTube id; use the official file"
                )
            frames = {}
            for action, instances in video_annotation["annot"].items():
                keyframes = [frame for instance in instances for frame in instance["keyframes"]]
                for keyframe in keyframes:
                    box = np.asarray(keyframe["boundingBox"], float).reshape(-1)
                    if len(box) != 4 or not np.isfinite(box).all() or (box[2:] <= box[:2]).any():
                        boxless += 1
                    else:
                        frames.setdefault(int(keyframe["frameNumber"]), []).append(
                            (str(action), tuple(box.tolist()))
                        )
            if min(frames, default=1) < 1:
                raise DataError(
                    f"{path}: {name} has a keyframe with frameNumber {min(frames)}, and frames "
                    "count from 1; use the official file"
                )
            meta = daly.get("metadata", {}).get(name)
            rate, seconds = rate_and_length(meta, f"{path}: {name}") if meta else (None, None)
            videos[video] = ("test" if video in test else "train", frames, rate, seconds)
    except DataError:
        raise
    except (
        KeyError,
        TypeError,
        ValueError,
        IndexError,
        AttributeError,
        OverflowError,
    ) as error:
        raise DataError(
            f"{path}: is not DALY's annotation ({error!r}); use the official daly1.1.0.pkl"
        ) from error
    return videos, boxless


def rate_and_length(metadata, where):
    """A movie's frame rate and length in seconds, from the annotation's metadata."""
    rate = float(metadata["fps"])
    count = float(metadata["nbframes_ffmpeg"])
    for name, value in (("fps", rate), ("nbframes_ffmpeg", count)):
        if not 0 < value < np.inf:  # False for NaN
            raise DataError(
                f"{where} has the {name} {value:g}, not a number above 0; use the official file"
            )
    return rate, count / rate


def find_movies(source):
    """{video id: path} of the movies in SOURCE and SOURCE/videos; DataError if an id repeats."""
    movies = {}
    for folder in (source, source / "videos"):
        for path in sorted(folder.iterdir()) if folder.is_dir() else ():
            if path.suffix.lower() not in SUFFIXES or is_hidden(path):
                continue
            other = movies.setdefault(path.stem, path)
            if other != path:
                raise DataError(
                    f"{other} and {path} are movies with the same id; take one out of SOURCE"
                )
    return movies


def extract(movie, numbers, folder, rate=None):
    """Decode a movie once and return the frames with these numbers (from 1).

    rate: frame rate to which ffmpeg converts the movie before frames are counted.
    Returns {number: PNG bytes}, empty if ffmpeg reported an error, and the first error message.
    Damage makes frames vanish, so all later ones would be counted wrong, and ffmpeg does not say
    after which frame it came. The chosen frames get the times of a steady 25 frames a second, so
    ffmpeg neither repeats nor drops any. Raises WriteError if the disk is full.
    """
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    terms = [f"eq(n,{number - 1})" for number in numbers]
    while len(terms) > 1:  # a tree: ffmpeg refuses a sum more than 100 terms deep
        terms = [f"({'+'.join(terms[i : i + 50])})" for i in range(0, len(terms), 50)]
    (condition,) = terms
    resampled = f"setpts=PTS-STARTPTS,fps={rate}," if rate else ""
    command = [
        "ffmpeg",
        "-nostdin",
        "-v",
        "error",
        "-protocol_whitelist",
        "file",
        "-format_whitelist",
        FORMATS,
        "-i",
        f"file:{movie.resolve()}",
        "-an",
        "-sn",
        "-filter:v",
        f"{resampled}select='{condition}',setpts=N/(25*TB)",
        "-r",
        "25",
        "-frames:v",
        str(len(numbers)),
        "%06d.png",
    ]
    try:
        ffmpeg_run = subprocess.run(
            command,
            cwd=folder,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
        )
        pictures = [path.read_bytes() for path in sorted(folder.glob("*.png"))]
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    for number in (errno.ENOSPC, errno.EDQUOT):  # no fault of the movie
        if os.strerror(number) in ffmpeg_run.stderr:
            raise write_error(folder, OSError(number, os.strerror(number)))
    errors = ffmpeg_run.stderr.strip().splitlines()
    if ffmpeg_run.returncode and not errors:
        errors = [f"ffmpeg ended with status {ffmpeg_run.returncode}"]
    if not errors:
        return dict(zip(numbers, pictures)), "it ends before that frame"
    first = re.sub(r"^\[[^\]]* @ 0x[0-9a-f]+\] ", "", errors[0])  # it causes the others
    return {}, textwrap.shorten(first, 200)


def keyframes(videos, movies, out, done):
    """Yield the items for `_common.prepare_actions`.

    Each movie with keyframes that are not in OUT yet is decoded once.
    """
    for video, (split, frames, rate, seconds) in sorted(videos.items()):
        wanted = [number for number in sorted(frames) if not done(f"{video}/{number:06d}.png")]
        if video not in movies or not wanted:
            continue
        rate, fault = other_version(movies[video], rate, seconds)
        pictures = {}
        if not fault:
            pictures, fault = extract(movies[video], wanted, out / ".frames", rate)
        for number in wanted:
            file = f"{video}/{number:06d}.png"
            problem = f"{movies[video].name} has no readable frame {number} ({fault})"
            load = partial(keyframe_bytes, pictures.get(number), problem)
            yield file, [file], load, (split, partial(people_in_pixels, frames[number]))


def other_version(movie, rate, seconds):
    """Compare a movie with the annotation's frame rate and length in seconds.

    Returns the `rate` for `extract` (None: the movie's own), and the reason why its frames are not
    the annotated ones, or "".
    """
    try:
        stream = ffmpeg.probe(movie)
    except ValueError:  # `extract` will say why
        return None, ""
    if rate is None or stream.count is None:
        return None, ""
    length = float(stream.count / stream.rate)
    if abs(length - seconds) > SLACK[0] + SLACK[1] * seconds:
        fault = f"it lasts {length:.1f} s and the annotated movie {seconds:.1f} s"
        return None, f"{fault}: this is another version"
    return (None if abs(stream.rate / rate - 1) < SAME_RATE else rate), ""


def keyframe_bytes(picture, problem):
    if picture is None:
        raise BadPicture(problem)
    return picture


def people_in_pixels(rows, width, height):
    return [
        (action, clipped(np.multiply(box, (width, height) * 2), width, height))
        for action, box in rows
    ]


def main(argv=None):
    args = arguments(__doc__, actions=True).parse_args(argv)
    check_places(args.source, args.out, args.landmarks)
    if shutil.which("ffmpeg") is None:
        raise DataError(
            "ffmpeg is not installed; install it (apt install ffmpeg, brew install ffmpeg, "
            "or from ffmpeg.org)"
        )
    videos, boxless = read_annotations(args.source / "daly1.1.0.pkl")
    movies = find_movies(args.source)
    truth = {
        f"{video}/{number:06d}.png": (split, partial(people_in_pixels, people))
        for video, (split, frames, *_) in videos.items()
        for number, people in frames.items()
    }
    entries, lost = prepare_actions(
        args.out,
        lambda done: keyframes(videos, movies, args.out, done),
        Faces(args),
        "keyframes",
        [(file, None, None) for file in truth],
        truth,
    )

    ids = {Path(entry["file"]).parts[0] for entry in entries}
    print(count_line("videos", len(ids), VIDEOS))
    test = sum(videos[video][0] == "test" for video in ids if video in videos)
    print(count_line("test videos", test, TEST_VIDEOS))
    classes = {action for entry in entries for action, _ in entry["people"]}
    print(count_line("classes", len(classes), CLASSES))
    annotated = [rows for _, frames, *_ in videos.values() for rows in frames.values()]
    print(count_line("annotated frames", len(entries), len(annotated)))
    boxes = sum(len(entry["people"]) for entry in entries)
    print(count_line("person boxes", boxes, sum(map(len, annotated))))
    print(count_line("frames with a face", sum(bool(entry["faces"]) for entry in entries)))
    print(f"keyframes without a box: {boxless}")
    print(count_line("left out (named above)", lost))
    if missing := sorted(set(videos) - set(movies)):
        print(f"{len(missing)} movies are not in SOURCE: {', '.join(missing)}")


if __name__ == "__main__":
    sys.exit(run(main))
