"""Recipes: the typed settings of a run, and the objects built from them."""

from s2s.recipe.recipe import Recipe

__all__ = ["Recipe"]
