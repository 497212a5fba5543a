"""ppad.user_study: the page, its key, and the score, by hand; the page filled in by a browser."""

import asyncio
import json
import re
import shutil
import subprocess
import time
import urllib.request
from pathlib import Path

import numpy as np
import pytest
import torch
from matplotlib.axes import Axes
from PIL import Image

from ppad import config as presets
from ppad import datasets, loop, players, user_study
from ppad.baselines import identity
from ppad.folders import POINT_COLUMNS
from ppad.repainter import load_modifier

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("chrome")
TEST_PEOPLE = 40


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory, tiny):
    """A finished run, as far as the study reads it: an untrained M repaints drawn people."""
    folder = tmp_path_factory.mktemp("run")
    config = tiny(test_identities=TEST_PEOPLE, test_pictures_each=2)
    torch.manual_seed(0)
    modifier = players.make_modifier(config)
    (folder / "results.json").write_text(json.dumps({"seeds": [3]}))
    loop.save_players(
        folder / "players.pt", presets.as_fields(config), {"modifier": modifier.state_dict()}
    )
    return folder


@pytest.fixture(scope="module")
def study_folder(run_folder, tmp_path_factory):
    out = tmp_path_factory.mktemp("study") / "out"
    assert user_study.main(["make", "--run", str(run_folder), "--out", str(out)]) == 0
    return out


def page_content(folder):
    page = (folder / "study.html").read_text(encoding="utf-8")
    return json.loads(re.search(r"const STUDY = (\{.*\});", page).group(1))


def key_of(folder):
    return json.loads((folder / "key.json").read_text())


# ---------------------------------------------------------------- make


def test_numbers_of_questions_are_the_papers(study_folder):
    study = page_content(study_folder)
    key = key_of(study_folder)
    assert len(study["q1"]) == 24 and sum(key["q1"].values()) == 12
    assert len(study["q2"]["items"]) == 16 and study["q2"]["kind"] == "choice"
    assert set(key["q1"]) == {item["id"] for item in study["q1"]}
    assert set(key["q2"]["items"]) == {item["id"] for item in study["q2"]["items"]}


def test_key_is_true(run_folder, study_folder):
    """Every picture of the page is found again among all test faces, and its person read there."""
    study = page_content(study_folder)
    key = key_of(study_folder)
    modifier, config = load_modifier(run_folder / "players.pt")
    faces = user_study.test_faces(config, run_folder)
    everyone = list(range(len(faces)))
    people = [name.split("/")[0] for name in faces.names]
    repainted = dict(zip(user_study.repaint(faces, modifier, everyone), people))
    untouched = dict(zip(user_study.repaint(faces, identity, everyone), people))
    assert len(repainted) == len(untouched) == 2 * TEST_PEOPLE
    for item in study["q1"]:
        first, second = item["images"]
        assert first != second
        assert (repainted[first] == repainted[second]) == key["q1"][item["id"]]
    for item in study["q2"]["items"]:
        right = [untouched[option] == repainted[item["image"]] for option in item["options"]]
        assert sum(right) == 1
        assert right.index(True) == key["q2"]["items"][item["id"]]
        shown = list(repainted).index(item["image"])
        chosen = list(untouched).index(item["options"][right.index(True)])
        assert shown != chosen  # another picture, else its background would tell
    assert set(study["q3"]) <= set(repainted)


def test_page_holds_no_truth_and_no_address(study_folder):
    page = (study_folder / "study.html").read_text(encoding="utf-8")
    study = page_content(study_folder)
    assert set(study) == {"study", "q1", "q2", "q3"}
    assert all(set(item) == {"id", "images"} for item in study["q1"])
    assert all(set(item) == {"id", "image", "options"} for item in study["q2"]["items"])
    without_pictures = re.sub(r"data:image/png;base64,[A-Za-z0-9+/=]+", "", page)
    assert "toy_" not in without_pictures
    assert not re.search(r"https?:|src=|href=\"|@import|fetch\(|XMLHttp", without_pictures)


def test_order_says_nothing(study_folder):
    truth = list(key_of(study_folder)["q1"].values())
    assert truth != sorted(truth) and truth != sorted(truth, reverse=True)
    places = list(key_of(study_folder)["q2"]["items"].values())
    assert len(set(places)) > 1


