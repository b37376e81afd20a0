"""A small pipeline as its YAML says it, for tests of what is made of pipelines."""

from typing import Any

BASE: dict[str, Any] = {
    "name": "toy",
    "question": "does it train at all?",
    "corpus": "toy",
    "spec": "tiny",
    "text": {"language": "German"},
    "adapter": {"width": 16},
    "llm": {"weights": "llm"},
    "align": {"steps": 20, "batch": 4, "lr": 1e-3},
    "translate": {"steps": 40, "batch": 4, "lr": 1e-3},
}
