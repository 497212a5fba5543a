"""folders: boxes, crops and frames by hand, folders of pictures, what is said of wrong ones."""

import gc
import math
import threading
import unicodedata

import numpy as np
import pytest
import torch
from PIL import Image

from ppad import files
from ppad.datasets import read_actions, read_faces, read_pairs
from ppad.files import BadPicture, DataError
from ppad.folders import (
    POINT_COLUMNS,
    check_convention,
    check_people,
    checked_boxes,
    cut_square,
    letterbox,
    look_at_face,
)


def ramp(width, height):
    """A picture whose red is x and green is y: any crop tells where it came from."""
    x, y = np.meshgrid(np.arange(width), np.arange(height))
    return Image.fromarray(np.stack([x, y, 0 * x], 2).astype(np.uint8))


def save(path, lines):
    path.write_text("\n".join(lines) + "\n")
    return path


def truncate(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


# ---------------------------------------------------------------- boxes, crops and frames


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
    boxes = checked_boxes([-9, -9, 5, 5], 30, 20, "row", math.inf)
    assert boxes.tolist() == [[-9, -9, 5, 5]]  # as it was found
    far = [-9e4, -9e4, 9e4, 9e4]  # to be repainted, it would be made whole in memory
    for box in ([-9, 2, 0, 9], [30, 2, 40, 9], [2, 20, 9, 30], far):
        with pytest.raises(DataError, match="outside"):
            checked_boxes(box, 30, 20, "row", math.inf)


def row_of(points, box=None):
    row = dict(zip(POINT_COLUMNS, map(str, np.ravel(points))), where="landmarks.csv, line 2")
    return row | dict(zip(("x_min", "y_min", "x_max", "y_max"), map(str, box or ())))


def read_face(path, row, size):
    """A crop and its landmarks, as `read_faces` gets them."""
    rows = {} if row is None else {path.name: row}
    crop, (place, square, checksum), landmarks = look_at_face(
        path.parent, rows, size, 1.6, path.name
    )
    assert place == str(path) and checksum == files.read_picture(path)[1]
    assert np.array_equal(crop, cut_square(files.open_picture(path), *square, size))
    return crop, landmarks


POINTS = [[70, 60], [110, 62], [92, 80], [74, 100], [108, 101]]


def test_face_is_cropped_by_1_6_about_its_box_and_landmarks_go_with_it(tmp_path):
    ramp(200, 180).save(tmp_path / "a.png")
    face, points = read_face(tmp_path / "a.png", row_of(POINTS, (60, 40, 120, 120)), 64)
    assert face.shape == (64, 64, 3) and face.dtype == np.uint8
    # By hand: side 1.6 * 80 = 128 about (90, 80), so the corner is (26, 16), two pixels become one.
    assert np.allclose(points, (np.array(POINTS) - [26, 16]) / 2)
    for (x, y), (u, v) in zip(POINTS, points):  # the color there says where the old one was
        red, green, _ = face[int(v), int(u)]
        assert abs(red - x) <= 2 and abs(green - y) <= 2


def test_crop_over_the_edge_repeats_the_border(tmp_path):
    ramp(200, 180).save(tmp_path / "a.png")
    # corner (-52, -22), side 224
    face, _ = read_face(tmp_path / "a.png", row_of(POINTS, (-10, 40, 130, 140)), 64)
    assert (
        (face[:5, :, 1] == 0).all()
        and (face[:, :12, 0] == 0).all()
        and (face[-5:, :, 1] == 179).all()
    )
    assert (face[20:40, 14:, 2] == 0).all() and face[30, 40, 0] > 0


def test_square_crop_is_only_resized(tmp_path):
    ramp(160, 160).save(tmp_path / "a.png")
    face, points = read_face(tmp_path / "a.png", row_of(POINTS), 80)
    assert face.shape == (80, 80, 3) and np.allclose(points, np.array(POINTS) / 2)


def test_a_crop_without_a_box_has_the_paper_scale_alone(tmp_path):
    """Else frames would be cut at face_scale, and faces as they are: M would see two framings."""
    ramp(160, 160).save(tmp_path / "a.png")
    rows = {"a.png": row_of(POINTS)}
    with pytest.raises(BadPicture, match="face_scale is 3; add face boxes .* face_scale 1.6"):
        look_at_face(tmp_path, rows, 64, 3.0, "a.png")


def test_unusable_faces(tmp_path):
    ramp(160, 150).save(tmp_path / "a.png")
    with pytest.raises(BadPicture, match="is 160 x 150 .* square crops"):
        read_face(tmp_path / "a.png", row_of(POINTS), 64)
    ramp(105, 105).save(tmp_path / "a.png")
    with pytest.raises(BadPicture, match="line 2: the landmarks do not fit"):
        read_face(tmp_path / "a.png", row_of(POINTS), 64)  # points of a larger picture
    with pytest.raises(BadPicture, match="no landmarks"):
        read_face(tmp_path / "a.png", None, 64)
    empty = dict.fromkeys(POINT_COLUMNS, None) | {"where": "t, line 9"}
    with pytest.raises(BadPicture, match="no landmarks"):
        read_face(tmp_path / "a.png", empty, 64)
    with pytest.raises(DataError, match="line 2: left_eye_x") as raised:
        read_face(tmp_path / "a.png", row_of([[math.nan, 1]] + POINTS[1:]), 64)
    assert not isinstance(raised.value, BadPicture)  # NaN is the table's fault: never skipped


@pytest.mark.parametrize(
    "size, inner", [((200, 100), (64, 32)), ((100, 200), (24, 48)), ((31, 17), (64, 35))]
)
def test_letterbox_fits_and_pads_with_gray(size, inner):
    picture = Image.new("RGB", size, (10, 20, 30))
    frame, found = letterbox(picture, (48, 64))
    assert frame.shape == (48, 64, 3) and found == inner
    assert (frame[: inner[1], : inner[0]] == (10, 20, 30)).all()
    assert (frame[inner[1] :] == 128).all() and (frame[:, inner[0] :] == 128).all()


# ---------------------------------------------------------------- folders


def painted(box, width=40, height=30):
    frame = torch.zeros(3, height, width, dtype=torch.uint8)
    x0, y0, x1, y1 = box
    frame[:, y0:y1, x0:x1] = 255
    return frame


def face_folder(root, people=("Ann", "Bob", "Cy"), each=3, prefix=""):
    """root/person/person_0001.png, each of one color; returns the lines of a table."""
    lines = [",".join(("file", *POINT_COLUMNS))]
    for i, person in enumerate(people):
        (root / person).mkdir(parents=True)
        for number in range(1, each + 1):
            name = f"{person}/{person}_{number:04d}.png"
            Image.new("RGB", (40, 40), (10 * i, number, 0)).save(root / name)
            lines.append(f"{prefix}{name},10,12,30,12,20,20,12,30,28,{30 + number}")
    return lines


def test_read_faces_of_one_split_by_a_table_of_several(tmp_path, monkeypatch):
    lines = (
        face_folder(tmp_path / "train", prefix="train/")
        + face_folder(tmp_path / "test", ("Dee",), prefix="test/")[1:]
    )
    save(tmp_path / "landmarks.csv", lines)
    faces = read_faces(tmp_path / "train", tmp_path / "landmarks.csv", 20)
    assert len(faces) == 9 and faces.pictures.shape == (9, 3, 20, 20) and faces.skipped == []
    assert (
        faces.identities.tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2]
        and faces.names[4] == "Bob/Bob_0002"
    )
    assert faces.pictures[4, :, 5, 5].tolist() == [10, 2, 0]
    # 40 px -> 20 px
    assert faces.landmarks[4].tolist() == [
        [5, 6],
        [15, 6],
        [10, 10],
        [6, 15],
        [14, 16],
    ]
    monkeypatch.chdir(tmp_path)
    assert read_faces("test", "landmarks.csv", 20).names[0] == "Dee/Dee_0001"


