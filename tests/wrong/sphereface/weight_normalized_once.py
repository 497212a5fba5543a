WRONG = "the head's rows are brought to length 1 only at the start"
HINT = "normalized once at the start"
REPLACE = [
    (
        """        _caffe_xavier(self.weight)
""",
        """        _caffe_xavier(self.weight)
        self.weight.data = F.normalize(self.weight.data, dim=1)
""",
    ),
    ("F.normalize(self.weight, dim=1).T", "self.weight.T"),
]
