"""figures: files, sizes, labels and the table's text, against numbers and pictures made by hand."""

import json
import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from matplotlib.text import Text
from PIL import Image

from ppad import figures
from ppad.baselines import BASELINES

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def drawn(monkeypatch):
    """The matplotlib figures that a call saves, to ask what they show."""
    kept, save = [], figures._save
    monkeypatch.setattr(
        figures, "_save", lambda figure, path: (kept.append(figure), save(figure, path))
    )
    return kept


def texts(figure):
    return [
        text.get_text() for text in figure.findobj(Text) if text.get_text() and text.get_visible()
    ]


def one_colour(*values, size=16):
    return torch.stack([torch.full((3, size, size), value) for value in values])


def seeds(*values):
    return {
        "mean": sum(values) / len(values),
        "std": float(np.std(values, ddof=1)) if len(values) > 1 else 0.0,
        "per_seed": list(values),
    }


def row(name, map_, own, strongest, **more):
    error = {
        key: seeds(own)
        for key in ("own", "never_saw", "other_architecture", "retrained", "probe_vs_original")
    }
    return {
        "name": name,
        "mAP": map_,
        "AP": {"Lip": 0.5, "Iron": 0.25},
        "verification_error": error | {"strongest": strongest},
        "structure": {"l1": 0.1, "landmark_error": 0.1},
    } | more


RESULTS = {
    "preset": "toy",
    "hardware": "2 cores",
    "versions": {},
    "minutes": 20,
    "seeds": [0, 1],
    "controls": {},
    "rows": [
        row("Un-anonymized", seeds(0.60, 0.64), 0.03, seeds(0.02, 0.04)),
        row("Masked", seeds(0.40, 0.40), 0.48, None),
        row("Edge", None, 0.30, seeds(0.2, 0.2), AP=None, verification_error=None),
        row("Ours", seeds(0.55, 0.57), 0.45, seeds(0.30, 0.34)),
    ],
}


def test_every_figure_is_a_small_png_and_leaves_nothing_else(tmp_path):
    noise = (
        torch.rand(6, 3, 128, 128, generator=torch.Generator().manual_seed(0)) * 2 - 1
    )  # the worst case for PNG
    log = [{"stage": "game", "step": i, "l1": 1 / i} for i in range(1, 30)]
    figures.fig3({f"Noise({i})": noise for i in range(8)}, tmp_path / "3.png")
    figures.fig4(RESULTS, tmp_path / "4.png")
    figures.fig5(noise, noise, tmp_path / "5.png", labels=list("abcdef"))
    figures.fig6([noise, noise[:2]], tmp_path / "6.png")
    figures.training_curves(log, tmp_path / "curves.png")
    figures.contact_sheet(noise, tmp_path / "sheet.png", 3)
    files = sorted(tmp_path.iterdir())
    assert [file.name for file in files] == [
        "3.png",
        "4.png",
        "5.png",
        "6.png",
        "curves.png",
        "sheet.png",
    ]
    for file in files:
        assert 1000 < file.stat().st_size <= 300_000
        with Image.open(file) as picture:
            assert picture.format == "PNG" and min(picture.size) > 100
            picture.load()


def test_drawing_needs_no_global_state_and_no_screen():
    """In a process of its own: other tests may have imported pyplot."""
    code = "import sys, ppad.figures; sys.exit('matplotlib.pyplot' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0


