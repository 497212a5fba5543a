"""Pictures, animations and movies: read frame by frame, written anew without metadata (ours).

Every reader gives upright (H, W, 3) uint8 RGB frames; every writer takes them. What a file holds
besides pixels and sound is left out: EXIF, GPS, thumbnails, comments, color profiles (applied
first), layers and second pictures; of a movie its tags, chapters, subtitles, cover, attachments and
data streams. Pictures and animations go through Pillow, movies through the programs `ffmpeg` and
`ffprobe` and two pipes, so that a movie is never in memory as a whole:

    read_movie    ffmpeg decodes, turns upright, makes pixels square -> PAM pictures
    save_movie    raw RGB -> ffmpeg -> H.264 and AAC (VP9 and Opus in .webm), the original's sound

Sound is encoded again too, since copied packets would keep whatever else they hold. A movie of
changing frame rate gets its mean rate; frames are repeated or left out to stay with the sound.
A file gets its name only when it is complete (`files.atomic_path`).
"""

import itertools
import math
import mimetypes
import shutil
import struct
import subprocess
import tempfile
from contextlib import suppress
from pathlib import Path

import numpy as np
from PIL import Image, ImageSequence, UnidentifiedImageError, features

from ppad.ffmpeg import (
    copied_aside,
    first_line,
    movie_fault,
    probe,
    readable_parts,
    url,
)
from ppad.files import BadPicture, WriteError, atomic_path, decode_picture, to_rgb

FORMATS = dict.fromkeys([".jpg", ".jpeg", ".jfif", ".jpe"], "JPEG")
FORMATS |= {".png": "PNG", ".apng": "PNG", ".webp": "WEBP", ".gif": "GIF", ".bmp": "BMP"}
FORMATS |= dict.fromkeys([".tif", ".tiff"], "TIFF")
ANIMATED = [".gif", ".webp", ".png", ".apng"]  # of these, the ones that can hold an animation
# Ours: what people's folders hold. Fewer decoders leave fewer ways in for a crafted file.
DECODED = ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM"]
if "avif" in features.modules and features.check("avif"):  # Pillow below 11.3 warns of the name
    FORMATS[".avif"] = "AVIF"
    ANIMATED.append(".avif")
    DECODED.append("AVIF")
LONGEST_SIDE = {"JPEG": 65500, "WEBP": 16383, "GIF": 65535, "AVIF": 65536}  # px that each can hold
# Ours: hardly visible loss, fast on two cores.
H264 = "-c:v libx264 -preset veryfast -crf".split()
VP9 = "-c:v libvpx-vp9 -deadline realtime -cpu-used 6 -b:v 0 -crf".split()
CRF = {"libx264": 20, "libvpx-vp9": 30}  # at QUALITY; each point of quality less adds 0.3
LAYOUTS = "-filter:a aformat=channel_layouts=mono|stereo|5.1".split()  # what both encoders take
AAC = [*LAYOUTS, *"-c:a aac -b:a 192k".split()]
OPUS = [*LAYOUTS, *"-c:a libopus -b:a 128k".split()]
# Suffix -> container, picture, sound.
MOVIES = {
    ".mp4": ("mp4", H264, AAC),
    ".m4v": ("mp4", H264, AAC),
    ".mov": ("mov", H264, AAC),
    ".mkv": ("matroska", H264, AAC),
    ".webm": ("webm", VP9, OPUS),
}
READ_MOVIES = (*MOVIES, *".avi .mpg .mpeg .wmv .flv .3gp .ts .mts .m2ts .ogv .mxf".split())
MAGIC = {  # first bytes of files, by their formats' definitions
    b"\xff\xd8\xff": "JPEG",
    b"\x89PNG\r\n\x1a\n": "PNG",
    b"GIF8": "GIF",
    b"II*\0": "TIFF",
    b"MM\0*": "TIFF",
    b"BM": "BMP",
    b"\x1aE\xdf\xa3": "movie",  # Matroska, WebM
    b"\x30\x26\xb2\x75": "movie",  # ASF, WMV
    b"FLV": "movie",
}
QUALITY = 95  # ours: of JPEG and WebP
NEARLY_HALF = 0.4  # ours, of a frame: times in files are rounded, by up to a millisecond
JPEG_STREAMS = (".mjpeg", ".mjpg")  # JPEGs in a row, of which Pillow would show the first only
# Suffixes that Python has no media type for.
OTHER_MEDIA = (
    ".heic .heif .jxl .dng .cr2 .nef .arw .orf .pef .rw2 .mxf .vob .3gp .3g2 .rm .asf".split()
)


