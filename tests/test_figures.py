"""figures: files, sizes, labels and the table's text, against numbers and pictures made by hand."""

import json
import math
import os
import re
import subprocess
import sys
from pathlib import Path

import matplotlib
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
    kept = []
    save = figures._save

    def keep_and_save(figure, path):
        kept.append(figure)
        save(figure, path)

    monkeypatch.setattr(figures, "_save", keep_and_save)
    return kept


def texts(figure):
    found = [text for text in figure.findobj(Text) if text.get_visible()]
    return [text.get_text() for text in found if text.get_text()]


def heads(figure):
    """(x, text) of the texts above a sheet of pictures."""
    (axes,) = figure.axes
    labels = [label.get_text() for label in axes.get_xticklabels()]
    return list(zip(axes.get_xticks().tolist(), labels))


def one_color(*values, size=16):
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
        for key in ("own", "never_saw", "other_architecture", "retrained", "inverting")
    }
    error["probe_vs_original"] = seeds(own)
    if name == "Masked":
        del error["inverting"]  # as in the results of an older run
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
    # The worst case for PNG.
    noise = torch.rand(6, 3, 128, 128, generator=torch.Generator().manual_seed(0)) * 2 - 1
    log = [{"stage": "game", "step": i, "l1": 1 / i} for i in range(1, 30)]
    figures.fig3({f"Noise({i})": noise for i in range(8)}, tmp_path / "3.png")
    figures.fig4(RESULTS, tmp_path / "4.png")
    figures.fig5(noise, noise, tmp_path / "5.png")
    figures.fig6([noise, noise[:2]], tmp_path / "6.png")
    figures.training_curves(log, tmp_path / "curves.png")
    figures.contact_sheet(noise, tmp_path / "sheet.png", 3)
    files = sorted(tmp_path.iterdir())
    names = [file.name for file in files]
    assert names == ["3.png", "4.png", "5.png", "6.png", "curves.png", "sheet.png"]
    for file in files:
        assert 1000 < file.stat().st_size <= 300_000
        with Image.open(file) as picture:
            assert picture.format == "PNG" and min(picture.size) > 100
            picture.load()


def test_drawing_needs_no_global_state_and_no_screen():
    """In a process of its own: other tests may have imported pyplot."""
    code = "import sys, ppad.figures; sys.exit('matplotlib.pyplot' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0


def test_a_notebooks_own_layout_changes_no_figure(tmp_path, recwarn):
    """A notebook may lay out all its figures; panels are placed by hand."""
    noise = torch.rand(2, 3, 16, 16)
    figures.fig5(noise, noise, tmp_path / "plain.png")
    with matplotlib.rc_context({"figure.constrained_layout.use": True}):
        figures.fig5(noise, noise, tmp_path / "laid_out.png")
    plain, laid_out = (Image.open(tmp_path / name) for name in ("plain.png", "laid_out.png"))
    assert plain.tobytes() == laid_out.tobytes() and not recwarn.list


