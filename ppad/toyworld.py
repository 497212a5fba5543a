"""Toy world: drawn people who have a face, an identity and something to do.

The method needs faces F with identities and action frames V (paper, section 3.1). Seeded drawings
replace both: no download, no real person. They keep the paper's conflict: identity is in small
details of the face, and six of the ten actions (DALY's, paper, Table 1) differ only in a small
object near the mouth.

People are drawn in *head units*: origin at the middle of the face, 1 unit = half the side of the
face box, v down. A point is a complex number u + iv: rotating and scaling is one multiplication.

Every number here is ours unless it names its source. The six objects (19 px long, details of 2 to
3 px, in a 160 px frame) were tuned on a small classifier: clear in sharp crops, uncertain in
Blur(24x24) and Blur(16x16), mostly lost in Blur(8x8). Colors and the hair's outline say little
about identity, so that blur hides people, too.
"""

import cmath
import math
import random
from types import SimpleNamespace
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw

# fmt: off
# Paper, Table 1, in the order of its columns: DALY's actions.
ACTIONS = (
    "Lip", "Brush", "Floor", "Window", "Drink", "Fold", "Iron", "Phone", "Harmonica", "Photo",
)
# Actions that differ only inside the enlarged face box, and others only outside it.
FACE_ACTIONS = ("Lip", "Brush", "Drink", "Phone", "Harmonica", "Photo")
BODY_ACTIONS = ("Floor", "Window", "Fold", "Iron")

ENLARGE = 1.6  # paper, section 5.2: face boxes are enlarged 1.6 times
_FINE = 2  # everything is drawn twice as large and averaged down, which smooths the edges
# 20 points of the unit circle, clockwise from the right (v is down).
_CIRCLE = tuple(cmath.rect(1.0, 2 * math.pi * i / 20) for i in range(20))
_RIM = _CIRCLE + _CIRCLE[:1]
_SKIN = (
    (236, 196, 166), (222, 176, 142), (204, 154, 120), (184, 132, 98), (162, 114, 84),
    (140, 96, 70),
)
_HAIR = ((44, 34, 32), (70, 48, 36), (98, 64, 42), (132, 88, 52), (122, 64, 40), (116, 108, 102))
_EYES = ((70, 46, 30), (104, 72, 40), (80, 110, 70), (70, 104, 150), (104, 112, 120))
_LIPS = ((178, 88, 84), (160, 70, 74), (196, 108, 104), (140, 74, 66), (190, 60, 76))
_CLOTH = (
    (180, 60, 60), (60, 90, 160), (70, 140, 90), (220, 200, 120), (120, 80, 150), (70, 70, 80),
    (225, 225, 225),
)
_THING = (
    (196, 52, 60), (52, 92, 180), (48, 140, 96), (226, 186, 70), (150, 70, 150), (60, 62, 72),
    (222, 222, 226),
)
_INK = (34, 28, 30)  # pupils and outlines
_PALE = (240, 240, 236)  # teeth and the whites of the eyes

# Where the hair begins, from the right temple to the left; u in half-widths of the face.
_HAIRLINES = {
    "bald": (),
    "short": (1-.1j, .8-.45j, .35-.6j, -.35-.6j, -.8-.45j, -1-.1j),
    "fringe": (1+.1j, .85-.3j, .45-.36j, .2-.28j, -.1-.36j, -.4-.28j, -.85-.32j, -1+.1j),
    "part": (1+.1j, .85-.4j, .5-.8j, .1-.55j, -.5-.38j, -.9-.25j, -1+.1j),
    "middle": (1+.2j, .85-.3j, .4-.6j, -.86j, -.4-.6j, -.85-.3j, -1+.2j),
    "receding": (1-.1j, .92-.55j, .6-.85j, .2-.66j, -.2-.66j, -.6-.85j, -.92-.55j, -1-.1j),
}
# The hair behind the head, as ellipses: (middle, half-width, half-height), u as above.
_BACKS = {
    "none": (),
    "long": ((-.25j, 1.15, .85), (-.75+.6j, .5, 1), (.75+.6j, .5, 1)),
    "bob": ((-.25j, 1.15, .85), (-.8+.25j, .45, .6), (.8+.25j, .45, .6)),
    "bun": ((.1-1.15j, .45, .3),),
    "curly": tuple((complex(1.1 * c.real, c.imag), .27, .2) for c in _CIRCLE[9:] + _CIRCLE[:2]),
    "afro": ((-.3j, 1.3, 1),),
    "tail": ((1.1-.2j, .45, .75), (1.35+.4j, .3, .5)),
}
# (elbow, hand) of the active arm, at +u, then of the other arm.
_ARMS = {
    "rest": (1.7+2.7j, 1.6+3.9j, -1.7+2.7j, -1.6+3.9j),
    "Floor": (1.7+2.6j, 1.9+3.5j, -.6+3j, 1.2+2.7j),
    "Window": (2.3+1.5j, 2.9-.4j, -1.7+2.7j, -1.6+3.9j),
    "Fold": (1.6+2.7j, .9+3.1j, -1.6+2.7j, -.9+3.1j),
    "Iron": (1.7+2.6j, 1.2+3.6j, -1.7+2.7j, -.9+3.8j),
}
# fmt: on


