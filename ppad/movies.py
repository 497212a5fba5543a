"""Pictures, animations and movies: read frame by frame, written anew with nothing of the old file but its pixels and sound.

Every reader gives (H, W, 3) uint8 RGB frames, the right way up; every writer takes them. What a file says besides its
pixels is left behind: EXIF, GPS, thumbnails, comments, colour profiles (applied first), layers and second pictures;
of a movie its tags, chapters, subtitles, cover, attachments and data streams. Pictures and animations go through
Pillow, movies through the `ffmpeg` and `ffprobe` programs and two pipes, so a movie is never in memory as a whole:

    read_movie:  ffmpeg decodes, turns upright, makes pixels square -> PPM pictures, which bring their own size
    movie_writer: raw RGB -> ffmpeg -> H.264 and AAC (VP9 and Opus in .webm), sound taken from the original

Sound is encoded again as well, since a copied stream would carry along whatever its packets hold. A movie of changing
frame rate gets its mean rate, frames repeated or left out so that picture and sound stay together.
A file appears under its name only when it is complete; until then it is `.name.part` beside it.
"""

import json
import os
import shutil
import subprocess
import tempfile
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from fractions import Fraction
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image, ImageCms, ImageOps, ImageSequence, UnidentifiedImageError

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
ANIMATED = (".gif", ".webp", ".png")  # of these, the ones that can move
DECODED = (
    "JPEG",
    "PNG",
    "WEBP",
    "GIF",
    "BMP",
    "TIFF",
    "PPM",
)  # ours: what people's folders hold; fewer
# decoders, fewer ways in for a crafted file
H264 = (
    "-c:v",
    "libx264",
    "-preset",
    "veryfast",
    "-crf",
    "20",
)  # ours: hardly visible loss, quick on two cores
VP9 = (
    "-c:v",
    "libvpx-vp9",
    "-deadline",
    "realtime",
    "-cpu-used",
    "6",
    "-crf",
    "30",
    "-b:v",
    "0",
)  # ours, likewise
AAC, OPUS = ("-c:a", "aac", "-b:a", "192k"), ("-c:a", "libopus", "-b:a", "128k")
MOVIES = {
    ".mp4": ("mp4", H264, AAC),
    ".m4v": ("mp4", H264, AAC),
    ".mov": ("mov", H264, AAC),
    ".mkv": ("matroska", H264, AAC),
    ".webm": ("webm", VP9, OPUS),
}  # suffix -> container, picture, sound
READ_MOVIES = (
    *MOVIES,
    ".avi",
    ".mpg",
    ".mpeg",
    ".wmv",
    ".flv",
    ".3gp",
    ".ts",
    ".mts",
    ".m2ts",
    ".ogv",
)
QUALITY = 95  # ours: of JPEG and WebP
MOST_PIXELS = 8192 * 8192  # ours: a frame larger than 8K is a bomb, not a movie
WHITE = (255, 255, 255, 255)  # ours: what shows through a picture's transparent parts


