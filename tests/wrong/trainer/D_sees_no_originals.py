WRONG = "D learns from modified faces only"
HINT = "both kinds of face count"
REPLACE = [
    (
        "self._learn(-L_adv, last",
        "self._learn(on_modified, last",
    ),
]
