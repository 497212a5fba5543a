"""Toy world: drawn people who have a face, an identity and something to do.

The method needs faces F with identities and action frames V (paper, section 3.1).  Seeded drawings stand in for both:
no download, no real person, and yet the paper's dilemma.  Who somebody is shows in the fine print of the face; so do
six of the ten actions (DALY's, paper, Table 1), which differ only in the small thing held near the mouth.  `_person`
draws what stays (skin, hair, eyes, ..., marks), `_moment` what changes (pose, light, expression, clothes, room), and
`_paint_person` paints both face pictures (seen from near) and scenes (seen from afar).

People are drawn in *head units*: origin at the middle of the face, 1 unit = half the side of the face box, v down.  A
point is the complex number u + iv, so turning and scaling a head is one multiplication.  The face box is the square of
half-side 1 around the origin, the enlarged box (paper, section 4) that of half-side 1.6.

Every number here is ours unless it names its source.  The six held things (19 px long, details of 2 to 3 px, in a 160 px
frame) were tuned on a small classifier: plain in clean crops, doubtful when blurred to 24 or 16, mostly lost at 8.
Coarse traits (colours, the hair's outline) were kept weak, so that a blur hides people, too.
"""

import cmath
import math
import random
from types import SimpleNamespace
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw

# Paper, Table 1, in the order of its columns; DALY_NAMES are the labels of the data set itself, in the same order.
ACTIONS = (
    "Lip",
    "Brush",
    "Floor",
    "Window",
    "Drink",
    "Fold",
    "Iron",
    "Phone",
    "Harmonica",
    "Photo",
)
DALY_NAMES = (
    "ApplyingMakeUpOnLips",
    "BrushingTeeth",
    "CleaningFloor",
    "CleaningWindows",
    "Drinking",
    "FoldingTextile",
    "Ironing",
    "Phoning",
    "PlayingHarmonica",
    "TakingPhotosOrVideos",
)
FACE_ACTIONS = (
    "Lip",
    "Brush",
    "Drink",
    "Phone",
    "Harmonica",
    "Photo",
)  # told apart inside the enlarged box only
BODY_ACTIONS = ("Floor", "Window", "Fold", "Iron")  # told apart outside it only

ENLARGE = 1.6  # paper, section 4: face boxes are enlarged 1.6 times
_FINE = 2  # everything is drawn twice as large and averaged down, which smooths the edges
_CIRCLE = tuple(
    cmath.rect(1.0, 2 * math.pi * i / 20) for i in range(20)
)  # from image-right, clockwise as v is down
_SKIN = (
    (236, 196, 166),
    (222, 176, 142),
    (204, 154, 120),
    (184, 132, 98),
    (162, 114, 84),
    (140, 96, 70),
)
_HAIR = ((44, 34, 32), (70, 48, 36), (98, 64, 42), (132, 88, 52), (122, 64, 40), (116, 108, 102))
_EYES = ((70, 46, 30), (104, 72, 40), (80, 110, 70), (70, 104, 150), (104, 112, 120))
_LIPS = ((178, 88, 84), (160, 70, 74), (196, 108, 104), (140, 74, 66), (190, 60, 76))
_CLOTH = (
    (180, 60, 60),
    (60, 90, 160),
    (70, 140, 90),
    (220, 200, 120),
    (120, 80, 150),
    (70, 70, 80),
    (225, 225, 225),
)
_THING = (
    (196, 52, 60),
    (52, 92, 180),
    (48, 140, 96),
    (226, 186, 70),
    (150, 70, 150),
    (60, 62, 72),
    (222, 222, 226),
)
_INK, _PALE = (34, 28, 30), (240, 240, 236)  # pupils and outlines; teeth and the whites of the eyes

