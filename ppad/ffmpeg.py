"""Read a movie's properties, and its frames with their times, by ffmpeg and ffprobe (ours).

`probe` reads the properties. `readable_parts` decodes: frames are PAM pictures from a pipe, their
times are in ffmpeg's log. ffmpeg logs an error in a frame before it writes the frame to the pipe,
so a damaged frame is never returned. `movies` brings the frames to a constant rate.
"""

import itertools
import json
import math
import re
import shutil
import subprocess
import tempfile
from contextlib import ExitStack
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import numpy as np

MAX_PIXELS = 8192 * 8192  # ours: per frame; a file with more is an attack
MAX_RATE = 1000  # ours: frames a second; a higher rate in a file is a mistake
MAX_SOUND_LOSS = 0.1  # ours: share of a track's packets; a track cut anywhere loses fewer
GUESSED_CHANNELS = 8  # ffmpeg guesses the layout of up to this many
MAX_RESTARTS = 200  # ours: per movie; the rest then counts as unreadable
# Other containers can refer to any file on this disk, which the output would publish.
CONTAINERS = (
    "mov,matroska,avi,flv,asf,mpeg,mpegts,mpegvideo,ogg,mxf,h264,hevc,m4v,mjpeg,dv,rm,nut,ivf"
)
SAFE = ["-protocol_whitelist", "file,pipe", "-format_whitelist", CONTAINERS]  # for each input
# Brands of pictures in a movie container: ffmpeg may show only a part, or not upright.
PICTURES = ("avif", "avis", "heic", "heix", "mif1", "msf1")
# Only these decoders read the transparency of VP8 and VP9.
ALPHA_DECODERS = {"vp8": "libvpx", "vp9": "libvpx-vp9"}
ALPHA_FORMATS = tuple("yuva rgba bgra argb abgr gbrap ya8 ya16 ayuv vuya pal8".split())
TURNS = ([], ["transpose=clock"], ["hflip", "vflip"], ["transpose=cclock"])  # clockwise quarters
# Ours: PQ or HLG of BT.2020 to BT.709 by a Möbius curve, white at 203 nits (ITU-R BT.2408).
HDR_TO_SDR = (
    "zscale=t=linear:npl=203,format=gbrpf32le,zscale=p=bt709,tonemap=mobius:desat=0,"
    "zscale=t=bt709:m=bt709:r=tv,format=yuv444p"
).split(",")
SHOWINFO = re.compile(r"showinfo.*\bn: *\d+ pts:.*pts_time: *(\S+)")
# Not a line with [info] before the error: it may quote a name or title.
ERROR_LINE = re.compile(
    r"((?!\[info\]).)*(\[(error|fatal|panic)\]|corrupt (decoded frame|input packet))"
)
STREAM = re.compile(r"Stream #.*: (Audio|Video): (\w+)")  # a codec, the start of its decoder's name


@dataclass(frozen=True)
class Movie:
    """The properties of a movie, from `probe`."""

    rate: Fraction  # frames a second
    count: int | None  # of frames; None if unknown
    matrix: str  # color matrix, as ffmpeg names it
    filters: tuple = ()  # of ffmpeg: deinterlace, rotate, convert HDR to SDR
    alpha: bool = False  # has transparency; frames are shown over white
    decoder: str | None = None  # None for ffmpeg's choice
    streams: int = 1  # number of video streams; the first is read
    sounds: tuple = ()  # numbers of the sound tracks that can be copied


