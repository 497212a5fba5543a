WRONG = "D learns from modified faces only"
HINT = "both kinds of face count"
REPLACE = [
    (
        'return -L_adv, {"D',
        'return on_modified, {"D',
    ),
]
