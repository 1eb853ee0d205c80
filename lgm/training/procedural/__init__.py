"""Objects made by chance: shapes, kinds of things, materials."""