def test_read_faces_by_a_table_relative_to_the_folder_and_limits(tmp_path):
    table = save(tmp_path / "landmarks.csv", face_folder(tmp_path / "lfw"))
    faces = read_faces(tmp_path / "lfw", table, 20, people=2, pictures_each=2)
    assert faces.names == [
        f"{person}/{person}_{i:04d}" for person in ("Ann", "Bob") for i in (1, 2)
    ]


def test_read_faces_bad_pictures(tmp_path):
    lines = face_folder(tmp_path / "f")
    cut = tmp_path / "f/Ann/Ann_0002.png"
    cut.write_bytes(cut.read_bytes()[:60])
    (tmp_path / "f/Bob/Bob_0001.png").unlink()
    del lines[7]  # Cy_0001's row
    table = save(tmp_path / "t.csv", lines)
    with pytest.raises(DataError, match="Ann_0002.png: cannot be read"):
        read_faces(tmp_path / "f", table, 20)
    faces = read_faces(tmp_path / "f", table, 20, on_bad="skip")
    assert len(faces) == 6 and faces.identities.tolist() == [0, 0, 1, 1, 2, 2]
    assert [
        name
        for name in ("Ann_0002", "Bob_0001", "Cy_0001")
        if any(name in text for text in faces.skipped)
    ] == ["Ann_0002", "Bob_0001", "Cy_0001"] and len(faces.skipped) == 3