_HAIRLINES = {  # where the hair begins, from the right temple to the left one: (u / half the face's width, v)
    "bald": (),
    "short": ((1.0, -0.1), (0.8, -0.45), (0.35, -0.6), (-0.35, -0.6), (-0.8, -0.45), (-1.0, -0.1)),
    "fringe": (
        (1.0, 0.1),
        (0.85, -0.3),
        (0.45, -0.36),
        (0.2, -0.28),
        (-0.1, -0.36),
        (-0.4, -0.28),
        (-0.85, -0.32),
        (-1.0, 0.1),
    ),
    "part": (
        (1.0, 0.1),
        (0.85, -0.4),
        (0.5, -0.8),
        (0.1, -0.55),
        (-0.5, -0.38),
        (-0.9, -0.25),
        (-1.0, 0.1),
    ),
    "middle": (
        (1.0, 0.2),
        (0.85, -0.3),
        (0.4, -0.6),
        (0.0, -0.86),
        (-0.4, -0.6),
        (-0.85, -0.3),
        (-1.0, 0.2),
    ),
    "receding": (
        (1.0, -0.1),
        (0.92, -0.55),
        (0.6, -0.85),
        (0.2, -0.66),
        (-0.2, -0.66),
        (-0.6, -0.85),
        (-0.92, -0.55),
        (-1.0, -0.1),
    ),
}
_BACKS = {  # the hair behind the head, as ellipses: (u, v, half-width, half-height), u-wise in half the face's width
    "none": (),
    "long": ((0, -0.25, 1.15, 0.85), (-0.75, 0.6, 0.5, 1.0), (0.75, 0.6, 0.5, 1.0)),
    "bob": ((0, -0.25, 1.15, 0.85), (-0.8, 0.25, 0.45, 0.6), (0.8, 0.25, 0.45, 0.6)),
    "bun": ((0.1, -1.15, 0.45, 0.3),),
    "curly": tuple((1.1 * c.real, c.imag, 0.27, 0.2) for c in _CIRCLE[9:] + _CIRCLE[:2]),
    "afro": ((0, -0.3, 1.3, 1.0),),
    "tail": ((1.1, -0.2, 0.45, 0.75), (1.35, 0.4, 0.3, 0.5)),
}
_ARMS = {  # (elbow, hand) of the working arm, for a working side at +u, then of the other arm
    "rest": (1.7 + 2.7j, 1.6 + 3.9j, -1.7 + 2.7j, -1.6 + 3.9j),
    "Floor": (1.7 + 2.6j, 1.9 + 3.5j, -0.6 + 3.0j, 1.2 + 2.7j),
    "Window": (2.3 + 1.5j, 2.9 - 0.4j, -1.7 + 2.7j, -1.6 + 3.9j),
    "Fold": (1.6 + 2.7j, 0.9 + 3.1j, -1.6 + 2.7j, -0.9 + 3.1j),
    "Iron": (1.7 + 2.6j, 1.2 + 3.6j, -1.7 + 2.7j, -0.9 + 3.8j),
}


def _bar(a0, b0, a1, b1):
    return (a0, b0), (a1, b0), (a1, b1), (a0, b1)


_PROPS = {  # what tells the held things apart: polygons of (along, across), from the far end, in half-lengths
    "Lip": [((0, -0.3), (0.6, -0.3), (0.2, 0.3), (0, 0.3))],  # a slanted stick
    "Brush": [_bar(a, -0.75, a + 0.17, -0.1) for a in (-0.17, -0.52, -0.87)],  # bristles
    "Drink": [
        _bar(-0.2, -0.42, 0, 0.42),
        ((0, 0.0), (0, 0.22), (0.6, -0.2), (0.6, -0.42)),
    ],  # a rim and a straw
    "Phone": [_bar(0, 0.06, 0.6, 0.24)]
    + [
        _bar(a, b, a + 0.24, b + 0.22) for a in (-1.2, -0.75, -0.3) for b in (-0.27, 0.05)
    ],  # an aerial and two rows of keys
    "Harmonica": [
        _bar(a, -0.2, a + 0.26, 0.2) for a in (-1.5, -1.08, -0.66, -0.24)
    ],  # one row of holes
    "Photo": [
        _bar(-0.35, -0.5, -0.08, -0.26),
        [
            (r * c.real - 0.75, r * c.imag)
            for r, way in ((0.42, 1), (0.2, -1))
            for c in (_CIRCLE + _CIRCLE[:1])[::way]
        ],
    ],  # a finder and a lens's ring
}


