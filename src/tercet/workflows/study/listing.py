"""Which recipes there are, and what one holds."""

from __future__ import annotations

from rich.text import Text

from tercet.evaluation.report import as_text, plain_table
from tercet.ground.result import Answer
from tercet.workflows.study.recipes import load_recipe, recipe_names, recipe_text


def list_recipes() -> Answer:
    """Return the packaged recipes with their titles and the time that each scale takes."""
    recipes = [load_recipe(name) for name in recipe_names()]
    table = plain_table("recipes: tercet reproduce NAME --data-dir FOLDER; --show prints one")
    for header in ("name", "question", "scale small takes"):
        table.add_column(header, overflow="fold")
    for recipe in recipes:
        setting = recipe.scales.get("small")
        table.add_row(recipe.name, Text(recipe.title), Text(setting.takes if setting else "-"))
    document = [
        {
            "name": recipe.name,
            "title": recipe.title,
            "source": recipe.source,
            "takes": {scale: setting.takes for scale, setting in recipe.scales.items()},
        }
        for recipe in recipes
    ]
    return Answer(as_text(table), {"recipes": document})


def show_recipe(name: str) -> Answer:
    """Return a recipe as it is written.

    Raises:
        ConfigError: There is none of that name, or it is not sound.
    """
    load_recipe(name)
    text = recipe_text(name)
    return Answer(text, {"recipe": text})
