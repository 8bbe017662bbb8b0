"""What a finished run's folder says, read back."""

from engine.outcome import validation_labels
from engine.run import Run


def test_a_list_of_classes_is_read_back_as_it_was_written(tmp_path):
    """Older runs may hold classes with what Python takes for the end of a line."""
    classes = ["a b", "a\u2028x", "b\x85x", "c\x0bx", "d\x1cx", "é"]
    run = Run(tmp_path, "run", False)
    run.write_text("classes.txt", "\n".join(classes) + "\n")
    rows = [[f"{name}.jpg", name, classes[0], "1.0"] for name in classes]
    run.write_rows("val_predictions.csv", ["path", "true", "predicted", "p"], rows)
    run.close()
    targets, predicted, read = validation_labels(run.folder)
    assert read == classes and targets.tolist() == list(range(6)) and predicted.tolist() == [0] * 6
