WRONG = "line 9 steps D's optimizer too"
HINT = "D's weights and D's buffers"
REPLACE = [
    (
        """        with optim.frozen(self.recognizer):
            for last, f, f_new, points, people, v, objects, regions in self._split(""",
        """        if True:
            for last, f, f_new, points, people, v, objects, regions in self._split(""",
    ),
    (
        'self._learn(loss, last, "modifier", "detector")',
        "self._learn(loss, last, *self.optimizers)",
    ),
]
