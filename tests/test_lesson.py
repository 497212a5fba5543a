"""lesson.py: messages of its checks, slider, pictures, stored results and networks."""

import re
import sys
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "lesson_notebooks"))

import lesson


def message(*arguments, **words):
    with pytest.raises(lesson.Wrong) as caught:
        lesson.expect_close(*arguments, **words)
    return str(caught.value)


def test_equal_values_of_any_kind_pass():
    lesson.expect_close("x", 1, 1.0)
    lesson.expect_close("x", torch.tensor([1.0, 2.0]), torch.tensor([1, 2]))
    lesson.expect_close("x", np.float32([1, 2]), [1 + 5e-5, 2])
    lesson.expect_close("x", torch.ones(2, requires_grad=True), torch.ones(2))
    lesson.expect_close("x", float("nan"), float("nan"))
    lesson.expect_close("x", torch.tensor([True, False]), [1, 0])


def test_nothing_and_a_wrong_type_are_named():
    assert message("loss", None, 1.0) == "loss is None: does your function return its result?"
    assert "loss is a str" in message("loss", "1", 1.0)
    assert "loss is a dict" in message("loss", {}, 1.0)


@pytest.mark.parametrize("wanted", [torch.tensor([1, 2]), np.array([1, 2])])
def test_a_list_is_no_tensor_and_no_array(wanted):
    """The cells that follow would stop at it, after "Right."."""
    words = f"x is a list, expected a {type(wanted).__name__}. Stack it."
    assert message("x", [1, 2], wanted, "Stack it.") == words


def test_shapes_are_named_and_nothing_is_broadcast():
    assert (
        message("loss", torch.ones(3, 1), torch.ones(3)) == "loss has shape (3, 1), expected (3,)."
    )
    assert "shape ()" in message("loss", 1.0, torch.ones(2))


def test_the_first_differing_value_is_named_with_its_place_and_the_hint():
    got = message(
        "faces",
        torch.tensor([[1.0, 2.0], [3.5, 9.0]]),
        torch.tensor([[1.0, 2.0], [3.0, 4.0]]),
        "Flipped?",
    )
    assert got == "faces at [1, 0] is 3.5, expected 3 (2 of 4 values differ). Flipped?"
    assert message("loss", 2.0, 1.0).startswith("loss is 2, expected 1 ")
    assert "nan" in message("loss", float("nan"), 1.0)


def test_tolerance():
    lesson.expect_close("x", 1.01, 1.0, tolerance=0.02)
    assert "1.01" in message("x", 1.01, 1.0)


def test_a_known_mistake_is_explained_only_where_it_differs_from_the_right_answer():
    lesson.expect_not("x", 2.0, 1.0, [(3.0, "three.")])
    lesson.expect_not("x", 1.0, 1.0, [(1.0, "the same.")])
    with pytest.raises(lesson.Wrong, match="x: divide. Expected 1.0, yours is 2.0"):
        lesson.expect_not("x", 2.0, 1.0, [(2.0, "divide.")])


def test_a_call_reports_exceptions_nothing_and_changed_inputs():
    def in_place(x):
        x += 1
        return x

    assert lesson.call("f", torch.neg, torch.ones(1)) == -1
    with pytest.raises(lesson.Wrong, match=r"f stopped with TypeError: .* \(2,\)"):
        lesson.call("f", lambda: 1, torch.ones(2))
    with pytest.raises(lesson.Wrong, match="f returned None"):
        lesson.call("f", lambda x: None, 1)
    with pytest.raises(lesson.Wrong, match="changed its input in place"):
        lesson.call("f", in_place, torch.ones(2))


def test_whatever_an_answer_does_a_check_says_not_yet_and_ours_goes_on(capsys):
    def ours(x):
        return x + 1

    def check_step(step):
        lesson.expect(lesson.call("step", step, torch.ones(1)).requires_grad, "no gradient")

    for answer, words in (
        (lambda x: x.numpy(), "what step returned cannot be checked (AttributeError"),
        (lambda x: sys.exit(), "step stopped with SystemExit (it was called"),
        (lambda x: sys.exit("bye"), "step stopped with SystemExit: bye (it was called"),
    ):
        assert lesson.exercise(check_step, ours)(answer) is ours
        printed = capsys.readouterr().out
        assert "Not yet:" in printed and words in printed and "oing on with ours" in printed


