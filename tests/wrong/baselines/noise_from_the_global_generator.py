WRONG = "the noise comes from torch's global generator"
HINT = "global generator"
REPLACE = [
    (".normal_(generator=generator)", ".normal_()"),
]
