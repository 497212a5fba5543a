"""datasets: sets, toy builders, folder readers and the batch stream, against pictures made by hand."""

import io
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from ppad.datasets import (
    ActionSet,
    Batches,
    DataError,
    FaceSet,
    read_actions,
    read_faces,
    read_pairs,
    toy_actions,
    toy_faces,
    toy_pairs,
)
from ppad.readers import POINT_COLUMNS

NAMES = [f"A/A_{i:04d}" for i in (1, 2)]


# ---------------------------------------------------------------- sets


def marked_faces():
    """Two 20 px faces; the pixel under landmark k has the red value 40 (k + 1)."""
    points = torch.tensor([[5, 6], [14, 7], [10, 10], [6, 15], [13, 16]])
    images = torch.zeros(2, 3, 20, 20, dtype=torch.uint8)
    for k, (x, y) in enumerate(points.tolist()):
        images[:, 0, y, x] = 40 * (k + 1)
    return FaceSet(images, (points + 0.5).float().repeat(2, 1, 1), torch.tensor([0, 0]), NAMES)


def under(face, point):
    return round((face[0, int(point[1]), int(point[0])].item() + 1) * 127.5)


def test_face_batch_is_float_in_range_and_in_order():
    faces, points, people = marked_faces().batch(torch.tensor([1, 0, 1]))
    assert (
        faces.shape == (3, 3, 20, 20) and points.shape == (3, 5, 2) and people.tolist() == [0, 0, 0]
    )
    assert faces.dtype == torch.float32 and faces.min() == -1
    assert [under(faces[0], p) for p in points[0]] == [40, 80, 120, 160, 200]


def test_mirror_moves_pixels_and_landmarks_together_and_swaps_left_with_right():
    faces, points, _ = marked_faces().batch(torch.tensor([0, 1]), torch.tensor([True, False]))
    assert [under(faces[0], p) for p in points[0]] == [
        80,
        40,
        120,
        200,
        160,
    ]  # now the other eye is image-left
    assert [under(faces[1], p) for p in points[1]] == [40, 80, 120, 160, 200]
    assert (points[:, 0, 0] < points[:, 1, 0]).all() and (points[:, 3, 0] < points[:, 4, 0]).all()
    assert points[0, 0].tolist() == [20 - 14.5, 7.5]


def painted(box, width=40, height=30):
    frame = torch.zeros(3, height, width, dtype=torch.uint8)
    x0, y0, x1, y1 = box
    frame[:, y0:y1, x0:x1] = 255
    return frame


def action_set(boxes=((4, 6, 20, 28),), labels=(2,), faces=((8, 8, 18, 18),), size=(40, 30)):
    return ActionSet(
        painted((4, 6, 20, 28), *size)[None],
        [torch.tensor(boxes).float()],
        [torch.tensor(labels)],
        [torch.tensor(faces).reshape(-1, 4).float()],
        ["frame 7"],
        ["walk", "phoning"],
        [1],
    )


def test_action_batch_and_its_mirror_keep_the_box_on_the_paint():
    for mirror in (None, torch.tensor([False]), torch.tensor([True])):
        frames, targets, faces = action_set().batch(torch.tensor([0]), mirror)
        x0, y0, x1, y1 = (int(v) for v in targets[0]["boxes"][0])
        assert (frames[0, :, y0:y1, x0:x1] == 1).all() and (frames > 0).sum() == 3 * (x1 - x0) * (
            y1 - y0
        )
        assert targets[0]["labels"].tolist() == [2]
        # By hand: 10 px about (13, 13), times 1.6, is 5..21; mirrored in 40 px, 19..35.
        assert (
            faces[0].tolist() == [[19, 5, 35, 21]]
            if mirror is not None and mirror[0]
            else [[5, 5, 21, 21]]
        )


def test_face_boxes_are_clipped_after_enlarging_and_may_be_absent():
    _, _, faces = action_set(faces=((0, 0, 10, 10),)).batch(torch.tensor([0]))
    assert faces[0].tolist() == [[0, 0, 13, 13]]
    _, _, faces = action_set(faces=()).batch(torch.tensor([0]), torch.tensor([True]))
    assert faces[0].shape == (0, 4)


@pytest.mark.parametrize(
    "wrong, says",
    [
        ({"labels": (0,)}, "labels"),
        ({"labels": (3,)}, "labels"),
        ({"labels": (1, 2)}, "of 1 boxes"),
        ({"boxes": ((4, 6, 4, 28),)}, "no area"),
        ({"boxes": ((4, 6, 45, 28),)}, "outside"),
        ({"boxes": ((4, 6, float("nan"), 28),)}, "NaN"),
        ({"faces": ((40, 0, 50, 9),)}, "face box.*outside"),
    ],
)
def test_wrong_boxes_and_labels_are_refused_by_name(wrong, says):
    with pytest.raises(DataError, match=f"frame 7.*{says}"):
        action_set(**wrong)