class Face(NamedTuple):
    """A portrait, framed like the enlarged face box."""

    image: np.ndarray  # (S, S, 3) uint8 RGB
    landmarks: (
        np.ndarray
    )  # (5, 2) float32 x, y px: left eye, right eye, nose, left and right mouth corner


class Scene(NamedTuple):
    """A frame with one person doing one of the ten actions."""

    image: np.ndarray  # (S, S, 3) uint8 RGB
    box: np.ndarray  # (4,) float32 xyxy px around the person, without tools and held things
    label: int  # index in ACTIONS + 1: 1 to 10 (0 is background)
    face_box: (
        np.ndarray | None
    )  # (4,) float32 xyxy px, not enlarged; None when the face is turned away
    landmarks: np.ndarray | None  # (5, 2) float32 px as in Face; None when the face is turned away


def _blend(a, b, t):
    return tuple(int(x + (y - x) * t) for x, y in zip(a, b))  # the colour t of the way from a to b


def _person(rng):
    """Draw an identity: each feature on its own, so that no single one (least of all a colour) gives it away."""
    u, pick = rng.uniform, rng.choice
    front, spot = (
        pick(tuple(_HAIRLINES)),
        complex(pick((-1, 1)) * u(0.25, 0.5), u(0.12, 0.5)),
    )  # spot: a mole or a scar
    freckles = [complex(s * u(0.15, 0.5), u(0.1, 0.3)) for s in (-1, 1) for _ in range(4)]
    return SimpleNamespace(
        skin=_blend(pick(_SKIN), pick(_SKIN), u(0.2, 0.5)),
        hair=_blend(pick(_HAIR), pick(_HAIR), u(0.2, 0.5)),
        front=front,
        back=pick(tuple(_BACKS)),
        flip=pick((-1, 1)),
        ears=u(0.1, 0.19),
        width=u(0.64, 0.82),
        top=u(0.92, 1.0),
        chin=u(0.86, 1.02),
        jaw=u(0.5, 1.15),
        eye_gap=u(0.29, 0.39),
        eye_v=u(-0.16, -0.06),
        eye_size=u(0.115, 0.175),
        eye_open=u(0.5, 0.9),
        eye_tilt=u(-0.04, 0.04),
        eye_colour=pick(_EYES),
        brow_v=u(0.2, 0.3),
        brow_width=u(0.05, 0.12),
        brow_tilt=u(-0.07, 0.07),
        brow_arch=u(0, 0.09),
        brow_length=u(0.15, 0.24),
        nose=pick(("side", "round", "long")),
        nose_v=u(0.18, 0.34),
        nose_width=u(0.08, 0.18),
        mouth_v=u(0.52, 0.64),
        mouth_width=u(0.2, 0.36),
        lips=pick(_LIPS),
        lip_width=u(0.03, 0.1),
        frame=pick(_THING),
        glasses=pick(("none", "none", "none", "round", "square", "half")),
        beard=pick(("none", "none", "none", "moustache", "goatee", "stubble")),
        marks=pick(
            (
                [],
                [spot],
                [spot],
                [spot + t * (0.1 + 0.14j) for t in (-1, -0.5, 0, 0.5, 1)],
                freckles,
            )
        ),
    )


