"""The bins of ECE and of reliability diagrams. Imports no torch."""

import numpy as np

BINS = 15
_UP = np.arange(BINS + 1) * float(np.float32(1 / BINS))
#: As torch.linspace has them, which counts from the nearer end: 0.2, the confidence of five equal classes, is not an edge to the last bit.
EDGES = np.where(_UP < 0.5, _UP, 1 - _UP[::-1]).astype(np.float32)


def reliability(confidence: np.ndarray, correct: np.ndarray) -> list[dict[str, float]]:
    """The bins of ECE that hold images: each with its mean `confidence`, its `accuracy` and its `share` of all images.

    `confidence` (N,) is the largest probability of each image, `correct` (N,) whether its class is the label. ECE is the sum of
    share |accuracy - confidence|. A bin includes its lower edge, as in torchmetrics, so a confidence of exactly 1 is a bin of its own.
    """
    confidence = np.minimum(confidence, 1).astype(np.float32)  # a mean over draws may round to just above 1
    bin_of = np.digitize(confidence, EDGES)
    return [
        {
            "confidence": float(confidence[chosen].mean(dtype=np.float64)),
            "accuracy": float(correct[chosen].mean()),
            "share": float(chosen.mean()),
        }
        for chosen in (bin_of == index for index in np.unique(bin_of))
    ]
