"""get_weights: made-up wheels instead of the network; what must never happen is a wrong or half
file under a right name.
"""

import hashlib
import importlib.util
import subprocess
import zipfile
from pathlib import Path

import pytest

from ppad import mtcnn

SCRIPT = Path(__file__).parents[1] / "data_scripts" / "get_weights.py"
spec = importlib.util.spec_from_file_location("get_weights", SCRIPT)
get_weights = importlib.util.module_from_spec(spec)
spec.loader.exec_module(get_weights)

CONTENT = {name: f"weights of {name}".encode() for name in ("pnet.pt", "rnet.pt", "onet.pt")}
WHEEL_NAME = "facenet_pytorch-2.6.0-py3-none-any.whl"


@pytest.fixture(autouse=True)
def known_files(monkeypatch):
    """The script expects our made-up contents; the real sums are checked in a test of their own."""
    monkeypatch.setattr(
        get_weights, "SHA256", {n: hashlib.sha256(c).hexdigest() for n, c in CONTENT.items()}
    )


def wheel(folder, content=CONTENT, extra=()):
    folder.mkdir(exist_ok=True)
    path = folder / WHEEL_NAME
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in content.items():
            archive.writestr(f"facenet_pytorch/data/{name}", data)
        for name in extra:
            archive.writestr(name, "must not come out")
    return path


def names(folder):
    return sorted(p.name for p in folder.iterdir()) if folder.exists() else []


def fake_pip(monkeypatch, make):
    calls = []

    def run(command, **options):
        calls.append(command)
        return make(Path(command[command.index("--dest") + 1]))

    monkeypatch.setattr(get_weights.from_pip, "__defaults__", (run,))
    return calls


def test_pip_downloads_and_three_files_come_out(tmp_path, monkeypatch):
    def make(folder):
        wheel(folder, extra=("../evil.pt", "facenet_pytorch/__init__.py"))
        return subprocess.CompletedProcess([], 0, "", "")

    calls = fake_pip(monkeypatch, make)
    assert get_weights.main(["--out", str(tmp_path / "w")]) == 0
    assert (
        "download" in calls[0] and "facenet-pytorch==2.6.0" in calls[0] and "--no-deps" in calls[0]
    )
    assert names(tmp_path / "w") == sorted(CONTENT) and names(tmp_path) == ["w"]
    assert all((tmp_path / "w" / n).read_bytes() == c for n, c in CONTENT.items())
    # nothing left to fetch
    assert get_weights.main(["--out", str(tmp_path / "w")]) == 0 and len(calls) == 1


def test_no_network_says_what_to_do(tmp_path, monkeypatch, capsys):
    fake_pip(
        monkeypatch,
        lambda folder: subprocess.CompletedProcess(
            [], 1, "", "WARNING: x\nERROR: no matching version\n"
        ),
    )
    assert get_weights.main(["--out", str(tmp_path / "w")]) == 2
    said = capsys.readouterr().err
    assert (
        "no matching version" in said
        and "pip download facenet-pytorch==2.6.0" in said
        and "--from" in said
    )
    assert names(tmp_path / "w") == []


@pytest.mark.parametrize("kind", ["wheel", "folder of the wheel", "folder of files"])
def test_local_sources(tmp_path, kind):
    source = wheel(tmp_path / "in")
    if kind == "folder of files":
        source.unlink()
        for name, content in CONTENT.items():
            (tmp_path / "in" / name).write_bytes(content)
    source = source if kind == "wheel" else tmp_path / "in"
    assert get_weights.main(["--from", str(source), "--out", str(tmp_path / "w")]) == 0
    assert names(tmp_path / "w") == sorted(CONTENT)


def test_one_local_file(tmp_path, capsys):
    (tmp_path / "onet.pt").write_bytes(CONTENT["onet.pt"])
    assert (
        get_weights.main(["--from", str(tmp_path / "onet.pt"), "--out", str(tmp_path / "w")]) == 2
    )
    assert names(tmp_path / "w") == ["onet.pt"]
    said = capsys.readouterr()
    assert said.out.count("not there") == 2
    assert said.err == (
        f"{tmp_path / 'w'}: still lacks pnet.pt, rnet.pt; "
        "give --from the wheel or the folder that holds all three\n"
    )
    for name in ("pnet.pt", "rnet.pt"):
        (tmp_path / name).write_bytes(CONTENT[name])
        status = get_weights.main(["--from", str(tmp_path / name), "--out", str(tmp_path / "w")])
        assert status == (2 if name == "pnet.pt" else 0)


def test_a_wrong_sum_is_refused_and_the_old_file_stays(tmp_path, capsys):
    out = tmp_path / "w"
    out.mkdir()
    (out / "pnet.pt").write_bytes(b"old")
    source = wheel(tmp_path / "in", {**CONTENT, "pnet.pt": b"<html>not found</html>"})
    assert get_weights.main(["--from", str(source), "--out", str(out)]) == 2
    assert "pnet.pt: sha256" in capsys.readouterr().err
    assert names(out) == ["pnet.pt"] and (out / "pnet.pt").read_bytes() == b"old"


