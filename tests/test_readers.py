"""readers: tables, pictures, boxes and pair lists, and what is said about wrong ones."""

import math

import numpy as np
import pytest
import torch
from PIL import Image

from ppad.readers import (
    POINT_COLUMNS,
    BadPicture,
    DataError,
    checked_boxes,
    letterbox,
    numbers,
    open_picture,
    read_face,
    read_pair_lines,
    read_table,
)


def ramp(width, height):
    """A picture whose red is x and green is y, sampled at pixel centres: any crop tells where it came from."""
    x, y = np.meshgrid(np.arange(width), np.arange(height))
    return Image.fromarray(np.stack([x, y, 0 * x], 2).astype(np.uint8))


def write(path, text):
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize("mark", ["", "\ufeff"])
@pytest.mark.parametrize("comma", [",", "\t"])
def test_table_with_commas_or_tabs_and_byte_order_mark(tmp_path, comma, mark):
    path = write(tmp_path / "t.csv", mark + f"file{comma}a\nx/1.png{comma}2.5\nx/2.png{comma}3\n")
    rows = read_table(path, ("file", "a"))
    assert [(row["file"], *numbers(row, ("a",))) for row in rows] == [
        ("x/1.png", 2.5),
        ("x/2.png", 3.0),
    ]
    assert rows[1]["where"].endswith("line 3")


def test_table_faults_are_named(tmp_path):
    with pytest.raises(DataError, match="no such table"):
        read_table(tmp_path / "none.csv", ("file",))
    with pytest.raises(DataError, match="lacks the column.*b, c"):
        read_table(write(tmp_path / "t.csv", "file,a\nx,1\n"), ("file", "b", "c"))
    with pytest.raises(DataError, match="no row"):
        read_table(write(tmp_path / "t.csv", "file,a\n"), ("file",))
    with pytest.raises(DataError, match="t.csv, line 3: file is empty"):
        read_table(write(tmp_path / "t.csv", "a,file\n1,x\n2\n"), ("file", "a"))
    with pytest.raises(DataError, match="t.csv: cannot be read as a table .*field larger"):
        read_table(write(tmp_path / "t.csv", 'file,a\n"' + "x" * 200_000), ("file",))
    (tmp_path / "t.csv").write_bytes("file,a\nJos\u00e9.png,1\n".encode("latin1"))
    with pytest.raises(
        DataError,
        match="t.csv: cannot be read as a table .*can't decode.*; save it as CSV in UTF-8",
    ):
        read_table(tmp_path / "t.csv", ("file",))


@pytest.mark.parametrize("text", ["nan", "inf", "", "seven", None])
def test_a_number_that_is_none_names_row_and_column(text):
    with pytest.raises(DataError, match="t.csv, line 4: x_min"):
        numbers({"where": "t.csv, line 4", "x_min": text}, ("x_min",))


def test_boxes_a_hair_outside_are_clipped_and_others_refused():
    boxes = checked_boxes([[-0.6, 2, 30.9, 20.4]], 30, 20, "row 1")
    assert boxes.tolist() == [[0, 2, 30, 20]] and boxes.dtype == torch.float32
    assert checked_boxes(torch.zeros(0, 4), 30, 20, "row 1").shape == (0, 4)
    for box, says in (
        ([5, 5, 5, 9], "no area"),
        ([9, 5, 5, 9], "no area"),
        ([0, 0, 32, 9], "outside"),
        ([-2, 0, 9, 9], "outside"),
        ([0, 0, math.nan, 9], "NaN"),
        ([0, 0, math.inf, 9], "NaN"),
    ):
        with pytest.raises(DataError, match=f"row 1.*{says}"):
            checked_boxes([box], 30, 20, "row 1")


def test_a_face_box_may_overhang_but_not_miss_the_picture():
    assert checked_boxes([-9, -9, 5, 5], 30, 20, "row", math.inf).tolist() == [[0, 0, 5, 5]]
    for box in ([-9, 2, 0, 9], [30, 2, 40, 9], [2, 20, 9, 30]):
        with pytest.raises(DataError, match="outside"):
            checked_boxes(box, 30, 20, "row", math.inf)