def _moved(points, to, ru=1.0, rv=1.0):
    """The points scaled by ru in u and rv in v (-1 mirrors), then shifted by `to`."""
    return [to + complex(ru * z.real, rv * z.imag) for z in points]


def _box(a, b):
    """The corners of an upright rectangle from its opposite corners a, b."""
    return [a, complex(b.real, a.imag), b, complex(a.real, b.imag)]


# The objects' details: polygons; u runs along the object, in half-lengths, 0 near the mouth.
_PROPS = {
    "Lip": [(-0.3j, 0.6 - 0.3j, 0.2 + 0.3j, 0.3j)],  # a slanted stick
    "Brush": [_box(a - 0.75j, a + 0.17 - 0.1j) for a in (-0.17, -0.52, -0.87)],  # bristles
    # a rim and a straw
    "Drink": [_box(-0.2 - 0.42j, 0.42j), (0j, 0.22j, 0.6 - 0.2j, 0.6 - 0.42j)],
    # rows of keys and an aerial
    "Phone": [
        *(_box(z, z + 0.24 + 0.22j) for a in (-1.2, -0.75, -0.3) for z in (a - 0.27j, a + 0.05j)),
        _box(0.06j, 0.6 + 0.24j),
    ],
    "Harmonica": [_box(a - 0.2j, a + 0.26 + 0.2j) for a in (-1.5, -1.08, -0.66, -0.24)],  # holes
    # a viewfinder, and a lens: around the outer circle and back around the inner one
    "Photo": [
        _box(-0.35 - 0.5j, -0.08 - 0.26j),
        [0.42 * c - 0.75 for c in _RIM] + [0.2 * c - 0.75 for c in _RIM[::-1]],
    ],
}


class Face(NamedTuple):
    """A portrait, framed like the enlarged face box."""

    image: np.ndarray  # (S, S, 3) uint8 RGB
    landmarks: np.ndarray  # (5, 2) float32 x, y px: left eye, right eye, nose, mouth corners


class Scene(NamedTuple):
    """A frame with one person doing one of the ten actions."""

    image: np.ndarray  # (S, S, 3) uint8 RGB
    box: np.ndarray  # (4,) float32 xyxy px around the person without tools and objects
    label: int  # index in ACTIONS + 1: 1 to 10 (0 is background)
    face_box: np.ndarray | None  # (4,) float32 xyxy px, not enlarged; None if seen from behind
    landmarks: np.ndarray | None  # (5, 2) float32 px as in Face; None if seen from behind


def _blend(a, b, t):
    """The color at fraction t from a to b."""
    return tuple(int(x + (y - x) * t) for x, y in zip(a, b))


def _dark(color, t):
    return _blend(color, _INK, t)