def test_a_failed_write_keeps_the_old_file(tmp_path, monkeypatch):
    figures.contact_sheet(one_color(0.0), tmp_path / "s.png", 1)
    before = (tmp_path / "s.png").read_bytes()

    def stop(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", stop)
    words = r"cannot write .*s.png \(No space left on device\): free some disk space"
    with pytest.raises(OSError, match=words):
        figures.contact_sheet(one_color(1.0), tmp_path / "s.png", 1)
    assert (tmp_path / "s.png").read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["s.png"]


def test_contact_sheet_pixels_by_hand(tmp_path):
    pictures = one_color(-1.0, 0.0, 1.0, 0.5, 9.0)  # 9 is clamped to 1
    figures.contact_sheet(pictures, tmp_path / "s.png", 3)
    sheet = np.asarray(Image.open(tmp_path / "s.png").convert("RGB")).astype(int)
    assert sheet.shape == (2 * 16 + 2, 3 * 16 + 2 * 2, 3)
    assert [sheet[8, x, 0] for x in (8, 26, 44)] == [0, 128, 255]
    assert [sheet[26, x, 1] for x in (8, 26)] == [191, 255]
    assert (sheet[16:18] == 255).all()  # the gap
    assert (sheet[18:, 36:] == 255).all()  # no sixth picture


def test_red_is_red(tmp_path):
    red = one_color(-1.0)
    red[:, 0] = 1
    figures.contact_sheet(red, tmp_path / "s.png", 1)
    assert Image.open(tmp_path / "s.png").convert("RGB").getpixel((3, 3)) == (255, 0, 0)


def test_fig3_has_a_column_per_method_and_a_row_per_face(tmp_path, drawn):
    pictures = {"Masked": one_color(-1.0, -1.0), "Edge": one_color(0.0, 1.0)}
    figures.fig3(pictures, tmp_path / "f.png")
    sheet = drawn[0].axes[0].images[0].get_array()
    assert [sheet[y, x, 0] for y in (8, -8) for x in (8, -8)] == [0, 128, 0, 255]
    # Above the middle of its column.
    assert heads(drawn[0]) == [(8, "Masked"), (sheet.shape[1] - 8, "Edge")]
    # A name that is wider than its picture takes two lines.
    figures.fig3({"Ours(entropy, restarts)": one_color(0.0)}, tmp_path / "f.png")
    assert [text for _, text in heads(drawn[1])] == ["Ours(entropy,\nrestarts)"]


def test_fig5_pairs_and_labels(tmp_path, drawn):
    before = one_color(*[-1.0] * 5)
    after = one_color(*[0.0] * 5)
    figures.fig5(before, after, tmp_path / "f.png")
    assert [text for _, text in heads(drawn[0])] == ["before", "after"] * 4
    sheet = drawn[0].axes[0].images[0].get_array()
    assert sheet[8, 8, 0] == 0 and sheet[8, 26, 0] == 128  # before, then after
    # Each text is over its own picture.
    shown = [sheet[8, int(x), 0] for x, _ in heads(drawn[0])]
    assert shown == [0, 128] * 4


def test_fig6_rows_may_differ_in_length(tmp_path, drawn):
    figures.fig6([one_color(-1.0, -1.0, -1.0), one_color(0.0)], tmp_path / "f.png")
    sheet = drawn[0].axes[0].images[0].get_array()
    assert sheet[-8, 8, 0] == 128 and (sheet[-8, 20:] == 255).all()
    assert {"person 1", "person 2"} <= set(texts(drawn[0]))


def test_fig5_shows_frames_below_the_faces(tmp_path, drawn):
    wide = torch.zeros(2, 3, 16, 40)  # frames are no squares
    frames = (wide - 1, wide)
    figures.fig5(one_color(-1.0), one_color(0.0), tmp_path / "f.png", frames=frames)
    faces, scenes = drawn[0].axes
    assert faces.get_position().y0 > scenes.get_position().y1
    sheet = scenes.images[0].get_array()
    assert [sheet[8, x, 0] for x in (4, 36, 46, 78)] == [0, 0, 128, 128]
    labels = [label.get_text() for label in scenes.get_xticklabels()]
    assert labels == ["before", "after"] * 2
    shown = [sheet[8, int(x), 0] for x in scenes.get_xticks()]
    assert shown == [0, 128] * 2  # each text is over its own frame


def test_fig6_shows_a_row_of_frames_a_clip(tmp_path, drawn):
    clips = [torch.zeros(3, 3, 16, 40), torch.ones(2, 3, 16, 40)]
    figures.fig6([one_color(-1.0, -1.0)], tmp_path / "f.png", clips)
    people, scenes = drawn[0].axes
    assert [label.get_text() for label in scenes.get_yticklabels()] == ["clip 1", "clip 2"]
    assert [label.get_text() for label in people.get_yticklabels()] == ["person 1"]
    sheet = scenes.images[0].get_array()
    assert sheet[8, 20, 0] == 128 and sheet[-8, 20, 0] == 255


def test_rows_of_fig3_may_be_named(tmp_path, drawn):
    columns = {"Ours": one_color(-1.0, 0.0), "Edge": one_color(-1.0, 0.0)}
    figures.fig3(columns, tmp_path / "f.png", sides=["modified", "inverted"])
    (axes,) = drawn[0].axes
    labels = [label.get_text() for label in axes.get_yticklabels()]
    assert labels == ["modified", "inverted"]
    sheet = axes.images[0].get_array()
    assert [sheet[int(y), 8, 0] for y in axes.get_yticks()] == [0, 128]


def legend(figure):
    return [text.get_text() for text in figure.legends[0].get_texts()]


def test_fig4_places_points_marks_ours_red_and_lists_what_was_not_run(tmp_path, drawn):
    figures.fig4(RESULTS, tmp_path / "f.png")
    left, right = drawn[0].axes
    points = {}
    for container in left.containers:
        line = container.lines[0]
        style = (line.get_color(), line.get_marker())
        points[style] = (line.get_xdata()[0], line.get_ydata()[0])
    # x = error, y = mAP, in %
    assert points[(figures.RED, "s")] == (pytest.approx(45), pytest.approx(56))
    assert len(left.containers) == 3 and len(right.containers) == 2
    assert left.get_xlabel().endswith("not run: Edge")
    assert right.get_xlabel().endswith("not run: Masked, Edge")
    ours = next(c for c in right.containers if c.lines[0].get_color() == figures.RED)
    assert ours.lines[0].get_xdata()[0] == pytest.approx(32) and ours.has_xerr and ours.has_yerr
    ((low, high),) = [s[:, 0] for s in ours.lines[2][0].get_segments()]
    assert high - low == pytest.approx(2 * 100 * math.sqrt(0.0008))  # one std each way
    assert legend(drawn[0]) == ["Un-anonymized", "Masked", "Ours"]


def test_fig4_with_one_seed_has_no_bars_and_with_nothing_run_says_so(tmp_path, drawn):
    one = {"preset": "toy", "seeds": [0], "rows": [row("Ours", seeds(0.5), 0.4, seeds(0.3))]}
    figures.fig4(one, tmp_path / "f.png")
    assert not drawn[0].axes[0].containers[0].has_yerr and "1 seed" in "".join(texts(drawn[0]))
    none = {"preset": "toy", "seeds": [], "rows": [row("Ours", None, 0.4, None)]}
    figures.fig4(none, tmp_path / "f.png")
    assert texts(drawn[1].axes[0]).count("not run") == 1 and not drawn[1].legends


def test_fig4_of_two_runs_has_a_column_each(tmp_path, drawn):
    other = {"preset": "photo", "seeds": [0], "rows": [row("Ours", seeds(0.3), 0.2, seeds(0.1))]}
    figures.fig4([RESULTS, other], tmp_path / "f.png")
    titles = [axes.get_title() for axes in drawn[0].axes]
    own, strongest = "Training adversary D (as in the paper)", "Strongest attacker"
    toy, photo = "preset toy, 2 seeds", "preset photo, 1 seed"
    assert titles == [f"{own}\n{toy}", f"{own}\n{photo}", f"{strongest}\n{toy}"] + [
        f"{strongest}\n{photo}"
    ]
    x = [axes.containers[-1].lines[0].get_xdata()[0] for axes in drawn[0].axes]
    assert x == [pytest.approx(value) for value in (45, 20, 32, 10)]
    assert legend(drawn[0]) == ["Un-anonymized", "Masked", "Ours"]  # each once


def test_fig4_of_run_folders_by_one_command(tmp_path, capsys):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "results.json").write_text(json.dumps(RESULTS))
    runs = [str(tmp_path / "a"), str(tmp_path / "b")]
    figures.main([*runs, "--out", str(tmp_path / "f.png")])
    assert (tmp_path / "f.png").stat().st_size > 1000

    def refused(run):
        with pytest.raises(SystemExit) as stop:
            figures.main([*runs, str(tmp_path / run), "--out", str(tmp_path / "g.png")])
        assert stop.value.code == 2
        return capsys.readouterr().err

    (tmp_path / "torn").mkdir()
    (tmp_path / "torn" / "results.json").write_text("{")
    assert re.search("torn/results.json cannot be read .*name another run", refused("torn"))
    (tmp_path / "torn" / "results.json").write_text("{}")
    assert re.search("torn/results.json cannot be read .*name another run", refused("torn"))
    text = '{"preset": "toy", "seeds": [0], "rows": ["Ours"]}'
    (tmp_path / "torn" / "results.json").write_text(text)
    assert "a results.json is damaged" in refused("torn")
    assert "c/results.json does not exist" in refused("c")
    with pytest.raises(SystemExit):
        figures.main([*runs, "--out", str(tmp_path / "f.jpg")])
    assert "f.jpg is written as a PNG: give a name ending in .png" in capsys.readouterr().err
    assert not (tmp_path / "g.png").exists()


