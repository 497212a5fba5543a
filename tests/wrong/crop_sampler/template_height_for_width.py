WRONG = "the template is scaled by height and width exchanged"
HINT = "width / 96 scales x"
REPLACE = [
    ("torch.tensor([width / 96, height / 112])", "torch.tensor([height / 112, width / 96])"),
]