def kind(path):
    """ "picture", "animation" or "movie", by what is in the file and not by its name.

    Raises ValueError, in one sentence, for a file that is absent, empty, too large to open safely,
    or none of the three.
    """
    path = Path(path)
    if not path.is_file():
        fault = "is no regular file" if path.exists() else "is not there"
        raise ValueError(f"{path} {fault}: check the name")
    if path.stat().st_size == 0:
        raise ValueError(f"{path} is empty: restore it from where it came from")
    try:
        with Image.open(path, formats=DECODED) as image:
            can_move = image.format in [FORMATS[suffix] for suffix in ANIMATED]
            if image.format == "TIFF" and is_raw(image, path):
                fault = "is a raw photo, of which nothing but a small copy can be read"
                raise BadPicture(f"{path} {fault}: develop it, for instance to a JPEG")
            if path.suffix.lower() not in JPEG_STREAMS:
                return "animation" if can_move and image.is_animated else "picture"
    except UnidentifiedImageError:
        if known_content(path) == "AVIF":  # ffmpeg would take it for a movie
            fault = "cannot be read as an AVIF picture: replace it, or save it as PNG or JPEG"
            raise BadPicture(f"{path} {fault}") from None
        if path.suffix.lower() in FORMATS and shutil.which("ffprobe") is None:
            raise ValueError(f"{path} cannot be read as a picture: replace the file") from None
    except BadPicture:
        raise
    except Exception as error:  # a crafted or damaged file raises one of many types
        raise unreadable(path, error) from error
    try:
        probe(path)
    except ValueError as error:
        if is_other_picture(path):
            fault = f"is a picture in a format that is not read ({path.suffix})"
            raise BadPicture(f"{path} {fault}: save it as PNG or JPEG") from error
        raise
    return "movie"


def is_other_picture(path):
    """Whether Pillow would know a file, by its suffix, as a picture of a format not in DECODED."""
    suffix = path.suffix.lower()
    form = Image.registered_extensions().get(suffix)
    return suffix not in READ_MOVIES and form is not None and form not in [*DECODED, "MPO"]


def is_raw(tiff, path):
    """Whether a TIFF, opened by Pillow, holds a camera's raw pixels, by its tags or its suffix."""
    dng_version = 50706
    if dng_version in tiff.tag_v2 or tiff.tag_v2.get(254, 0) & 1:  # the first page is a small copy
        return True
    further = 330 in tiff.tag_v2 and path.suffix.lower() not in FORMATS  # where raw pixels lie
    return further or path.suffix.lower() in OTHER_MEDIA


def known_kind(path):
    """What is in a file of a folder, `kind`; without opening it where name and content agree.

    Raises ValueError for other files.
    """
    if not path.is_file():
        raise ValueError("is no regular file")
    suffix = path.suffix.lower()
    content = known_content(path)
    if suffix in FORMATS and content in (None, FORMATS[suffix]) and content != "TIFF":
        return "picture"  # a TIFF may be a raw photo
    if suffix in READ_MOVIES and content in (None, "movie"):
        return "movie"
    guess = mimetypes.guess_type(path.name)[0] or ""
    # .ogg and .3gpp, "audio", hold movies
    if content is None and guess.startswith(("text/", "application/", "font/")):
        raise ValueError("is neither picture nor movie")
    return kind(path)