def _moment(rng):
    """Draw what differs from picture to picture (`back`: hair worn differently). It must not see the action."""
    u, pick = rng.uniform, rng.choice
    return SimpleNamespace(
        roll=u(-15, 15),
        yaw=u(-0.2, 0.2),
        pitch=u(-0.07, 0.07),
        scale=u(-1, 1),
        dx=u(-1, 1),
        dy=u(-1, 1),
        smile=u(-0.05, 0.1),
        open=max(0, u(-0.15, 0.13)),
        brows=max(0, u(-0.08, 0.08)),
        blink=u(0, 1) < 0.06,
        gaze=complex(u(-0.03, 0.03), u(-0.02, 0.02)),
        away=u(0, 1) < 0.2,
        side=pick((-1, 1)),
        tilt=u(-10, 10),
        back=pick((None, pick(tuple(_BACKS)))),
        hand=complex(u(0.55, 0.75), u(0.6, 0.85)),
        shirt=_blend(pick(_CLOTH), pick(_CLOTH), u(0, 0.5)),
        trousers=_blend(pick(_CLOTH), _INK, 0.4),
        elbow=complex(u(1.75, 2.0), u(2.4, 2.8)),
        collar=u(0, 1) < 0.4,
        sleeves=u(0, 1) < 0.5,
        floor=u(0.72, 0.85),
        walls=[_blend(pick(_CLOTH), pick(_CLOTH), 0.4) for _ in range(2)],
        clutter=[
            (u(0, 1), u(0, 0.7), u(0.06, 0.2), u(0.06, 0.25), pick(_CLOTH), u(0, 1) < 0.3)
            for _ in range(6)
        ],
        gain=u(0.7, 1.2),
        cast=[u(-0.12, 0.12) for _ in range(3)],
        shade=cmath.rect(u(0, 0.35), u(0, 2 * math.pi)),
        noise=u(2, 5),
        noise_seed=rng.getrandbits(32),
    )


class _Pen:
    """Draws shapes given in head units, `roll` degrees clockwise; `reach` is where it drew (x + iy, px)."""

    def __init__(self, draw, centre, unit, roll=0.0):
        self.draw, self.centre, self.turn, self.reach = (
            draw,
            centre,
            cmath.rect(unit, math.radians(roll)),
            [],
        )

    def pixel(self, z):
        return self.centre + self.turn * z

    def _canvas(self, points):
        flat = [self.pixel(z) for z in points]
        self.reach.extend(flat)
        return [
            (z.real * _FINE - 0.5, z.imag * _FINE - 0.5) for z in flat
        ]  # PIL counts from the first pixel's centre

    def shape(self, points, fill):
        self.draw.polygon(self._canvas(points), fill=fill)

    def blob(self, centre, ru, rv, fill):
        self.shape([centre + complex(ru * c.real, rv * c.imag) for c in _CIRCLE], fill)

    def line(self, points, width, fill):
        wide = max(1, round(width * abs(self.turn) * _FINE))
        self.draw.line(
            self._canvas(points), fill=fill, width=wide, joint="curve" if wide > 2 else None
        )

    def box(self, a, b, fill):
        self.shape([a, complex(b.real, a.imag), b, complex(a.real, b.imag)], fill)


def _landmarks(p, m):
    """The five landmarks in head units. A turn of the head moves most what sticks out most: the nose."""
    turn, mouth = complex(m.yaw, m.pitch), p.mouth_width * (1 + m.smile)
    eyes, mouths = [
        [complex(-u, v) + depth * turn, complex(u, v) + depth * turn]
        for u, v, depth in ((p.eye_gap, p.eye_v, 0.8), (mouth, p.mouth_v - m.smile, 0.9))
    ]
    return [*eyes, 1j * p.nose_v + 1.3 * turn, *mouths]


def _outline(p):
    """The face's outline, 20 points like _CIRCLE's: an egg whose lower half is squared by `jaw`."""
    return [
        complex(
            p.width * math.copysign(abs(c.real) ** (p.jaw if c.imag > 0 else 0.85), c.real),
            c.imag * (p.chin if c.imag > 0 else p.top),
        )
        for c in _CIRCLE
    ]