def probe(path):
    """Read the `Movie` properties of the first video stream of `path`.

    Raises ValueError if ffmpeg is missing, there is no video stream, its frames are too large, or
    its rate is unknown.
    """
    if not (shutil.which("ffmpeg") and shutil.which("ffprobe")):
        fault = f"ffmpeg is not on the PATH, and {path} is not a picture"
        raise ValueError(f"{fault}: install ffmpeg for movies")
    info, error = ffprobe(path, "-show_streams -show_format")
    streams = info.get("streams", ())
    sounds = [stream for stream in streams if stream.get("codec_type") == "audio"]
    videos = [stream for stream in streams if stream.get("codec_type") == "video"]
    videos = [stream for stream in videos if not stream["disposition"]["attached_pic"]]
    brand = info.get("format", {}).get("tags", {}).get("major_brand", "")
    if not videos or brand in PICTURES:
        fault = f"holds no picture and no movie that can be read ({error or 'no video'})"
        raise ValueError(f"{path} {fault}: convert or replace the file")
    stream = videos[0]
    size = (stream.get("width", 0), stream.get("height", 0))
    if math.prod(size) > MAX_PIXELS:
        fault = f"has frames of {size[0]} x {size[1]} px, more than {MAX_PIXELS:,} pixels"
        raise ValueError(f"{path} {fault}: make it smaller first")
    mean = _fraction(stream.get("avg_frame_rate"))
    base = _fraction(stream.get("r_frame_rate"))  # may be far too high in phone movies
    if not 0 < mean <= MAX_RATE:
        mean = _measured_rate(path) or base  # a single frame has no measured rate
    rate = base if 0 < base <= mean * Fraction(3, 2) else mean
    if not 0 < rate <= MAX_RATE:
        fault = f"has no valid frame rate (at most {MAX_RATE} a second)"
        raise ValueError(f"{path} {fault}: convert it first")
    seconds = stream.get("duration") or info["format"].get("duration")
    # HD without a stated color space is read as BT.709, as players do.
    unknown_hd = (
        stream.get("height", 0) >= 720 and stream.get("color_space", "unknown") == "unknown"
    )
    tags = {name.lower(): value for name, value in stream.get("tags", {}).items()}
    decoder = None
    if tags.get("alpha_mode") == "1":
        decoder = ALPHA_DECODERS.get(stream.get("codec_name"))
    filters = []
    if stream.get("field_order") in ("tt", "bb", "tb", "bt"):  # interlaced: remove comb lines
        filters += ["bwdif=mode=send_frame:deint=interlaced"]  # progressive frames stay as they are
    display = next((data for data in stream.get("side_data_list", ()) if "rotation" in data), {})
    if _mirrors(display.get("displaymatrix", "")):
        filters += ["vflip"]
    filters += TURNS[round(-float(display.get("rotation", 0)) / 90) % 4]
    if stream.get("color_transfer") in ("smpte2084", "arib-std-b67"):  # PQ, HLG
        filters += HDR_TO_SDR
    return Movie(
        rate,
        round(float(seconds) * rate) if seconds else None,
        "bt709" if unknown_hd else "auto",
        tuple(filters),
        alpha=bool(decoder) or stream.get("pix_fmt", "").startswith(ALPHA_FORMATS),
        decoder=decoder,
        streams=len(videos),
        sounds=tuple(i for i, sound in enumerate(sounds) if int(sound.get("sample_rate", 0))),
    )


def ffprobe(path, options):
    """ffprobe's answer as a dict, {} if it fails, and its first error message."""
    command = ["ffprobe", "-v", "error", *SAFE, "-of", "json", *options.split()]
    answer = subprocess.run([*command, url(path)], capture_output=True)
    info = json.loads(answer.stdout or b"{}") if answer.returncode == 0 else {}
    return info, first_line(answer.stderr, path)


def _fraction(text):
    return Fraction(0) if text is None or text.endswith("/0") else Fraction(text)


def _mirrors(matrix):
    """Whether a display matrix, as ffprobe prints it with numbered rows, mirrors the picture."""
    numbers = re.findall(r"-?\d+(?![\d:])", matrix)
    a, b, _, c, d = map(int, numbers[:5] or [1, 0, 0, 0, 1])
    return a * d < b * c


