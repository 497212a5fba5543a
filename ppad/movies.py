"""Pictures, animations and movies: read frame by frame, written anew without metadata (ours).

Every reader gives upright (H, W, 3) uint8 RGB frames; every writer takes them. What a file holds
besides pixels and sound is left out: EXIF, GPS, thumbnails, comments, color profiles (applied
first), layers and second pictures; of a movie its tags, chapters, subtitles, cover, attachments and
data streams. Pictures and animations go through Pillow, movies through ffmpeg and two pipes, so
that a movie is never in memory as a whole.

Sound is encoded again too, since copied packets would keep whatever else they hold. A movie of
changing frame rate gets its mean rate; frames are repeated or left out to stay with the sound.
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
# Ours: what people's folders hold. Fewer decoders leave fewer ways in for a crafted file.
DECODED = [*dict.fromkeys(FORMATS.values()), "PPM"]
LONGEST_SIDE = {"JPEG": 65500, "WEBP": 16383, "GIF": 65535, "AVIF": 65536}  # px that each can hold
MOVIES = {".mp4": "mp4", ".m4v": "mp4", ".mov": "mov", ".mkv": "matroska", ".webm": "webm"}
# Ours: hardly visible loss, fast on two cores.
H264_AAC = "-c:v libx264 -preset veryfast -c:a aac -b:a 192k".split()
VP9_OPUS = "-c:v libvpx-vp9 -deadline realtime -cpu-used 6 -b:v 0 -c:a libopus -b:a 128k".split()
QUALITY = 95  # ours: of JPEG and WebP
NEARLY_HALF = 0.4  # ours, of a frame: times in files are rounded, by up to a millisecond
JPEG_STREAMS = (".mjpeg", ".mjpg")  # JPEGs in a row, of which Pillow would show the first only
RAW = tuple(".arw .cr2 .dng .nef .nrw .orf .pef .rw2 .sr2 .srw".split())  # those that are TIFFs
# Names that leave no doubt: of files beside pictures, and of movies that Python takes for others.
SIDECARS = (".aae", ".xmp", ".db", ".ini")
ALSO_MOVIES = (".3g2", ".3gp", ".asf", ".mxf", ".ogg", ".rm", ".ts")


def kind(path):
    """ "picture", "animation" or "movie", by what is in the file and not by its name.

    Raises ValueError, in one sentence, for a file that cannot be read, is too large to open safely,
    or none of the three.
    """
    path = Path(path)
    suffix = path.suffix.lower()
    if not os.path.isfile(path):
        raise ValueError(f"{path} is not there, or no file that can be read: check the name")
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
    fault = "is a raw photo, of which a small copy alone can be read"
    raise ValueError(f"{path} {fault}: convert it, for instance to a JPEG")


def is_raw(tags, suffix):
    """Whether a TIFF with these tags, named so, holds a camera's raw pixels."""
    further = 330 in tags and suffix not in FORMATS  # pages within, where raw pixels lie
    small_copy = tags.get(254, 0) & 1  # the first page
    return bool(suffix in RAW or further or small_copy or 50706 in tags)  # the last is DNG's


def may_be_media(path):
    """Whether a file that cannot be read may be a picture or a movie, as far as its name tells."""
    suffix = path.suffix.lower()
    if path.name.startswith(".") or suffix in SIDECARS:
        return False
    guess = mimetypes.guess_type(path.name)[0] or ""
    others = ("application/", "audio/", "font/", "text/")
    return suffix in ALSO_MOVIES or not guess.startswith(others)


def written_name(path, kind):
    """The output's name: the same, with a suffix added where none of that kind ends so."""
    suffixes = {"movie": MOVIES, "animation": ANIMATED, "picture": FORMATS}[kind]
    if path.suffix.lower() in suffixes:
        return path
    added = {"movie": ".mp4", "animation": ".gif", "picture": ".png"}[kind]
    return path.with_name(f"{path.name}{added}")


# ---------------------------------------------------------------- pictures


def read_picture(path):
    """A picture as upright (H, W, 3) uint8 sRGB. ValueError if it is damaged, or no picture."""
    try:
        return np.array(decode_picture(path, 2 * Image.MAX_IMAGE_PIXELS, DECODED))
    except BadPicture as error:
        raise ValueError(f"{path} {error}: replace the file") from error