def _person(rng):
    """A person's features, independent of each other: no single one reveals who it is."""
    u = rng.uniform
    pick = rng.choice
    front = pick(tuple(_HAIRLINES))
    spot = complex(pick((-1, 1)) * u(0.25, 0.5), u(0.12, 0.5))  # a mole or a scar
    scar = [spot + t * (0.1 + 0.14j) for t in (-1, -0.5, 0, 0.5, 1)]
    freckles = [complex(s * u(0.15, 0.5), u(0.1, 0.3)) for s in (-1, 1) for _ in range(4)]
    # fmt: off
    return SimpleNamespace(
        skin=_blend(pick(_SKIN), pick(_SKIN), u(.2, .5)),
        hair=_blend(pick(_HAIR), pick(_HAIR), u(.2, .5)),
        front=front, back=pick(tuple(_BACKS)), flip=pick((-1, 1)), ears=u(.1, .19),
        width=u(.64, .82), top=u(.92, 1), chin=u(.86, 1.02), jaw=u(.5, 1.15),
        eye_gap=u(.29, .39), eye_v=u(-.16, -.06), eye_size=u(.115, .175), eye_open=u(.5, .9),
        eye_tilt=u(-.04, .04), eye_color=pick(_EYES),
        brow_v=u(.2, .3), brow_width=u(.05, .12), brow_tilt=u(-.07, .07), brow_arch=u(0, .09),
        brow_length=u(.15, .24),
        nose=pick(("side", "round", "long")), nose_v=u(.18, .34), nose_width=u(.08, .18),
        mouth_v=u(.52, .64), mouth_width=u(.2, .36), lips=pick(_LIPS), lip_width=u(.03, .1),
        frame=pick(_THING), glasses=pick(("none", "none", "none", "round", "square", "half")),
        beard=pick(("none", "none", "none", "moustache", "goatee", "stubble")),
        marks=pick(([], [spot], [spot], scar, freckles)),
    )
    # fmt: on


def _moment(rng):
    """What varies between pictures, whatever the action (`back`: a different hairstyle)."""
    u = rng.uniform
    pick = rng.choice
    # fmt: off
    return SimpleNamespace(
        roll=u(-15, 15), yaw=u(-.2, .2), pitch=u(-.07, .07), scale=u(-1, 1), dx=u(-1, 1),
        dy=u(-1, 1),
        smile=u(-.05, .1), open=max(0, u(-.15, .13)), brows=max(0, u(-.08, .08)),
        blink=u(0, 1) < .06, gaze=complex(u(-.03, .03), u(-.02, .02)), away=u(0, 1) < .2,
        side=pick((-1, 1)), tilt=u(-10, 10), back=pick((None, pick(tuple(_BACKS)))),
        hand=complex(u(.55, .75), u(.6, .85)),
        shirt=_blend(pick(_CLOTH), pick(_CLOTH), u(0, .5)),
        trousers=_dark(pick(_CLOTH), .4), elbow=complex(u(1.75, 2), u(2.4, 2.8)),
        collar=u(0, 1) < .4, sleeves=u(0, 1) < .5,
        floor=u(.72, .85), walls=[_blend(pick(_CLOTH), pick(_CLOTH), .4) for _ in range(2)],
        # background shapes: x, y, width, height (frame = 1), color, is it round
        clutter=[(u(0, 1), u(0, .7), u(.06, .2), u(.06, .25), pick(_CLOTH), u(0, 1) < .3)
                 for _ in range(6)],
        gain=u(.7, 1.2), cast=[u(-.12, .12) for _ in range(3)],
        shade=cmath.rect(u(0, .35), u(0, 2 * math.pi)), noise=u(2, 5),
        noise_seed=rng.getrandbits(32),
    )
    # fmt: on


class _Pen:
    """Draws shapes in head units, rotated by `roll` degrees. reach: all points, x + iy px."""

    def __init__(self, draw, center, unit, roll=0.0):
        self.draw = draw
        self.center = center
        self.factor = cmath.rect(unit, math.radians(roll))
        self.reach = []

    def pixel(self, z):
        return self.center + self.factor * z

    def _canvas(self, points):
        pixels = [self.pixel(z) for z in points]
        self.reach.extend(pixels)
        # In PIL the first pixel's center is at 0.
        return [(z.real * _FINE - 0.5, z.imag * _FINE - 0.5) for z in pixels]

    def shape(self, points, fill):
        self.draw.polygon(self._canvas(points), fill=fill)

    def blob(self, center, ru, rv, fill):
        self.shape(_moved(_CIRCLE, center, ru, rv), fill)

    def line(self, points, width, fill):
        width = max(1, round(width * abs(self.factor) * _FINE))
        self.draw.line(self._canvas(points), fill=fill, width=width, joint="curve")

    def box(self, a, b, fill):
        self.shape(_box(a, b), fill)


# Below, p is a person and m a moment.


def _landmarks(p, m):
    """The five landmarks in head units. The nose moves most when the head turns."""
    turn = complex(m.yaw, m.pitch)
    eye = complex(p.eye_gap, p.eye_v)
    mouth = complex(p.mouth_width * (1 + m.smile), p.mouth_v - m.smile)
    eyes = _moved((-eye.conjugate(), eye), 0.8 * turn)
    mouths = _moved((-mouth.conjugate(), mouth), 0.9 * turn)
    return [*eyes, 1j * p.nose_v + 1.3 * turn, *mouths]