def test_the_threads_that_decode_end_with_an_error(tmp_path):
    """Else the garbage collector ends them; run by one of them, it prints a traceback."""
    lines = face_folder(tmp_path / "f")
    (tmp_path / "f/Ann/Ann_0002.png").write_bytes(b"")
    before = threading.active_count()
    gc.disable()
    with pytest.raises(DataError, match="Ann_0002.png: cannot be read"):
        read_faces(tmp_path / "f", save(tmp_path / "t.csv", lines), 20)
    left = threading.active_count()
    gc.enable()
    assert left == before


@pytest.mark.parametrize(
    "spoil, says",
    [
        (lambda lines: lines.append(lines[1]), "line 11: a second row for Ann/Ann_0001.png"),
        (
            lambda lines: lines.__setitem__(2, lines[2].replace(",10,", ",nan,")),
            "line 3: left_eye_x",
        ),
        (lambda lines: lines.__setitem__(0, lines[0].replace("nose_x", "n")), "nose_x"),
    ],
)
def test_read_faces_bad_table_is_an_error_even_when_skipping(tmp_path, spoil, says):
    lines = face_folder(tmp_path / "f")
    spoil(lines)
    with pytest.raises(DataError, match=says):
        read_faces(tmp_path / "f", save(tmp_path / "t.csv", lines), 20, on_bad="skip")


def test_hidden_files_and_folders_are_ignored(tmp_path):
    table = save(tmp_path / "t.csv", face_folder(tmp_path / "f"))
    (tmp_path / "f/.DS_Store").write_bytes(b"x")
    (tmp_path / "f/Thumbs.db").write_bytes(b"x")
    for name in ("Ann/._Ann_0001.png", ".trash/a.png", "Ann/Thumbs.db"):
        (tmp_path / "f" / name).parent.mkdir(exist_ok=True)
        (tmp_path / "f" / name).write_bytes(b"x")
    assert len(read_faces(tmp_path / "f", table, 20)) == 9


def test_landmarks_and_boxes_are_those_of_the_upright_picture(tmp_path):
    """As a phone stores it: sideways, with a note in its EXIF data to turn it by 90 degrees."""
    upright = ramp(100, 140)
    (tmp_path / "f/Ann").mkdir(parents=True)
    exif = upright.getexif()
    exif[0x112] = 6
    stored = upright.transpose(Image.Transpose.ROTATE_90)
    stored.save(tmp_path / "f/Ann/a.png", exif=exif)
    row = row_of(POINTS[:1] + [[90, 62]] + POINTS[2:3] + [[74, 100], [88, 101]], (20, 30, 80, 100))
    cut, points = read_face(tmp_path / "f/Ann/a.png", row, 56)
    upright.save(tmp_path / "f/Ann/b.png")
    again, same = read_face(tmp_path / "f/Ann/b.png", row, 56)
    assert np.array_equal(cut, again) and np.array_equal(points, same)
    frame, _ = letterbox(files.open_picture(tmp_path / "f/Ann/a.png"), (140, 100))
    assert frame[139, 99, 1] == 139


def test_blanks_around_a_name_make_no_other_action(tmp_path):
    lines = [line.replace("test,phoning", "test, phoning ") for line in ANNOTATIONS]
    actions = read_actions(*action_folder(tmp_path, lines), "train", (60, 80))
    assert actions.classes == ["phoning", "walk"]