def copied_aside(streams):
    """ffmpeg arguments that read streams of an input, such as "0:a:1", and discard them.

    In some containers (.ts, .mpg) ffmpeg counts time from the first packet of all streams that a
    command uses. So each command uses the same streams, to keep sound and picture in sync.
    """
    arguments = [word for stream in streams for word in ("-map", stream)]
    return [*arguments, "-c", "copy", "-f", "null", "-"] if streams else []


def list_packets(path):
    """(seconds, is a keyframe) of each packet of the video stream, in the file's order.

    Seconds count from the file's start time, as in ffmpeg; NaN if a packet has no time.
    """
    entries = "packet=pts_time,dts_time,flags:format=start_time"
    info, _ = ffprobe(path, f"-select_streams V:0 -show_entries {entries}")
    start = float(info.get("format", {}).get("start_time", 0))
    packets = []
    for packet in info.get("packets", ()):
        seconds = packet.get("pts_time", packet.get("dts_time", "nan"))
        packets.append((float(seconds) - start, packet["flags"].startswith("K")))
    return packets


def _measured_rate(path):
    """Frames a second by the packets' times; 0 if they do not differ."""
    times = [seconds for seconds, _ in list_packets(path) if math.isfinite(seconds)]
    span = max(times, default=0) - min(times, default=0)
    return Fraction((len(times) - 1) / span).limit_denominator(1001) if span > 0 else Fraction(0)


def sound_tracks(path):
    """Decodable sound tracks, [(number, language or "")], and phrases on what is left out.

    Raises ValueError if the file cannot be read.
    """
    options = "-select_streams a -count_frames -show_streams"
    info, error = ffprobe(path, f"{options} -show_entries packet=stream_index,flags")
    if "streams" not in info:
        raise ValueError(f"the sound of {path} cannot be read ({error}): replace the file")
    # D: discarded by an edit list, as in a trimmed movie
    packets = [packet["stream_index"] for packet in info["packets"] if "D" not in packet["flags"]]
    tracks = []
    left_out = []
    for number, stream in enumerate(info["streams"]):
        language = stream.get("tags", {}).get("language", "")
        decoded = int(stream.get("nb_read_frames", 0))
        layout = stream.get("channel_layout", "unknown")
        channels = int(stream.get("channels", 0))
        if not decoded or not int(stream.get("sample_rate", 0)):
            codec = stream.get("codec_name", "unknown")
            left_out.append(f"sound track {number + 1} (codec {codec} cannot be decoded)")
        elif "ambisonic" in layout or layout == "unknown" and channels > GUESSED_CHANNELS:
            left_out.append(f"sound track {number + 1} ({channels} channels cannot be mixed down)")
        else:
            # Keep a language code only: the field may hold any text, and is written to the output.
            tracks.append((number, language if re.fullmatch("[a-z]{2,3}", language) else ""))
            lost = 1 - decoded / max(decoded, packets.count(stream["index"]))
            if lost > MAX_SOUND_LOSS:
                left_out.append(f"{lost:.0%} of sound track {number + 1} (damaged)")
    return tracks, left_out


def movie_fault(path, frames, tracks):
    """What is wrong with a movie; "" if it plays, with this many frames and sound tracks."""
    info, error = ffprobe(path, "-count_frames -show_streams")
    streams = info.get("streams", ())
    played = [int(s.get("nb_read_frames", 0)) for s in streams if s["codec_type"] == "video"]
    sounds = sum(stream["codec_type"] == "audio" for stream in streams)
    if played == [frames] and sounds == tracks and not error:
        return ""
    got = f"{sum(played)} of {frames} frames and {sounds} of {tracks} sound tracks"
    return f"the finished file plays {got} {error}".strip()


class DamageError(ValueError):
    """ffmpeg reported an error while decoding; the message is that error."""


