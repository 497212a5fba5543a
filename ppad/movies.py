"""Pictures, animations and movies: read frame by frame, written anew without metadata (ours).

Every reader gives upright (H, W, 3) uint8 RGB frames; every writer takes them. What a file holds
besides pixels and sound is left out: EXIF, GPS, thumbnails, comments, color profiles (applied
first), layers and second pictures; of a movie its tags, chapters, subtitles, cover, attachments and
data streams. Pictures and animations go through Pillow, movies through the programs `ffmpeg` and
`ffprobe` and two pipes, so that a movie is never in memory as a whole:

    read_movie    ffmpeg decodes, turns upright, makes pixels square -> PPM pictures
    movie_writer  raw RGB -> ffmpeg -> H.264 and AAC (VP9 and Opus in .webm), the original's sound

Sound is encoded again too, since copied packets would keep whatever else they hold. A movie of
changing frame rate gets its mean rate; frames are repeated or left out to stay with the sound.
A file gets its name only when it is complete (`files.atomic_path`).
"""

import json
import os
import shutil
import subprocess
import tempfile
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import numpy as np
from PIL import Image, ImageSequence, UnidentifiedImageError

from ppad.files import BadPicture, WriteError, atomic_path, decode_picture, to_rgb

FORMATS = {
    ".jpg": "JPEG",
    ".jpeg": "JPEG",
    ".png": "PNG",
    ".webp": "WEBP",
    ".gif": "GIF",
    ".bmp": "BMP",
    ".tif": "TIFF",
    ".tiff": "TIFF",
}
ANIMATED = (".gif", ".webp", ".png")  # of these, the ones that can hold an animation
# Ours: what people's folders hold. Fewer decoders leave fewer ways in for a crafted file.
DECODED = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM")
# Ours: hardly visible loss, fast on two cores.
H264 = "-c:v libx264 -preset veryfast -crf 20".split()
VP9 = "-c:v libvpx-vp9 -deadline realtime -cpu-used 6 -crf 30 -b:v 0".split()
AAC = "-c:a aac -b:a 192k".split()
OPUS = "-c:a libopus -b:a 128k".split()
# Suffix -> container, picture, sound.
MOVIES = {
    ".mp4": ("mp4", H264, AAC),
    ".m4v": ("mp4", H264, AAC),
    ".mov": ("mov", H264, AAC),
    ".mkv": ("matroska", H264, AAC),
    ".webm": ("webm", VP9, OPUS),
}
READ_MOVIES = (*MOVIES, *".avi .mpg .mpeg .wmv .flv .3gp .ts .mts .m2ts .ogv".split())
QUALITY = 95  # ours: of JPEG and WebP
MAX_PIXELS = 8192 * 8192  # ours: of a movie's frame; larger ones are attacks, not movies