@contextmanager
def whole(path):
    """A name to write to that becomes `path` when the block ends well, and is deleted otherwise. ValueError if it cannot."""
    path = Path(path)
    temporary = path.with_name(f".{path.name}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_bytes(b"")  # a read-only folder is noticed before the work, not after
    except OSError as error:
        raise ValueError(
            f"cannot write {path} ({error.strerror}): choose another place for the output"
        ) from error
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def kind(path):
    """ "picture", "animation" or "movie", by what is in the file and not by its name.

    ValueError, in one sentence, for a file that is absent, empty, too large to open safely, or neither of the three.
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
        raise ValueError(_unreadable(path, error)) from error


# ---------------------------------------------------------------- pictures


def read_picture(path):
    """A picture as (H, W, 3) uint8 sRGB, turned upright. ValueError if it is damaged, too large or no picture."""
    try:
        with Image.open(path, formats=DECODED) as image:
            return rgb(image)
    except Exception as error:
        raise ValueError(_unreadable(path, error)) from error


def rgb(image):
    """Any Pillow picture as (H, W, 3) uint8 sRGB: upright, 16 bits scaled to 8, profile applied, transparency on white.

    ValueError for pictures of floating point or 32-bit numbers, whose black and white nobody knows.
    """
    image = ImageOps.exif_transpose(image)
    profile = image.info.get("icc_profile")
    if image.mode.startswith("I"):
        values = np.asarray(image).astype(np.int64)
        if values.min() < 0 or values.max() > 65535:
            raise ValueError("its pixels have 32 bits; save it with 8 or 16 bits a channel")
        image = Image.fromarray(((values + 128) // 257).astype(np.uint8))  # 65535 / 255 = 257
    elif image.mode == "F":
        raise ValueError(
            "its pixels are floating point numbers; save it with 8 or 16 bits a channel"
        )
    elif "transparency" in image.info or image.mode in ("RGBA", "LA", "PA", "RGBa", "La"):
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, WHITE), image)
    if image.mode not in ("RGB", "CMYK", "L"):
        image = image.convert("RGB")
    if profile:
        try:
            profile = ImageCms.ImageCmsProfile(BytesIO(profile))
            image = ImageCms.profileToProfile(
                image, profile, ImageCms.createProfile("sRGB"), outputMode="RGB"
            )
        except (
            ImageCms.PyCMSError,
            OSError,
        ):  # a damaged profile, or one for another kind of pixel
            pass
    return np.array(image.convert("RGB"))


def save_picture(path, frame):
    """Write (H, W, 3) uint8 in the format of the name's suffix: pixels only. ValueError for a suffix not in FORMATS."""
    with whole(path) as temporary:
        Image.fromarray(frame).save(temporary, format=_format(path), quality=QUALITY)


def read_animation(path):
    """Frames of a GIF, WebP or PNG animation: (generator of (H, W, 3) uint8, milliseconds of each, loops or None).

    ValueError, at once, when one of its frames is damaged: all are decoded twice, first for their times.
    """
    try:
        with Image.open(path, formats=DECODED) as image:
            times = []
            for frame in ImageSequence.Iterator(image):
                frame.load()
                times.append(frame.info.get("duration", 100))  # ours, as browsers: 100 ms
            loop = image.info.get("loop")
    except Exception as error:
        raise ValueError(_unreadable(path, error)) from error

    def frames():
        with Image.open(path, formats=DECODED) as image:
            for frame in ImageSequence.Iterator(image):
                yield rgb(frame.copy())

    return frames(), times, loop


def save_animation(path, frames, times, loop):
    """Write an animation from an iterable of (H, W, 3) uint8, frame by frame. Times and loop as `read_animation` gives them."""
    if Path(path).suffix.lower() not in ANIMATED:
        raise ValueError(f"{path}: an animation needs a name that ends in {', '.join(ANIMATED)}")
    with whole(path) as temporary:
        pictures = (Image.fromarray(frame) for frame in frames)
        first, looping = next(pictures), {} if loop is None else {"loop": loop}
        rest = (
            list(pictures) if _format(path) == "PNG" else pictures
        )  # Pillow looks at a PNG's twice
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
        return f"{path} is too large to open safely (over {2 * Image.MAX_IMAGE_PIXELS:,} pixels): make it smaller first"
    return f"{path} cannot be read as a picture ({str(error).strip() or type(error).__name__}): replace the file"


# ---------------------------------------------------------------- movies


@dataclass(frozen=True)
class Movie:
    """What `probe` found: frames a second, how many there should be (None if the file does not say), HD or not."""

    rate: Fraction
    count: int | None
    matrix: (
        str  # how colours are to be read where the file does not say: bt709 for HD, as players do
    )


def probe(path):
    """Ask ffprobe about the first moving picture of `path`. ValueError if ffmpeg is missing or there is none."""
    for program in ("ffmpeg", "ffprobe"):
        if shutil.which(program) is None:
            raise ValueError(
                f"{program} is not on the PATH, and {path} is no picture: install ffmpeg for movies"
            )
    answer = subprocess.run(
        [
            "ffprobe",
            "-v",
            "error",
            "-protocol_whitelist",
            "file",
            "-select_streams",
            "V:0",
            "-show_entries",
            "stream=width,height,avg_frame_rate,r_frame_rate,duration,color_space:format=duration,format_name",
            "-of",
            "json",
            _url(path),
        ],
        capture_output=True,
        text=True,
        errors="replace",
    )
    found = json.loads(answer.stdout or "{}") if answer.returncode == 0 else {}
    name = found.get("format", {}).get("format_name", "")
    if (
        not found.get("streams") or name in ("tty", "image2") or name.endswith("_pipe")
    ):  # any text is a "tty" to ffmpeg
        reason = f" ({_reason(answer.stderr, path)})" if answer.stderr.strip() else ""
        raise ValueError(
            f"{path} holds no picture and no movie that can be read{reason}: replace the file"
        )
    stream = found["streams"][0]
    width, height = stream.get("width", 0), stream.get("height", 0)
    if not 0 < width * height <= MOST_PIXELS:
        raise ValueError(
            f"{path} has frames of {width} x {height} px, not between 1 and {MOST_PIXELS:,} pixels: convert it first"
        )
    mean, least = (
        Fraction(stream[key]) if stream.get(key, "0/0").split("/")[-1] != "0" else Fraction(0)
        for key in ("avg_frame_rate", "r_frame_rate")
    )
    rate = (
        least if least and (not mean or least <= mean * Fraction(3, 2)) else mean
    )  # "least" is wild in phone movies
    if not rate:
        raise ValueError(f"{path} does not say how many frames a second it has: convert it first")
    seconds = stream.get("duration") or found["format"].get("duration")
    matrix = (
        "auto" if stream.get("color_space", "unknown") != "unknown" or height < 720 else "bt709"
    )
    return Movie(rate, round(float(seconds) * rate) if seconds else None, matrix)


def read_movie(path, movie, covered=None):
    """Yield the frames of a movie, (H, W, 3) uint8, all of one size.

    Where the decoder complains the frames that follow are not to be trusted. ValueError says so and stops; but if a
    list `covered` is given, each frame from there to the end comes black, and its number is added to the list.
    ValueError also when there is no frame at all.
    """
    filters = (
        f"fps={movie.rate}:start_time=0,scale=w='round(iw*max(sar,1))':h='round(ih/min(sar,1))'"
        f":in_color_matrix={movie.matrix},setsar=1"
    )
    command = [
        "ffmpeg",
        "-v",
        "error",
        "-nostdin",
        "-protocol_whitelist",
        "file,pipe",
        "-i",
        _url(path),
        "-map",
        "0:V:0",
        "-vf",
        filters,
        "-r",
        str(movie.rate),
        "-f",
        "image2pipe",
        "-c:v",
        "ppm",
        "-pix_fmt",
        "rgb24",
        "pipe:1",
    ]
    # Complaints go to a file: one about a frame is in it before that frame is in the pipe, so looking suffices.
    with (
        tempfile.TemporaryFile() as complaints,
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=complaints) as reader,
    ):

        def complaint():
            complaints.seek(0)
            return _reason(complaints.read(4000).decode(errors="replace"), path)

        count = 0
        try:
            while (frame := _next_ppm(reader.stdout)) is not None:
                count += 1
                damaged = os.fstat(complaints.fileno()).st_size > 0
                if damaged and covered is None:
                    raise ValueError(
                        f"{path} is damaged at about frame {count} ({complaint()}): repair it, or cover "
                        "what cannot be read by --on_error cover"
                    )
                if damaged:
                    covered.append(count - 1)
                    frame = np.zeros_like(frame)
                yield frame
            if count == 0:
                raise ValueError(
                    f"{path} holds no frame that can be read ({complaint() or 'it is empty'}): replace the file"
                )
            if (reader.wait() or complaint()) and covered is None:
                raise ValueError(
                    f"{path} breaks off after frame {count} ({complaint()}): repair it, or keep what there "
                    "is by --on_error cover"
                )
        finally:
            reader.kill()  # also when the caller stops half way