def test_a_failed_write_keeps_the_old_file(tmp_path, monkeypatch):
    figures.contact_sheet(one_colour(0.0), tmp_path / "s.png", 1)
    before = (tmp_path / "s.png").read_bytes()

    def stop(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(figures.os, "replace", stop)
    with pytest.raises(
        OSError, match=r"cannot write .*s.png \(No space left on device\): free some disk space"
    ):
        figures.contact_sheet(one_colour(1.0), tmp_path / "s.png", 1)
    assert (tmp_path / "s.png").read_bytes() == before and [
        path.name for path in tmp_path.iterdir()
    ] == ["s.png"]


def test_contact_sheet_pixels_by_hand(tmp_path):
    pictures = one_colour(-1.0, 0.0, 1.0, 0.5, 9.0)  # 9 is clamped to 1
    figures.contact_sheet(pictures, tmp_path / "s.png", 3)
    sheet = np.asarray(Image.open(tmp_path / "s.png").convert("RGB")).astype(int)
    assert sheet.shape == (2 * 16 + 2, 3 * 16 + 2 * 2, 3)
    assert [sheet[8, x, 0] for x in (8, 26, 44)] == [0, 128, 255] and [
        sheet[26, x, 1] for x in (8, 26)
    ] == [191, 255]
    assert (sheet[16:18] == 255).all() and (
        sheet[18:, 36:] == 255
    ).all()  # gap, and no sixth picture


def test_red_is_red(tmp_path):
    red = one_colour(-1.0)
    red[:, 0] = 1
    figures.contact_sheet(red, tmp_path / "s.png", 1)
    assert Image.open(tmp_path / "s.png").convert("RGB").getpixel((3, 3)) == (255, 0, 0)


def test_fig3_has_a_column_a_method_and_a_row_a_face(tmp_path, drawn):
    figures.fig3(
        {"Masked": one_colour(-1.0, -1.0), "Edge": one_colour(0.0, 1.0)}, tmp_path / "f.png"
    )
    assert [text for text in texts(drawn[0]) if text in ("Masked", "Edge")] == ["Masked", "Edge"]
    sheet = drawn[0].axes[0].images[0].get_array()
    assert (
        sheet[8, 8, 0] == 0
        and sheet[8, -8, 0] == 128
        and sheet[-8, 8, 0] == 0
        and sheet[-8, -8, 0] == 255
    )
    by_text = {text.get_text(): text.xy[0] for text in drawn[0].axes[0].texts}
    assert (
        by_text["Masked"] == 8 and by_text["Edge"] == sheet.shape[1] - 8
    )  # above the middle of its column


def test_fig5_pairs_and_labels(tmp_path, drawn):
    figures.fig5(
        one_colour(*[-1.0] * 5),
        one_colour(*[0.0] * 5),
        tmp_path / "f.png",
        labels=["a", "b", "c", "d", "e"],
    )
    shown = texts(drawn[0])
    assert (
        shown.count("before") == 4
        and shown.count("after") == 4
        and {"a", "b", "c", "d", "e"} <= set(shown)
    )
    sheet = drawn[0].axes[0].images[0].get_array()
    assert sheet[8, 8, 0] == 0 and sheet[8, 26, 0] == 128  # before, then after
    heads = [
        text.xy[0] for text in drawn[0].axes[0].texts if text.get_text() in ("before", "after")
    ]
    assert all(
        (sheet[8, int(x), 0] == 0) == (i % 2 == 0) for i, x in enumerate(heads)
    )  # each over its own picture


def test_fig6_rows_may_differ_in_length(tmp_path, drawn):
    figures.fig6([one_colour(-1.0, -1.0, -1.0), one_colour(0.0)], tmp_path / "f.png")
    sheet = drawn[0].axes[0].images[0].get_array()
    assert sheet[-8, 8, 0] == 128 and (sheet[-8, 20:] == 255).all()
    assert {"person 1", "person 2"} <= set(texts(drawn[0]))


def test_fig4_places_points_marks_ours_red_and_lists_what_was_not_run(tmp_path, drawn):
    figures.fig4(RESULTS, tmp_path / "f.png")
    left, right = drawn[0].axes
    at = {
        (c.lines[0].get_color(), c.lines[0].get_marker()): (
            c.lines[0].get_xdata()[0],
            c.lines[0].get_ydata()[0],
        )
        for c in left.containers
    }
    assert at[(figures.RED, "s")] == (
        pytest.approx(45),
        pytest.approx(56),
    )  # x = error, y = mAP, in %
    assert len(left.containers) == 3 and len(right.containers) == 2
    assert left.get_xlabel().endswith("not run: Edge") and right.get_xlabel().endswith(
        "not run: Masked, Edge"
    )
    ours = next(c for c in right.containers if c.lines[0].get_color() == figures.RED)
    assert ours.lines[0].get_xdata()[0] == pytest.approx(32) and ours.has_xerr and ours.has_yerr
    ((low, high),) = [s[:, 0] for s in ours.lines[2][0].get_segments()]
    assert high - low == pytest.approx(
        2 * 100 * math.sqrt(0.0008)
    )  # one standard deviation each way
    assert texts(left).count("Un-anonymized") == 1 and texts(right).count("Masked") == 0


def test_fig4_with_one_seed_has_no_bars_and_with_nothing_run_says_so(tmp_path, drawn):
    one = {"preset": "toy", "seeds": [0], "rows": [row("Ours", seeds(0.5), 0.4, seeds(0.3))]}
    figures.fig4(one, tmp_path / "f.png")
    assert not drawn[0].axes[0].containers[0].has_yerr and "1 seed" in "".join(texts(drawn[0]))
    figures.fig4(
        {"preset": "toy", "seeds": [], "rows": [row("Ours", None, 0.4, None)]}, tmp_path / "f.png"
    )
    assert texts(drawn[1].axes[0]).count("not run") == 1


def test_fig4_labels_of_crowded_points_do_not_overlap(tmp_path, drawn):
    names = [
        "Un-anonymized",
        "Blur(8x8)",
        "Blur(16x16)",
        "Blur(24x24)",
        "Edge",
        "Super-Pixel",
        "Masked",
        "Ours",
    ]
    spread = {
        "preset": "toy",
        "seeds": [0],
        "rows": [row("Noise", seeds(0.9), 0.0, seeds(0.0))]
        + [
            row(name, seeds(0.50 + 0.01 * i), 0.30 + 0.004 * (i % 3), seeds(0.25))
            for i, name in enumerate(names)
        ],
    }
    figures.fig4(spread, tmp_path / "f.png")
    renderer = drawn[0].canvas.get_renderer()
    for axes in drawn[0].axes:
        boxes = [
            Text.get_window_extent(t, renderer) for t in axes.texts if t.get_text() in names
        ]  # the text, no arrow
        assert len(boxes) == len(names)
        for i, a in enumerate(boxes):
            for b in boxes[:i]:
                assert (
                    min(a.x1, b.x1) - max(a.x0, b.x0) < 1 or min(a.y1, b.y1) - max(a.y0, b.y0) < 1
                )


def test_every_baseline_has_a_style():
    assert all(figures._style(name)[0] != figures.GREY for name in [*BASELINES, "Ours"])


def test_training_curves_follow_one_another_by_stage(tmp_path, drawn):
    log = [{"stage": "copy", "step": s, "l1": 1.0} for s in (10, 20)] + [
        {"stage": "game", "step": s, "l1": 0.5, "L_D": float("nan") if s == 20 else 2.0}
        for s in (10, 20, 30)
    ]
    figures.training_curves(log, tmp_path / "f.png")
    by_title = {axes.get_title(): axes for axes in drawn[0].axes if axes.get_title()}
    assert list(by_title) == ["l1", "L_D"]
    raw = [
        line.get_xdata().tolist()
        for line in by_title["l1"].lines
        if len(line.get_xdata()) > 1 and line.get_alpha()
    ]
    assert raw == [[10, 20], [30, 40, 50]]  # the second stage goes on where the first ended
    raw = [line.get_ydata().tolist() for line in by_title["L_D"].lines if line.get_alpha()]
    assert raw == [[2.0, 2.0]]  # a NaN is left out
    assert {" copy", " game"} <= set(texts(drawn[0]))


def test_smoothing_is_a_running_mean_cut_at_the_ends():
    assert figures._smooth(np.array([3.0, 0.0, 3.0, 6.0])).tolist() == [1.5, 2.0, 3.0, 4.5]
    assert np.allclose(figures._smooth(np.full(100, 7.0)), 7)
    assert np.allclose(figures._smooth(np.arange(100.0))[10:90], np.arange(10, 90))


def test_table_text_by_hand():
    assert figures.table1_markdown(RESULTS) == (
        "| Method | Lip | Iron | mAP | error: own D | error: never saw M | error: other architecture | error: retrained "
        "| error: strongest |\n"
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |\n"
        "| Un-anonymized | 50.0 | 25.0 | 62.0 ± 2.8 | 3.0 | 3.0 | 3.0 | 3.0 | 3.0 ± 1.4 |\n"
        "| Masked | 50.0 | 25.0 | 40.0 ± 0.0 | 48.0 | 48.0 | 48.0 | 48.0 | - |\n"
        "| Edge | - | - | - | - | - | - | - | - |\n"
        "| Ours | 50.0 | 25.0 | 56.0 ± 1.4 | 45.0 | 45.0 | 45.0 | 45.0 | 32.0 ± 2.8 |\n"
    )


def test_table_of_what_json_gives_back():
    assert figures.table1_markdown(json.loads(json.dumps(RESULTS))) == figures.table1_markdown(
        RESULTS
    )
    assert "nan" not in figures.table1_markdown(
        {"rows": [row("Ours", seeds(math.nan), 0.4, seeds(0.3))]}
    )


@pytest.mark.parametrize(
    "call, says",
    [
        (lambda p: figures.fig3({}, p), "fig3: rows is empty"),
        (
            lambda p: figures.fig3({"a": torch.zeros(2, 3, 8, 8), "b": torch.zeros(1, 3, 8, 8)}, p),
            "fig3: rows have",
        ),
        (
            lambda p: figures.fig3({"a": torch.zeros(3, 8, 8)}, p),
            r"fig3 rows\['a'\]: is \(3, 8, 8\)",
        ),
        (lambda p: figures.fig5(torch.zeros(2, 3, 8, 8), torch.zeros(3, 3, 8, 8), p), "fig5"),
        (
            lambda p: figures.fig5(torch.zeros(2, 3, 8, 8), torch.zeros(2, 3, 8, 8), p, ["a"]),
            "fig5",
        ),
        (lambda p: figures.fig6([], p), "fig6: groups is empty"),
        (lambda p: figures.contact_sheet(torch.zeros(0, 3, 8, 8), p, 2), "contact_sheet tensor"),
        (lambda p: figures.contact_sheet(torch.zeros(1, 3, 8, 8), p, 0), "columns is 0"),
        (lambda p: figures.training_curves([], p), "training_curves"),
    ],
)
def test_bad_input_is_refused_in_words(tmp_path, call, says):
    with pytest.raises(ValueError, match=says):
        call(tmp_path / "f.png")
    assert list(tmp_path.iterdir()) == []
