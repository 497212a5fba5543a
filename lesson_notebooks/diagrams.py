"""The lessons' diagrams, all drawn by the class `Diagram`: boxes, arrows, a few colors.

Blue boxes are networks, green ones pictures, gray ones numbers or rules, orange ones losses. Solid
arrows are data, dashed red ones gradients.
"""

import matplotlib.pyplot as plt

COLORS = {"network": "#cfe0f3", "picture": "#d9edd3", "rule": "#ececec", "loss": "#fbe3c8"}
GRADIENT = "#c0392b"


class Diagram:
    """A drawing board of `width` by `height` units, half an inch each; (0, 0) is bottom left."""

    def __init__(self, width: float, height: float):
        _, self.axis = plt.subplots(figsize=(width / 2, height / 2))
        self.axis.set(xlim=(0, width), ylim=(0, height))
        self.axis.set_aspect("equal")
        self.axis.axis("off")

    def box(self, x, y, text, kind="rule", width=2.6, height=1.1):
        """A labeled box centered at (x, y); `kind` is a key of COLORS."""
        corner = (x - width / 2, y - height / 2)
        style = {"boxstyle": "round,pad=0,rounding_size=0.15", "linewidth": 1}
        shape = plt.matplotlib.patches.FancyBboxPatch(
            corner, width, height, facecolor=COLORS[kind], edgecolor="#555555", **style
        )
        self.axis.add_patch(shape)
        self.text(x, y, text)

    def text(self, x, y, text, color="black", size=9):
        """Centered text."""
        self.axis.text(x, y, text, ha="center", va="center", fontsize=size, color=color)

    def arrow(self, start, end, text="", gradient=False, bend=0.0, shift=(0, 0.25)):
        """An arrow from `start` to `end`; its text is in the middle, moved by `shift`."""
        color = GRADIENT if gradient else "#333333"
        self.axis.annotate(
            "",
            end,
            start,
            arrowprops={
                "arrowstyle": "-|>",
                "color": color,
                "linestyle": (0, (4, 2)) if gradient else "-",
                "linewidth": 1.4,
                "connectionstyle": f"arc3,rad={bend}",
                "shrinkA": 0,
                "shrinkB": 0,
            },
        )
        x = (start[0] + end[0]) / 2 + shift[0]
        y = (start[1] + end[1]) / 2 + shift[1]
        self.text(x, y, text, color if gradient else "black", 8)

    def show(self):
        """Show it in the notebook."""
        plt.show()


def chain(labels, width=2.6, gap=0.7, height=1.1):
    """Boxes in a row, joined by arrows. labels: [(text, kind)]. Returns the diagram."""
    step = width + gap
    board = Diagram(len(labels) * step + 0.3, height + 0.5)
    y = height / 2 + 0.25
    for number, (text, kind) in enumerate(labels):
        x = 0.2 + width / 2 + number * step
        board.box(x, y, text, kind, width, height)
        if number:
            board.arrow((x - width / 2 - gap, y), (x - width / 2, y))
    return board