def test_a_box_a_hair_outside_is_clipped():
    assert action_set(boxes=((-0.5, 6, 40.8, 30.9),)).boxes[0].tolist() == [[0, 6, 40, 30]]


# ---------------------------------------------------------------- toy builders


def test_toy_faces():
    faces = toy_faces(3, range(5, 9), 2, size=32)
    assert (
        len(faces) == 8
        and faces.images.shape == (8, 3, 32, 32)
        and faces.images.dtype == torch.uint8
    )
    assert (
        faces.identities.tolist() == [0, 0, 1, 1, 2, 2, 3, 3]
        and faces.names[3] == "toy_0006/toy_0006_0002"
    )
    again = toy_faces(3, range(6, 7), 2, size=32)  # the same person of the same world, drawn alone
    assert torch.equal(again.images, faces.images[2:4]) and torch.equal(
        again.landmarks, faces.landmarks[2:4]
    )
    assert not torch.equal(toy_faces(4, range(6, 7), 2, size=32).images, again.images)


def test_toy_actions_are_balanced_and_apart():
    train, test = toy_actions(0, 40, 80, range(4)), toy_actions(0, 10, 80, range(4, 6), start=40)
    assert torch.cat(train.labels).bincount().tolist() == [0] + [4] * 10
    assert train.frames.shape == (40, 3, 80, 80) and not set(train.names) & set(test.names)
    assert not torch.equal(
        toy_actions(0, 1, 80, range(4, 5)).frames, test.frames[:1]
    )  # scene 0 is not scene 40
    assert [train.classes[i] for i in train.face_actions] == [
        "Lip",
        "Brush",
        "Drink",
        "Phone",
        "Harmonica",
        "Photo",
    ]
    frames, targets, faces = train.batch(torch.arange(40))
    assert frames.min() >= -1 and frames.max() <= 1 and all(len(t["boxes"]) == 1 for t in targets)
    assert {len(f) for f in faces} <= {0, 1}


def people_of(faces, pairs, fold):
    return set(
        faces.identities[
            torch.cat([pairs.first[pairs.folds == fold], pairs.second[pairs.folds == fold]])
        ].tolist()
    )


def blank_faces(people, each):
    ids = torch.arange(people).repeat_interleave(each)
    return FaceSet(
        torch.zeros(len(ids), 3, 1, 1, dtype=torch.uint8),
        torch.zeros(len(ids), 5, 2),
        ids,
        [""] * len(ids),
    )


@pytest.mark.parametrize("people, own", [(20, True), (6, False)])
def test_toy_pairs_are_balanced_and_unique(people, own):
    faces = blank_faces(people, 6)
    pairs = toy_pairs(faces, folds=5, per_fold=12, seed=1)
    assert len(pairs) == 120 and torch.equal(
        pairs.same, faces.identities[pairs.first] == faces.identities[pairs.second]
    )
    for fold in range(5):
        assert (pairs.folds == fold).sum() == 24 and pairs.same[pairs.folds == fold].sum() == 12
    assert len({frozenset(p) for p in zip(pairs.first.tolist(), pairs.second.tolist())}) == 120
    assert (pairs.first != pairs.second).all()
    met = [people_of(faces, pairs, fold) for fold in range(5)]
    assert (sum(map(len, met)) == len(set.union(*met))) == own
    assert torch.equal(pairs.first, toy_pairs(faces, 5, 12, seed=1).first)
    assert not torch.equal(pairs.first, toy_pairs(faces, 5, 12, seed=2).first)


def test_toy_pairs_from_too_few_faces():
    with pytest.raises(DataError, match="9 pairs of one person.*20"):
        toy_pairs(blank_faces(3, 3), folds=2, per_fold=10)


# ---------------------------------------------------------------- folders


def face_folder(root, people=("Ann", "Bob", "Cy"), each=3, prefix=""):
    """root/person/person_0001.png, each of one grey value, and a table beside or inside; returns the table's lines."""
    lines = [",".join(("file", *POINT_COLUMNS))]
    for i, person in enumerate(people):
        (root / person).mkdir(parents=True)
        for number in range(1, each + 1):
            name = f"{person}/{person}_{number:04d}.png"
            Image.new("RGB", (40, 40), (10 * i, number, 0)).save(root / name)
            lines.append(f"{prefix}{name},10,12,30,12,20,20,12,30,28,{30 + number}")
    return lines


def save(path, lines):
    path.write_text("\n".join(lines) + "\n")
    return path