def test_read_faces_of_an_empty_folder(tmp_path):
    table = save(tmp_path / "t.csv", face_folder(tmp_path / "f"))
    with pytest.raises(DataError, match="no usable"):
        read_faces(tmp_path / "elsewhere", table, 20, on_bad="skip")


ANNOTATIONS = [
    "file,split,action,width,height,x_min,y_min,x_max,y_max",
    "p/1.png,train,walk,40,30,4,6,20,28",
    "p/2.png,train,phoning,30,40,4,6,20,28",
    "p/2.png,train,walk,30,40,1,1,9,9",
    "p/3.png,test,phoning,40,30,4,6,20,28",
]
FACES = [
    "file,score,x_min,y_min,x_max,y_max",
    "p/1.png,0.9,8,8,18,18",
    "p/1.png,0.9,-6,0,6,9",
    "p/3.png,0.9,8,8,18,18",
]


def action_folder(root, annotations=ANNOTATIONS, faces=FACES):
    (root / "p").mkdir(exist_ok=True)
    for number, size in ((1, (40, 30)), (2, (30, 40)), (3, (40, 30))):
        Image.fromarray(painted((4, 6, 20, 28), *size).permute(1, 2, 0).numpy()).save(
            root / f"p/{number}.png"
        )
    return root, save(root / "annotations.csv", annotations), save(root / "faces.csv", faces)


def test_read_actions_letterboxes_frames_with_their_boxes(tmp_path):
    actions = read_actions(*action_folder(tmp_path), "train", (60, 80))
    assert actions.pictures.shape == (2, 3, 60, 80) and actions.names == ["p/1.png", "p/2.png"]
    assert actions.classes == ["phoning", "walk"]
    assert [label.tolist() for label in actions.labels] == [[2], [1, 2]]
    assert actions.boxes[0].tolist() == [[8, 12, 40, 56]]  # twice as large
    # 1.5 times: 30 x 40 fits as 45 x 60
    assert actions.boxes[1].tolist() == [
        [6, 9, 30, 42],
        [1.5, 1.5, 13.5, 13.5],
    ]
    assert actions.face_boxes[0].tolist() == [
        [16, 16, 36, 36],
        [-12, 0, 12, 18],
    ] and actions.face_boxes[1].shape == (0, 4)
    for frame, boxes in zip(actions.pictures, actions.boxes):
        x0, y0, x1, y1 = (int(v) for v in boxes[0])
        assert (frame[:, y0 + 1 : y1 - 1, x0 + 1 : x1 - 1] == 255).all()
    assert (actions.pictures[1, :, :, 45:] == 128).all()


def test_read_actions_skips_and_counts(tmp_path):
    where = action_folder(tmp_path)
    (tmp_path / "p/1.png").write_bytes(b"no picture")
    with pytest.raises(DataError, match="1.png: cannot be read"):
        read_actions(*where, "train", (60, 80))
    actions = read_actions(*where, "train", (60, 80), on_bad="skip")
    assert (
        actions.names == ["p/2.png"] and len(actions.skipped) == 1 and "1.png" in actions.skipped[0]
    )


def test_read_actions_limit_takes_frames_evenly(tmp_path):
    (tmp_path / "p").mkdir()
    Image.new("RGB", (40, 30)).save(tmp_path / "p/0.png")
    rows = []
    for i in range(10):
        (tmp_path / f"p/{i}.png").write_bytes((tmp_path / "p/0.png").read_bytes())
        rows.append(f"p/{i}.png,train,{'walk' if i < 5 else 'phoning'},40,30,4,6,20,28")
    tables = (
        save(tmp_path / "a.csv", ANNOTATIONS[:1] + rows),
        save(tmp_path / "f.csv", FACES[:1] + ["p/1.png,1,8,8,18,18"]),
    )
    assert read_actions(tmp_path, *tables, "train", (30, 40), limit=4).names == [
        "p/0.png",
        "p/2.png",
        "p/5.png",
        "p/7.png",
    ]
    assert len(read_actions(tmp_path, *tables, "train", (30, 40), limit=99)) == 10


