"""The programs ffmpeg and ffprobe: what a movie file holds, and its frames with their times (ours).

`probe` asks for what has to be known before; `readable_parts` decodes: frames as PAM pictures from
a pipe, their times from ffmpeg's log. A complaint about a frame is in the log before the frame is
in the pipe, so whatever was complained of is never given on. `movies` makes a steady stream of it.
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

MAX_PIXELS = 8192 * 8192  # ours: of a movie's frame; larger ones are attacks, not movies
MAX_RATE = 1000  # ours: frames a second; a higher number in a file is a mistake
SPOILT_SOUND = 0.1  # ours: share of a track's packets; a recording cut anywhere has fewer
GUESSED_CHANNELS = 8  # of a sound track; what more stand for, ffmpeg has to be told
MAX_RESTARTS = 200  # ours: of decoding, in one damaged movie; the rest of it is unreadable
# Others name further files: a crafted one would have any file of this disk published.
CONTAINERS = (
    "mov,matroska,avi,flv,asf,mpeg,mpegts,mpegvideo,ogg,mxf,h264,hevc,m4v,mjpeg,dv,rm,nut,ivf"
)
SAFE = ["-protocol_whitelist", "file,pipe", "-format_whitelist", CONTAINERS]  # before each input
# Pictures in a movie's container: ffmpeg may show a part of one, or not upright.
PICTURES = ("avif", "avis", "heic", "heix", "mif1", "msf1")
# Of VP8 and VP9 only these decoders read the transparent part.
ALPHA_DECODERS = {"vp8": "libvpx", "vp9": "libvpx-vp9"}
ALPHA_FORMATS = tuple("yuva rgba bgra argb abgr gbrap ya8 ya16 ayuv vuya pal8".split())
TURNS = ([], ["transpose=clock"], ["hflip", "vflip"], ["transpose=cclock"])  # by quarters
# Ours: PQ or HLG of BT.2020 to BT.709 by a Möbius curve, white at 203 nits (ITU-R BT.2408).
HDR_TO_SDR = (
    "zscale=t=linear:npl=203,format=gbrpf32le,zscale=p=bt709,tonemap=mobius:desat=0,"
    "zscale=t=bt709:m=bt709:r=tv,format=yuv444p"
).split(",")
SHOWINFO = re.compile(r"showinfo.*\bn: *\d+ pts:.*pts_time: *(\S+)")
# Not where [info] comes first: such lines hold names and titles, with any words.
COMPLAINT = re.compile(
    r"((?!\[info\]).)*(\[(error|fatal|panic)\]|corrupt (decoded frame|input packet))"
)
STREAM = re.compile(r"Stream #.*: (Audio|Video): (\w+)")  # a codec; its decoder's name begins so


@dataclass(frozen=True)
class Movie:
    """What `probe` found."""

    rate: Fraction  # frames a second
    count: int | None  # of frames; None if the file does not say
    matrix: str  # how colors are to be read, ffmpeg's name
    filters: tuple = ()  # ffmpeg's, to make the picture whole, upright and SDR
    alpha: bool = False  # has a transparent part, over white here
    decoder: str | None = None  # None for ffmpeg's choice
    streams: int = 1  # of video; the first is read
    sounds: tuple = ()  # numbers of the sound tracks that can be copied


def probe(path):
    """Ask ffprobe about the first video stream of `path`.

    Raises ValueError where ffmpeg is missing, or there is no such stream, its frames are too large,
    or its rate cannot be known.
    """
    if not (shutil.which("ffmpeg") and shutil.which("ffprobe")):
        fault = f"ffmpeg is not on the PATH, and {path} is no picture"
        raise ValueError(f"{fault}: install ffmpeg for movies")
    found, complaint = ffprobe(path, "-show_streams -show_format")
    streams = found.get("streams", ())
    sounds = [one for one in streams if one.get("codec_type") == "audio"]
    videos = [one for one in streams if one.get("codec_type") == "video"]
    videos = [one for one in videos if not one["disposition"]["attached_pic"]]
    brand = found.get("format", {}).get("tags", {}).get("major_brand", "")
    if not videos or brand in PICTURES:
        fault = f"holds no picture and no movie that can be read ({complaint or 'no video'})"
        raise ValueError(f"{path} {fault}: convert or replace the file")
    stream = videos[0]
    size = (stream.get("width", 0), stream.get("height", 0))
    if math.prod(size) > MAX_PIXELS:
        fault = f"has frames of {size[0]} x {size[1]} px, more than {MAX_PIXELS:,} pixels"
        raise ValueError(f"{path} {fault}: make it smaller first")
    mean = _fraction(stream.get("avg_frame_rate"))
    base = _fraction(stream.get("r_frame_rate"))  # far too high in movies of phones
    if not 0 < mean <= MAX_RATE:
        mean = _measured_rate(path) or base  # a single frame has no rate of its own
    rate = base if 0 < base <= mean * Fraction(3, 2) else mean
    if not 0 < rate <= MAX_RATE:
        fault = f"does not say how many frames a second it has, up to {MAX_RATE}"
        raise ValueError(f"{path} {fault}: convert it first")
    seconds = stream.get("duration") or found["format"].get("duration")
    # Where a file does not say, HD is BT.709, as players do.
    unknown_hd = (
        stream.get("height", 0) >= 720 and stream.get("color_space", "unknown") == "unknown"
    )
    tags = {name.lower(): value for name, value in stream.get("tags", {}).items()}
    decoder = None
    if tags.get("alpha_mode") == "1":
        decoder = ALPHA_DECODERS.get(stream.get("codec_name"))
    filters = []
    if stream.get("field_order") in ("tt", "bb", "tb", "bt"):  # else comb lines would stay
        filters += ["bwdif=mode=send_frame:deint=interlaced"]  # of other frames nothing changes
    turn = next((one for one in stream.get("side_data_list", ()) if "rotation" in one), {})
    if _mirrors(turn.get("displaymatrix", "")):
        filters += ["vflip"]
    filters += TURNS[round(-float(turn.get("rotation", 0)) / 90) % 4]
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
        sounds=tuple(i for i, one in enumerate(sounds) if int(one.get("sample_rate", 0))),
    )


def ffprobe(path, options):
    """ffprobe's answer as a dict, {} where it fails, and its first complaint."""
    command = ["ffprobe", "-v", "error", *SAFE, "-of", "json", *options.split()]
    answer = subprocess.run([*command, url(path)], capture_output=True)
    found = json.loads(answer.stdout or b"{}") if answer.returncode == 0 else {}
    return found, first_line(answer.stderr, path)