def _outline(p):
    """The face's outline, 20 points: an egg whose lower half is squared by `jaw`."""
    points = []
    for c in _CIRCLE:
        power, height = (p.jaw, p.chin) if c.imag > 0 else (0.85, p.top)
        u = p.width * math.copysign(abs(c.real) ** power, c.real)
        points.append(complex(u, c.imag * height))
    return points


def _paint_head(pen, p, m):
    """Ears, face, everything in it, and the hair above it."""
    outline = _outline(p)
    turn = complex(m.yaw, m.pitch)
    left, right, nose, mouth_l, mouth_r = _landmarks(p, m)
    mouth = (mouth_l + mouth_r) / 2
    for side in (-1, 1):
        ear = complex(side * p.width, p.eye_v + 0.16)
        pen.blob(ear, p.ears, 0.2, _dark(p.skin, 0.12))
    pen.shape(outline, p.skin)
    if p.beard == "stubble":
        edge = (-1.7 - 0.08j, -0.9 - 0.2j, 0.9 - 0.2j, 1.7 - 0.08j)
        cheek = _moved(edge, mouth, p.mouth_width)
        pen.shape(outline[1:10] + cheek, _blend(p.skin, p.hair, 0.35))
    elif p.beard == "goatee":
        pen.blob(mouth + 0.22j, 0.13, 0.12, _blend(p.skin, p.hair, 0.8))
    for spot in p.marks:
        size = 0.06 if len(p.marks) == 1 else 0.033
        pen.blob(spot + 0.8 * turn, size, size, _blend(p.skin, (90, 30, 24), 0.7))
    _paint_nose(pen, p, m, nose)
    for side, eye in ((-1, left), (1, right)):
        nostril = nose + side * 0.55 * p.nose_width + 0.05j
        pen.blob(nostril, 0.03, 0.025, _dark(p.skin, 0.3))
        _paint_eye(pen, p, m, eye, side)
        if p.glasses != "none":
            _paint_lens(pen, p, eye, side, (left + right) / 2)
    if p.beard == "moustache":
        edge = (-0.18j, 1.1 - 0.04j, -0.08j, -1.1 - 0.04j)
        pen.shape(_moved(edge, mouth, p.mouth_width), p.hair)
    _paint_mouth(pen, p, m, mouth_l, mouth, mouth_r)
    if p.front != "bald":  # along the top of the head, and back along the hairline
        line = _moved(_HAIRLINES[p.front], 0, p.flip * p.width)[:: p.flip]
        pen.shape([1.06 * z for z in outline[10:] + [complex(p.width, 0)]] + line, p.hair)


def _paint_nose(pen, p, m, nose):
    bridge = complex(0.8 * m.yaw, p.eye_v + 0.1)
    width = p.nose_width
    if p.nose == "round":
        pen.blob(nose - 0.02j, width, 0.09, _blend(p.skin, (200, 90, 80), 0.3))
    elif p.nose == "long":
        pen.shape([bridge, nose + width + 0.04j, nose - width + 0.04j], _dark(p.skin, 0.16))
    else:
        tip = nose - width * p.flip + 0.02j
        end = nose + width * 0.5 * p.flip + 0.05j
        pen.line([bridge - 0.05 * p.flip, tip, end], 0.05, _dark(p.skin, 0.3))


def _paint_eye(pen, p, m, eye, side):
    """An eye and its brow; side: -1 left, 1 right."""
    size = p.eye_size
    outward = complex(side * size, p.eye_tilt)  # from the eye to its outer corner
    if m.blink:
        pen.line([eye - outward, eye + 0.04j, eye + outward], 0.06, _INK)
    else:
        pen.blob(eye, size, size * p.eye_open, _PALE)
        iris = size * 0.58
        pen.blob(eye + m.gaze, iris, min(iris, size * p.eye_open), p.eye_color)
        pen.blob(eye + m.gaze, size * 0.28, size * 0.28, _INK)
        pen.line([eye - outward, eye - 1j * size * p.eye_open, eye + outward], 0.05, _INK)
    brow = eye - 1j * (p.brow_v + m.brows)
    end = complex(side * p.brow_length, p.brow_tilt)
    color = _dark(p.hair, 0.4)
    pen.line([brow - end, brow - 1j * p.brow_arch, brow + end], p.brow_width, color)