@pytest.mark.parametrize(
    "table, line, says",
    [
        (0, "p/1.png,train,walk,40,30,4,6,20,28", "annotations.csv, line 6: a duplicate"),
        (0, "p/1.png,train,,40,30,4,6,20,28", "line 6: action is empty"),
        (0, "p/1.png,test,walk,40,30,4,6,20,28", "line 6: .*another split"),
        (0, "p/1.png,train,walk,40,30,4,6,4,28", "line 6: box .*no area"),
        (0, "p/1.png,train,walk,40,30,4,6,60,28", "line 6: box .*outside"),
        (0, "p/1.png,train,walk,40,30,4,6,nan,28", "line 6: x_max"),
        (0, "p/4.png,train,walk,40,30,4,6,20,28", "4.png: there is no such picture"),
        (1, "p/9.png,1,8,8,18,18", "faces.csv, line 5: p/9.png is not in"),
        (1, "p/1.png,1,8,8,8,18", "line 5: face box .*no area"),
        (1, "p/1.png,1,8,8,18,18", "line 5: a duplicate"),
    ],
)
def test_read_actions_faults_are_named(tmp_path, table, line, says):
    annotations = ANNOTATIONS + [line] * (table == 0)
    faces = FACES + [line] * (table == 1)
    with pytest.raises(DataError, match=says):
        read_actions(*action_folder(tmp_path, annotations, faces), "train", (60, 80))


def test_read_actions_other_size_or_split(tmp_path):
    where = action_folder(tmp_path)
    with pytest.raises(DataError, match="'val'.*test, train"):
        read_actions(*where, "val", (60, 80))
    Image.new("RGB", (80, 60)).save(tmp_path / "p/1.png")
    with pytest.raises(DataError, match="1.png: is 80 x 60.*40 x 30"):
        read_actions(*where, "train", (60, 80))


def test_read_pairs_finds_pictures_and_names_what_is_missing(tmp_path, capsys):
    faces = read_faces(tmp_path / "f", save(tmp_path / "t.csv", face_folder(tmp_path / "f")), 8)
    lines = ["2\t2", "Ann\t1\t3", "Bob\t1\t2", "Bob\t9\tCy\t1", "Ann\t1\tCy\t1"]
    lines += ["Ann\t2\t1", "Cy\t2\t9", "Bob\t3\tCy\t2", "Bob\t1\tCy\t1"]
    path = save(tmp_path / "pairs.txt", lines)
    pairs = read_pairs(path, faces)
    ends = [(faces.names[a], faces.names[b]) for a, b in zip(pairs.first, pairs.second)]
    assert ends == [
        ("Ann/Ann_0001", "Ann/Ann_0003"),
        ("Ann/Ann_0001", "Cy/Cy_0001"),
        ("Ann/Ann_0002", "Ann/Ann_0001"),
        ("Bob/Bob_0003", "Cy/Cy_0002"),
    ]
    # as many of both kinds in a fold: else who sees nothing would not err on half of them
    assert pairs.same.tolist() == [True, False, True, False]
    assert pairs.folds.tolist() == [0, 0, 1, 1] and len(pairs) == 4
    missing = ["Bob/Bob_0009 Cy/Cy_0001", "Cy/Cy_0002 Cy/Cy_0009"]
    assert pairs.dropped == [*missing, "Bob/Bob_0001 Bob/Bob_0002", "Bob/Bob_0001 Cy/Cy_0001"]
    said = capsys.readouterr().err
    assert "pairs.txt: 2 of 8 pairs are dropped" in said and "Bob/Bob_0009 Cy/Cy_0001" in said
    assert "; 2 more, to balance the folds" in said
    with pytest.raises(DataError, match="has 0 and 0 pairs .*Ann/Ann_0001"):
        read_pairs(save(path, ["1 1", "Zoe 1 2", "Zoe 1 Yan 1"]), faces)


def test_one_pair_too_many_of_hundreds_stays(tmp_path):
    table = face_folder(tmp_path / "f", each=25)
    table[1:] = [line.rpartition(",")[0] + ",30" for line in table[1:]]
    faces = read_faces(tmp_path / "f", save(tmp_path / "t.csv", table), 8)
    same = [f"Ann {i} {j}" for i in range(1, 26) for j in range(1, i)][:200]
    other = [f"Ann {i} Bob {j}" for i in range(1, 25) for j in range(1, 25)][:200]
    lines = ["2 100", *same[:99], "Ann 25 99", *other[:100], *same[100:], *other[100:]]
    pairs = read_pairs(save(tmp_path / "pairs.txt", lines), faces)
    assert len(pairs) == 399 and pairs.dropped == ["Ann/Ann_0025 Ann/Ann_0099"]


