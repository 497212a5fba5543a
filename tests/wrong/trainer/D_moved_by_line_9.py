WRONG = "line 9 steps D's optimizer too"
HINT = "D's weights and D's buffers"
REPLACE = [
    (
        """        with optim.frozen(self.recognizer):
            for last, f, f_new, points, people, v, objects, regions in parts:""",
        """        if True:
            for last, f, f_new, points, people, v, objects, regions in parts:""",
    ),
    (
        'learning = [self.optimizers["modifier"], self.optimizers["detector"]]',
        "learning = list(self.optimizers.values())",
    ),
]