def test_a_study_that_is_there_is_not_overwritten(run_folder, study_folder, capsys):
    before = (study_folder / "key.json").read_bytes()
    assert user_study.main(["make", "--run", str(run_folder), "--out", str(study_folder)]) == 2
    assert "give another --out" in capsys.readouterr().err
    assert (study_folder / "key.json").read_bytes() == before


def test_a_study_of_photographs_reads_the_runs_own_folder(tmp_path, tiny, monkeypatch):
    """players.pt, which is shared, has the folder's name alone: another one may lie here."""
    faces = datasets.toy_faces(3, range(30, 70), 2, 32)
    for name, picture in zip(faces.names, faces.pictures.permute(0, 2, 3, 1).numpy()):
        path = tmp_path / "data" / "faces" / "test" / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture).save(path)
    lines = [",".join(["file", *POINT_COLUMNS])]
    for name, points in zip(faces.names, faces.landmarks.flatten(1).tolist()):
        lines.append(",".join([f"test/{name}.png", *map(str, points)]))
    (tmp_path / "data/faces/landmarks.csv").write_text("\n".join(lines))
    config = tiny(drawn=False, faces="faces")
    (tmp_path / "run").mkdir()
    modifier = players.make_modifier(config).state_dict()
    loop.save_players(
        tmp_path / "run" / "players.pt", presets.as_fields(config), {"modifier": modifier}
    )
    settings = presets.as_fields(config) | {"faces": str(tmp_path / "data" / "faces")}
    (tmp_path / "run" / "config.json").write_text(json.dumps(settings))
    monkeypatch.chdir(tmp_path)
    assert user_study.main(["make", "--run", "run", "--out", "out"]) == 0
    assert len(page_content(Path("out"))["q1"]) == 2 * user_study.PAIRS


def test_too_few_people_are_said(tmp_path, run_folder, tiny, capsys):
    small = tmp_path / "run"
    shutil.copytree(run_folder, small)
    parts = {"modifier": players.make_modifier(tiny()).state_dict()}
    loop.save_players(small / "players.pt", presets.as_fields(tiny()), parts)
    assert user_study.main(["make", "--run", str(small), "--out", str(tmp_path / "out")]) == 2
    assert "question 1 needs 36 and 12" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_no_run_is_one_sentence(tmp_path, capsys):
    assert user_study.main(["make", "--run", str(tmp_path), "--out", str(tmp_path / "out")]) == 2
    said = capsys.readouterr().err
    assert "players.pt" in said and said.count("\n") == 1


def test_a_seed_that_draws_nothing_is_named(capsys):
    with pytest.raises(SystemExit) as stop:
        user_study.main(["make", "--run", "run", "--out", "out", "--seed", "-1"])
    said = capsys.readouterr().err
    assert stop.value.code == 2 and "argument --seed: -1 is negative: give 0 or more" in said


@pytest.mark.parametrize(
    "folder, named",
    [
        ("George_W_Bush", True),
        ("Penélope_Cruz", True),
        ("Sean_O'Keefe", True),
        ("toy_0301", False),
        ("0001234", False),
        ("person_7", False),
        ("Cher", False),
    ],
)
def test_names_are_told_from_numbers(folder, named):
    assert user_study.has_name(folder) == named


def test_named_people_are_asked_by_name(run_folder):
    """With names, the sixteen people with most pictures are asked for, and originals are shown."""
    modifier, config = load_modifier(run_folder / "players.pt")
    faces = user_study.test_faces(config, run_folder)
    letters = "abcdefghijklmnopqrstuvwxyz"
    people = [f"Ada_{letters[i // 26]}{letters[i % 26]}" for i in range(TEST_PEOPLE)]
    faces.names = [
        f"{people[i // 2] if i != 1 else people[5]}/picture_{i}" for i in range(len(faces))
    ]  # person 5 has three pictures, person 0 one
    study, key = user_study.compose(faces, modifier, np.random.default_rng(0))
    asked = sorted(key["q2"]["items"].values())
    expected = [people[5]] + [person for person in people[1:] if person != people[5]]
    assert study["q2"]["kind"] == "names"
    assert asked == sorted(person.replace("_", " ") for person in expected[:16])
    assert all(set(item) == {"id", "image", "original"} for item in study["q2"]["items"])


# ---------------------------------------------------------------- score


