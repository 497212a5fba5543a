"""Read pictures, animations and movies frame by frame; write them without metadata (ours).

Readers give upright (H, W, 3) uint8 RGB frames, and writers take them. Only pixels and sound are
kept. Left out are EXIF, GPS, thumbnails, comments, color profiles (applied first), layers and
further pictures; in movies also tags, chapters, subtitles, covers, attachments and data streams.
Pictures and animations go through Pillow, movies through ffmpeg and two pipes, so that a movie is
never in memory as a whole.

Sound is encoded again too, since copied packets could carry other data. A movie of variable frame
rate gets its mean rate; frames are repeated or left out to stay in sync with the sound.
"""

import itertools
import math
import mimetypes
import os
import struct
import subprocess
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image, ImageSequence, UnidentifiedImageError, features

from ppad.ffmpeg import SAFE, copied_aside, first_line, movie_fault, probe, readable_parts, url
from ppad.files import BadPicture, WriteError, atomic_path, decode_picture, to_rgb

FORMATS = dict.fromkeys([".jpg", ".jpeg", ".jfif", ".jpe"], "JPEG")
FORMATS |= {".png": "PNG", ".apng": "PNG", ".webp": "WEBP", ".gif": "GIF", ".bmp": "BMP"}
FORMATS |= dict.fromkeys([".tif", ".tiff"], "TIFF")
MOVING = ["GIF", "WEBP", "PNG"]  # those that can hold an animation
if "avif" in features.modules and features.check("avif"):  # Pillow below 11.3 warns of the name
    FORMATS[".avif"] = "AVIF"
    MOVING.append("AVIF")
ANIMATED = [suffix for suffix, form in FORMATS.items() if form in MOVING]
# Ours: the usual formats. Each further decoder is one more that a crafted file can attack.
DECODED = [*dict.fromkeys(FORMATS.values()), "PPM"]
LONGEST_SIDE = {"JPEG": 65500, "WEBP": 16383, "GIF": 65535, "AVIF": 65536}  # px, most per format
MOVIES = {".mp4": "mp4", ".m4v": "mp4", ".mov": "mov", ".mkv": "matroska", ".webm": "webm"}
# Ours: hardly visible loss, fast on two cores.
H264_AAC = "-c:v libx264 -preset veryfast -c:a aac -b:a 192k".split()
VP9_OPUS = "-c:v libvpx-vp9 -deadline realtime -cpu-used 6 -b:v 0 -c:a libopus -b:a 128k".split()
QUALITY = 95  # ours: of JPEG and WebP
NEARLY_HALF = 0.4  # ours, of a frame: times in files are rounded, by up to a millisecond
JPEG_STREAMS = (".mjpeg", ".mjpg")  # series of JPEGs; Pillow would read only the first
RAW = tuple(".arw .cr2 .dng .nef .nrw .orf .pef .rw2 .sr2 .srw".split())  # those based on TIFF
# Suffixes of files that accompany pictures, and of movies that `mimetypes` does not know as such.
SIDECARS = (".aae", ".xmp", ".db", ".ini")
ALSO_MOVIES = (".3g2", ".3gp", ".asf", ".mxf", ".ogg", ".rm", ".ts")


def kind(path):
    """Return "picture", "animation" or "movie", by the file's content, not its name.

    Raises ValueError, in one sentence, for a file that cannot be read, is too large to open safely,
    or is none of the three.
    """
    path = Path(path)
    suffix = path.suffix.lower()
    if not os.path.isfile(path):
        raise ValueError(f"{path} is not there, or not a readable file: check the name")
    try:
        if suffix in JPEG_STREAMS:
            raise UnidentifiedImageError
        with Image.open(path, formats=DECODED) as image:
            if image.format != "TIFF" or not is_raw(image.tag_v2, suffix):
                moves = image.format in MOVING and image.is_animated
                return "animation" if moves else "picture"
    except UnidentifiedImageError:
        probe(path)
        return "movie"
    except Exception as error:  # a crafted or damaged file raises one of many types
        raise unreadable(path, error) from error
    fault = "is a raw photo, and only a small copy in it can be read"
    raise ValueError(f"{path} {fault}: convert it, for instance to a JPEG")


def is_raw(tags, suffix):
    """Whether a TIFF with these tags and suffix holds a camera's raw pixels."""
    has_subpages = 330 in tags and suffix not in FORMATS  # raw pixels are stored in these
    is_small_copy = tags.get(254, 0) & 1  # of the first page
    is_dng = 50706 in tags
    return bool(suffix in RAW or has_subpages or is_small_copy or is_dng)


def may_be_media(path):
    """Whether an unreadable file may be a picture or a movie, judging by its name."""
    suffix = path.suffix.lower()
    if path.name.startswith(".") or suffix in SIDECARS:
        return False
    guess = mimetypes.guess_type(path.name)[0] or ""
    other_types = ("application/", "audio/", "font/", "text/")
    return suffix in ALSO_MOVIES or not guess.startswith(other_types)