def _next_ppm(pipe):
    """One PPM picture from a pipe, or None at its end (a picture that breaks off is no picture)."""
    if pipe.readline() != b"P6\n":
        return None
    width, height = map(int, pipe.readline().split())
    pipe.readline()  # 255, the largest value
    data = pipe.read(3 * width * height)
    return (
        np.frombuffer(data, np.uint8).reshape(height, width, 3)
        if len(data) == 3 * width * height
        else None
    )


@contextmanager
def movie_writer(path, movie, source=None):
    """`with movie_writer(path, movie, source) as write: write(frame)`, frames (H, W, 3) uint8 of one size.

    movie: whose frame rate to take; source: the file whose sound to take, or None. The file appears when the block ends
    well; otherwise nothing is left. ValueError for a suffix not in MOVIES, frames of two sizes or none, and with what
    ffmpeg complained of when it failed.
    """
    path = Path(path)
    if path.suffix.lower() not in MOVIES:
        raise ValueError(f"{path}: a movie needs a name that ends in {', '.join(MOVIES)}")
    with whole(path) as temporary, tempfile.TemporaryFile() as complaints:
        process = size = None

        def write(frame):
            nonlocal process, size
            if process is None:
                size = frame.shape
                process = subprocess.Popen(
                    _encoder(temporary, path.suffix.lower(), size, movie, source),
                    stdin=subprocess.PIPE,
                    stdout=subprocess.DEVNULL,
                    stderr=complaints,
                )
            if frame.shape != size:
                raise ValueError(
                    f"a frame is {frame.shape}, the first was {size}: give frames of one size"
                )
            try:
                process.stdin.write(np.ascontiguousarray(frame))
            except OSError as error:  # ffmpeg has gone
                raise ValueError(failure()) from error

        def failure():
            process.wait()
            complaints.seek(0)
            return f"cannot write {path} (ffmpeg: {_reason(complaints.read(4000).decode(errors='replace'), temporary)})"

        try:
            yield write
            if process is None:
                raise ValueError(f"cannot write {path}: there was no frame")
            with suppress(OSError):  # the last frames may find that ffmpeg has gone
                process.stdin.close()
            if process.wait():
                raise ValueError(failure())
        finally:
            if process is not None:
                process.kill()  # of no effect on one that has ended
                with suppress(OSError):
                    process.stdin.close()
                process.wait()