def _paint_head(pen, p, m):
    """Ears, face, everything in it, and the hair above it."""
    outline, w, turn, dark = (
        _outline(p),
        p.width,
        complex(m.yaw, m.pitch),
        _blend(p.skin, _INK, 0.3),
    )
    left, right, nose, mouth_l, mouth_r = _landmarks(p, m)
    mouth, mw = (mouth_l + mouth_r) / 2, p.mouth_width
    for side in (-1, 1):
        pen.blob(complex(side * w, p.eye_v + 0.16), p.ears, 0.2, _blend(p.skin, _INK, 0.12))
    pen.shape(outline, p.skin)
    if p.beard == "stubble":
        cheek = [
            mouth + complex(a * mw, b)
            for a, b in ((-1.7, -0.08), (-0.9, -0.2), (0.9, -0.2), (1.7, -0.08))
        ]
        pen.shape(outline[1:10] + cheek, _blend(p.skin, p.hair, 0.35))
    elif p.beard == "goatee":
        pen.blob(mouth + 0.22j, 0.13, 0.12, _blend(p.skin, p.hair, 0.8))
    for spot in p.marks:
        size = 0.06 if len(p.marks) == 1 else 0.033
        pen.blob(spot + 0.8 * turn, size, size, _blend(p.skin, (90, 30, 24), 0.7))
    bridge, nw = complex(0.8 * m.yaw, p.eye_v + 0.1), p.nose_width
    if p.nose == "round":
        pen.blob(nose - 0.02j, nw, 0.09, _blend(p.skin, (200, 90, 80), 0.3))
    elif p.nose == "long":
        pen.shape([bridge, nose + nw + 0.04j, nose - nw + 0.04j], _blend(p.skin, _INK, 0.16))
    else:
        pen.line(
            [bridge - 0.05 * p.flip, nose - nw * p.flip + 0.02j, nose + nw * 0.5 * p.flip + 0.05j],
            0.05,
            dark,
        )
    for side, eye in ((-1, left), (1, right)):
        pen.blob(nose + side * 0.55 * nw + 0.05j, 0.03, 0.025, dark)  # a nostril
        s, out = (
            p.eye_size,
            complex(side * p.eye_size, p.eye_tilt),
        )  # out: from the eye to its outer corner
        if m.blink:
            pen.line([eye - out, eye + 0.04j, eye + out], 0.06, _INK)
        else:
            pen.blob(eye, s, s * p.eye_open, _PALE)
            pen.blob(eye + m.gaze, s * 0.58, min(s * 0.58, s * p.eye_open), p.eye_colour)
            pen.blob(eye + m.gaze, s * 0.28, s * 0.28, _INK)
            pen.line([eye - out, eye - 1j * s * p.eye_open, eye + out], 0.05, _INK)
        brow, end = eye - 1j * (p.brow_v + m.brows), complex(side * p.brow_length, p.brow_tilt)
        pen.line(
            [brow - end, brow - 1j * p.brow_arch, brow + end],
            p.brow_width,
            _blend(p.hair, _INK, 0.4),
        )
        if p.glasses != "none":
            corners = [complex(a, b) for a, b in ((1, 1), (-1, 1), (-1, -1), (1, -1), (1, 1))]
            rim = {"round": _CIRCLE + _CIRCLE[:1], "half": _CIRCLE[:11], "square": corners}[
                p.glasses
            ]
            pen.line([eye + complex(0.25 * c.real, 0.18 * c.imag) for c in rim], 0.055, p.frame)
            for a, b in (
                (eye + side * 0.25, complex(side * w, p.eye_v)),
                (eye - side * 0.25, (left + right) / 2),
            ):
                pen.line([a, b], 0.05, p.frame)
    if p.beard == "moustache":
        pen.shape(
            [
                mouth + complex(a * mw, b)
                for a, b in ((0, -0.18), (1.1, -0.04), (0, -0.08), (-1.1, -0.04))
            ],
            p.hair,
        )
    high, low, lip = (
        mouth + 1j * m.smile,
        mouth + 1j * (2 * m.smile + m.open),
        1j * p.lip_width,
    )  # lips' inner edges
    upper = [mouth_l, high - lip - 0.12, high - 0.6 * lip, high - lip + 0.12, mouth_r]
    pen.shape(upper + [low + lip + 0.1, low + lip - 0.1], p.lips)
    if m.open > 0.03:
        pen.shape(
            [0.8 * mouth_l + 0.2 * mouth, high, 0.8 * mouth_r + 0.2 * mouth, low], (84, 30, 34)
        )
        pen.line([high - 0.1 + 0.02j, high + 0.1 + 0.02j], 0.05, _PALE)
    else:
        pen.line([mouth_l, high, mouth_r], 0.04, _blend(p.lips, _INK, 0.6))
    if _HAIRLINES[p.front]:  # along the top of the head, and back along the hairline
        line = [complex(p.flip * a * w, b) for a, b in _HAIRLINES[p.front]][:: p.flip]
        pen.shape([1.06 * z for z in outline[10:] + [complex(w, 0)]] + line, p.hair)


