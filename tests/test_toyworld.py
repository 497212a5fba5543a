"""The drawn world against hand computation: where things are drawn, what gives an action or a
person away, what not.
"""

import math
import random

import numpy as np
import pytest
from PIL import Image, ImageDraw

from ppad import toyworld as toy
from ppad.toyworld import ACTIONS, BODY_ACTIONS, FACE_ACTIONS, ToyWorld

WORLD = ToyWorld(seed=3)


def parts(identity, number=0, kind="scene"):
    """Person and moment of a picture, drawn from the same streams as the picture itself."""
    return (
        toy._person(WORLD._stream("person", identity)),
        toy._moment(WORLD._stream(kind, identity, number)),
    )


def enlarged_mask(scene):
    """(H, W) bool: every pixel that the 1.6 times enlarged face box touches."""
    x0, y0, x1, y1 = scene.face_box
    cx = (x0 + x1) / 2
    cy = (y0 + y1) / 2
    half = 1.6 * (x1 - x0) / 2
    mask = np.zeros(scene.image.shape[:2], bool)
    mask[
        math.floor(cy - half) : math.ceil(cy + half), math.floor(cx - half) : math.ceil(cx + half)
    ] = True
    return mask


def test_a_picture_is_a_function_of_its_arguments():
    face = WORLD.face(5, 2)
    scene = WORLD.scene("Iron", 5, 2)
    other = ToyWorld(seed=3)
    other.scene(0, 1, 1), other.face(9, 9)  # what was drawn before must not matter
    assert np.array_equal(face.image, other.face(5, 2).image)
    assert np.array_equal(face.landmarks, other.face(5, 2).landmarks)
    again = other.scene("Iron", 5, 2)
    assert np.array_equal(scene.image, again.image) and np.array_equal(scene.box, again.box)
    for image in (
        WORLD.face(5, 3).image,
        WORLD.face(6, 2).image,
        ToyWorld(seed=4).face(5, 2).image,
    ):
        assert np.abs(image.astype(int) - face.image).mean() > 5
    assert vars(parts(5, 2)[0]) == vars(parts(5, 3)[0]), "the person changed between two pictures"


def test_shapes_types_and_names():
    face = WORLD.face(0, 0, size=48)
    assert face.image.shape == (48, 48, 3) and face.image.dtype == np.uint8
    assert face.landmarks.shape == (5, 2) and face.landmarks.dtype == np.float32
    assert len(ACTIONS) == 10 and {*FACE_ACTIONS, *BODY_ACTIONS} == {*ACTIONS}
    for index, name in enumerate(ACTIONS):
        scene = WORLD.scene(index, 1, 7)
        assert (
            scene.label == index + 1
            and scene.image.shape == (160, 160, 3)
            and scene.image.dtype == np.uint8
        )
        assert np.array_equal(scene.image, WORLD.scene(name, 1, 7).image)


def test_landmarks_are_turned_scaled_and_moved_like_a_rotation_matrix_does():
    for identity in range(20):
        p, m = parts(identity, kind="face")
        t = np.radians(m.roll)
        mouth = p.mouth_width * (1 + m.smile)
        v = p.mouth_v - m.smile
        points = np.array(
            [[-p.eye_gap, p.eye_v], [p.eye_gap, p.eye_v], [0, p.nose_v], [-mouth, v], [mouth, v]]
        )
        # The parallax of a turned head.
        points += np.outer([0.8, 0.8, 1.3, 0.9, 0.9], [m.yaw, m.pitch])
        unit = 64 / 3.2 * (1 + 0.06 * m.scale)
        rotation = np.array([[np.cos(t), -np.sin(t)], [np.sin(t), np.cos(t)]])
        expected = 64 * (0.5 + 0.03 * np.array([m.dx, m.dy])) + unit * points @ rotation.T
        assert np.allclose(WORLD.face(identity, 0).landmarks, expected, atol=1e-3)


def test_landmarks_lie_on_what_is_drawn():
    """Painted large, with pupils and lips in colors that nothing else has: their centers are the
    landmarks.
    """
    for identity in range(12):
        p, m = parts(identity)
        p.eye_color = (0, 255, 0)
        p.lips = (0, 0, 255)
        p.marks = []
        p.glasses = "none"
        p.front = "bald"
        p.beard = "none"
        p.eye_open = 0.9
        m.blink = False
        m.gaze = 0j
        m.open = 0.0
        m.smile = 0.0
        canvas = Image.new("RGB", (640, 640), (255, 255, 255))
        landmarks, _ = toy._paint_person(canvas, p, m, 160 + 140j, 90.0, "rest", random.Random(0))
        pixels = np.asarray(canvas)
        ys, xs = np.nonzero((pixels == p.eye_color).all(-1))
        # The canvas is twice as fine as the picture.
        xs = (xs + 0.5) / 2
        ys = (ys + 0.5) / 2
        middle = landmarks[:2].mean(0)
        away_from_middle = (np.stack([xs, ys], 1) - middle) @ (landmarks[1] - landmarks[0])
        for eye, of_eye in (
            (landmarks[0], away_from_middle < 0),
            (landmarks[1], away_from_middle > 0),
        ):
            # px, of 90 to a head unit
            assert np.hypot(xs[of_eye].mean() - eye[0], ys[of_eye].mean() - eye[1]) < 2.5
        mouth_line = toy._blend(p.lips, toy._INK, 0.6)
        ys, xs = np.nonzero((pixels == p.lips).all(-1) | (pixels == mouth_line).all(-1))
        along = np.stack([(xs + 0.5) / 2, (ys + 0.5) / 2], 1) @ (landmarks[4] - landmarks[3])
        length = np.linalg.norm(landmarks[4] - landmarks[3])
        assert abs(along.min() - landmarks[3] @ (landmarks[4] - landmarks[3])) < 3 * length
        assert abs(along.max() - landmarks[4] @ (landmarks[4] - landmarks[3])) < 3 * length