def test_read_faces_of_one_split_by_a_table_of_several(tmp_path, monkeypatch):
    lines = (
        face_folder(tmp_path / "train", prefix="train/")
        + face_folder(tmp_path / "test", ("Dee",), prefix="test/")[1:]
    )
    save(tmp_path / "landmarks.csv", lines)
    faces = read_faces(tmp_path / "train", tmp_path / "landmarks.csv", 20)
    assert len(faces) == 9 and faces.images.shape == (9, 3, 20, 20) and faces.skipped == []
    assert (
        faces.identities.tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2]
        and faces.names[4] == "Bob/Bob_0002"
    )
    assert faces.images[4, :, 5, 5].tolist() == [10, 2, 0]
    assert faces.landmarks[4].tolist() == [
        [5, 6],
        [15, 6],
        [10, 10],
        [6, 15],
        [14, 16],
    ]  # 40 px -> 20 px
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
    with pytest.raises(ValueError, match="on_bad"):
        read_faces(tmp_path / "f", table, 20, on_bad="ignore")


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
    assert actions.frames.shape == (2, 3, 60, 80) and actions.names == ["p/1.png", "p/2.png"]
    assert actions.classes == ["phoning", "walk"] and actions.face_actions == [0]
    assert [label.tolist() for label in actions.labels] == [[2], [1, 2]]
    assert actions.boxes[0].tolist() == [[8, 12, 40, 56]]  # twice as large
    assert actions.boxes[1].tolist() == [
        [6, 9, 30, 42],
        [1.5, 1.5, 13.5, 13.5],
    ]  # 1.5 times: 30 x 40 fits as 45 x 60
    assert actions.face_boxes[0].tolist() == [
        [16, 16, 36, 36],
        [0, 0, 12, 18],
    ] and actions.face_boxes[1].shape == (0, 4)
    for frame, boxes in zip(actions.frames, actions.boxes):
        x0, y0, x1, y1 = (int(v) for v in boxes[0])
        assert (frame[:, y0 + 1 : y1 - 1, x0 + 1 : x1 - 1] == 255).all()
    assert (actions.frames[1, :, :, 45:] == 128).all()


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
    annotations, faces = ANNOTATIONS + [line] * (table == 0), FACES + [line] * (table == 1)
    with pytest.raises(DataError, match=says):
        read_actions(*action_folder(tmp_path, annotations, faces), "train", (60, 80))


def test_read_actions_other_size_or_split(tmp_path):
    where = action_folder(tmp_path)
    with pytest.raises(DataError, match="'val'.*test, train"):
        read_actions(*where, "val", (60, 80))
    Image.new("RGB", (80, 60)).save(tmp_path / "p/1.png")
    with pytest.raises(DataError, match="1.png: is 80 x 60.*40 x 30"):
        read_actions(*where, "train", (60, 80))


def test_read_pairs_finds_pictures_and_names_what_is_missing(tmp_path):
    faces = read_faces(tmp_path / "f", save(tmp_path / "t.csv", face_folder(tmp_path / "f")), 8)
    path = save(
        tmp_path / "pairs.txt", ["2\t1", "Ann\t1\t3", "Bob\t9\tCy\t1", "Ann\t2\t1", "Bob\t3\tCy\t2"]
    )
    pairs = read_pairs(path, faces)
    assert [faces.names[i] for i in pairs.first] == ["Ann/Ann_0001", "Ann/Ann_0002", "Bob/Bob_0003"]
    assert [faces.names[i] for i in pairs.second] == ["Ann/Ann_0003", "Ann/Ann_0001", "Cy/Cy_0002"]
    assert (
        pairs.same.tolist() == [True, True, False]
        and pairs.folds.tolist() == [0, 1, 1]
        and len(pairs) == 3
    )
    assert pairs.dropped == ["Bob_0009 Cy_0001"]
    with pytest.raises(DataError, match="none of its 2 pairs"):
        read_pairs(save(path, ["1 1", "Zoe 1 2", "Zoe 1 Yan 1"]), faces)


# ---------------------------------------------------------------- the stream


def test_batches_are_permutations_with_the_rest_dropped():
    batches, epochs = Batches(11, 4, seed=5), []
    for _ in range(50):
        epoch = torch.cat([batches.next()[0] for _ in range(2)])
        assert len(set(epoch.tolist())) == 8 and 0 <= epoch.min() and epoch.max() < 11
        epochs.append(tuple(epoch.tolist()))
    assert len(set(epochs)) > 45 and set(sum(epochs, ())) == set(
        range(11)
    )  # reshuffled; nothing is dropped for good


def test_batches_mirror_about_half():
    batches = Batches(8, 8, seed=0)
    share = torch.cat([batches.next()[1] for _ in range(250)]).float().mean()
    assert abs(share - 0.5) < 0.05  # 2,000 coins: 4.5 standard deviations