def test_fig4_names_every_row_by_a_style_of_its_own(tmp_path, drawn):
    names = [*BASELINES, "Ours", "Ours(random)", "KSame", "Mine"]
    rows = [row(name, seeds(0.5), 0.3, seeds(0.25)) for name in names]
    figures.fig4({"preset": "toy", "seeds": [0], "rows": rows}, tmp_path / "f.png")
    assert legend(drawn[0]) == names
    lines = [container.lines[0] for container in drawn[0].axes[0].containers]
    styles = {(x.get_color(), x.get_marker(), x.get_markerfacecolor()) for x in lines}
    assert len(styles) == len(names)
    red = [name for name, line in zip(names, lines) if line.get_color() == figures.RED]
    assert red == ["Ours", "Ours(random)"]


def test_fig4_marks_a_row_alike_in_all_panels(tmp_path, drawn):
    """Also where it is another run's only row of its own, or a row before it was not run."""
    mine, yours, missing = (row(name, seeds(0.5), 0.3, seeds(0.2)) for name in "abc")
    missing["verification_error"] = None
    runs = [{"preset": "toy", "seeds": [0], "rows": rows} for rows in ([yours], [mine, missing])]
    runs[1]["rows"].append(yours)
    mine["verification_error"].pop("strongest")
    figures.fig4(runs, tmp_path / "f.png")
    markers = [[one.lines[0].get_marker() for one in axes.containers] for axes in drawn[0].axes]
    first, others = markers[0][0], markers[1][0]
    assert first != others
    assert markers == [[first], [others, first], [first], [first]]
    assert legend(drawn[0]) == ["b", "a"]  # which shows what was drawn