def test_an_interrupted_write_leaves_nothing(tmp_path, monkeypatch, capsys):
    def full_disk(*paths):
        raise OSError("no space left on device")

    monkeypatch.setattr(get_weights.os, "replace", full_disk)
    assert (
        get_weights.main(["--from", str(wheel(tmp_path / "in")), "--out", str(tmp_path / "w")]) == 2
    )
    assert names(tmp_path / "w") == [] and "no space" in capsys.readouterr().err


def test_sources_that_are_none(tmp_path, capsys):
    (tmp_path / "page.whl").write_text("<html>")
    (tmp_path / "empty").mkdir()
    other = wheel(tmp_path / "other", {"pnet.pt": CONTENT["pnet.pt"]})
    for source, word in (
        (tmp_path / "page.whl", "not a complete wheel"),
        (tmp_path / "empty", "neither"),
        (tmp_path / "gone.whl", "no such file"),
        (other, "not a complete wheel"),
    ):
        assert get_weights.main(["--from", str(source), "--out", str(tmp_path / "w")]) == 2
        assert word in capsys.readouterr().err


def test_a_wheel_with_spoilt_bytes(tmp_path, capsys):
    source = tmp_path / WHEEL_NAME
    with zipfile.ZipFile(source, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in CONTENT:
            archive.writestr(f"facenet_pytorch/data/{name}", b"weights" * 50)
    content = source.read_bytes()
    start = content.index(b"pnet.pt") + len("pnet.pt")
    source.write_bytes(content[:start] + b"\xff" * 5 + content[start + 5 :])
    assert get_weights.main(["--from", str(source), "--out", str(tmp_path / "w")]) == 2
    said = capsys.readouterr().err
    assert f"{source}: not a complete wheel" in said and said.count("\n") == 1
    assert names(tmp_path / "w") == []


def test_a_stopped_download_says_so(tmp_path, monkeypatch, capsys):
    def stops(folder):
        raise KeyboardInterrupt

    fake_pip(monkeypatch, stops)
    try:
        assert get_weights.main(["--out", str(tmp_path / "w")]) == 130
    except KeyboardInterrupt:  # would end the tests
        pytest.fail("it ended in a traceback")
    assert capsys.readouterr().err.startswith("stopped; the same command")


def test_a_zip_bomb_is_not_unpacked(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(get_weights, "LARGEST", 10)
    assert (
        get_weights.main(["--from", str(wheel(tmp_path / "in")), "--out", str(tmp_path / "w")]) == 2
    )
    assert "claims" in capsys.readouterr().err and names(tmp_path / "w") == []


def test_imagenet_goes_through_torchs_own_loader(tmp_path, monkeypatch, capsys):
    import torch

    asked = []
    monkeypatch.setattr(
        torch.hub, "load_state_dict_from_url", lambda url, **options: asked.append((url, options))
    )
    source = str(wheel(tmp_path / "in"))
    assert (
        get_weights.main(["--from", source, "--out", str(tmp_path / "w"), "--imagenet", "vgg16"])
        == 0
    )
    url, options = asked[0]
    assert (
        url.endswith("vgg16-397923af.pth")
        and options["check_hash"]
        and options["model_dir"] == str(tmp_path / "w")
    )
    assert (
        get_weights.main(["--from", source, "--out", str(tmp_path / "w"), "--imagenet", "vgg17"])
        == 2
    )
    assert "vgg17" in capsys.readouterr().err

    def offline(url, **options):
        raise OSError("name or service not known")

    monkeypatch.setattr(torch.hub, "load_state_dict_from_url", offline)
    assert (
        get_weights.main(["--from", source, "--out", str(tmp_path / "w"), "--imagenet", "vgg16"])
        == 2
    )
    assert "vgg16-397923af.pth" in capsys.readouterr().err


def test_a_damaged_file_of_imagenet_that_is_there_is_named(tmp_path, capsys):
    """As a proxy's page of HTML, kept under the right name: torch loads it without a look."""
    out = tmp_path / "w"
    out.mkdir()
    (out / "vgg16-397923af.pth").write_text("<html>")
    source = str(wheel(tmp_path / "in"))
    assert get_weights.main(["--from", source, "--out", str(out), "--imagenet", "vgg16"]) == 2
    error = capsys.readouterr().err
    assert "vgg16-397923af.pth is damaged" in error and "Traceback" not in error


def test_the_sums_are_those_of_the_files_in_use(monkeypatch):
    fresh = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(fresh)
    folder = fresh.weights_folder()
    if not (folder / "onet.pt").is_file():
        from test_mtcnn import data

        folder = data("weights")
    assert all(fresh.is_there(name, folder) for name in fresh.SHA256) and len(fresh.SHA256) == 3


def test_script_and_package_agree_on_the_folder(monkeypatch, tmp_path):
    for value in ("", str(tmp_path)):
        monkeypatch.setenv("PPAD_WEIGHTS", value)
        assert get_weights.weights_folder() == mtcnn.weights_folder()