@pytest.mark.parametrize("done", [0, 1, 5, 6])
def test_batches_resume_bit_for_bit(done):
    straight = Batches(10, 3, seed=9)
    for _ in range(done):
        straight.next()
    buffer = io.BytesIO()
    torch.save(straight.state_dict(), buffer)
    ahead = [straight.next() for _ in range(8)]
    buffer.seek(0)
    resumed = Batches(10, 3, seed=0)
    resumed.load_state_dict(torch.load(buffer, weights_only=True))
    torch.rand(3)  # other draws do not disturb it
    for indices, mirror in ahead:
        again = resumed.next()
        assert torch.equal(indices, again[0]) and torch.equal(mirror, again[1])


def test_batches_refuse_what_cannot_be():
    for size in (0, 6):
        with pytest.raises(ValueError, match="batch_size"):
            Batches(5, size, seed=0)
    with pytest.raises(ValueError, match="count was 6 when this run began and is 5 now: restore"):
        Batches(5, 2, seed=0).load_state_dict(Batches(6, 2, seed=0).state_dict())


# ---------------------------------------------------------------- real photographs, where there are some


@pytest.fixture
def data():
    folder = Path(os.environ.get("PPAD_DATA", ""))
    if (
        not os.environ.get("PPAD_DATA")
        or not (folder / "photo_pack").is_dir()
        or not (folder / "lfw").is_dir()
    ):
        pytest.skip(
            "set PPAD_DATA to a folder that holds photo_pack/ and lfw/ to test with photographs"
        )
    return folder


def test_photo_pack_faces_and_pairs(data):
    faces = read_faces(data / "photo_pack/faces/test", data / "photo_pack/faces/landmarks.csv", 32)
    assert len(faces) == 1548 and faces.skipped == []
    eyes = faces.landmarks[:, 1] - faces.landmarks[:, 0]
    assert (eyes[:, 0] > 4).all() and (
        eyes[:, 1].abs() < eyes[:, 0]
    ).all()  # upright, image-left first
    pairs = read_pairs(data / "photo_pack/faces/pairs_test.txt", faces)
    assert len(pairs) == 1199 and pairs.dropped == ["Marilyn_Monroe_0001 Marilyn_Monroe_0002"]
    assert torch.equal(pairs.same, faces.identities[pairs.first] == faces.identities[pairs.second])


def test_lfw_is_cropped_as_photo_pack_was(data):
    lfw = read_faces(data / "lfw/lfw-deepfunneled", data / "lfw/landmarks.tsv", 160, people=120)
    pack = read_faces(
        data / "photo_pack/faces/test", data / "photo_pack/faces/landmarks.csv", 160, people=30
    )
    common = [name for name in pack.names if name in lfw.names]
    assert len(common) >= 5
    a, b = (torch.tensor([faces.names.index(name) for name in common]) for faces in (lfw, pack))
    assert (
        lfw.landmarks[a] - pack.landmarks[b]
    ).abs().max() < 0.02  # px; the tables are rounded to 0.1 and 0.01
    assert (
        np.abs(lfw.images[a].numpy().astype(int) - pack.images[b].numpy()).mean() < 5
    )  # of 255: webp's loss


def test_lfw_picture_without_a_face_is_an_error_or_is_skipped(data, tmp_path):
    table = (data / "lfw/landmarks.tsv").read_text().splitlines()
    only = save(
        tmp_path / "one.tsv",
        table[:1] + [line for line in table if line.startswith("Marilyn_Monroe/")],
    )
    person = tmp_path / "pictures" / "Marilyn_Monroe"
    person.mkdir(parents=True)
    for picture in (data / "lfw/lfw-deepfunneled/Marilyn_Monroe").iterdir():
        (person / picture.name).write_bytes(picture.read_bytes())
    with pytest.raises(DataError, match="Marilyn_Monroe_0001.jpg: .*no landmarks"):
        read_faces(tmp_path / "pictures", only, 32)
    assert len(read_faces(tmp_path / "pictures", only, 32, on_bad="skip").skipped) == 1


def test_photo_pack_actions(data):
    folder = data / "photo_pack/actions"
    actions = read_actions(
        folder, folder / "annotations.csv", folder / "faces.csv", "train", (80, 80), limit=100
    )
    assert len(actions) == 100 and len(actions.classes) == 10
    assert [actions.classes[i] for i in actions.face_actions] == [
        "blowing_bubbles",
        "brushing_teeth",
        "drinking",
        "phoning",
        "smoking",
        "taking_photos",
    ]
    assert torch.cat(actions.labels).bincount().tolist() == [0] + [10] * 10
    _, _, faces = actions.batch(torch.arange(100))
    assert sum(len(f) > 0 for f in faces) > 60
