"""Studies: variants of a recipe, trained over seeds, scored, diagnosed and compared."""