@pytest.mark.parametrize("suffix", ["png", "jpg", "webp"])
def test_truncated_and_foreign_files_are_bad_pictures(tmp_path, suffix):
    noise = np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype=np.uint8)
    whole, cut = tmp_path / f"whole.{suffix}", tmp_path / f"cut.{suffix}"
    Image.fromarray(noise).save(whole)
    assert open_picture(whole).size == (40, 40)
    cut.write_bytes(whole.read_bytes()[: len(whole.read_bytes()) // 2])
    with pytest.raises(BadPicture, match="cut.*cannot be read"):
        open_picture(cut)
    cut.write_bytes(b"<html>404</html>")
    with pytest.raises(BadPicture, match="cannot be read"):
        open_picture(cut)
    with pytest.raises(BadPicture, match="no such picture"):
        open_picture(tmp_path / "none.png")


def test_grey_pictures_become_rgb(tmp_path):
    Image.new("L", (8, 8), 7).save(tmp_path / "g.png")
    assert open_picture(tmp_path / "g.png").getpixel((0, 0)) == (7, 7, 7)


def row_of(points, box=None):
    row = dict(zip(POINT_COLUMNS, map(str, np.ravel(points))), where="landmarks.csv, line 2")
    return row | dict(zip(("x_min", "y_min", "x_max", "y_max"), map(str, box or ())))


POINTS = [[70, 60], [110, 62], [92, 80], [74, 100], [108, 101]]


def test_face_is_cropped_by_1_6_about_its_box_and_landmarks_go_with_it(tmp_path):
    ramp(200, 180).save(tmp_path / "a.png")
    face, points, _ = read_face(tmp_path / "a.png", row_of(POINTS, (60, 40, 120, 120)), True, 64)
    assert face.shape == (64, 64, 3) and face.dtype == np.uint8
    # By hand: side 1.6 * 80 = 128 about (90, 80), so the corner is (26, 16) and two pixels become one.
    assert np.allclose(points, (np.array(POINTS) - [26, 16]) / 2)
    for (x, y), (u, v) in zip(
        POINTS, points
    ):  # colour under the new landmark = where the old one was
        red, green, _ = face[int(v), int(u)]
        assert abs(red - x) <= 2 and abs(green - y) <= 2


def test_crop_over_the_edge_repeats_the_border(tmp_path):
    ramp(200, 180).save(tmp_path / "a.png")
    face, _, _ = read_face(
        tmp_path / "a.png", row_of(POINTS, (-10, 40, 130, 140)), True, 64
    )  # corner (-52, -22), side 224
    assert (
        (face[:5, :, 1] == 0).all()
        and (face[:, :12, 0] == 0).all()
        and (face[-5:, :, 1] == 179).all()
    )
    assert (face[20:40, 14:, 2] == 0).all() and face[30, 40, 0] > 0


def test_square_crop_is_only_resized(tmp_path):
    ramp(160, 160).save(tmp_path / "a.png")
    face, points, _ = read_face(tmp_path / "a.png", row_of(POINTS), False, 80)
    assert face.shape == (80, 80, 3) and np.allclose(points, np.array(POINTS) / 2)


def test_unusable_faces(tmp_path):
    ramp(160, 150).save(tmp_path / "a.png")
    with pytest.raises(BadPicture, match="not square"):
        read_face(tmp_path / "a.png", row_of(POINTS), False, 64)
    ramp(105, 105).save(tmp_path / "a.png")
    with pytest.raises(BadPicture, match="line 2: the landmarks do not fit"):
        read_face(tmp_path / "a.png", row_of(POINTS), False, 64)  # points of a larger picture
    with pytest.raises(BadPicture, match="no landmarks"):
        read_face(tmp_path / "a.png", None, False, 64)
    empty = dict.fromkeys(POINT_COLUMNS, None) | {"where": "t, line 9"}
    with pytest.raises(BadPicture, match="no landmarks"):
        read_face(tmp_path / "a.png", empty, False, 64)
    with pytest.raises(DataError, match="line 2: left_eye_x") as raised:
        read_face(tmp_path / "a.png", row_of([[math.nan, 1]] + POINTS[1:]), False, 64)
    assert not isinstance(raised.value, BadPicture)  # NaN is the table's fault: never skipped


@pytest.mark.parametrize(
    "size, inner", [((200, 100), (64, 32)), ((100, 200), (24, 48)), ((31, 17), (64, 35))]
)
def test_letterbox_fits_pads_with_grey_and_maps_boxes(size, inner):
    picture = Image.new("RGB", size, (10, 20, 30))
    frame, factors = letterbox(picture, (48, 64))
    assert frame.shape == (48, 64, 3)
    assert (frame[: inner[1], : inner[0]] == (10, 20, 30)).all()
    assert (frame[inner[1] :] == 128).all() and (frame[:, inner[0] :] == 128).all()
    assert torch.allclose(
        torch.tensor([0.0, 0.0, *size]) * factors, torch.tensor([0.0, 0.0, *inner])
    )


PAIRS = "2\t2\nA\t1\t2\nA\t1\t3\nA\t1\tB\t1\nA\t2\tB\t1\nC\t1\t2\nD\t1\t2\nC\t1\tD\t1\nC\t2\tD\t1\n"


def test_pair_lines(tmp_path):
    per_fold, pairs = read_pair_lines(write(tmp_path / "pairs.txt", PAIRS))
    assert per_fold == 4 and len(pairs) == 8
    assert pairs[1] == (("A", 1), ("A", 3)) and pairs[3] == (("A", 2), ("B", 1))
    assert read_pair_lines(write(tmp_path / "pairs.txt", PAIRS.replace("\t", " "))) == (
        per_fold,
        pairs,
    )


@pytest.mark.parametrize(
    "old, new, says",
    [
        ("2\t2\n", "2\n", "first line"),
        ("2\t2\n", "", "first line"),
        ("C\t2\tD\t1\n", "", "has 7 pairs"),
        ("A\t1\t3", "A\t1", "pair 2 .*name i j"),
        ("A\t1\t3", "A\t1\tx", "pair 2 .*name i j"),
        ("A\t1\tB\t1", "A\t1\t2", "pair 3"),
        ("A\t1\t3", "A\t2\t1", "pair 2 .*twice"),
        ("A\t1\t3", "A\t3\t3", "pair 2 .*different"),
        ("A\t2\tB\t1", "A\t2\tA\t1", "pair 4"),
    ],
)
def test_pair_list_faults_are_named(tmp_path, old, new, says):
    assert old in PAIRS
    with pytest.raises(DataError, match=says):
        read_pair_lines(write(tmp_path / "pairs.txt", PAIRS.replace(old, new, 1)))


def test_a_postscript_under_a_pictures_name_is_none(tmp_path):
    """Pillow would hand it to Ghostscript."""
    (tmp_path / "a.jpg").write_text(
        "%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\n%%EOF\n"
    )
    with Image.open(tmp_path / "a.jpg") as picture:
        assert picture.format == "EPS"
    with pytest.raises(BadPicture, match="cannot identify image file"):
        open_picture(tmp_path / "a.jpg")