def test_fig4_wraps_the_names_of_what_was_not_run(tmp_path, drawn):
    rows = [row(name, None, 0.3, None) for name in BASELINES]
    figures.fig4({"preset": "toy", "seeds": [0], "rows": rows}, tmp_path / "f.png")
    lines = drawn[0].axes[0].get_xlabel().splitlines()
    assert all(name in " ".join(lines) for name in BASELINES) and max(map(len, lines)) <= 55


def test_every_baseline_has_a_style():
    assert set(figures.STYLES) == {*BASELINES, "Ours"}


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
    assert by_title["l1"].get_xlim() == (0, 50)
    assert by_title["L_D"].get_xlim() == (20, 50)  # no room for a stage without this term
    assert legend(drawn[0]) == ["copy", "game"]


def test_smoothing_is_a_running_mean_cut_at_the_ends():
    assert figures._smooth(np.array([3.0, 0.0, 3.0, 6.0])).tolist() == [1.5, 2.0, 3.0, 4.5]
    assert np.allclose(figures._smooth(np.full(100, 7.0)), 7)
    assert np.allclose(figures._smooth(np.arange(100.0))[10:90], np.arange(10, 90))


def test_table_text_by_hand():
    assert figures.table1_markdown(RESULTS) == (
        "| Method | Lip | Iron | mAP | error: own D | error: never saw M "
        "| error: other architecture | error: retrained | error: inverting | error: strongest |\n"
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |\n"
        "| Un-anonymized | 50.0 | 25.0 | 62.0 ± 2.8 | 3.0 | 3.0 | 3.0 | 3.0 | 3.0 | 3.0 ± 1.4 |\n"
        "| Masked | 50.0 | 25.0 | 40.0 ± 0.0 | 48.0 | 48.0 | 48.0 | 48.0 | - | - |\n"
        "| Edge | - | - | - | - | - | - | - | - | - |\n"
        "| Ours | 50.0 | 25.0 | 56.0 ± 1.4 | 45.0 | 45.0 | 45.0 | 45.0 | 45.0 | 32.0 ± 2.8 |\n"
    )