def three_players():
    """The paper's Fig. 2: M, D and A, and the gradients to each (lessons 00 and 06)."""
    board = Diagram(18, 7.6)
    board.box(1.5, 5.6, "face $f$", "picture", 2.2)
    board.box(1.5, 1.8, "frame $v$", "picture", 2.2)
    board.box(5.6, 3.7, "M\nmodifier", "network", 2.4, 1.5)
    board.box(9.2, 5.6, "$M(f)$", "picture", 2)
    board.box(9.2, 1.8, "$v' = v - r_v + M(r_v)$", "picture", 4)
    board.box(13.2, 5.6, "D\nrecognizer", "network", 2.2, 1.5)
    board.box(13.2, 1.8, "A\naction detector", "network", 2.6, 1.5)
    board.box(16.5, 5.6, "$L_D$ of $M(f)$, $f$\nwho is it?", "loss", 2.6, 1.3)
    board.box(16.6, 1.8, "$L_{det}$\nwhat is done?", "loss", 2.4, 1.3)
    board.arrow((2.6, 5.6), (4.6, 4.5))
    board.arrow((2.6, 1.8), (4.6, 2.9), "crop $r_v$", shift=(0.85, -0.25))
    board.arrow((6.8, 4.2), (8.2, 5.3))
    board.arrow((6.8, 3.2), (8.1, 2.4))
    board.arrow((10.2, 5.6), (12.1, 5.6))
    board.arrow((11.2, 1.8), (11.9, 1.8))
    board.arrow((14.3, 5.6), (15.2, 5.6))
    board.arrow((14.5, 1.8), (15.4, 1.8))
    gradient = {"gradient": True}
    board.arrow((16.3, 6.3), (13.4, 6.4), "D: minimize", **gradient, bend=0.35, shift=(0, 0.8))
    board.arrow((15.9, 4.95), (6.8, 4.0), **gradient)
    board.text(11.6, 3.95, "M: maximize $L_D$, through a frozen D", GRADIENT, 8)
    board.arrow((16.3, 1.1), (13.4, 1.0), "A: minimize", **gradient, bend=-0.35, shift=(0, -0.7))
    board.arrow((15.9, 2.45), (6.8, 3.4), **gradient)
    board.text(11.6, 3.4, "M: minimize $L_{det}$", GRADIENT, 8)
    board.axis.plot([11.15, 11.15], [5.1, 6.1], color="black", linewidth=3)
    board.text(11.15, 6.5, "detach\nwhen D learns", size=8)
    board.arrow((1.5, 6.2), (9.2, 6.2), "$L_{l1}$: stay close to $f$", bend=-0.22, shift=(0, 1.1))
    board.show()


def aligned_crop():
    """From five landmarks to D's input (lessons 01 and 05)."""
    board = Diagram(19, 5.4)
    board.box(1.6, 3.2, "picture $f$ or $M(f)$\n(3, S, S)", "picture", 3)
    board.box(1.6, 1.1, "5 landmarks of $f$\n(5, 2)", "rule", 3)
    board.box(5.9, 1.1, "least squares:\nrotate, scale, shift", "rule", 3.4)
    board.box(5.9, 3.2, "template\n(5, 2)", "rule", 2.2)
    board.box(10.2, 1.1, "inverse map:\ncrop to picture", "rule", 3)
    board.box(13.0, 3.2, "sampler: mean of\n4 neighbors, weighted", "rule", 3.6)
    board.box(17.2, 3.2, "aligned crop\n(3, h, w)", "picture", 2.7)
    board.arrow((3.1, 1.1), (4.2, 1.1))
    board.arrow((5.9, 2.65), (5.9, 1.65))
    board.arrow((7.6, 1.1), (8.7, 1.1))
    board.arrow((11.2, 1.65), (12.4, 2.65), "grid", shift=(0.45, -0.15))
    board.arrow((3.1, 3.75), (11.3, 3.75), bend=-0.06)
    board.arrow((14.8, 3.2), (15.85, 3.2))
    board.arrow((17.2, 3.75), (1.6, 3.75), gradient=True, bend=0.13)
    board.text(9.3, 5.1, "gradient of $L_D$, back through the sampler", GRADIENT, 8)
    board.show()


def slic():
    """The steps of SLIC (lesson 02)."""
    board = chain(
        [
            ("pixels\nLab and x, y", "picture"),
            ("start: one center\na grid cell", "rule"),
            ("each pixel joins\nthe nearest of 9", "rule"),
            ("each center moves\nto its pixels' mean", "rule"),
            ("paint each patch\nin its mean color", "picture"),
        ],
        width=3.2,
    )
    third = 0.2 + 1.6 + 2 * 3.9
    board.axis.set_ylim(-1.1, 1.6)
    board.axis.figure.set_size_inches(9.9, 1.4)
    board.arrow((third + 3.9, 0.25), (third, 0.25), bend=-0.35)
    board.text(third + 1.95, -0.85, "a few rounds", size=8)
    board.show()


