"""Tidy rows: one for each score of each image and map."""

from collections.abc import Iterable

from torch import Tensor

Key = tuple[str, str, int, str]  # path, rule, steps, mode of a map


def score_rows(images, keys: Iterable[Key], metric: str, values: Tensor, curves: Tensor | None = None) -> list[dict]:
    """Rows from values (B, M) of B images (with id and label) and M map keys, with their curves (B, M, P) if given."""
    rows = []
    for b, image in enumerate(images):
        for m, (path, rule, steps, mode) in enumerate(keys):
            row = {"image": image.id, "label": image.label, "path": path, "rule": rule, "steps": steps, "mode": mode}
            row |= {"metric": metric, "value": float(values[b, m])}
            rows.append(row | {"curve": None if curves is None else curves[b, m].float().tolist()})
    return rows