@pytest.mark.parametrize(
    "old, new, says",
    [
        ("Ann 1 3", "ann 1 3", "names ann/ann_0001, the folder has Ann/Ann_0001"),
        ("Bob 3 Cy 2", "Bob 3 CY 2", "names CY/CY_0002, the folder has Cy/Cy_0002"),
        ("Bob 3 Cy 2", "Bob 9 Cy 2", "fold 2 of 2 has 1 and 0 pairs .*the set lacks"),
        ("Ann 2 1\nBob 3 Cy 2", "Ann 2 9\nBob 9 Cy 2", "fold 2 of 2 has 0 and 0 pairs "),
        ("2 1", "1 1", "fold 1 of 1 .*at least two folds"),
    ],
)
def test_pairs_that_cannot_be_a_test_are_refused(tmp_path, old, new, says):
    faces = read_faces(tmp_path / "f", save(tmp_path / "t.csv", face_folder(tmp_path / "f")), 8)
    text = "2 1\nAnn 1 3\nAnn 1 Cy 1\nAnn 2 1\nBob 3 Cy 2\n"
    (tmp_path / "pairs.txt").write_text(text)
    assert len(read_pairs(tmp_path / "pairs.txt", faces)) == 4
    changed = text.replace(old, new)
    if new == "1 1":
        changed = "".join(changed.splitlines(True)[:3])
    (tmp_path / "pairs.txt").write_text(changed)
    with pytest.raises(DataError, match=f"pairs.txt: .*{says}"):
        read_pairs(tmp_path / "pairs.txt", faces)


def test_nobody_is_in_train_and_in_test(tmp_path):
    face_folder(tmp_path / "train")
    face_folder(tmp_path / "test", ("Dee", "Eve"))
    (tmp_path / "test/Cy").mkdir()  # empty: of nobody
    check_people(tmp_path)
    face_folder(tmp_path / "more" / "train", ("Ann Lee",))
    face_folder(tmp_path / "more" / "test", ("ann_lee",))
    with pytest.raises(DataError, match="train/Ann Lee and test/ann_lee"):
        check_people(tmp_path / "more")
    face_folder(tmp_path / "test", ("bob",))
    with pytest.raises(
        DataError, match="1 of the people are in train and in test.*train/Bob and test/bob"
    ):
        check_people(tmp_path)


# ---------------------------------------------------------------- conventions of tables


def edited(lines, change):
    """The rows of a table with `change` applied to their cells."""
    return [lines[0], *(",".join(change(line.split(","))) for line in lines[1:])]


def exchanged(*columns):
    """A change of cells that exchanges pairs of them."""

    def change(cells):
        for a, b in columns:
            cells[a], cells[b] = cells[b], cells[a]
        return cells

    return change


def shares(first, *sizes):
    """A change of cells that divides those from `first` on by sizes in turn."""

    def change(cells):
        for i in range(first, len(cells)):
            cells[i] = str(float(cells[i]) / sizes[(i - first) % len(sizes)])
        return cells

    return change


@pytest.mark.parametrize(
    "change, says",
    [
        (exchanged((1, 3), (2, 4), (7, 9), (8, 10)), "left_eye lies right of right_eye"),
        (exchanged((1, 3), (2, 4)), "left_eye lies right of right_eye"),
        (exchanged((7, 9), (8, 10)), "left_mouth lies right of right_mouth"),
        (exchanged((2, 8), (4, 10)), "eyes lie below the mouth .*from the top"),
        (shares(1, 40), "left_eye_x to right_mouth_y are mostly not above 1; give pixels"),
    ],
)
def test_landmarks_of_another_convention_are_refused(tmp_path, change, says):
    lines = face_folder(tmp_path / "f")
    one = [*lines[:-1], edited(lines, change)[-1]]  # one odd face is no convention
    assert len(read_faces(tmp_path / "f", save(tmp_path / "t.csv", one), 8)) == 9
    with pytest.raises(DataError, match=f"t.csv: .*{says}"):
        read_faces(tmp_path / "f", save(tmp_path / "t.csv", edited(lines, change)), 8)


