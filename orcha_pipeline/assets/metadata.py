"""Pictures in the Dagster UI."""

import base64

import dagster as dg


def picture(png: bytes, alt: str) -> dg.MarkdownMetadataValue:
    """A PNG as metadata that the asset's page shows."""
    return dg.MetadataValue.md(f"![{alt}](data:image/png;base64,{base64.b64encode(png).decode('ascii')})")