def _fraction(text):
    return Fraction(0) if text is None or text.endswith("/0") else Fraction(text)


def _mirrors(matrix):
    """Whether a display matrix, as ffprobe prints it (rows with a number before each), mirrors."""
    numbers = re.findall(r"-?\d+(?![\d:])", matrix)
    a, b, _, c, d = map(int, numbers[:5] or [1, 0, 0, 0, 1])
    return a * d < b * c


def copied_aside(streams):
    """ffmpeg's words that copy streams of an input, such as "0:a:1", to nowhere.

    Of some containers (.ts, .mpg) ffmpeg counts time from the first packet of all streams that a
    command uses. So each command uses the same ones, or sound and picture would be out of step.
    """
    words = [word for stream in streams for word in ("-map", stream)]
    return [*words, "-c", "copy", "-f", "null", "-"] if streams else []


def list_packets(path):
    """(seconds, is a keyframe) of each packet of the video stream, in the file's order.

    Seconds count from the file's first time, as ffmpeg counts them; NaN where there are none.
    """
    entries = "packet=pts_time,dts_time,flags:format=start_time"
    found, _ = ffprobe(path, f"-select_streams V:0 -show_entries {entries}")
    start = float(found.get("format", {}).get("start_time", 0))
    packets = []
    for packet in found.get("packets", ()):
        seconds = packet.get("pts_time", packet.get("dts_time", "nan"))
        packets.append((float(seconds) - start, packet["flags"].startswith("K")))
    return packets


