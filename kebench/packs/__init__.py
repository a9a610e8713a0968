"""Records in and out: the pack format, one importer a published format, and the split. No torch here."""