@pytest.mark.parametrize(
    "answer, truth, same",
    [
        ("george w bush", "George W Bush", True),
        ("BUSH", "George W Bush", True),
        ("Penelope Cruz", "Penélope Cruz", True),
        ("Schröder", "Gerhard Schroeder", True),  # as LFW writes it
        ("Schroder", "Gerhard Schroeder", True),
        ("Robert Downey", "Robert Downey Jr", True),
        ("Downey, Jr.", "Robert Downey Jr", True),
        ("jr", "Robert Downey Jr", False),
        ("Cruz, Penélope", "Penelope Cruz", False),  # the family name comes last
        ("Laura Bush", "George W Bush", False),
        ("George", "George W Bush", False),
        ("", "George W Bush", False),
        (None, "George W Bush", False),
    ],
)
def test_names_are_compared_without_case_and_accents(answer, truth, same):
    assert user_study.same_name(answer, truth) == same


def subject(name, q1, q2, protected, study="s"):
    answers = {f"q1-{i:02d}": {"answer": given, "seconds": 1} for i, given in enumerate(q1)}
    answers |= {f"q2-{i:02d}": given for i, given in enumerate(q2)}
    return {"study": study, "subject": name, "answers": answers | {"q3": {"answer": protected}}}


NAMES_KEY = {
    "study": "s",
    "q1": {"q1-00": True, "q1-01": False},
    "q2": {"kind": "names", "items": {"q2-00": "Ann Lee", "q2-01": "Bo Day", "q2-02": "Cy Fox"}},
}
KNOWN = {"known": True}
UNKNOWN = {"known": False}


@pytest.fixture
def answered(tmp_path):
    """A key and two subjects' files."""
    first = subject(
        "a",
        ["same", "different"],  # both right
        [{"answer": "lee", **KNOWN}, {"answer": None, **KNOWN}, {"answer": "Cy Fox", **UNKNOWN}],
        True,
    )
    second = subject(
        "b",
        ["same", "same"],  # one right
        [{"answer": "Bo Day", **KNOWN}, {"answer": None, **UNKNOWN}, {"answer": "x", **KNOWN}],
        False,
    )
    (tmp_path / "key.json").write_text(json.dumps(NAMES_KEY))
    for name, content in (("a", first), ("b", second)):
        (tmp_path / f"{name}.json").write_text(json.dumps(content))
    return tmp_path


def score(folder, *names):
    return user_study.main(["score", *(str(folder / name) for name in ("key.json", *names))])


def test_score_by_hand(answered, capsys):
    assert score(answered, "a.json", "b.json") == 0
    report = json.loads((answered / "study_results.json").read_text())
    assert report["q1_accuracy"] == pytest.approx(0.75)  # (2/2 + 1/2) / 2
    assert report["q1_interval"] == pytest.approx([0.5, 1.0])  # both drawn alike, often enough
    assert report["q2_answers"] == 4  # a knows two, b knows two
    assert report["q2_named"] == pytest.approx(0.25)  # "lee" alone
    assert (report["q3_protected"], report["subjects"]) == (1, 2)
    said = capsys.readouterr().out
    assert "75.0% right" in said and "25.0% of 4" in said and "1 of 2" in said
    assert (answered / "study_results.png").read_bytes().startswith(b"\x89PNG")


def test_stars_are_understood_where_the_shell_leaves_them(answered):
    """As in the command of the README on Windows; a name with brackets is no pattern."""
    (answered / "b.json").rename(answered / "b[1].json")
    assert score(answered, "a.jso*", "b[1].json") == 0
    report = json.loads((answered / "study_results.json").read_text())
    assert report["subjects"] == 2


def test_what_nobody_answered_has_no_bar(answered, monkeypatch):
    """Nobody knew any of the people: that is no share of zero."""
    drawn = []
    bar = Axes.bar
    monkeypatch.setattr(Axes, "bar", lambda axes, *a, **k: drawn.append(a[1]) or bar(axes, *a, **k))
    given = json.loads((answered / "a.json").read_text())
    for answer in given["answers"].values():
        if "known" in answer:
            answer["known"] = False
    (answered / "a.json").write_text(json.dumps(given))
    assert score(answered, "a.json") == 0
    assert np.isnan(drawn[0][1]) and drawn[0][0] == 1