def _measured_rate(path):
    """Frames a second by the packets' times; 0 for fewer than two times."""
    times = [seconds for seconds, _ in list_packets(path) if math.isfinite(seconds)]
    span = max(times, default=0) - min(times, default=0)
    return Fraction((len(times) - 1) / span).limit_denominator(1001) if span > 0 else Fraction(0)


def sound_tracks(path):
    """Sound tracks that can be decoded, [(number, language or "")], and phrases on the others.

    Raises ValueError where the file cannot be read.
    """
    options = "-select_streams a -count_frames -show_streams"
    found, complaint = ffprobe(path, f"{options} -show_entries packet=stream_index,flags")
    if "streams" not in found:
        raise ValueError(f"the sound of {path} cannot be read ({complaint}): replace the file")
    # but those (D) that an edit list has discarded, where a movie was trimmed
    packets = [one["stream_index"] for one in found["packets"] if "D" not in one["flags"]]
    tracks = []
    left_out = []
    for number, stream in enumerate(found["streams"]):
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
            # a code only: it is written, and any text may stand there
            tracks.append((number, language if re.fullmatch("[a-z]{2,3}", language) else ""))
            lost = 1 - decoded / max(decoded, packets.count(stream["index"]))
            if lost > SPOILT_SOUND:
                left_out.append(f"{lost:.0%} of sound track {number + 1} (damaged)")
    return tracks, left_out


def movie_fault(path, frames, tracks):
    """What is wrong with a movie, if it does not play with so many frames and sound tracks."""
    found, complaint = ffprobe(path, "-count_frames -show_streams")
    streams = found.get("streams", ())
    played = [int(s.get("nb_read_frames", 0)) for s in streams if s["codec_type"] == "video"]
    heard = sum(stream["codec_type"] == "audio" for stream in streams)
    if played == [frames] and heard == tracks and not complaint:
        return ""
    got = f"{sum(played)} of {frames} frames and {heard} of {tracks} sound tracks"
    return f"the finished file plays {got} {complaint}".strip()


class DamageError(ValueError):
    """The decoder complained; the message is its complaint."""


def readable_parts(path, movie, stop):
    """(seconds, frame) of what can be decoded; frame None where an unreadable part begins or ends.

    After a complaint of the decoder no further frame of it is trusted: decoding starts anew at the
    next keyframe. Raises ValueError for damage if `stop`, and where keyframes have no times to tell
    which one is the next.
    """
    packets = None
    first = 0  # packet to start from
    last = -math.inf  # seconds of the last good frame
    shape = None  # of the first one, which all have
    for _ in range(MAX_RESTARTS):
        place = first  # of the packet after the last good frame, nearly
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
            timeless = not all(map(math.isfinite, times))
            anew = times != sorted(times)  # as where two recordings were joined
            if stop and not starts_late or timeless:
                number = max(0, round(max(0, last) * movie.rate)) + 1
                fault = f"{path} cannot be decoded at about frame {number} ({damage})"
                fix = "repair it, install a full ffmpeg, or cover such frames by --on_error cover"
                if timeless:
                    fix = "convert it first, as its keyframes have no times"
                raise ValueError(f"{fault}: {fix}") from damage
        yield None, None
        later = [i for i, seconds in keyframes.items() if (i >= place if anew else seconds > last)]
        first = next((i for i in later if i > first), None)
        if first is None:
            break
    end = max((seconds for seconds, _ in packets if math.isfinite(seconds)), default=0)
    if anew:
        end = last + float((len(packets) - place) / movie.rate)
    yield end + float(1 / movie.rate), None