def folds():
    """The fold protocol of LFW: fit on nine folds, test on one (lesson 03)."""
    board = Diagram(17, 5.2)
    for number in range(10):
        kind = "loss" if number == 3 else "network"
        board.box(1.3 + 1.6 * number, 4.2, f"fold\n{number}", kind, 1.4, 1.1)
    board.box(5, 2.2, "the other nine:\nmean feature, threshold", "network", 4.6)
    board.box(12.2, 2.2, "this fold alone:\ncount right pairs", "loss", 4)
    board.arrow((3.2, 3.6), (4.6, 2.8))
    board.arrow((10.9, 3.6), (6.2, 2.8))
    board.arrow((6.1, 3.6), (11.6, 2.8))
    board.arrow((7.3, 2.2), (10.2, 2.2), "used there")
    board.text(8.5, 0.8, "ten times, each fold once: accuracy = mean of the ten", size=9)
    board.show()


def faster_rcnn():
    """The flow of Faster R-CNN and its four losses (lesson 04)."""
    board = Diagram(19, 5)
    board.box(1.4, 2.6, "frame\n(3, H, W)", "picture", 2.3)
    board.box(4.6, 2.6, "body\nconvolutions", "network", 2.6)
    board.box(8.2, 2.6, "RPN: for each anchor\nperson? which shift?", "network", 3.6)
    board.box(12, 2.6, "best proposals,\nNMS, pooled", "rule", 2.8)
    board.box(15.2, 2.6, "head: which of\n11 classes? shift?", "network", 2.7)
    board.box(18, 2.6, "NMS:\nboxes", "picture", 1.5)
    for left, right in ((2.55, 3.3), (5.9, 6.4), (10, 10.6), (13.4, 13.85), (16.55, 17.25)):
        board.arrow((left, 2.6), (right, 2.6))
    board.arrow((4.6, 3.15), (12, 3.15), "features of each region", bend=-0.25, shift=(0, 1.15))
    for x, text in (
        (6.6, "loss_objectness"),
        (9.8, "loss_rpn_box_reg"),
        (13.6, "loss_classifier"),
        (16.8, "loss_box_reg"),
    ):
        board.box(x, 0.6, text, "loss", 2.9, 0.8)
    board.arrow((7.8, 2.05), (6.8, 1))
    board.arrow((8.6, 2.05), (9.6, 1))
    board.arrow((14.8, 2.05), (13.8, 1))
    board.arrow((15.6, 2.05), (16.6, 1))
    board.show()


