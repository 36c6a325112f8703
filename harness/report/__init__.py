"""Renders one Findings object: terminal table, figure, Markdown, CSV, JSON."""