def test_ablation_table_by_hand():
    """Sec. 5.6: both Ds on originals and on modified faces, over two seeds."""

    def report(originals, modified):
        return {"originals": originals, "both": {"error": modified}}

    ours = row("Ours", None, 0.3, None)
    ours["attacks"] = [
        {"own": report(0.05, 0.30), "never_saw": report(0.02, 0.40)},
        {"own": report(0.07, 0.30), "never_saw": report(0.02, 0.42)},
    ]
    text = figures.ablation_markdown({"rows": [ours, row("Edge", None, 0.3, None)]})
    assert text == (
        "| Method | own D: originals | own D: modified | pretrained D: originals "
        "| pretrained D: modified |\n"
        "| --- | ---: | ---: | ---: | ---: |\n"
        "| Ours | 6.0 ± 1.4 | 30.0 ± 0.0 | 2.0 ± 0.0 | 41.0 ± 1.4 |\n"
        "| Edge | - | - | - | - |\n"
    )


def test_looks_by_hand_and_what_was_not_measured():
    masked = {"l1": 0.5, "landmark_error": 0.25, "mtcnn_found": 0.0, "mtcnn_landmarks": None}
    ours = {"l1": 0.1234, "landmark_error": 0.2}
    rows = [{"name": "Masked", "structure": masked}, {"name": "Ours", "structure": ours}]
    assert figures.looks_markdown({"rows": [*rows, {"name": "Edge"}]}) == (
        "| Method | l1 | landmark_error | mtcnn_found | mtcnn_landmarks |\n"
        "| --- | ---: | ---: | ---: | ---: |\n"
        "| Masked | 0.500 | 0.250 | 0.000 | - |\n"
        "| Ours | 0.123 | 0.200 | - | - |\n"
        "| Edge | - | - | - | - |\n"
    )


def test_table_of_what_json_gives_back():
    read_back = json.loads(json.dumps(RESULTS))
    assert figures.table1_markdown(read_back) == figures.table1_markdown(RESULTS)
    not_a_number = {"rows": [row("Ours", seeds(math.nan), 0.4, seeds(0.3))]}
    assert "nan" not in figures.table1_markdown(not_a_number)


@pytest.mark.parametrize(
    "call",
    [
        lambda p: figures.fig3({"a": torch.zeros(3, 8, 8)}, p),
        lambda p: figures.fig5(torch.zeros(3, 8, 8), torch.zeros(3, 8, 8), p),
        lambda p: figures.fig6([torch.zeros(2, 1, 8, 8)], p),
        lambda p: figures.contact_sheet(torch.zeros(3, 8, 8), p, 2),
    ],
)
def test_pictures_of_another_shape_are_refused(tmp_path, call):
    with pytest.raises(ValueError, match=r"pictures are \(.*\): give \(n, 3, H, W\)"):
        call(tmp_path / "f.png")
    assert list(tmp_path.iterdir()) == []