def test_faces_are_compared_with_themselves_wherever_they_are():
    face = np.array([[10, 10], [30, 10], [20, 20], [12, 30], [28, 30]])
    mirrored = face * [-1, 1] + [40, 0]
    shifts = [[0, 0], [500, 500], [900, 900]]
    rows = [dict(zip(POINT_COLUMNS, (face + shift).flatten().astype(str))) for shift in shifts]
    odd = [dict(zip(POINT_COLUMNS, (mirrored + shift).flatten().astype(str))) for shift in shifts]
    check_convention("t.csv", [rows[0], odd[1], rows[2]])  # the one in the middle
    with pytest.raises(DataError, match="left_eye lies right of right_eye in most faces"):
        check_convention("t.csv", [odd[0], rows[1], odd[2]])


def test_boxes_in_shares_of_the_picture_are_refused(tmp_path):
    where = action_folder(tmp_path, edited(ANNOTATIONS, shares(5, 40, 40)))
    with pytest.raises(DataError, match="annotations.csv: x_min to y_max are mostly not above 1"):
        read_actions(*where, "train", (60, 80))
    where = action_folder(tmp_path, ANNOTATIONS, edited(FACES, shares(2, 40, 30)))
    with pytest.raises(DataError, match="faces.csv: x_min to y_max are mostly not above 1"):
        read_actions(*where, "train", (60, 80))


def test_one_box_that_overhangs_makes_no_pixels_of_shares(tmp_path):
    lines = edited(FACES, shares(2, 40, 30))
    lines[1] = lines[1].rpartition(",")[0] + ",1.01"
    where = action_folder(tmp_path, ANNOTATIONS, lines)
    with pytest.raises(DataError, match="faces.csv: x_min to y_max are mostly not above 1"):
        read_actions(*where, "train", (60, 80))


def test_other_splits_are_named(tmp_path, capsys):
    lines = [*ANNOTATIONS, ANNOTATIONS[1].replace("train", "val").replace("p/", "v/")]
    where = action_folder(tmp_path, lines)
    read_actions(*where, "test", (60, 80))
    assert "1 frames of other splits are not used, such as val" in capsys.readouterr().err


def test_pictures_that_no_person_has_are_named(tmp_path, capsys):
    table = save(tmp_path / "t.csv", face_folder(tmp_path / "f"))
    (tmp_path / "f" / "Ann" / "more").mkdir()
    for name in ("loose.png", "Ann/more/a.png", ".hidden.png"):
        Image.new("RGB", (9, 9)).save(tmp_path / "f" / name)
    assert len(read_faces(tmp_path / "f", table, 8)) == 9
    said = capsys.readouterr().err
    assert "2 pictures not in person/picture are not used, such as Ann/more/a.png" in said


def test_a_table_of_face_boxes_may_hold_its_header_alone_which_is_said_once(tmp_path, capsys):
    where = action_folder(tmp_path, faces=FACES[:1])
    actions = read_actions(*where, "train", (60, 80))
    assert [boxes.shape for boxes in actions.face_boxes] == [(0, 4), (0, 4)]
    assert capsys.readouterr().err == ""
    read_actions(*where, "test", (60, 80))
    assert "faces.csv: no face, so no frame is anonymized" in capsys.readouterr().err
    read_actions(*action_folder(tmp_path), "test", (60, 80))
    assert "no face" not in capsys.readouterr().err


@pytest.mark.parametrize("other", ["Phoning", "phon ing", "phoning_", "PHONING"])
def test_two_spellings_of_an_action_are_refused(tmp_path, other):
    lines = [*ANNOTATIONS[:-1], ANNOTATIONS[-1].replace("phoning", other)]
    with pytest.raises(DataError, match=f"has the actions .*{other}"):
        read_actions(*action_folder(tmp_path, lines), "train", (60, 80))