def _paint_body(pen, p, m, lean):
    """Legs, torso, neck and collar; `lean` moves the hips sideways."""
    hip = complex(lean, 4.0)
    for side in (-1, 1):
        foot = complex(lean * 0.7 + side * 0.6, 6.6)
        pen.line([hip + side * 0.45, foot], 0.75, m.trousers)
        pen.box(foot - 0.45 - 0.1j, foot + 0.45 + 0.3j, _INK)
    pen.shape(
        [-0.45 + 1.25j, 0.45 + 1.25j, 1.3 + 1.6j, hip + 0.95, hip - 0.95, -1.3 + 1.6j], m.shirt
    )
    pen.box(-0.34 + 0.6j, 0.34 + 1.4j, _blend(p.skin, _INK, 0.2))
    for side in (-1, 1) if m.collar else ():
        pen.shape(
            [complex(side * 0.42, 1.2), complex(side * 0.05, 1.45), complex(side * 0.45, 1.75)],
            _PALE,
        )


def _paint_prop(pen, name, rng, hand, side, tilt):
    """The thing held at the face: all six alike in size and palette; what it is shows in details of 2 to 3 px."""
    at = hand - complex(0.3 * side, 0.2)
    turn = cmath.rect(
        rng.uniform(0.72, 0.8), cmath.phase(complex(-side, -0.35)) + math.radians(tilt)
    )  # to the mouth
    colour = _blend(
        rng.choice(_THING), _PALE, 0.6
    )  # pale, so that the details always stand out from it
    end, wide, way = rng.uniform(0.55, 0.65), rng.uniform(0.26, 0.3), side
    foot, rim = {"Brush": (0.6, 0.6), "Drink": (0.8, 1.3), "Photo": (1.3, 1.3)}.get(
        name, (1, 1)
    )  # a glass widens upwards
    shapes = [
        (((-1, -wide * foot), (end, -wide * rim), (end, wide * rim), (-1, wide * foot)), colour)
    ]
    shapes += [([(end + a, b) for a, b in points], _INK) for points in _PROPS[name]]
    for points, fill in shapes:
        pen.shape([at + turn * complex(a, way * b) for a, b in points], fill)


def _paint_tool(pen, action, rng, hand, side):
    """What the four body actions work with or on: outside the enlarged face box, and under the hands."""
    a, b = rng.sample(_THING, 2)
    if action == "Floor":  # a broom
        foot = complex(side * rng.uniform(2.5, 3.0), 6.5)
        pen.line([hand - (foot - hand) * 0.35, foot], 0.16, _blend(a, (150, 110, 70), 0.6))
        pen.shape([foot - 0.3 - 0.3j, foot + 0.3 - 0.3j, foot + 0.7 + 0.4j, foot - 0.7 + 0.4j], b)
    elif action == "Window":  # four panes and a cloth
        corner = complex(side * rng.uniform(1.75, 1.9), rng.uniform(-2.2, -1.8))
        pen.box(corner, corner + complex(side * 2.2, 3.6), (236, 234, 226))
        for u, v in ((0.15, 0.15), (1.15, 0.15), (0.15, 1.85), (1.15, 1.85)):
            pen.box(
                corner + complex(side * u, v),
                corner + complex(side * (u + 0.88), v + 1.55),
                (150, 196, 230),
            )
        pen.shape([hand + z for z in (-0.45 - 0.35j, 0.4 - 0.45j, 0.5 + 0.3j, -0.3 + 0.45j)], a)
    elif action == "Fold":  # a sheet with two creases
        low = 2.9 + rng.uniform(1.0, 1.7)
        pen.box(-1.15 + 2.9j, complex(1.15, low), a)
        pen.line([complex(-1.15, 1.45 + low / 2), complex(1.15, 1.45 + low / 2)], 0.12, b)
        pen.line([2.9j, 1j * low], 0.08, b)
    elif action == "Iron":  # a board on crossed legs, and an iron
        pen.line([1.4 + 6.8j, -1.2 + 4.2j, 1.2 + 4.2j, -1.4 + 6.8j], 0.14, (120, 120, 126))
        pen.box(-2.3 + 3.95j, 2.3 + 4.3j, a)
        pen.shape([hand + z for z in (-0.55 + 0.4j, 0.55 + 0.4j, 0.5 - 0.05j, -0.2 - 0.1j)], b)