def known_content(path):
    """What a file is by its first bytes: one of FORMATS, "movie", or None for all others."""
    with open(path, "rb") as file:
        start = file.read(12)
    brand = start[8:12] if start[4:8] == b"ftyp" else b""  # of MP4's family
    if brand in (b"avif", b"avis"):
        return "AVIF"
    if start[:4] == b"RIFF":
        return "WEBP" if start[8:12] == b"WEBP" else "movie"
    if brand and not brand.startswith((b"hei", b"hev", b"mif")):  # HEIC: nothing reads it here
        return "movie"
    return next((content for magic, content in MAGIC.items() if start.startswith(magic)), None)


def looks_like_media(path):
    """Whether a file that cannot be read is a picture or a movie by its suffix or first bytes."""
    guess = mimetypes.guess_type(path.name)[0] or ""
    if guess.startswith(("image/", "video/")) or path.suffix.lower() in OTHER_MEDIA:
        return True
    try:
        if not path.is_file():
            return False
        with open(path, "rb") as file:
            others = file.read(8)[4:] in (b"ftyp", b"jP  ")  # HEIC, JPEG 2000
        return others or known_content(path) is not None
    except OSError:
        return True


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
            pages = getattr(image, "n_frames", 1) if paged else 1  # a plain JPEG may end in .mpo
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
        with Image.open(path, formats=DECODED) as image:
            for frame in _moving(image):
                frame.load()
                times.append(frame.info.get("duration", 100))  # ours, as browsers: 100 ms
            loop = image.info.get("loop")
    except Exception as error:
        raise unreadable(path, error) from error
    return _animation_frames(path), times, loop


def _animation_frames(path):
    with Image.open(path, formats=DECODED) as image:
        for frame in _moving(image):
            yield np.array(to_rgb(frame.copy()))


def _moving(image):
    """The frames that are shown: not a PNG's other picture, for what shows no animation."""
    other = getattr(image, "default_image", False)
    return itertools.islice(ImageSequence.Iterator(image), int(other), None)


def save_animation(path, frames, times, loop, quality=QUALITY):
    """Write an animation from an iterable of (H, W, 3) uint8; times and loop as it was read.

    Raises ValueError for a suffix not in ANIMATED, frames too long or shown too long for its
    format, WriteError.
    """
    form = FORMATS[_suffix(path, "an animation", ANIMATED)]
    looping = {} if loop is None else {"loop": loop}
    with atomic_path(path) as temporary:
        pictures = (_fitting(path, form, frame) for frame in frames)
        first = next(pictures)
        # Pillow goes through a PNG's frames twice.
        rest = list(pictures) if form == "PNG" else pictures
        options = {"append_images": rest, "duration": times, "quality": quality, **looping}
        try:
            first.save(temporary, form, save_all=True, **options)
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
    """The ValueError that says why a file cannot be read as a picture, and the fix."""
    if isinstance(error, MemoryError):
        return ValueError(f"{path}: not enough memory: make it smaller, or end other programs")
    if isinstance(error, OSError) and error.strerror:
        return ValueError(f"{path} cannot be read ({error.strerror}): see that it can be")
    if isinstance(error, Image.DecompressionBombError):
        limit = f"over {2 * Image.MAX_IMAGE_PIXELS:,} pixels"
        return ValueError(f"{path} is too large to open safely ({limit}): make it smaller first")
    reason = str(error).strip() or type(error).__name__
    return ValueError(f"{path} cannot be read as a picture ({reason}): replace the file")


# ---------------------------------------------------------------- movies


