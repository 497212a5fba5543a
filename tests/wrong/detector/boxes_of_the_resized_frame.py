WRONG = "detections come back in the pixels of the resized frame"
HINT = "the frame's own pixels"
REPLACE = [
    (
        "            return self.model(list(frames))",
        """            found = self.model(list(frames))
            images, _ = self.model.transform(list(frames))
            high, wide = images.image_sizes[0]
            ratio = frames.new_tensor([wide / frames.shape[3], high / frames.shape[2]] * 2)
            return [one | {"boxes": one["boxes"] * ratio} for one in found]""",
    ),
]