def test_an_action_that_nobody_learns_is_refused(tmp_path):
    lines = [*ANNOTATIONS[:-1], ANNOTATIONS[-1].replace("phoning", "drinking")]
    for split in ("train", "test"):
        with pytest.raises(DataError, match="no train frame shows the action 'drinking'"):
            read_actions(*action_folder(tmp_path, lines), split, (60, 80))
    where = action_folder(tmp_path)
    (tmp_path / "p/2.png").unlink()  # the one frame that shows it
    with pytest.raises(DataError, match="no train frame shows the action 'phoning'"):
        read_actions(*where, "train", (60, 80), on_bad="skip")


# ---------------------------------------------------------------- names and links


@pytest.mark.parametrize(
    "spell",
    [
        lambda file: file.replace("/", "\\"),
        lambda file: "./" + file.replace("/", "//"),
        lambda file: file.replace(".png", ".PNG"),
        lambda file: unicodedata.normalize("NFD", file),
        lambda file: unicodedata.normalize("NFC", file),
    ],
)
@pytest.mark.parametrize("form", ["NFC", "NFD"])
@pytest.mark.parametrize("suffix", [".png", ".PNG", ".Png"])
def test_names_are_matched_however_systems_spell_them(tmp_path, spell, form, suffix):
    lines = face_folder(tmp_path / "f", ("Zo\u00eb", "Bob"))
    for path in [*(tmp_path / "f").iterdir()]:
        folder = path.rename(path.with_name(unicodedata.normalize(form, path.name)))
        for picture in [*folder.iterdir()]:
            name = unicodedata.normalize(form, picture.stem) + suffix
            picture.rename(picture.with_name(name))
    lines = edited(lines, lambda cells: [spell(cells[0]), *cells[1:]])
    for memory in (0, 1e9):
        faces = read_faces(tmp_path / "f", save(tmp_path / "t.csv", lines), 8, memory=memory)
        assert faces.names[3:] == [f"Zo\u00eb/Zo\u00eb_{i:04d}" for i in (1, 2, 3)]
        assert len(faces.batch(torch.arange(6))[0]) == 6
    pairs = ["2 1", "Bob 1 2", "Bob 1 Zoe\u0308 1", "Zoe\u0308 1 3", "Bob 2 Zoe\u0308 3"]
    assert read_pairs(save(tmp_path / "p.txt", pairs), faces).dropped == []


def test_frames_are_found_however_they_are_spelled(tmp_path):
    where = action_folder(tmp_path, [line.replace("p/", "p\\") for line in ANNOTATIONS])
    (tmp_path / "p/1.png").rename(tmp_path / "p/1.PNG")
    assert read_actions(*where, "train", (60, 80)).names == ["p/1.png", "p/2.png"]


def test_two_pictures_of_one_name_are_refused(tmp_path):
    table = save(tmp_path / "t.csv", face_folder(tmp_path / "f"))
    for other in ("Ann_0002.jpg", "Ann_0002.PNG"):
        path = tmp_path / "f/Ann" / other
        Image.new("RGB", (40, 40)).save(path)
        with pytest.raises(DataError, match="Ann_0002.*Ann_0002.*have one name"):
            read_faces(tmp_path / "f", table, 8)
        path.unlink()


def test_linked_folders_and_tables_are_read(tmp_path):
    real = tmp_path / "real"
    save_to = tmp_path / "faces"
    save_to.mkdir()
    lines = face_folder(real / "a", prefix="train/")
    (save_to / "train").symlink_to(real / "a")
    table = save(save_to / "landmarks.csv", lines)
    assert len(read_faces(save_to / "train", table, 8)) == 9
    table.rename(tmp_path / "elsewhere.csv")
    table.symlink_to(tmp_path / "elsewhere.csv")
    assert len(read_faces(save_to / "train", table, 8)) == 9
    (tmp_path / "link").symlink_to(save_to)
    assert len(read_faces(tmp_path / "link/train", tmp_path / "link/landmarks.csv", 8)) == 9


def test_the_first_reason_is_quoted_when_nothing_is_left(tmp_path):
    lines = face_folder(tmp_path / "f")
    table = save(tmp_path / "t.csv", [line.replace("Ann", "Al") for line in lines[:4]])
    with pytest.raises(DataError, match="no usable picture: .*Al_0001.png"):
        read_faces(tmp_path / "f", table, 8, on_bad="skip")