@pytest.mark.parametrize("name", ["study_results.json", "study_results.png"])
def test_an_answer_is_never_overwritten_by_the_result(answered, capsys, name):
    (answered / "b.json").rename(answered / name)
    before = (answered / name).read_bytes()
    assert score(answered, "a.json", name) == 2
    assert f"{name} is the key or an answer: rename it" in capsys.readouterr().err
    assert (answered / name).read_bytes() == before


def test_interval_is_the_bootstraps():
    """Of 400 subjects of accuracy 0 or 1, the interval is the normal one."""
    values = np.arange(400) % 2
    low, high = user_study.interval(values.astype(float))
    half = 1.96 * 0.5 / 20
    assert low == pytest.approx(0.5 - half, abs=0.006)
    assert high == pytest.approx(0.5 + half, abs=0.006)
    assert user_study.interval(np.array([0.5])) is None


def spoil_torn(folder):
    (folder / "b.json").write_text((folder / "b.json").read_text()[:-20])


def spoil_double(folder):
    shutil.copy(folder / "a.json", folder / "b.json")


def spoil_foreign(folder):
    given = json.loads((folder / "b.json").read_text())
    (folder / "b.json").write_text(json.dumps(given | {"study": "another"}))


def spoil_incomplete(folder):
    given = json.loads((folder / "b.json").read_text())
    del given["answers"]["q2-01"]["known"]
    (folder / "b.json").write_text(json.dumps(given))


def spoil_list(folder):
    (folder / "b.json").write_text("[1, 2]")


def spoil_values(folder):
    given = json.loads((folder / "b.json").read_text())
    given["answers"]["q1-00"]["answer"] = True
    (folder / "b.json").write_text(json.dumps(given))


def spoil_kind(folder):
    given = json.loads((folder / "b.json").read_text())
    given["answers"]["q3"] = None
    (folder / "b.json").write_text(json.dumps(given))


@pytest.mark.parametrize(
    "spoil, word",
    [
        (spoil_torn, "cannot be read"),
        (spoil_double, "repeats the subject of another file"),
        (spoil_foreign, "another study"),
        (spoil_incomplete, "q2-01"),
        (spoil_list, "b.json"),
        (spoil_values, "q1-00"),
        (spoil_kind, "q3"),
    ],
)
def test_spoilt_files_are_refused_in_one_sentence(answered, capsys, spoil, word):
    spoil(answered)
    before = (answered / "b.json").read_bytes()
    assert score(answered, "a.json", "b.json") == 2
    said = capsys.readouterr().err
    assert "b.json" in said and word in said and said.count("\n") == 1
    assert not (answered / "study_results.json").exists()
    assert (answered / "b.json").read_bytes() == before


def test_a_name_that_is_wrong_is_to_be_checked(answered, capsys):
    """The same command again finds no more."""
    assert score(answered, "a.json", "absent.json") == 2
    said = capsys.readouterr().err
    assert "absent.json does not exist: check its name" in said and "again" not in said


@pytest.mark.parametrize(
    "name, text, says",
    [
        ("key.json", '{"study"', "key.json cannot be read .*: restore it"),  # not: delete it
        ("b.json", "{", "b.json cannot be read .*: restore it"),
        (
            "key.json",
            '{"study": "s", "q1": {}}',
            r"key.json cannot be read \(it lacks q2\): restore",
        ),
        ("key.json", '{"study": "s", "q1": 5, "q2": {}}', "not a study's key"),
        ("key.json", '{"study": "s", "q1": {}, "q2": {"kind": [], "items": {}}}', "not a study's"),
        ("b.json", '{"study": "s", "subject": [], "answers": {}}', "not a subject's answers"),
        ("b.json", '{"study": "s", "subject": "b", "answers": []}', "not a subject's answers"),
    ],
)
def test_a_damaged_file_is_never_to_be_deleted(answered, capsys, name, text, says):
    (answered / name).write_text(text)
    assert score(answered, "a.json", "b.json") == 2
    assert re.search(says, capsys.readouterr().err)


def test_a_name_without_letters_is_nobodys():
    assert not user_study.same_name("Lee", "...")


# ---------------------------------------------------------------- in a browser


