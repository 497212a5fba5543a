WRONG = "widths count one pixel more, as in VOC's own script for whole pixels"
HINT = "no + 1"
REPLACE = [
    (
        "iou = box_iou(boxes, truths)",
        "more = torch.tensor([0, 0, 1, 1])\n    iou = box_iou(boxes + more, truths + more)",
    ),
]