def written_name(path, kind):
    """The output's name: `path`, plus a suffix if it does not have one of that kind."""
    suffixes = {"movie": MOVIES, "animation": ANIMATED, "picture": FORMATS}[kind]
    if path.suffix.lower() in suffixes:
        return path
    added = {"movie": ".mp4", "animation": ".gif", "picture": ".png"}[kind]
    return path.with_name(f"{path.name}{added}")


# ---------------------------------------------------------------- pictures


def read_picture(path):
    """A picture as upright (H, W, 3) uint8 sRGB. ValueError if damaged or not a picture."""
    try:
        return np.array(decode_picture(path, 2 * Image.MAX_IMAGE_PIXELS, DECODED))
    except BadPicture as error:
        raise ValueError(f"{path} {error}: replace the file") from error


def pages_left_out(path):
    """Say which pages of a TIFF or an MPO `read_picture` leaves out; "" for none."""
    try:
        with Image.open(path, formats=DECODED) as image:
            # in a camera's .jpg the further pages of an MPO are previews
            paged = image.format == "TIFF" or path.suffix.lower() == ".mpo"
            pages = getattr(image, "n_frames", 1) if paged else 1
            return f"pages 2 to {pages}" if pages > 1 else ""
    except Exception:  # a damaged page raises one of many types
        return "all pages but the first, which are damaged"


def save_picture(path, frame, quality=QUALITY):
    """Write (H, W, 3) uint8 in the format of the name's suffix, pixels only.

    quality: 1 to 100, of JPEG, WebP and AVIF.
    Raises ValueError for a suffix not in FORMATS or a side too long for the format; WriteError.
    """
    form = FORMATS[_suffix(path, "a picture", FORMATS)]
    with atomic_path(path) as temporary:
        _to_pillow(path, form, frame).save(temporary, format=form, quality=quality)


def read_animation(path):
    """The frames of a GIF, WebP, PNG or AVIF animation.

    Returns a generator of (H, W, 3) uint8, the milliseconds of each frame, and loops or None.
    All frames are decoded twice, first for their times: a damaged one raises ValueError at once.
    """
    times = []
    try:
        for frame in _animation_frames(path):
            frame.load()
            times.append(frame.info.get("duration", 100))  # ours, as browsers: 100 ms
            loop = frame.info.get("loop")
    except Exception as error:
        raise unreadable(path, error) from error
    return (np.array(to_rgb(frame.copy())) for frame in _animation_frames(path)), times, loop


def _animation_frames(path):
    """The frames of an animation, without a PNG's picture for viewers that cannot animate."""
    with Image.open(path, formats=DECODED) as image:
        skipped = int(getattr(image, "default_image", False))
        yield from itertools.islice(ImageSequence.Iterator(image), skipped, None)


def save_animation(path, frames, times, loop, quality=QUALITY):
    """Write an iterable of (H, W, 3) uint8, with times and loop as `read_animation` gives them.

    Raises ValueError for a suffix not in ANIMATED, a side or time beyond the format; WriteError.
    """
    form = FORMATS[_suffix(path, "an animation", ANIMATED)]
    options = {"duration": times, "quality": quality}
    if loop is not None:
        options["loop"] = loop
    with atomic_path(path) as temporary:
        pictures = (_to_pillow(path, form, frame) for frame in frames)
        first = next(pictures)
        # Pillow reads a PNG's frames twice.
        rest = list(pictures) if form == "PNG" else pictures
        try:
            first.save(temporary, form, save_all=True, append_images=rest, **options)
        except (OverflowError, struct.error) as error:  # Pillow merges equal frames
            fault = f"{path}: a frame is shown for longer than a {form} can store"
            raise ValueError(f"{fault}: give the output another suffix, such as .webp") from error


def _to_pillow(path, form, frame):
    """(H, W, 3) uint8 as a Pillow picture. ValueError if a side is too long for the format."""
    limit = LONGEST_SIDE.get(form, math.inf)
    if max(frame.shape) > limit:
        fault = f"{path}: a {form} is at most {limit} px long, this is {max(frame.shape)}"
        raise ValueError(f"{fault}: give the output another suffix, such as .png")
    return Image.fromarray(frame)


def _suffix(path, what, allowed):
    """The name's suffix in lower case. ValueError unless it is allowed."""
    suffix = Path(path).suffix.lower()
    if suffix not in allowed:
        raise ValueError(f"{path}: {what} needs a name that ends in {', '.join(allowed)}")
    return suffix


def unreadable(path, error):
    """The ValueError that says why a file cannot be read, and the fix."""
    reason = getattr(error, "strerror", None) or str(error).strip() or type(error).__name__
    return ValueError(f"{path} cannot be read ({reason}): check or replace the file")


# ---------------------------------------------------------------- movies