def modifier_layers(config):
    """M layer by layer; bar heights show output sizes (lesson 05). config: ModifierConfig."""
    width = config.width
    side = config.size
    layers = [
        ("input", 3, side, "picture"),
        (f"c7s1-{width}", width, side, "network"),
        (f"d{2 * width}", 2 * width, side // 2, "network"),
        (f"d{4 * width}", 4 * width, side // 4, "network"),
        (f"R{4 * width}\nx {config.blocks}", 4 * width, side // 4, "network"),
        (f"u{2 * width}", 2 * width, side // 2, "network"),
        (f"u{width}", width, side, "network"),
        ("c7s1-3", 3, side, "picture"),
    ]
    board = Diagram(18.8, 6.4)
    for number, (name, channels, size, kind) in enumerate(layers):
        x = 1.3 + 2.35 * number
        height = 1.1 + 2.4 * size / side
        board.box(x, 3.2, name, kind, 1.6, height)
        board.text(x, 0.7, f"{channels} x\n{size} x {size}", size=8)
        if number:
            board.arrow((x - 1.55, 3.2), (x - 0.8, 3.2))
    for x, text in ((6, "encoder"), (10.7, "residual blocks"), (14.2, "decoder")):
        board.text(x, 6, text, "#1f4e79", 10)
    board.text(17.75, 5.4, "then tanh", size=8)
    board.show()


def exchanger():
    """The M of the row Ours: G's inputs, and the reader of the code (lesson 05)."""
    board = Diagram(19, 7.4)
    board.box(1.7, 5.2, "face $f$", "picture")
    board.box(5.7, 5.2, "E", "network", 1.6)
    board.box(9.2, 5.2, "code + noise", "rule", 2.8)
    board.box(13.6, 3.5, "G", "network", 1.6, 4.4)
    board.box(17.2, 3.5, "$M(f, e)$", "picture")
    board.box(7.4, 3.5, "five landmarks, and all around the face", "rule", 7.4)
    board.box(7.4, 1.8, "a person's features $e$", "rule", 4.4)
    board.box(9.2, 6.6, "code reader: who is it?", "network", 3.4, 0.9)
    board.arrow((3, 5.2), (4.9, 5.2))
    board.arrow((6.5, 5.2), (7.8, 5.2))
    board.arrow((10.6, 5.2), (12.8, 5))
    board.arrow((11.1, 3.5), (12.8, 3.5))
    board.arrow((9.6, 1.8), (12.8, 2.2))
    board.arrow((14.4, 3.5), (15.9, 3.5))
    board.arrow((2.4, 4.65), (3.7, 3.7))
    board.arrow((9.2, 5.75), (9.2, 6.15))
    board.arrow((7.5, 6.6), (5.7, 5.75), "E learns to fool it", gradient=True, shift=(-1.7, 0.2))
    board.text(6, 0.6, "while M learns: $e$ of the true person, and $M(f, e)$ must be $f$")
    board.text(15.5, 0.6, "in use: $e$ of another")
    board.show()


def algorithm_1():
    """Algorithm 1 as a loop (lesson 06)."""
    board = Diagram(19, 6.4)
    board.box(2, 4.6, "line 2\n$f' = M(f)$", "rule", 3)
    board.box(6.6, 4.6, "line 3: D learns\n$f$ and $f'$, detached", "network", 3.8)
    board.box(11.6, 4.6, "lines 4-8: paste\n$v' = v - r_v + M(r_v)$", "rule", 4.2)
    board.box(16.6, 4.6, "line 9: M and A learn\nD is frozen", "network", 3.8)
    board.box(16.6, 1, "lines 10-11: A learns\nM and D are frozen", "network", 3.8)
    board.box(11.2, 1, "A, M and D\nfor the test", "picture", 3)
    board.arrow((3.5, 4.6), (4.7, 4.6))
    board.arrow((8.5, 4.6), (9.5, 4.6))
    board.arrow((13.7, 4.6), (14.7, 4.6))
    board.arrow((16.2, 5.2), (2, 5.2), "T1 times", bend=0.12, shift=(0, 1.05))
    board.arrow((16.6, 4), (16.6, 1.6), "then, T2 times", shift=(1.2, 0))
    board.arrow((14.7, 1), (12.7, 1))
    board.show()


def judging():
    """The attackers of an anonymizer, and the error to quote (lesson 07)."""
    board = Diagram(19, 5.6)
    board.box(1.7, 4.5, "test people\n(none in training)", "picture", 3.2)
    board.box(6.2, 4.5, "anonymizer,\nfrozen", "network", 2.6)
    board.box(10.6, 4.5, "pairs: both repainted,\nor one original", "picture", 4)
    board.box(2, 1.4, "own: the D that M\nwas trained against", "network", 3.4)
    board.box(5.7, 1.4, "never saw it,\nother architecture", "network", 3.2)
    board.box(9.6, 1.4, "retrained on repainted\nfaces with names", "network", 3.9)
    board.box(13.6, 1.4, "inverting: undoes\nit, then recognizes", "network", 3.4)
    board.box(17.3, 3, "strongest =\nlowest error,\nwith an interval", "loss", 3, 1.7)
    board.arrow((3.3, 4.5), (4.9, 4.5))
    board.arrow((7.5, 4.5), (8.6, 4.5))
    for x in (2, 5.7, 9.6, 13.6):
        board.arrow((10.6, 3.95), (x, 1.95))
    board.axis.plot([0.3, 15.3], [0.65, 0.65], color="#333333", linewidth=1.4)
    board.arrow((15.3, 0.65), (16.2, 2.15))
    board.text(7.6, 0.25, "each: features, threshold and mean from other folds, error", size=8)
    board.show()