def pages_left_out(path):
    """A phrase on the pages that `read_picture` leaves out, of a TIFF or an MPO; "" for none."""
    try:
        with Image.open(path, formats=DECODED) as image:
            # cameras put previews into a .jpg as an MPO's further pages
            paged = image.format == "TIFF" or path.suffix.lower() == ".mpo"
            pages = getattr(image, "n_frames", 1) if paged else 1
            return f"pages 2 to {pages}" if pages > 1 else ""
    except Exception:  # a damaged page raises one of many types
        return "all pages but the first, which are damaged"


def save_picture(path, frame, quality=QUALITY):
    """Write (H, W, 3) uint8 in the format of the name's suffix, pixels only.

    quality: 1 to 100, of JPEG, WebP and AVIF.
    Raises ValueError for a suffix not in FORMATS or a picture too long for its format, WriteError.
    """
    form = FORMATS[_suffix(path, "a picture", FORMATS)]
    with atomic_path(path) as temporary:
        _fitting(path, form, frame).save(temporary, format=form, quality=quality)


def read_animation(path):
    """The frames of a GIF, WebP or PNG animation.

    Returns a generator of (H, W, 3) uint8, the milliseconds of each frame, and loops or None.
    Raises ValueError at once when a frame is damaged: all are decoded twice, first for their times.
    """
    times = []
    try:
        for frame in _shown(path):
            frame.load()
            times.append(frame.info.get("duration", 100))  # ours, as browsers: 100 ms
            loop = frame.info.get("loop")
    except Exception as error:
        raise unreadable(path, error) from error
    return (np.array(to_rgb(frame.copy())) for frame in _shown(path)), times, loop


def _shown(path):
    """The frames of an animation: not a PNG's other picture, for what shows no animation."""
    with Image.open(path, formats=DECODED) as image:
        other = getattr(image, "default_image", False)
        yield from itertools.islice(ImageSequence.Iterator(image), int(other), None)


def save_animation(path, frames, times, loop, quality=QUALITY):
    """Write an animation from an iterable of (H, W, 3) uint8; times and loop as it was read.

    Raises ValueError for a suffix not in ANIMATED, frames too long or shown too long for its
    format, WriteError.
    """
    form = FORMATS[_suffix(path, "an animation", ANIMATED)]
    options = {"duration": times, "quality": quality}
    if loop is not None:
        options["loop"] = loop
    with atomic_path(path) as temporary:
        pictures = (_fitting(path, form, frame) for frame in frames)
        first = next(pictures)
        # Pillow goes through a PNG's frames twice.
        rest = list(pictures) if form == "PNG" else pictures
        try:
            first.save(temporary, form, save_all=True, append_images=rest, **options)
        except (OverflowError, struct.error) as error:  # Pillow makes equal neighbors one
            fault = f"{path}: a picture is shown longer than a {form} can say"
            raise ValueError(f"{fault}: give the output another suffix, such as .webp") from error


def _fitting(path, form, frame):
    """(H, W, 3) uint8 as a Pillow picture. ValueError where the format holds none so long."""
    most = LONGEST_SIDE.get(form, math.inf)
    if max(frame.shape) > most:
        fault = f"{path}: a {form} is at most {most} px long, this is {max(frame.shape)}"
        raise ValueError(f"{fault}: give the output another suffix, such as .png")
    return Image.fromarray(frame)


def _suffix(path, what, known):
    """The name's suffix, in small letters. ValueError unless it is a known one."""
    suffix = Path(path).suffix.lower()
    if suffix not in known:
        raise ValueError(f"{path}: {what} needs a name that ends in {', '.join(known)}")
    return suffix


def unreadable(path, error):
    """The ValueError that says why a file cannot be read, and the fix."""
    reason = getattr(error, "strerror", None) or str(error).strip() or type(error).__name__
    return ValueError(f"{path} cannot be read ({reason}): check or replace the file")


# ---------------------------------------------------------------- movies