def decode(path, movie, first, shape=None):
    """(seconds, frame) of the movie from its packet number `first` on, a keyframe if not 0.

    Frames are as large as the first of these, or of the `shape` (H, W, 3).
    Raises DamageError before the first frame that comes after a complaint of ffmpeg.
    """
    aside = copied_aside([f"0:a:{number}" for number in movie.sounds])
    command = ["ffmpeg", "-nostdin", *SAFE, "-v", "level+info", "-hide_banner", "-nostats"]
    if movie.decoder:
        command += ["-c:v", movie.decoder]
    # By our filters only: ffmpeg's own that turn cannot take another size, nor the other ffmpeg's.
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
            # Another ffmpeg hands over the packets; it may complain of those that it leaves out.
            copy = ["ffmpeg", "-nostdin", *SAFE, "-v", "error", "-i", url(path), "-map", "0:V:0"]
            copy += ["-c", "copy", "-copyinkf", "-bsf:v", f"noise=drop=lt(n\\,{first})"]
            copy += "-avoid_negative_ts disabled -f matroska pipe:1".split()
            source = _start(opened, copy + aside, stderr=subprocess.DEVNULL).stdout
            aside = []
        reader = _start(opened, command + aside, stdin=source, stderr=log)
        for number in itertools.count():
            frame = _next_pam(reader.stdout)
            failed = frame is None and reader.wait() != 0
            messages.read()  # those about a frame are written before the frame
            if frame is not None and number >= len(messages.times):
                fix = "free some space there, or name another folder in TMPDIR"
                raise ValueError(f"ffmpeg cannot write its log in {folder}: {fix}")
            complaint = messages.complaint()
            if failed or complaint:
                raise DamageError(complaint or "ffmpeg failed")
            if frame is None:
                return
            yield messages.times[number], frame


def _start(opened, command, **pipes):
    """A process that is killed when the ExitStack `opened` ends, also when that is half way."""
    process = opened.enter_context(subprocess.Popen(command, stdout=subprocess.PIPE, **pipes))
    opened.callback(process.kill)
    return process


def _filters(movie, shape):
    """ffmpeg's filters: each frame's time to the log, its own ones, square pixels, none doubled.

    The first "scale" makes all frames as large as the first one, where a movie changes its size.
    """
    size = "w='round(iw*max(sar,1))':h='round(ih/min(sar,1))'"
    if shape:
        size = f"w={shape[1]}:h={shape[0]}"
    filters = ["showinfo=checksum=0", "scale", "settb=1/25", "setpts=N", *movie.filters]
    return ",".join([*filters, f"scale={size}:in_color_matrix={movie.matrix}", "setsar=1"])


class _Messages:
    """What ffmpeg writes to its log: the times of frames, and its complaints."""

    def __init__(self, log):
        self.log = log  # opened for reading on its own
        self.rest = ""  # a line that is not complete yet
        self.times = []  # of frames, in seconds, None if unknown
        self.complaints = []  # lines
        self.pictures = set()  # codecs, each as a log has it
        # Those of sound tracks and covers, and what is copied aside, as two versions name it.
        self.others = {"null @", "out#1"}

    def complaint(self):
        """The first one, or "". At first ffmpeg looks into sound and covers too: not those.

        Where the movie itself is of a cover's codec, nobody can tell: then those count.
        """
        others = tuple(self.others - self.pictures)
        for line in self.complaints:
            if not line.strip("[").startswith(others):
                return line.split("] ")[-1].strip()[:200] or "damaged"
        return ""

    def read(self):
        """Take in what is new."""
        while text := self.log.read(1 << 20):
            *lines, self.rest = (self.rest + text.decode(errors="replace")).split("\n")
            for line in lines:
                if found := SHOWINFO.search(line):
                    self.times.append(None if found[1] == "NOPTS" else float(found[1]))
                elif found := STREAM.search(line):
                    if found[1] == "Audio":
                        self.others.add(found[2])
                    elif "(attached pic)" in line:
                        self.others.add(f"{found[2]} @")
                    else:
                        self.pictures.add(f"{found[2]} @")
                elif COMPLAINT.match(line):
                    self.complaints.append(line)


def _next_pam(pipe):
    """One PAM picture from a pipe, over white; None at its end, also where a picture breaks off."""
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
    """A path that ffmpeg takes for a file, whatever it looks like."""
    return f"file:{Path(path).absolute()}"


def first_line(output, path):
    """ffmpeg's first complaint, from its output, without addresses in brackets and the path."""
    text = output.decode(errors="replace")
    line = (text.strip().splitlines() or [""])[0].split("] ")[-1]
    return line.replace(f"{url(path)}: ", "")[:200]
