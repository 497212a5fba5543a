"""What a person sees of `ppad.anonymize`: its progress, and a sheet to find missed faces (ours)."""

import time

import numpy as np
from PIL import Image, ImageDraw

from ppad import movies
from ppad.files import clock, print_progress

SECONDS_BETWEEN_LINES = 1.0  # ours: progress a person can follow
# Ours: the preview's pictures, and px of each.
SHEET_COLUMNS = 4
SHEET_ROWS = 6
SHEET_WIDTH = 240
TITLE = 20
CROPS = 200  # tracks at most


class Samples:
    """Pictures taken evenly from any number of them, between half of `most` and `most`."""

    def __init__(self, most=SHEET_COLUMNS * SHEET_ROWS):
        self.most = most
        self.kept = []
        self.seen = 0
        self.every = 1

    def add(self, frame):
        if self.seen % self.every == 0:
            picture = Image.fromarray(frame)
            picture.thumbnail((SHEET_WIDTH, SHEET_WIDTH))
            self.kept.append(picture)
            if len(self.kept) > self.most:
                self.kept = self.kept[::2]
                self.every *= 2
        self.seen += 1


class Sheet:
    """The preview: finished frames only, since an original would leak what it shows.

    Some frames, evenly taken; some of those in which nothing was found; a crop of each track where
    it is largest, small ones enlarged.
    """

    def __init__(self):
        self.file = 0  # number of the file under way: tracks are counted in each
        self.frames = Samples()
        self.empty = Samples()
        self.crops = {}  # (file, track) -> (area, picture)

    def show(self, frame, faces):
        """Take in a frame (H, W, 3) uint8 and its faces [(track, box (4,))]."""
        self.frames.add(frame)
        if not faces:
            self.empty.add(frame)
        for track, (x0, y0, x1, y1) in faces:
            key = (self.file, track)
            area = (x1 - x0) * (y1 - y0)
            known = key in self.crops
            if known and area < 1.5 * self.crops[key][0] or not known and len(self.crops) >= CROPS:
                continue
            half = max(x1 - x0, y1 - y0)  # twice the face's side
            middle = np.array([x0 + x1, y0 + y1] * 2) / 2
            window = (middle + half * np.array([-1, -1, 1, 1])).round().astype(int).tolist()
            crop = Image.fromarray(frame).crop(window).resize((SHEET_WIDTH // 2,) * 2)
            self.crops[key] = (area, crop)

    def save(self, path):
        """Write the sheet as a picture."""
        parts = (
            (f"1 of {self.frames.every} frames", self.frames.kept, SHEET_COLUMNS),
            (f"nothing found ({self.empty.seen} frames)", self.empty.kept, SHEET_COLUMNS),
            (f"{len(self.crops)} tracks", [p for _, p in self.crops.values()], 2 * SHEET_COLUMNS),
        )
        grids = [grid(*part) for part in parts if part[1]]
        height = sum(picture.height for picture in grids)
        sheet = Image.new("RGB", (SHEET_COLUMNS * SHEET_WIDTH, height), "white")
        top = 0
        for picture in grids:
            sheet.paste(picture, (0, top))
            top += picture.height
        movies.save_picture(path, np.array(sheet))


def grid(title, pictures, columns):
    """Pictures side by side below a title."""
    cell = SHEET_COLUMNS * SHEET_WIDTH // columns
    height = max(picture.height for picture in pictures)
    rows = -(-len(pictures) // columns)
    sheet = Image.new("RGB", (columns * cell, TITLE + rows * height), "white")
    ImageDraw.Draw(sheet).text((4, 4), title, "black")
    for i, picture in enumerate(pictures):
        sheet.paste(picture, (i % columns * cell, TITLE + i // columns * height))
    return sheet


class Progress:
    """Frames done, frames a second and the time left, on stderr."""

    def __init__(self, title):
        self.title = title
        self.began = time.monotonic()
        self.last_print = self.began

    def __call__(self, done, total):
        now = time.monotonic()
        if now - self.last_print > SECONDS_BETWEEN_LINES:
            self.last_print = now
            rate = done / (now - self.began)
            left = f"/{total}, {clock(max(0, total - done) / rate)} left" if total else ""
            print_progress(f"{self.title}: frame {done}{left}, {rate:.1f} a second")
