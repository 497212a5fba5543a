WRONG = "D is frozen for M's step and never learns again"
HINT = "freeze D for that step only"
REPLACE = [
    (
        """        with optim.frozen(self.recognizer):
            for last, f, f_new, points, people, v, objects, regions in parts:""",
        """        if self.recognizer.eval().requires_grad_(False):
            for last, f, f_new, points, people, v, objects, regions in parts:""",
    ),
]