class Browser:
    """Chromium without a window, driven over its debugging protocol."""

    def __init__(self, folder, page):
        self.process = subprocess.Popen(
            [
                CHROMIUM,
                "--headless",
                "--no-sandbox",
                "--disable-gpu",
                "--disable-background-networking",
                "--disable-component-update",
                "--no-first-run",
                "--remote-debugging-port=0",
                f"--user-data-dir={folder / 'profile'}",
                page.as_uri(),
            ],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        self.loop = asyncio.new_event_loop()
        self.number = 0
        port_file = folder / "profile" / "DevToolsActivePort"
        port = self.wait(lambda: port_file.exists() and port_file.read_text().split("\n")[0])
        address = f"http://127.0.0.1:{port}/json"
        target = self.wait(lambda: self.targets(address))[0]
        self.connection = self.loop.run_until_complete(self.connect(target))

    @staticmethod
    def wait(condition):
        for _ in range(300):
            if found := condition():
                return found
            time.sleep(0.1)
        raise AssertionError("the browser did not answer within 30 seconds")

    @staticmethod
    def targets(address):
        with urllib.request.urlopen(address, timeout=10) as answer:
            pages = [one for one in json.load(answer) if one["type"] == "page"]
        return [one["webSocketDebuggerUrl"] for one in pages]

    @staticmethod
    async def connect(target):
        from tornado.websocket import websocket_connect  # comes with jupyter

        return await websocket_connect(target, max_message_size=2**26)

    def send(self, method, **parameters):
        self.number += 1
        message = {"id": self.number, "method": method, "params": parameters}

        async def exchange():
            await self.connection.write_message(json.dumps(message))
            while True:
                answer = json.loads(await self.connection.read_message())
                if answer.get("id") == message["id"]:
                    assert "error" not in answer, answer
                    return answer["result"]

        return self.loop.run_until_complete(asyncio.wait_for(exchange(), 30))

    def value(self, expression):
        result = self.send("Runtime.evaluate", expression=expression, returnByValue=True)
        return result["result"].get("value")

    def press(self, key):
        for kind in ("keyDown", "keyUp"):
            text = {"text": key} if len(key) == 1 and kind == "keyDown" else {}
            self.send("Input.dispatchKeyEvent", type=kind, key=key, **text)

    def close(self):
        self.process.kill()
        self.process.wait()
        self.loop.close()


@pytest.mark.skipif(CHROMIUM is None, reason="no chromium on PATH: the page is not tried in one")
def test_a_subject_fills_in_the_page(study_folder, tmp_path):
    """By keyboard alone, with a reload in the middle; the saved file is scored."""
    browser = Browser(tmp_path, study_folder / "study.html")
    try:
        browser.wait(lambda: browser.value("typeof show") == "function")
        browser.press("b")  # agree and begin
        for done in range(24):
            assert browser.value("count.textContent") == f"{done} of 41 answered"
            assert "same person" in browser.value("page.querySelector('h2').textContent")
            browser.press("s" if done % 2 else "d")
            if done == 10:
                browser.send("Page.reload")
                browser.wait(
                    lambda: (
                        browser.value("typeof count !== 'undefined' && count.textContent")
                        == "11 of 41 answered"
                    )
                )
                assert browser.value("page.querySelectorAll('img').length") == 0  # whose are they?
                browser.press("g")
        for _ in range(16):
            assert browser.value("page.querySelectorAll('button img').length") == 4
            browser.press("2")
        browser.press("y")
        assert browser.value("count.textContent") == "41 of 41 answered"
        browser.send(
            "Browser.setDownloadBehavior", behavior="allow", downloadPath=str(tmp_path / "saved")
        )
        browser.press("s")
        saved = browser.wait(lambda: list(tmp_path.glob("saved/answers-*.json")))[0]
        assert browser.value("JSON.parse(result()).subject") in saved.name
    finally:
        browser.close()
    given = json.loads(saved.read_text())
    assert all(
        given["answers"][item]["answer"] == 1 for item in key_of(study_folder)["q2"]["items"]
    )
    key = study_folder / "key.json"
    assert user_study.main(["score", str(key), str(saved), "--out", str(tmp_path)]) == 0
    report = json.loads((tmp_path / "study_results.json").read_text())
    answers = [given["answers"][item]["answer"] == "same" for item in key_of(study_folder)["q1"]]
    truth = list(key_of(study_folder)["q1"].values())
    assert report["q1_accuracy"] == pytest.approx(np.mean(np.equal(answers, truth)))
    assert report["q1_interval"] is None and report["q3_protected"] == 1