def readable_parts(path, movie, stop):
    """Yield (seconds, frame) of a movie; frame is None where an unreadable part begins or ends.

    After an error no further frame is trusted until decoding restarts at the next keyframe.
    Raises ValueError for damage if `stop`, or if a keyframe has no time.
    """
    packets = None
    first = 0  # packet to start from
    last = -math.inf  # seconds of the last good frame
    shape = None  # of the first frame; the others are scaled to it
    for _ in range(MAX_RESTARTS):
        place = first  # about the packet after the last good frame
        try:
            for seconds, frame in decode(path, movie, first, shape):
                shape = frame.shape
                last = last if seconds is None else seconds
                place += 1
                yield seconds, frame
            return
        except DamageError as damage:
            packets = packets or list_packets(path)
            keyframes = {i: seconds for i, (seconds, key) in enumerate(packets) if key}
            starts_late = first == 0 and last == -math.inf and 0 not in keyframes
            times = list(keyframes.values())
            untimed = not all(map(math.isfinite, times))
            unordered = times != sorted(times)  # for instance two joined recordings
            if stop and not starts_late or untimed:
                number = max(0, round(max(0, last) * movie.rate)) + 1
                fault = f"{path} cannot be decoded at about frame {number} ({damage})"
                fix = "repair it, install a full ffmpeg, or cover such frames with --on_error cover"
                if untimed:
                    fix = "convert it first, as its keyframes have no times"
                raise ValueError(f"{fault}: {fix}") from damage
        yield None, None
        later = [i for i, s in keyframes.items() if (i >= place if unordered else s > last)]
        first = next((i for i in later if i > first), None)
        if first is None:
            break
    end = max((seconds for seconds, _ in packets if math.isfinite(seconds)), default=0)
    if unordered:
        end = last + float((len(packets) - place) / movie.rate)
    yield end + float(1 / movie.rate), None


def decode(path, movie, first, shape=None):
    """Yield (seconds, frame) of the movie from packet number `first` on, 0 or a keyframe.

    Frames are scaled to `shape` (H, W, 3), or to the size of the first one.
    Once ffmpeg reports an error, raises DamageError instead of yielding the next frame.
    """
    aside = copied_aside([f"0:a:{number}" for number in movie.sounds])
    command = ["ffmpeg", "-nostdin", *SAFE, "-v", "level+info", "-hide_banner", "-nostats"]
    if movie.decoder:
        command += ["-c:v", movie.decoder]
    # Our filters rotate: ffmpeg's own fail at a new size, and packets from a pipe have no rotation.
    command += ["-noautorotate", "-reinit_filter", "0"]
    command += ["-copyts", "-f", "matroska", "-i", "pipe:0"] if first else ["-i", url(path)]
    command += ["-map", "0:V:0", "-vf", _filters(movie, shape), "-r", "25"]
    command += ["-f", "image2pipe", "-c:v", "pam"]
    command += ["-pix_fmt", "rgba" if movie.alpha else "rgb24", "pipe:1"]
    with tempfile.TemporaryDirectory() as folder, ExitStack() as opened:
        log = opened.enter_context(open(Path(folder, "log"), "wb"))
        messages = _Messages(opened.enter_context(open(log.name, "rb")))
        source = None
        if first:
            # A second ffmpeg pipes in the packets. Its errors may concern dropped ones.
            copy = ["ffmpeg", "-nostdin", *SAFE, "-v", "error", "-i", url(path), "-map", "0:V:0"]
            copy += ["-c", "copy", "-copyinkf", "-bsf:v", f"noise=drop=lt(n\\,{first})"]
            copy += "-avoid_negative_ts disabled -f matroska pipe:1".split()
            source = _start(opened, copy + aside, stderr=subprocess.DEVNULL).stdout
            aside = []
        reader = _start(opened, command + aside, stdin=source, stderr=log)
        for number in itertools.count():
            frame = _next_pam(reader.stdout)
            failed = frame is None and reader.wait() != 0
            messages.read()  # ffmpeg logs errors in a frame before it writes it
            if frame is not None and number >= len(messages.times):
                fix = "free some space there, or set TMPDIR to another folder"
                raise ValueError(f"ffmpeg cannot write its log in {folder}: {fix}")
            error = messages.first_error()
            if failed or error:
                raise DamageError(error or "ffmpeg failed")
            if frame is None:
                return
            yield messages.times[number], frame