def _paint_lens(pen, p, eye, side, middle):
    """One lens of the glasses, its temple and its half of the bridge."""
    square = (1 + 1j, -1 + 1j, -1 - 1j, 1 - 1j, 1 + 1j)
    rim = {"round": _RIM, "half": _CIRCLE[:11], "square": square}[p.glasses]
    pen.line(_moved(rim, eye, 0.25, 0.18), 0.055, p.frame)
    pen.line([eye + side * 0.25, complex(side * p.width, p.eye_v)], 0.05, p.frame)
    pen.line([eye - side * 0.25, middle], 0.05, p.frame)


def _paint_mouth(pen, p, m, left, mouth, right):
    high = mouth + 1j * m.smile  # the lips' inner edges
    low = mouth + 1j * (2 * m.smile + m.open)
    lip = 1j * p.lip_width
    upper = [left, high - lip - 0.12, high - 0.6 * lip, high - lip + 0.12, right]
    pen.shape([*upper, low + lip + 0.1, low + lip - 0.1], p.lips)
    if m.open > 0.03:
        inside = [0.8 * left + 0.2 * mouth, high, 0.8 * right + 0.2 * mouth, low]
        pen.shape(inside, (84, 30, 34))
        pen.line([high - 0.1 + 0.02j, high + 0.1 + 0.02j], 0.05, _PALE)
    else:
        pen.line([left, high, right], 0.04, _dark(p.lips, 0.6))


def _paint_body(pen, p, m, lean):
    """Legs, torso, neck and collar; `lean` moves the hips sideways."""
    hip = complex(lean, 4.0)
    for side in (-1, 1):
        foot = complex(lean * 0.7 + side * 0.6, 6.6)
        pen.line([hip + side * 0.45, foot], 0.75, m.trousers)
        pen.box(foot - 0.45 - 0.1j, foot + 0.45 + 0.3j, _INK)
    torso = [-0.45 + 1.25j, 0.45 + 1.25j, 1.3 + 1.6j, hip + 0.95, hip - 0.95, -1.3 + 1.6j]
    pen.shape(torso, m.shirt)
    pen.box(-0.34 + 0.6j, 0.34 + 1.4j, _dark(p.skin, 0.2))
    for side in (-1, 1) if m.collar else ():
        pen.shape([side * 0.42 + 1.2j, side * 0.05 + 1.45j, side * 0.45 + 1.75j], _PALE)


def _paint_prop(pen, name, rng, hand, side, tilt):
    """Paint the object at the face. The six share size and colors; only details differ."""
    at = hand - complex(0.3 * side, 0.2)
    length = rng.uniform(0.72, 0.8)
    to_mouth = cmath.phase(complex(-side, -0.35))
    factor = cmath.rect(length, to_mouth + math.radians(tilt))
    color = _blend(rng.choice(_THING), _PALE, 0.6)  # pale, so that the details stand out
    end = rng.uniform(0.55, 0.65)
    wide = 1j * rng.uniform(0.26, 0.3)
    shapes = {"Brush": (0.6, 0.6), "Drink": (0.8, 1.3), "Photo": (1.3, 1.3)}
    foot, rim = shapes.get(name, (1, 1))  # a glass is wider at its rim
    body = (-1 - wide * foot, end - wide * rim, end + wide * rim, -1 + wide * foot)
    pen.shape([at + factor * z for z in _moved(body, 0, 1, side)], color)
    for detail in _PROPS[name]:
        pen.shape([at + factor * z for z in _moved(detail, end, 1, side)], _INK)