def kind(path):
    """ "picture", "animation" or "movie", by what is in the file and not by its name.

    Raises ValueError, in one sentence, for a file that is absent, empty, too large to open safely,
    or none of the three.
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"{path} is not there: check the name")
    if path.stat().st_size == 0:
        raise ValueError(f"{path} is empty: restore it from where it came from")
    try:
        with Image.open(path, formats=DECODED) as image:
            moves = getattr(image, "is_animated", False) and image.format in ("GIF", "WEBP", "PNG")
            return "animation" if moves else "picture"
    except UnidentifiedImageError:
        if path.suffix.lower() in FORMATS and shutil.which("ffprobe") is None:
            raise ValueError(f"{path} cannot be read as a picture: replace the file") from None
        probe(path)
        return "movie"
    except Exception as error:  # a crafted or damaged file raises one of many types
        raise _unreadable(path, error) from error


# ---------------------------------------------------------------- pictures


def read_picture(path):
    """A picture as upright (H, W, 3) uint8 sRGB. ValueError if it is damaged, or no picture."""
    try:
        return np.array(decode_picture(path, 2 * Image.MAX_IMAGE_PIXELS, DECODED))
    except BadPicture as error:
        raise ValueError(f"{path} {error}: replace the file") from error


def save_picture(path, frame):
    """Write (H, W, 3) uint8 in the format of the name's suffix, pixels only.

    Raises ValueError for a suffix not in FORMATS, WriteError.
    """
    with atomic_path(path) as temporary:
        Image.fromarray(frame).save(temporary, format=_format(path), quality=QUALITY)


def read_animation(path):
    """The frames of a GIF, WebP or PNG animation.

    Returns a generator of (H, W, 3) uint8, the milliseconds of each frame, and loops or None.
    Raises ValueError at once when a frame is damaged: all are decoded twice, first for their times.
    """
    times = []
    try:
        with Image.open(path, formats=DECODED) as image:
            for frame in ImageSequence.Iterator(image):
                frame.load()
                times.append(frame.info.get("duration", 100))  # ours, as browsers: 100 ms
            loop = image.info.get("loop")
    except Exception as error:
        raise _unreadable(path, error) from error
    return _animation_frames(path), times, loop


def _animation_frames(path):
    with Image.open(path, formats=DECODED) as image:
        for frame in ImageSequence.Iterator(image):
            yield np.array(to_rgb(frame.copy()))


def save_animation(path, frames, times, loop):
    """Write an animation from an iterable of (H, W, 3) uint8; times and loop as it was read.

    Raises ValueError for a suffix not in ANIMATED, WriteError.
    """
    if Path(path).suffix.lower() not in ANIMATED:
        raise ValueError(f"{path}: an animation needs a name that ends in {', '.join(ANIMATED)}")
    looping = {} if loop is None else {"loop": loop}
    with atomic_path(path) as temporary:
        pictures = (Image.fromarray(frame) for frame in frames)
        first = next(pictures)
        # Pillow goes through a PNG's frames twice.
        rest = list(pictures) if _format(path) == "PNG" else pictures
        first.save(
            temporary,
            format=_format(path),
            save_all=True,
            append_images=rest,
            duration=times,
            quality=QUALITY,
            **looping,
        )


def _format(path):
    suffix = Path(path).suffix.lower()
    if suffix not in FORMATS:
        raise ValueError(f"{path}: a picture needs a name that ends in {', '.join(FORMATS)}")
    return FORMATS[suffix]


def _unreadable(path, error):
    if isinstance(error, Image.DecompressionBombError):
        limit = f"over {2 * Image.MAX_IMAGE_PIXELS:,} pixels"
        return ValueError(f"{path} is too large to open safely ({limit}): make it smaller first")
    reason = str(error).strip() or type(error).__name__
    return ValueError(f"{path} cannot be read as a picture ({reason}): replace the file")


# ---------------------------------------------------------------- movies


@dataclass(frozen=True)
class Movie:
    """What `probe` found.

    rate: frames a second; count: frames, None if the file does not say; matrix: ffmpeg's name of
    how colors are to be read where the file does not say, bt709 for HD as players do.
    """

    rate: Fraction
    count: int | None
    matrix: str


def probe(path):
    """Ask ffprobe about the first video stream of `path`.

    Raises ValueError where ffmpeg is missing, or there is no such stream, its frames are too large,
    or its rate is unknown.
    """
    for program in ("ffmpeg", "ffprobe"):
        if shutil.which(program) is None:
            raise ValueError(
                f"{program} is not on the PATH, and {path} is no picture: install ffmpeg for movies"
            )
    fields = "width,height,avg_frame_rate,r_frame_rate,duration,color_space"
    entries = f"stream={fields}:format=duration,format_name"
    command = "ffprobe -v error -protocol_whitelist file -select_streams V:0 -of json".split()
    command += ["-show_entries", entries, _url(path)]
    answer = subprocess.run(command, capture_output=True, text=True, errors="replace")
    found = json.loads(answer.stdout or "{}") if answer.returncode == 0 else {}
    container = found.get("format", {}).get("format_name", "")
    text_or_picture = container in ("tty", "image2") or container.endswith("_pipe")
    if not found.get("streams") or text_or_picture:  # ffmpeg takes any text for a "tty"
        reason = f" ({_reason(answer.stderr, path)})" if answer.stderr.strip() else ""
        raise ValueError(
            f"{path} holds no picture and no movie that can be read{reason}: replace the file"
        )
    stream = found["streams"][0]
    width = stream.get("width", 0)
    height = stream.get("height", 0)
    if not 0 < width * height <= MAX_PIXELS:
        raise ValueError(
            f"{path} has frames of {width} x {height} px, not between 1 and {MAX_PIXELS:,} pixels: "
            "convert it first"
        )
    mean = _fraction(stream.get("avg_frame_rate"))
    base = _fraction(stream.get("r_frame_rate"))  # far too high in movies of phones
    rate = base if base and (not mean or base <= mean * Fraction(3, 2)) else mean
    if not rate:
        raise ValueError(f"{path} does not say how many frames a second it has: convert it first")
    seconds = stream.get("duration") or found["format"].get("duration")
    count = round(float(seconds) * rate) if seconds else None
    color_is_known = stream.get("color_space", "unknown") != "unknown"
    return Movie(rate, count, "auto" if color_is_known or height < 720 else "bt709")


def _fraction(text):
    numerator, _, denominator = (text or "0/0").partition("/")
    return Fraction(int(numerator), int(denominator)) if int(denominator) else Fraction(0)


def read_movie(path, movie, covered=None):
    """Yield the frames of a movie, (H, W, 3) uint8, all of one size.

    After a complaint of the decoder, frames are not to be trusted: ValueError. If a list `covered`
    is given, frames from there to the end are black, and their numbers are added to it.
    Raises ValueError also when there is no frame at all.
    """
    filters = (
        f"fps={movie.rate}:start_time=0,scale=w='round(iw*max(sar,1))':h='round(ih/min(sar,1))'"
        f":in_color_matrix={movie.matrix},setsar=1"
    )
    command = "ffmpeg -v error -nostdin -protocol_whitelist file,pipe -i".split()
    command += [_url(path), "-map", "0:V:0", "-vf", filters, "-r", str(movie.rate)]
    command += "-f image2pipe -c:v ppm -pix_fmt rgb24 pipe:1".split()
    count = 0
    # Complaints go to a file: one about a frame is in it before that frame is in the pipe.
    with (
        tempfile.TemporaryFile() as complaints,
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=complaints) as reader,
    ):
        try:
            while (frame := _next_ppm(reader.stdout)) is not None:
                if os.fstat(complaints.fileno()).st_size > 0:
                    if covered is None:
                        raise ValueError(
                            f"{path} is damaged at about frame {count + 1} "
                            f"({_complaint(complaints, path)}): repair it, or cover what cannot "
                            "be read by --on_error cover"
                        )
                    covered.append(count)
                    frame = np.zeros_like(frame)
                count += 1
                yield frame
            if count == 0:
                reason = _complaint(complaints, path) or "it is empty"
                raise ValueError(
                    f"{path} holds no frame that can be read ({reason}): replace the file"
                )
            failed = reader.wait() or _complaint(complaints, path)
            if failed and covered is None:
                raise ValueError(
                    f"{path} breaks off after frame {count} ({_complaint(complaints, path)}): "
                    "repair it, or keep what there is by --on_error cover"
                )
        finally:
            reader.kill()  # also when the caller stops half way


def _next_ppm(pipe):
    """One PPM picture from a pipe; None at its end, also where a picture breaks off."""
    if pipe.readline() != b"P6\n":
        return None
    width, height = map(int, pipe.readline().split())
    pipe.readline()  # 255, the largest value
    data = pipe.read(3 * width * height)
    if len(data) < 3 * width * height:
        return None
    return np.frombuffer(data, np.uint8).reshape(height, width, 3)


class MovieWriter:
    """Writes frames to `temporary` through ffmpeg, which starts with the first frame."""

    def __init__(self, path, temporary, movie, source):
        self.path = path
        self.temporary = temporary
        self.movie = movie
        self.source = source
        self.size = None
        self.process = None
        self.complaints = tempfile.TemporaryFile()

    def write(self, frame):
        """Add a frame, (H, W, 3) uint8. ValueError for another size, WriteError."""
        if self.process is None:
            self.size = frame.shape
            self.process = subprocess.Popen(
                self._command(),
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=self.complaints,
            )
        if frame.shape != self.size:
            raise ValueError(
                f"a frame is {frame.shape}, the first was {self.size}: give frames of one size"
            )
        try:
            self.process.stdin.write(np.ascontiguousarray(frame))
        except OSError as error:  # ffmpeg has ended
            raise self._failure() from error

    def finish(self):
        """Write the end of the file. ValueError where no frame came, WriteError."""
        if self.process is None:
            raise ValueError(f"cannot write {self.path}: there was no frame")
        with suppress(OSError):  # ffmpeg may have ended before the last frames
            self.process.stdin.close()
        if self.process.wait():
            raise self._failure()

    def close(self):
        """End ffmpeg, if it still runs."""
        if self.process is not None:
            self.process.kill()
            with suppress(OSError):
                self.process.stdin.close()
            self.process.wait()
        self.complaints.close()

    def _failure(self):
        self.process.wait()
        reason = _complaint(self.complaints, self.temporary)
        return WriteError(f"cannot write {self.path} (ffmpeg: {reason})")

    def _command(self):
        height, width = self.size[:2]
        container, picture, sound = MOVIES[self.path.suffix.lower()]
        command = "ffmpeg -v error -y -f rawvideo -pix_fmt rgb24".split()
        command += ["-s", f"{width}x{height}", "-r", str(self.movie.rate), "-i", "pipe:0"]
        if self.source:
            command += ["-protocol_whitelist", "file,pipe", "-i", _url(self.source)]
        command += ["-map", "0:v:0"]
        if self.source:
            command += ["-map", "1:a?", *sound]
        # 4:2:0 color needs even sizes. Players need not guess colors that are named.
        filters = "pad=ceil(iw/2)*2:ceil(ih/2)*2,scale=out_color_matrix=bt709:out_range=tv"
        command += [*picture, "-vf", filters, "-pix_fmt", "yuv420p"]
        command += "-colorspace bt709 -color_primaries bt709 -color_trc bt709".split()
        command += "-color_range tv -map_metadata -1 -map_chapters -1 -sn -dn".split()
        command += "-fflags +bitexact -flags:v +bitexact -flags:a +bitexact".split()
        if container in ("mp4", "mov"):
            command += ["-movflags", "+faststart"]
        return [*command, "-f", container, _url(self.temporary)]


@contextmanager
def movie_writer(path, movie, source=None):
    """`with movie_writer(path, movie, source) as write: write(frame)`, frames (H, W, 3) uint8.

    The file appears when the block ends well; otherwise nothing is left.

    Args:
        movie: the `Movie` whose frame rate to take.
        source: the file whose sound to take, or None.

    Raises:
        ValueError: a suffix not in MOVIES, frames of two sizes, or none.
        WriteError: with what ffmpeg complained of.
    """
    path = Path(path)
    if path.suffix.lower() not in MOVIES:
        raise ValueError(f"{path}: a movie needs a name that ends in {', '.join(MOVIES)}")
    with atomic_path(path) as temporary:
        writer = MovieWriter(path, temporary, movie, source)
        try:
            yield writer.write
            writer.finish()
        finally:
            writer.close()


def _url(path):
    """A path that ffmpeg takes for a file, whatever it looks like."""
    return f"file:{Path(path).absolute()}"


def _complaint(file, path):
    file.seek(0)
    return _reason(file.read(4000).decode(errors="replace"), path)


def _reason(text, path):
    """ffmpeg's first complaint, without addresses in brackets and without the path."""
    line = (text.strip().splitlines() or [""])[0].split("] ")[-1]
    return line.replace(f"{_url(path)}: ", "")[:200]