def read_movie(path, movie, covered=None, stop=True, lost=None):
    """Yield the frames of a movie, (H, W, 3) uint8, all of one size, `movie.rate` a second.

    If frames come faster than that, some are left out. A frame whose time is missing, or not
    later than the previous frame's, comes right after it. Damage raises ValueError; with
    stop=False, frames are black from there to the next keyframe that can be decoded. If a recording
    starts between keyframes, its frames before the first one are always black.

    covered, lost: lists to which the numbers of black frames, and the numbers where frames were
    left out, are appended. Raises ValueError for damage, or if no frame can be read.
    """
    covered = [] if covered is None else covered
    lost = [] if lost is None else lost
    last = -math.inf  # time of the previous frame in seconds
    shift = 0.0  # seconds to add to the times in the file
    slot = 0  # number of the next frame to yield
    current = None  # the frame to show from there on; None: black
    black = None  # a black frame, once the size is known
    damaged = False
    for seconds, frame in readable_parts(path, movie, stop):
        next_slot = slot + (current is not None)  # the place right after the previous frame
        time = None if seconds is None else seconds + shift
        if time is None or time <= last:
            place = next_slot
            if time is not None and time < last:  # times jump back: shift those that follow
                shift = float(place / movie.rate) - seconds
        else:
            exact = float(time * movie.rate)
            place = max(slot, round(exact))
            # If all are half a frame late, every second one would be rounded to a taken number.
            if place < next_slot and exact - slot > NEARLY_HALF:
                place = next_slot
        if seconds is not None:
            last = seconds + shift
        if frame is None:
            place = max(place, next_slot)
            damaged = True
        elif place < next_slot:
            lost.append(slot)
        elif black is None:
            black = np.zeros_like(frame)
            current = None if damaged else frame
        while slot < place and black is not None:
            if current is None:
                covered.append(slot)
            yield black if current is None else current
            slot += 1
        current = frame
    if current is not None:
        yield current
    if black is None:
        fix = "replace the file, or install a full ffmpeg"
        raise ValueError(f"{path} holds no frame that can be read: {fix}")


def save_movie(path, frames, movie, source=None, tracks=(), quality=QUALITY):
    """Write a movie from an iterable of (H, W, 3) uint8 frames, all of one size, at least one.

    The file appears only when it is complete and plays. It is decoded to check this, since ffmpeg
    5 reports success on a full disk.

    movie: the `ffmpeg.Movie` that gives the frame rate. source: its file, needed for sound only.
    tracks: those of the source's `sound_tracks` to include. quality: 1 to 100.
    Raises ValueError for a suffix not in MOVIES, and WriteError with ffmpeg's error or what the
    file lacks.
    """
    suffix = _suffix(path, "a movie", MOVIES)
    frames = iter(frames)
    with atomic_path(path) as temporary, tempfile.TemporaryFile() as log:
        first = next(frames)
        command = _command(temporary, suffix, first.shape, movie, source, tracks, quality)
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stderr=log)
        try:
            count = 0
            for frame in itertools.chain([first], frames):
                count += 1
                try:
                    process.stdin.write(np.ascontiguousarray(frame))
                except OSError:  # ffmpeg has ended
                    break
            process.communicate()  # closes its input, and waits
            status = process.returncode
        finally:
            process.kill()
            process.communicate()
        fault = f"status {status}" if status else movie_fault(temporary, count, len(tracks))
        if fault:
            log.seek(0)
            reason = f"{first_line(log.read(4000), temporary)} {fault}".strip()
            fix = "check disk space and memory; a full ffmpeg, a smaller movie or"
            raise WriteError(f"cannot write {path} (ffmpeg: {reason}): {fix} --sound drop may help")


def _command(path, suffix, shape, movie, source, tracks, quality):
    """ffmpeg's command: write frames of this shape from a pipe, and `source`'s sound, to `path`."""
    container = MOVIES[suffix]
    codecs, crf = (VP9_OPUS, 30) if container == "webm" else (H264_AAC, 20)
    crf = max(0, round(crf + 0.3 * (QUALITY - quality)))
    command = "ffmpeg -v error -y -f rawvideo -pix_fmt rgb24".split()
    command += ["-s", f"{shape[1]}x{shape[0]}", "-r", str(movie.rate), "-i", "pipe:0"]
    if tracks:
        command += [*SAFE, "-i", url(source)]
    command += ["-map", "0:v:0", *codecs, "-crf", str(crf)]
    command += ["-filter:a", "aformat=channel_layouts=mono|stereo|5.1"]  # both encoders take these
    # 4:2:0 color needs even sizes. Stated colors keep players from guessing.
    filters = "pad=ceil(iw/2)*2:ceil(ih/2)*2,scale=out_color_matrix=bt709:out_range=tv"
    command += ["-vf", filters, "-pix_fmt", "yuv420p"]
    command += "-colorspace bt709 -color_primaries bt709 -color_trc bt709".split()
    command += "-color_range tv -map_metadata -1 -map_chapters -1 -sn -dn".split()
    for i, (number, language) in enumerate(tracks):
        command += ["-map", f"1:a:{number}", f"-metadata:s:a:{i}", f"language={language}"]
    command += "-fflags +bitexact -flags:v +bitexact -flags:a +bitexact".split()
    if container in ("mp4", "mov"):
        command += ["-movflags", "+faststart"]
    command += ["-f", container, url(path)]
    if tracks:
        command += copied_aside(["1:V:0?", *(f"1:a:{number}" for number in movie.sounds)])
    return command