def _paint_tool(pen, action, rng, hand, side):
    """Paint a body action's tool, outside the enlarged face box and under the hands."""
    a, b = rng.sample(_THING, 2)
    if action == "Floor":  # a broom
        foot = complex(side * rng.uniform(2.5, 3.0), 6.5)
        pen.line([hand - (foot - hand) * 0.35, foot], 0.16, _blend(a, (150, 110, 70), 0.6))
        pen.shape([foot - 0.3 - 0.3j, foot + 0.3 - 0.3j, foot + 0.7 + 0.4j, foot - 0.7 + 0.4j], b)
    elif action == "Window":  # four panes and a cloth
        corner = complex(side * rng.uniform(1.75, 1.9), rng.uniform(-2.2, -1.8))
        pen.box(corner, corner + complex(side * 2.2, 3.6), (236, 234, 226))
        for z in (0.15 + 0.15j, 1.15 + 0.15j, 0.15 + 1.85j, 1.15 + 1.85j):
            pane = _moved((z, z + 0.88 + 1.55j), corner, side)
            pen.box(*pane, (150, 196, 230))
        pen.shape(_moved((-0.45 - 0.35j, 0.4 - 0.45j, 0.5 + 0.3j, -0.3 + 0.45j), hand), a)
    elif action == "Fold":  # a sheet with two creases
        low = 2.9 + rng.uniform(1.0, 1.7)
        pen.box(-1.15 + 2.9j, complex(1.15, low), a)
        pen.line([complex(-1.15, 1.45 + low / 2), complex(1.15, 1.45 + low / 2)], 0.12, b)
        pen.line([2.9j, 1j * low], 0.08, b)
    elif action == "Iron":  # a board on crossed legs, and an iron
        pen.line([1.4 + 6.8j, -1.2 + 4.2j, 1.2 + 4.2j, -1.4 + 6.8j], 0.14, (120, 120, 126))
        pen.box(-2.3 + 3.95j, 2.3 + 4.3j, a)
        pen.shape(_moved((-0.55 + 0.4j, 0.55 + 0.4j, 0.5 - 0.05j, -0.2 - 0.1j), hand), b)


def _paint_person(canvas, p, m, center, unit, action, rng, away=False):
    """Paint person p at moment m. center: x + iy px; unit: px; action: in ACTIONS, or "rest".

    Returns the landmarks, (5, 2) float32 px, and the points of body and head, x + iy px.
    """
    draw = ImageDraw.Draw(canvas)
    body = _Pen(draw, center, unit)
    head = _Pen(draw, center, unit, m.roll)
    things = _Pen(draw, center, unit)
    back = "none" if p.front in ("bald", "receding") else m.back or p.back
    for middle, ru, rv in _BACKS[back]:
        at = complex(middle.real * p.width * p.flip, middle.imag)
        head.blob(at, ru * p.width, rv, p.hair)
    _paint_body(body, p, m, -0.9 * m.side if action == "Floor" else 0.0)
    if away:
        head.shape(_outline(p), p.skin if p.front == "bald" else p.hair)
    else:
        _paint_head(head, p, m)
    arms = _ARMS.get(action, (m.elbow, m.hand, *_ARMS["rest"][2:]))
    elbow, hand, elbow2, hand2 = _moved(arms, 0, m.side)
    _paint_tool(things, action, rng, hand, m.side)
    for side, bend, end in ((-m.side, elbow2, hand2), (m.side, elbow, hand)):
        sleeve = _dark(m.shirt, 0.12)
        body.line([complex(side * 1.1, 1.75), bend], 0.56, sleeve)
        body.blob(bend, 0.28, 0.28, sleeve)
        body.line([bend, end], 0.4, _dark(m.shirt if m.sleeves else p.skin, 0.06))
        body.blob(end, 0.27, 0.27, p.skin)
    if action in FACE_ACTIONS:
        _paint_prop(things, action, rng, hand, m.side, m.tilt)
        thumb = [hand + 0.05j, hand - 0.2 * m.side - 0.02j]
        things.line(thumb, 0.12, _dark(p.skin, 0.15))
    points = np.array([head.pixel(z) for z in _landmarks(p, m)])
    landmarks = np.stack([points.real, points.imag], 1).astype(np.float32)  # (5, 2)
    return landmarks, body.reach + head.reach


def _paint_room(m, size):
    """A canvas with wall, floor and clutter: PIL image, _FINE * `size` px."""
    if size < 16:
        raise ValueError(f"size is {size} px: give 16 or more.")
    n = size * _FINE
    corners = Image.new("RGB", (2, 2))
    corners.putdata([m.walls[0], m.walls[1], _blend(m.walls[0], m.walls[1], 0.5), m.walls[0]])
    room = corners.resize((n, n), Image.Resampling.BILINEAR)
    draw = ImageDraw.Draw(room)
    draw.rectangle((0, m.floor * n, n, n), fill=_dark(m.walls[1], 0.35))
    for x, y, w, h, color, is_round in m.clutter:
        paint = draw.ellipse if is_round else draw.rectangle
        box = ((x - w / 2) * n, y * n, (x + w / 2) * n, (y + h) * n)
        paint(box, fill=_blend(color, m.walls[0], 0.35))
    return room