def _paint_person(draw, p, m, centre, unit, action, rng, away=False):
    """Paint person p at moment m; `centre` x + iy px, `unit` px, action "rest" for nothing, away: seen from behind.

    Returns the landmarks, (5, 2) float32 px, and the points that the body reaches (x + iy px, no tools and props).
    """
    body, head, things = (
        _Pen(draw, centre, unit),
        _Pen(draw, centre, unit, m.roll),
        _Pen(draw, centre, unit),
    )
    for u, v, ru, rv in _BACKS["none" if p.front in ("bald", "receding") else m.back or p.back]:
        head.blob(complex(u * p.width * p.flip, v), ru * p.width, rv, p.hair)
    _paint_body(body, p, m, -0.9 * m.side if action == "Floor" else 0.0)
    if away:
        head.shape(_outline(p), p.skin if p.front == "bald" else p.hair)
    else:
        _paint_head(head, p, m)
    arms = _ARMS.get(action, (m.elbow, m.hand, *_ARMS["rest"][2:]))
    elbow, hand, elbow2, hand2 = [complex(m.side * z.real, z.imag) for z in arms]
    _paint_tool(things, action, rng, hand, m.side)
    for side, bend, end in ((-m.side, elbow2, hand2), (m.side, elbow, hand)):
        body.line([complex(side * 1.1, 1.75), bend], 0.56, _blend(m.shirt, _INK, 0.12))
        body.blob(bend, 0.28, 0.28, _blend(m.shirt, _INK, 0.12))
        body.line([bend, end], 0.4, _blend(m.shirt if m.sleeves else p.skin, _INK, 0.06))
        body.blob(end, 0.27, 0.27, p.skin)
    if action in FACE_ACTIONS:
        _paint_prop(things, action, rng, hand, m.side, m.tilt)
        things.line(
            [hand + 0.05j, hand - 0.2 * m.side - 0.02j], 0.12, _blend(p.skin, _INK, 0.15)
        )  # the thumb
    points = np.array([head.pixel(z) for z in _landmarks(p, m)])
    return np.stack([points.real, points.imag], 1).astype(np.float32), body.reach + head.reach


def _paint_room(m, size):
    """A fresh canvas with wall, floor and clutter (PIL image, _FINE times `size`)."""
    if size < 16:
        raise ValueError(
            f"size is {size} px, too small for a picture of a person: give 16 or more."
        )
    n, corners = size * _FINE, Image.new("RGB", (2, 2))
    corners.putdata([m.walls[0], m.walls[1], _blend(m.walls[0], m.walls[1], 0.5), m.walls[0]])
    room = corners.resize((n, n), Image.Resampling.BILINEAR)
    draw = ImageDraw.Draw(room)
    draw.rectangle((0, m.floor * n, n, n), fill=_blend(m.walls[1], _INK, 0.35))
    for x, y, w, h, colour, is_round in m.clutter:
        paint = draw.ellipse if is_round else draw.rectangle
        paint(
            ((x - w / 2) * n, y * n, (x + w / 2) * n, (y + h) * n),
            fill=_blend(colour, m.walls[0], 0.35),
        )
    return room, draw


