"""Household chores in ALFWorld's words: an engine, an expert, procedural houses and an importer, in pure Python."""
