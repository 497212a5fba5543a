WRONG = "the 7 x 7 convs pad with zeros: a dark frame"
HINT = "reflection padding, not zeros"
REPLACE = [
    ("return [nn.ReflectionPad2d(3), nn.Conv2d", "return [nn.ZeroPad2d(3), nn.Conv2d"),
]
