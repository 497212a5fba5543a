WRONG = "every anonymizer's frames are resampled on the way, Un-anonymized too: a slight blur"
HINT = "not a blur of them"
REPLACE = [
    (
        "from ppad.crop_sampler import repaint\n",
        """from ppad.crop_sampler import crop_faces, paste_faces


def repaint(frames, boxes, anonymizer):
    return paste_faces(frames, anonymizer(crop_faces(frames, boxes, 32)), boxes)


""",
    ),
]
