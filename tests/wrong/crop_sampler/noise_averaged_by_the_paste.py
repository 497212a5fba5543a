WRONG = "every anonymizer works on crops of one size, and the paste averages its noise away"
HINT = "noise averaged away by the paste"
REPLACE = [
    ('getattr(anonymizer, "size", None)', 'getattr(anonymizer, "size", 64)'),
]
