WRONG = "line 9 steps D's optimizer too"
HINT = "D's weights and D's buffers"
REPLACE = [
    (
        """        with _frozen(self.recognizer):
            terms = self._modifier_terms(pictures, modified, landmarks, identities)
            total""",
        """        if True:
            terms = self._modifier_terms(pictures, modified, landmarks, identities)
            total""",
    ),
    (
        'self._apply(("modifier", "detector"), total)',
        'self._apply(("modifier", "detector", "recognizer"), total)',
    ),
]
