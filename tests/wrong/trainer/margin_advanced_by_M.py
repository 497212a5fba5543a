WRONG = "M's step advances the margin: one of D's buffers moves"
HINT = "D's buffers (its margin's step) stay"
REPLACE = [
    (
        """    def _modifier_terms(self, pictures, modified, landmarks, identities) -> dict:
""",
        """    def _modifier_terms(self, pictures, modified, landmarks, identities) -> dict:
        self.recognizer.margin.advance()
""",
    ),
]
