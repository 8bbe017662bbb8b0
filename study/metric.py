"""What candidates can be ranked by: each metric's title, and which of two scores is better."""

METRICS = dict(macro_f1="macro F1", acc="accuracy", nll="NLL")
DEFAULT = "macro_f1"


def merit(metric: str, score: float) -> float:
    """`score` turned so that more is better."""
    return -score if metric == "nll" else score


def titled(metric: str) -> str:
    """The metric in words, with its direction where that is not the usual one."""
    return METRICS[metric] + " (lower is better)" * (metric == "nll")