def test_face_box_fits_the_head_and_the_frame():
    for i in range(120):
        scene = WORLD.scene(FACE_ACTIONS[i % 6], i // 3, i)
        x0, y0, x1, y1 = scene.face_box
        assert 26 <= x1 - x0 <= 36 and x1 - x0 == pytest.approx(y1 - y0, abs=1e-3)
        # The eyes lie 2 * eye_gap head units apart.
        eyes = np.linalg.norm(scene.landmarks[1] - scene.landmarks[0])
        assert eyes / (2 * parts(i // 3)[0].eye_gap) == pytest.approx((x1 - x0) / 2, rel=1e-4)
        assert ((scene.landmarks > [x0, y0]) & (scene.landmarks < [x1, y1])).all()
        ex = (x0 + x1) / 2
        ey = (y0 + y1) / 2
        half = 0.8 * (x1 - x0)
        # The enlarged box needs no clipping.
        assert 0 <= ex - half and ex + half <= 160 and 0 <= ey - half


def test_person_box_is_tight_around_the_body_without_things(monkeypatch):
    scenes = [WORLD.scene(i % 10, i, i) for i in range(80)]
    monkeypatch.setattr(toy, "_paint_tool", lambda *_: None)
    monkeypatch.setattr(toy, "_paint_prop", lambda *_: None)
    for i, scene in enumerate(scenes):
        p, m = parts(i, i)
        center = 160 * complex(0.5 + 0.12 * m.dx, 0.25 + 0.04 * m.dy)
        unit = 160 * (0.099 + 0.010 * m.scale)
        blank = Image.new("RGB", (320, 320), (1, 2, 3))
        away = scene.face_box is None
        toy._paint_person(blank, p, m, center, unit, ACTIONS[i % 10], random.Random(0), away)
        ys, xs = np.nonzero((np.asarray(blank) != (1, 2, 3)).any(-1))
        drawn = np.array([xs.min(), ys.min(), xs.max() + 1, ys.max() + 1]) / 2
        assert np.abs(scene.box - drawn).max() <= 2, (ACTIONS[i % 10], scene.box, drawn)
        assert scene.box.min() >= 0 and scene.box.max() <= 160


def test_face_actions_are_alike_outside_the_enlarged_box():
    for number in range(25):
        scenes = [WORLD.scene(action, 40 + number, number) for action in FACE_ACTIONS]
        outside = ~enlarged_mask(scenes[0])
        for a in range(6):
            assert np.array_equal(scenes[a].image[outside], scenes[0].image[outside]), (
                number,
                FACE_ACTIONS[a],
            )
            assert np.array_equal(scenes[a].box, scenes[0].box)
            assert np.array_equal(scenes[a].landmarks, scenes[0].landmarks)
            for b in range(a):
                change = np.abs(scenes[a].image.astype(int) - scenes[b].image).max(-1)
                assert (change > 10).sum() > 15, (number, FACE_ACTIONS[a], FACE_ACTIONS[b])


def test_body_actions_differ_outside_the_enlarged_box():
    for number in range(10):
        scenes = [WORLD.scene(action, 40, number) for action in (*BODY_ACTIONS, "Lip")]
        outside = ~enlarged_mask(scenes[-1])
        for a in range(5):
            for b in range(a):
                change = np.abs(scenes[a].image.astype(int) - scenes[b].image).max(-1)
                assert (change[outside] > 10).sum() > 100


def test_props_lie_inside_the_enlarged_box_and_tools_outside():
    for number in range(100):
        p, m = parts(0, number)
        pen = toy._Pen(ImageDraw.Draw(Image.new("RGB", (8, 8))), 0j, 1.0)
        for action in FACE_ACTIONS:
            hand = complex(m.side * m.hand.real, m.hand.imag)
            toy._paint_prop(pen, action, random.Random(number), hand, m.side, m.tilt)
        assert max(max(abs(z.real), abs(z.imag)) for z in pen.reach) < 1.6
        for action in BODY_ACTIONS:
            pen = toy._Pen(ImageDraw.Draw(Image.new("RGB", (8, 8))), 0j, 1.0)
            hand = toy._ARMS[action][1]
            toy._paint_tool(
                pen, action, random.Random(number), complex(m.side * hand.real, hand.imag), m.side
            )
            u = np.abs(np.real(pen.reach))
            v = np.imag(pen.reach)
            assert (np.maximum(u, np.abs(v)) > 1.6).all(), action
            assert (
                action in ("Floor", "Fold", "Iron")
                and v.min() > 1.6
                or action == "Window"
                and u.min() > 1.6
            )


def test_some_people_are_seen_from_behind_but_never_in_a_face_action():
    away = [WORLD.scene(BODY_ACTIONS[i % 4], i, i, size=64).face_box is None for i in range(400)]
    assert 0.13 < np.mean(away) < 0.27  # a fifth, 3.5 standard deviations of 400 draws either way
    i = away.index(True)
    assert WORLD.scene(BODY_ACTIONS[i % 4], i, i).landmarks is None
    # The same moment, but the face is needed.
    assert WORLD.scene("Phone", i, i).face_box is not None


def test_props_in_face_pictures_have_nothing_to_do_with_the_person():
    bare = ToyWorld(3, prop_rate=0.0)
    holding = ToyWorld(3, prop_rate=1.0)
    share = []
    for identity in range(40):
        for number in range(8):
            image = WORLD.face(identity, number, size=32).image
            is_bare = np.array_equal(image, bare.face(identity, number, size=32).image)
            assert is_bare != np.array_equal(image, holding.face(identity, number, size=32).image)
            share.append(not is_bare)
    assert 0.3 < np.mean(share) < 0.5  # 0.4, 3.5 standard deviations of 320 draws either way
    # By chance 0.17; a trait of persons gives 0.49.
    assert 0.0 < np.std(np.reshape(share, (40, 8)).mean(1)) < 0.25


def test_people_in_one_pose_differ_in_nothing_but_themselves():
    first = WORLD.pose(1, 7).image
    others = [WORLD.pose(person, 7).image for person in range(2, 6)]
    for image in others:
        np.testing.assert_array_equal(image[:6], first[:6])  # the room, and its light
        assert (image[20:44, 20:44] != first[20:44, 20:44]).any(2).mean() > 0.3
    assert (WORLD.pose(1, 8).image[:6] != first[:6]).any()
    np.testing.assert_array_equal(WORLD.pose(1, 7).image, first)


def test_mean_color_does_not_tell_who_it_is():
    """Logistic regression on the difference of two pictures' mean colors: same person or not?
    Hardly above chance.
    """
    rng = np.random.default_rng(0)
    people = 120
    pictures = 5
    means = [
        [WORLD.face(i, k, size=32).image.mean((0, 1)) for k in range(pictures)]
        for i in range(people)
    ]
    means = np.array(means) / 30  # (people, pictures, 3), of order 1

    def pairs(lo, hi, count):
        first = rng.integers(lo, hi, count)
        a = rng.integers(0, pictures, count)
        b = rng.integers(1, pictures, count)
        same = rng.random(count) < 0.5
        second = np.where(
            same, first, lo + (first - lo + rng.integers(1, hi - lo, count)) % (hi - lo)
        )
        gap = np.abs(means[first, a] - means[second, (a + b) % pictures])
        return np.concatenate([gap, gap**2, np.ones((count, 1))], 1), same

    (x, y) = pairs(0, 80, 3000)
    (x_test, y_test) = pairs(80, people, 3000)
    weights = np.zeros(7)
    for _ in range(2000):
        weights -= 0.03 * x.T @ (1 / (1 + np.exp(-x @ weights)) - y) / len(x)
    assert np.mean((x_test @ weights > 0) != y_test) >= 0.40


def test_people_differ_in_the_fine_print_of_the_face():
    """All at one and the same moment: no two of 30 people share the face between brows and chin."""
    _, m = parts(0)
    m.blink = False
    faces = []
    for identity in range(30):
        canvas = Image.new("RGB", (128, 128))
        p = parts(identity)[0]
        # Colors of skin and hair may not be what tells them apart.
        p.skin = (200, 160, 130)
        p.hair = (60, 40, 30)
        toy._paint_person(canvas, p, m, 32 + 32j, 20.0, "rest", random.Random(0))
        faces.append(np.asarray(canvas.reduce(2), float)[24:50, 18:46])
    gaps = [np.abs(faces[a] - faces[b]).mean() for a in range(30) for b in range(a)]
    assert min(gaps) > 5


def test_bad_input_is_named():
    with pytest.raises(ValueError, match="action is 'Dance'.*Harmonica"):
        WORLD.scene("Dance", 0, 0)
    for action in (10, -1):
        with pytest.raises(ValueError, match="action is"):
            WORLD.scene(action, 0, 0)
    with pytest.raises(ValueError, match="size is 8 px"):
        WORLD.face(0, 0, size=8)
    with pytest.raises(ValueError, match="size is 8 px"):
        WORLD.scene(0, 0, 0, size=8)
    with pytest.raises(ValueError, match="prop_rate"):
        ToyWorld(prop_rate=1.5)
