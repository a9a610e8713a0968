"""Packs: their file format, an importer for each published data format, and the split."""