def _start(opened, command, **pipes):
    """Start a process that is killed when the ExitStack `opened` ends."""
    process = opened.enter_context(subprocess.Popen(command, stdout=subprocess.PIPE, **pipes))
    opened.callback(process.kill)
    return process


def _filters(movie, shape):
    """ffmpeg's filters: log each frame's time, apply the movie's filters, make pixels square.

    The first "scale" gives all frames one size; times 0, 1, 2 ... keep any from being repeated.
    """
    size = "w='round(iw*max(sar,1))':h='round(ih/min(sar,1))'"
    if shape:
        size = f"w={shape[1]}:h={shape[0]}"
    filters = ["showinfo=checksum=0", "scale", "settb=1/25", "setpts=N", *movie.filters]
    return ",".join([*filters, f"scale={size}:in_color_matrix={movie.matrix}", "setsar=1"])


class _Messages:
    """The times of frames and the error messages in ffmpeg's log."""

    def __init__(self, log):
        self.log = log  # a handle for reading only
        self.rest = ""  # an incomplete last line
        self.times = []  # of frames, in seconds; None if unknown
        self.errors = []  # lines
        self.video = set()  # starts of the video decoders' lines
        # Starts of lines to ignore. These two are of `copied_aside`, in two versions of ffmpeg.
        self.ignored = {"null @", "out#1"}

    def first_error(self):
        """The first error in the video, or "". Errors in sound tracks and covers are ignored.

        If the video and a cover share a codec, their lines look alike, and errors in both count.
        """
        ignored = tuple(self.ignored - self.video)
        for line in self.errors:
            if not line.strip("[").startswith(ignored):
                return line.split("] ")[-1].strip()[:200] or "damaged"
        return ""

    def read(self):
        """Parse what is new in the log."""
        while text := self.log.read(1 << 20):
            *lines, self.rest = (self.rest + text.decode(errors="replace")).split("\n")
            for line in lines:
                if match := SHOWINFO.search(line):
                    self.times.append(None if match[1] == "NOPTS" else float(match[1]))
                elif match := STREAM.search(line):
                    if match[1] == "Audio":
                        self.ignored.add(match[2])
                    elif "(attached pic)" in line:
                        self.ignored.add(f"{match[2]} @")
                    else:
                        self.video.add(f"{match[2]} @")
                elif ERROR_LINE.match(line):
                    self.errors.append(line)


def _next_pam(pipe):
    """Read a PAM picture from a pipe, over white; None at the end or if the picture is cut off."""
    header = {}
    while (line := pipe.readline().split()) != [b"ENDHDR"]:
        if not line:
            return None
        header[line[0]] = line[-1]
    shape = [int(header[name]) for name in (b"HEIGHT", b"WIDTH", b"DEPTH")]
    data = pipe.read(math.prod(shape))
    if len(data) < math.prod(shape):
        return None
    frame = np.frombuffer(data, np.uint8).reshape(shape)  # (H, W, 3 or 4)
    if shape[2] == 3:
        return frame
    alpha = frame[..., 3:].astype(np.uint16)  # (H, W, 1)
    return ((frame[..., :3] * alpha + 255 * (255 - alpha) + 127) // 255).astype(np.uint8)


def url(path):
    """A URL that ffmpeg reads as a file, whatever the name looks like."""
    return f"file:{Path(path).absolute()}"


def first_line(output, path):
    """The first line of ffmpeg's output, without the path and what stands in brackets."""
    text = output.decode(errors="replace")
    line = (text.strip().splitlines() or [""])[0].split("] ")[-1]
    return line.replace(f"{url(path)}: ", "")[:200]