def _encoder(temporary, suffix, size, movie, source):
    """The ffmpeg command that turns raw frames of `size` = (H, W, 3) on its standard input into a movie."""
    container, picture, sound = MOVIES[suffix]
    heard, sound = (
        (["-protocol_whitelist", "file,pipe", "-i", _url(source)], ["-map", "1:a?", *sound])
        if source
        else ([], [])
    )
    # Even sizes, as 4:2:0 colour needs; colours named, so that players need not guess.
    filters = "pad=ceil(iw/2)*2:ceil(ih/2)*2,scale=out_color_matrix=bt709:out_range=tv"
    return [
        "ffmpeg",
        "-v",
        "error",
        "-y",
        "-f",
        "rawvideo",
        "-pix_fmt",
        "rgb24",
        "-s",
        f"{size[1]}x{size[0]}",
        "-r",
        str(movie.rate),
        "-i",
        "pipe:0",
        *heard,
        "-map",
        "0:v:0",
        *sound,
        *picture,
        "-vf",
        filters,
        "-pix_fmt",
        "yuv420p",
        "-colorspace",
        "bt709",
        "-color_primaries",
        "bt709",
        "-color_trc",
        "bt709",
        "-color_range",
        "tv",
        "-map_metadata",
        "-1",
        "-map_chapters",
        "-1",
        "-sn",
        "-dn",
        "-fflags",
        "+bitexact",
        "-flags:v",
        "+bitexact",
        "-flags:a",
        "+bitexact",
        *(("-movflags", "+faststart") if container in ("mp4", "mov") else ()),
        "-f",
        container,
        _url(temporary),
    ]


def _url(path):
    """A path that ffmpeg takes for a file, whatever it looks like."""
    return f"file:{Path(path).absolute()}"


def _reason(text, path):
    """The first line of ffmpeg's complaints, without addresses in brackets and without the path."""
    line = (text.strip().splitlines() or [""])[0].split("] ")[-1]
    return line.replace(f"{_url(path)}: ", "")[:200]