def read_movie(path, movie, covered=None, stop=True, lost=None):
    """Yield the frames of a movie, (H, W, 3) uint8, all of one size, `movie.rate` a second.

    Where frames come faster than that, some are left out; one whose time does not follow the frame
    before comes right after it. What cannot be decoded raises ValueError, or comes as black frames
    (stop=False) up to the next keyframe that can. What was cut off from the keyframe before it, at
    the start of a recording, always comes as black frames.

    covered, lost: lists that the numbers of black frames are added to, and the numbers where frames
    were left out. Raises ValueError for damage, or where there is no frame at all.
    """
    covered = [] if covered is None else covered
    lost = [] if lost is None else lost
    last = -math.inf  # seconds of the frame before
    shift = 0.0  # seconds between the times in the file and those here
    slot = 0  # number of the next frame
    shown = None  # the frame to show from there on; None: black
    black = None  # a black frame, once the size is known
    unreadable = False
    for seconds, frame in readable_parts(path, movie, stop):
        behind = slot + (shown is not None)  # the place right after the frame before
        time = None if seconds is None else seconds + shift
        if time is None or time <= last:
            place = behind
            if time is not None and time < last:  # time goes back: on from here
                shift = float(place / movie.rate) - seconds
        else:
            exact = float(time * movie.rate)
            place = max(slot, round(exact))
            # Half a frame late, every second time would be rounded to a number that is taken.
            if place < behind and exact - slot > NEARLY_HALF:
                place = behind
        if seconds is not None:
            last = seconds + shift
        if frame is None:
            place = max(place, behind)
            unreadable = True
        elif place < behind:
            lost.append(slot)
        elif black is None:
            black = np.zeros_like(frame)
            shown = None if unreadable else frame
        while slot < place and black is not None:
            if shown is None:
                covered.append(slot)
            yield black if shown is None else shown
            slot += 1
        shown = frame
    if shown is not None:
        yield shown
    if black is None:
        fix = "replace the file, or install a full ffmpeg"
        raise ValueError(f"{path} holds no frame that can be read: {fix}")


def save_movie(path, frames, movie, source=None, tracks=(), quality=QUALITY):
    """Write a movie from an iterable of (H, W, 3) uint8 frames, all of one size, at least one.

    The file appears when it is complete and plays; otherwise nothing is left. It is played since
    ffmpeg 5 reports success on a full disk.

    movie: the `ffmpeg.Movie` whose frame rate to take. source: the file that it is of, where sound
    is to be taken from it: those `tracks` of its `sound_tracks`. quality: 1 to 100.
    Raises ValueError for a suffix not in MOVIES, and WriteError with what ffmpeg complained of, or
    what is missing in the file.
    """
    suffix = _suffix(path, "a movie", MOVIES)
    frames = iter(frames)
    with atomic_path(path) as temporary, tempfile.TemporaryFile() as complaints:
        first = next(frames)
        command = _command(temporary, suffix, first.shape, movie, source, tracks, quality)
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stderr=complaints)
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
            complaints.seek(0)
            reason = f"{first_line(complaints.read(4000), temporary)} {fault}".strip()
            fix = "see that there is disk space and memory; else a full ffmpeg, a smaller movie or"
            raise WriteError(f"cannot write {path} (ffmpeg: {reason}): {fix} --sound drop may help")


def _command(path, suffix, shape, movie, source, tracks, quality):
    """ffmpeg's command: frames of this shape from a pipe and sound of `source`, into `path`."""
    container = MOVIES[suffix]
    codecs, crf = (VP9_OPUS, 30) if container == "webm" else (H264_AAC, 20)
    crf = max(0, round(crf + 0.3 * (QUALITY - quality)))
    command = "ffmpeg -v error -y -f rawvideo -pix_fmt rgb24".split()
    command += ["-s", f"{shape[1]}x{shape[0]}", "-r", str(movie.rate), "-i", "pipe:0"]
    if tracks:
        command += [*SAFE, "-i", url(source)]
    command += ["-map", "0:v:0", *codecs, "-crf", str(crf)]
    command += ["-filter:a", "aformat=channel_layouts=mono|stereo|5.1"]  # what both encoders take
    # 4:2:0 color needs even sizes. Players need not guess colors that are named.
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
