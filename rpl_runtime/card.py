"""The model card: what a manifest and an evaluation say, for people.

In: a manifest, its digest, and an evaluation where there is one. Out: Markdown. It reads no files.
"""

from typing import Any

from rpl_runtime.manifest import Manifest


def render_card(manifest: Manifest, digest: str, evaluation: dict[str, Any] | None) -> str:
    """The card as Markdown text."""
    return f"# {manifest.spec.name}\n\n{manifest.spec.description}\n\nBundle {digest}\n\n"