def read_movie(path, movie, covered=None, stop=True, lost=None):
    """Yield the frames of a movie, (H, W, 3) uint8, all of one size, `movie.rate` a second.

    Where frames come faster than `movie.rate`, some are left out; one whose time does not follow
    the frame before comes right after it. What cannot be decoded raises ValueError, or comes as
    black frames (stop=False) up to the next keyframe from which decoding works. The part before a
    movie's first keyframe, which was cut off from what it builds on, always comes as black frames.

    Args:
        covered: a list that the numbers of black frames are added to.
        stop: whether damage raises.
        lost: a list that the numbers where frames were left out are added to.

    Raises:
        ValueError: for damage, or where there is no frame at all.
    """
    lost = [] if lost is None else lost
    last = -math.inf  # seconds of the frame before
    shift = 0.0  # seconds between the times in the file and those here
    slot = 0  # number of the next frame
    shown = None  # the frame to show from there on; None: black
    black = None  # a black frame, once the size is known
    unreadable = False
    covered = [] if covered is None else covered
    for seconds, frame in readable_parts(path, movie, stop):
        if seconds is None or seconds + shift <= last:
            place = slot + (shown is not None)
            if seconds is not None and seconds + shift < last:  # time goes back: on from here
                shift = float(place / movie.rate) - seconds
        else:
            exact = float((seconds + shift) * movie.rate)
            place = max(slot, round(exact))
            # Half a frame late, every second time would be rounded to a number that is taken.
            if shown is not None and place == slot and exact - slot > NEARLY_HALF:
                place += 1
        if seconds is not None:
            last = seconds + shift
        if shown is not None and frame is not None and place <= slot:
            lost.append(slot)
        if frame is None:
            if shown is not None:
                yield shown
                slot += 1
            shown = None
            unreadable = True
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
        raise ValueError(f"{path} holds no frame that can be read: replace the file")


def save_movie(path, frames, movie, source=None, tracks=(), quality=QUALITY):
    """Write a movie from an iterable of (H, W, 3) uint8 frames of one size.

    The file appears when it is complete and plays; otherwise nothing is left. It is played since
    ffmpeg 5 reports success on a full disk.

    Args:
        movie: the `ffmpeg.Movie` whose frame rate to take; that of `source`, if it has sound.
        source: the file whose sound to take, or None.
        tracks: those of its `sound_tracks` to take.
        quality: 1 to 100, as of pictures.

    Raises:
        ValueError: a suffix not in MOVIES, frames of two sizes, or none.
        WriteError: with what ffmpeg complained of, or what is missing in the file.
    """
    suffix = _suffix(path, "a movie", MOVIES)
    frames = iter(frames)
    with atomic_path(path) as temporary, tempfile.TemporaryFile() as complaints:
        first = next(frames, None)
        if first is None:
            raise ValueError(f"cannot write {path}: there was no frame")
        command = _command(temporary, suffix, first.shape, movie, source, tracks, quality)
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stderr=complaints)
        try:
            count = 0
            for frame in itertools.chain([first], frames):
                if frame.shape != first.shape:
                    sizes = f"a frame is {frame.shape}, the first was {first.shape}"
                    raise ValueError(f"{sizes}: give frames of one size")
                count += 1
                try:
                    process.stdin.write(np.ascontiguousarray(frame))
                except OSError:  # ffmpeg has ended
                    break
            with suppress(OSError):
                process.stdin.close()
            failed = process.wait()
            fault = "" if failed else movie_fault(temporary, count, len(tracks))
            if failed or fault:
                complaints.seek(0)
                reason = f"{first_line(complaints.read(4000), temporary)} {fault}".strip()
                reason = reason or "it was ended from outside"  # as when memory runs out
                wide = "width" in reason.lower()  # for the encoder
                fix = "make it smaller first" if wide else "see that there is disk space and memory"
                raise WriteError(f"cannot write {path} (ffmpeg: {reason}): {fix}")
        finally:
            process.kill()
            with suppress(OSError):
                process.stdin.close()
            process.wait()


def _command(path, suffix, shape, movie, source, tracks, quality):
    """ffmpeg's command: frames of this shape from a pipe and sound of `source`, into `path`."""
    container, picture, sound = MOVIES[suffix]
    command = "ffmpeg -v error -y -f rawvideo -pix_fmt rgb24".split()
    command += ["-s", f"{shape[1]}x{shape[0]}", "-r", str(movie.rate), "-i", "pipe:0"]
    if tracks:
        command += ["-protocol_whitelist", "file,pipe", "-i", url(source)]
    # 4:2:0 color needs even sizes. Players need not guess colors that are named.
    filters = "pad=ceil(iw/2)*2:ceil(ih/2)*2,scale=out_color_matrix=bt709:out_range=tv"
    crf = max(0, round(CRF[picture[1]] + 0.3 * (QUALITY - quality)))
    command += ["-map", "0:v:0", *picture, str(crf), *sound, "-vf", filters, "-pix_fmt", "yuv420p"]
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
