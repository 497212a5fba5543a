"""lesson_notebooks/k_same.py: its means by hand, and its row in the table of a real run."""

import json
import sys
from pathlib import Path

import torch

from ppad import evaluate, reproduce

ROOT = Path(__file__).resolve().parents[1]
FILE = ROOT / "lesson_notebooks" / "k_same.py"
sys.path.insert(0, str(FILE.parent))

from k_same import KSame


def plain(*grays):
    """Pictures of one gray each, (n, 3, 64, 64)."""
    return torch.tensor(grays).view(-1, 1, 1, 1).expand(-1, 3, 64, 64).contiguous()


PEOPLE = torch.stack([plain(-0.9, 0.5), plain(-0.8, 0.1), plain(0.4, 0.8)])  # three, two pictures


def test_k_1_gives_the_nearest_gallery_face():
    faces = plain(-0.88, 0.2, 0.42, 0.46, 1.0)
    made = KSame(1, PEOPLE)(faces)
    assert torch.equal(made, plain(-0.9, 0.1, 0.4, 0.5, 0.8))


def test_k_all_gives_the_mean_of_the_gallery_whatever_the_face():
    gallery = torch.rand(7, 1, 3, 64, 64, generator=torch.Generator().manual_seed(0)) * 2 - 1
    faces = torch.rand(4, 3, 64, 64, generator=torch.Generator().manual_seed(1)) * 2 - 1
    made = KSame(7, gallery)(faces)
    assert torch.allclose(made, gallery.mean(dim=(0, 1)).expand(4, -1, -1, -1), atol=1e-6)


def test_the_k_are_different_people():
    """The two nearest pictures, 0.4 and 0.6, are of one person, so only the nearer one counts."""
    gallery = torch.stack([plain(0.4, 0.6), plain(-0.9, 0.1)])
    assert torch.allclose(KSame(2, gallery)(plain(0.45)), plain((0.4 + 0.1) / 2))


def test_a_face_of_the_gallery_is_one_of_its_own_k():
    own = KSame(1).gallery[:3, 0]
    assert torch.allclose(KSame(1)(own), own)
    far = (KSame(5)(own) - own).abs().mean(dim=(1, 2, 3))
    assert far.min() > 0.05  # and hidden among the others


def test_its_gallery_is_of_training_people_and_the_contract_holds():
    row = evaluate.read_own_row(f"k-same={FILE}:KSame", 64)
    gallery = row.make().anonymizer.gallery
    for preset in ("quick", "toy"):
        config = reproduce.parse(["--preset", preset])[1]
        assert len(gallery) <= config.train_identities and config.face_size == KSame.size
    assert 200 <= gallery.shape[0] * gallery.shape[1] <= 600


def test_another_size_is_refused_in_a_sentence(tiny_args, tmp_path, capsys):
    row = f"k-same={FILE}:KSame"  # the tiny preset's faces have 32 px
    words = [*tiny_args, "--rows", "Masked", "--row", row, "--out", str(tmp_path)]
    assert reproduce.main(words) == 2
    assert "has .size 64, but faces are 32 px: see --face_size" in capsys.readouterr().err


def test_its_row_stands_in_the_table(tiny_args, tmp_path, capsys):
    """The command of the README, at tiny sizes but for the faces."""
    words = [*tiny_args, "--preset", "quick", "--face_size", "64", "--out", str(tmp_path)]
    row = f"k-same={FILE}:KSame"
    assert reproduce.main([*words, "--rows", "Un-anonymized", "--row", row]) == 0
    results = json.loads((tmp_path / "results.json").read_text())
    assert [one["name"] for one in results["rows"]] == ["Un-anonymized", "k-same"]
    assert results["rows"][1]["structure"]["l1"] > 0.1
    assert 0 <= results["rows"][1]["verification_error"]["strongest"]["mean"] <= 1
    assert "| k-same " in capsys.readouterr().err
    assert "| k-same " in (tmp_path / "table1.md").read_text()
