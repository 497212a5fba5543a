WRONG = "detections below 0.5 are left out, which cuts every precision-recall curve short"
HINT = "score threshold of your own"
REPLACE = [
    (
        "            return self.model(list(frames))\n",
        "            found = self.model(list(frames))\n"
        "            sure = [one['scores'] > 0.5 for one in found]\n"
        "            return [{k: v[s] for k, v in one.items()} for one, s in zip(found, sure)]\n",
    ),
]