def test_expect_and_well_done(capsys):
    lesson.expect(True, "never raised")
    with pytest.raises(lesson.Wrong, match="sign is flipped"):
        lesson.expect(False, "the sign is flipped")
    lesson.well_done("That is it.")
    assert re.sub(r"\x1b\[\d*m", "", capsys.readouterr().out) == "Right. That is it.\n"


def test_a_wrong_answer_shows_one_line_in_a_notebook():
    (shown,) = lesson.Wrong("faces has shape (3,)")._render_traceback_()
    assert re.sub(r"\x1b\[\d*m", "", shown) == "Not yet: faces has shape (3,)"


def test_the_slider_draws_its_start_once_without_a_live_kernel(monkeypatch):
    monkeypatch.setenv("PPAD_STATIC", "1")
    drawn = []

    def draw(blur, noise):
        drawn.append((blur, noise))

    lesson.slider(draw, (8, 0.3), blur=[8, 16, 24], noise=[0.1, 0.3, 0.5])
    lesson.slider(lambda blur: drawn.append(blur), 16, blur=[8, 16, 24])
    assert drawn == [(8, 0.3), 16]


def test_a_live_slider_draws_once_too_and_starts_where_it_says(monkeypatch):
    monkeypatch.delenv("PPAD_STATIC", raising=False)
    drawn = []
    shown = []
    import ipywidgets

    def interact(draw, **sliders):
        shown.extend(sliders.values())
        draw(**{name: slider.value for name, slider in sliders.items()})

    monkeypatch.setattr(ipywidgets, "interact", interact)
    lesson.slider(lambda blur_size: drawn.append(blur_size), 24, blur_size=[8, 16, 24])
    assert drawn == [24] and shown[0].description == "blur size"


def test_a_table_has_a_head_and_a_line_a_row(capsys):
    lesson.columns({"mask": [1.25, "no"]}, ["mAP", "kept"], width=6, first=6)
    assert capsys.readouterr().out == "         mAP  kept\nmask     1.2    no\n"


def test_pictures_are_drawn_in_their_own_pixels():
    _, axis = plt.subplots()
    lesson.draw(axis, torch.full((3, 4, 6), -1.0), "black")
    lesson.outline(axis, (1, 0, 3, 2), "red")
    assert axis.get_xlim() == (0, 6) and axis.get_ylim() == (4, 0)
    assert axis.images[0].get_extent() == [0, 6, 4, 0]
    assert axis.images[0].get_array().max() == 0
    assert axis.lines[0].get_xydata().tolist() == [[1, 0], [3, 0], [3, 2], [1, 2], [1, 0]]
    plt.close()


def test_rows_of_pictures_are_tiled_in_order():
    _, axis = plt.subplots()
    black, white = -torch.ones(2, 3, 4, 4), torch.ones(2, 3, 4, 4)
    lesson.strips(axis, [black, white], ["first", "second"])
    shown = axis.images[0].get_array()
    assert shown.shape == (8, 8, 3) and shown[:4].max() == 0 and shown[4:].min() == 1
    assert [label.get_text() for label in axis.get_yticklabels()] == ["first", "second"]
    plt.close()


def test_stored_results_and_players_belong_together():
    stored = lesson.players()
    results = lesson.results()
    assert lesson.row("Ours")["name"] == "Ours"
    assert stored.config.face_size == results["config"]["face_size"]
    faces = torch.zeros(2, 3, stored.config.face_size, stored.config.face_size)
    assert stored.modifier(faces).shape == faces.shape
    assert stored.reader(faces).shape == (2, 5, 2)
    crops = torch.zeros(2, 3, stored.config.recognizer_height, stored.config.recognizer_breadth)
    for name in ("recognizer", "recognizer_start", "other"):
        assert getattr(stored, name)(crops).shape == (2, stored.config.embedding)
    assert len(stored.detector.detect(torch.zeros(1, 3, 160, 160))) == 1


def test_a_run_without_stored_results_is_explained():
    with pytest.raises(FileNotFoundError, match="python -m ppad.reproduce --preset nowhere"):
        lesson.results("nowhere")


def test_start_gives_the_same_chance_again():
    lesson.start(3)
    first = torch.rand(2), np.random.rand(2)
    lesson.start(3)
    assert torch.equal(first[0], torch.rand(2)) and (first[1] == np.random.rand(2)).all()