def _develop(canvas, m):
    """Average the canvas down, then add light (brightness, colour cast, shading from one side) and sensor noise."""
    image = np.array(canvas.reduce(_FINE), np.float32)  # (S, S, 3)
    ramp = np.linspace(-1, 1, len(image), dtype=np.float32)
    light = m.gain * (1 + m.shade.real * ramp[None, :] + m.shade.imag * ramp[:, None])  # (S, S)
    image *= light[:, :, None] * (1 + np.array(m.cast, np.float32))
    image += np.float32(m.noise) * np.random.default_rng(m.noise_seed).standard_normal(
        image.shape, np.float32
    )
    return np.clip(image, 0, 255).astype(np.uint8)


class ToyWorld:
    """The drawn world: every picture is a function of `seed` and the call's arguments; nothing is remembered.

    seed: worlds of different seeds hold different people.
    prop_rate: share of face pictures in which the person, whoever it is, holds one of the six things, so that M meets
        in F what it meets in V.  ValueError outside [0, 1].
    """

    def __init__(self, seed: int = 0, prop_rate: float = 0.4):
        if not 0 <= prop_rate <= 1:
            raise ValueError(
                f"prop_rate is a share of the pictures: give a number from 0 to 1, not {prop_rate}."
            )
        self.seed, self.prop_rate = seed, prop_rate

    def _stream(self, *key):
        """An own stream of random numbers for each key (a text seed gives the same numbers on every machine)."""
        return random.Random("/".join(map(str, (self.seed, *key))))

    def face(self, identity: int, number: int, size: int = 64) -> Face:
        """Picture `number` of person `identity`; the face box fills 1/1.6 (give or take 6 %) of `size` (16 px up)."""
        p, m = (
            _person(self._stream("person", identity)),
            _moment(self._stream("face", identity, number)),
        )
        rng = self._stream("prop", identity, number)
        action = rng.choice(FACE_ACTIONS) if rng.random() < self.prop_rate else "rest"
        canvas, draw = _paint_room(m, size)
        centre, unit = (
            size * complex(0.5 + 0.03 * m.dx, 0.5 + 0.03 * m.dy),
            size / (2 * ENLARGE) * (1 + 0.06 * m.scale),
        )
        landmarks, _ = _paint_person(draw, p, m, centre, unit, action, rng)
        return Face(_develop(canvas, m), landmarks)

    def scene(self, action: "int | str", identity: int, number: int, size: int = 160) -> Scene:
        """Frame `number` of person `identity` doing `action`: 0 to 9, or a name of ACTIONS or of DALY_NAMES.

        Room, pose, light and raised arm do not depend on the action: among FACE_ACTIONS, two frames of one identity and
        number are equal outside the enlarged face box, pixel by pixel.  One in five frames of BODY_ACTIONS (8 % of all
        if actions are equally frequent) shows the person from behind.  size: px, 16 or more.
        """
        names = (
            ACTIONS
            if action in ACTIONS
            else DALY_NAMES
            if action in DALY_NAMES
            else range(len(ACTIONS))
        )
        if action not in names:
            raise ValueError(f"action is {action!r}: give 0 to 9 or one of {', '.join(ACTIONS)}.")
        index = names.index(action)
        p, m = (
            _person(self._stream("person", identity)),
            _moment(self._stream("scene", identity, number)),
        )
        away = m.away and ACTIONS[index] in BODY_ACTIONS
        rng = self._stream("do", ACTIONS[index], identity, number)
        canvas, draw = _paint_room(m, size)
        centre, unit = (
            size * complex(0.5 + 0.12 * m.dx, 0.25 + 0.04 * m.dy),
            size * (0.099 + 0.010 * m.scale),
        )
        landmarks, reach = _paint_person(draw, p, m, centre, unit, ACTIONS[index], rng, away)
        xs, ys = np.real(reach), np.imag(reach)
        box = np.float32([xs.min(), ys.min(), xs.max(), ys.max()]).clip(0, size)
        face_box = np.float32([-unit, -unit, unit, unit]) + np.float32(
            [centre.real, centre.imag] * 2
        )
        return Scene(
            _develop(canvas, m),
            box,
            index + 1,
            None if away else face_box,
            None if away else landmarks,
        )