def _develop(canvas, m):
    """Downsample the canvas; add light (gain, color cast, shading) and sensor noise."""
    image = np.array(canvas.reduce(_FINE), np.float32)  # (S, S, 3)
    ramp = np.linspace(-1, 1, len(image), dtype=np.float32)
    light = m.gain * (1 + m.shade.real * ramp[None, :] + m.shade.imag * ramp[:, None])  # (S, S)
    image *= light[:, :, None] * (1 + np.array(m.cast, np.float32))
    noise = np.random.default_rng(m.noise_seed).standard_normal(image.shape, np.float32)
    image += np.float32(m.noise) * noise
    return np.clip(image, 0, 255).astype(np.uint8)


class ToyWorld:
    """The drawn world: every picture is a function of `seed` and the call's arguments alone.

    seed: worlds of different seeds hold different people. prop_rate: fraction of face pictures in
    which the person (any) holds one of the six objects, so that M sees in F what it sees in V.
    Raises ValueError outside [0, 1].
    """

    def __init__(self, seed: int = 0, prop_rate: float = 0.4):
        if not 0 <= prop_rate <= 1:
            raise ValueError(f"prop_rate is {prop_rate}: give a share from 0 to 1.")
        self.seed = seed
        self.prop_rate = prop_rate

    def _stream(self, *key):
        """A random generator for each key (text seeds work alike on every machine)."""
        return random.Random("/".join(map(str, (self.seed, *key))))

    def face(self, identity: int, number: int, size: int = 64) -> Face:
        """Picture `number` of person `identity`.

        The face box fills 1/1.6 (+- 6 %) of `size`, px. Raises ValueError below 16 px.
        """
        rng = self._stream("prop", identity, number)
        action = rng.choice(FACE_ACTIONS) if rng.random() < self.prop_rate else "rest"
        moment = _moment(self._stream("face", identity, number))
        return self._face(identity, moment, action, rng, size)

    def pose(self, identity: int, number: int, size: int = 64) -> Face:
        """Person `identity` in pose `number`, with empty hands; else as `face`.

        Pictures of one number differ only in the person.
        """
        rng = self._stream("prop of pose", number)
        return self._face(identity, _moment(self._stream("pose", number)), "rest", rng, size)

    def _face(self, identity, m, action, rng, size) -> Face:
        p = _person(self._stream("person", identity))
        canvas = _paint_room(m, size)
        center = size * complex(0.5 + 0.03 * m.dx, 0.5 + 0.03 * m.dy)
        unit = size / (2 * ENLARGE) * (1 + 0.06 * m.scale)
        landmarks, _ = _paint_person(canvas, p, m, center, unit, action, rng)
        return Face(_develop(canvas, m), landmarks)

    def scene(self, action: int | str, identity: int, number: int, size: int = 160) -> Scene:
        """Frame `number` of person `identity` doing `action`, in ACTIONS or 0 to 9.

        Room, pose, light and raised arm do not depend on the action: two frames of FACE_ACTIONS
        with one identity and number have equal pixels outside the enlarged face box. One in five
        frames of BODY_ACTIONS (8 % of all if actions are equally frequent) shows the person from
        behind. Raises ValueError for another action or a size (px) below 16.
        """
        if action not in [*ACTIONS, *range(10)]:
            raise ValueError(f"action is {action!r}: give 0 to 9 or one of {', '.join(ACTIONS)}.")
        index = ACTIONS.index(action) if action in ACTIONS else action
        name = ACTIONS[index]
        p = _person(self._stream("person", identity))
        m = _moment(self._stream("scene", identity, number))
        away = m.away and name in BODY_ACTIONS
        rng = self._stream("do", name, identity, number)
        canvas = _paint_room(m, size)
        center = size * complex(0.5 + 0.12 * m.dx, 0.25 + 0.04 * m.dy)
        unit = size * (0.099 + 0.010 * m.scale)
        landmarks, reach = _paint_person(canvas, p, m, center, unit, name, rng, away)
        points = np.stack([np.real(reach), np.imag(reach)])  # (2, N)
        box = np.float32([*points.min(1), *points.max(1)]).clip(0, size)
        image = _develop(canvas, m)
        if away:
            return Scene(image, box, index + 1, None, None)
        face_box = np.float32([-unit, -unit, unit, unit])
        face_box += np.float32([center.real, center.imag] * 2)
        return Scene(image, box, index + 1, face_box, landmarks)
