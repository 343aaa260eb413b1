"""Recipes by name: found, listed, and shown as options that can be copied."""

from __future__ import annotations

import inspect
import shlex
from collections import ChainMap
from collections.abc import Collection, Mapping
from dataclasses import fields, is_dataclass
from typing import Any, TypeVar

from a2mim.messages import UsageError, did_you_mean
from a2mim.settings.weights import options_as_text

T = TypeVar("T")


def chosen(name: str, recipes: Mapping[str, T]) -> T:
    """The recipe of a name.

    Raises:
        UsageError: if there is none, with the nearest names.
    """
    if name not in recipes:
        hint = did_you_mean(name, recipes, most=3, cutoff=0.3)
        raise UsageError(f"expected a recipe (a2mim configs lists them), got {name!r}{hint}")
    return recipes[name]


def as_options(config: Any, prefix: str = "", without: Collection[str] = ()) -> list[str]:
    """The settings of a dataclass as options of the command line, one for each line.

    Settings of nested dataclasses have no prefix of their own.

    Args:
        config: the dataclass.
        prefix: of the names, such as ``finetune.``.
        without: settings that are no options.
    """
    lines = []
    for field in (field for field in fields(config) if field.name not in without):
        value, name = getattr(config, field.name), prefix + field.name.replace("_", "-")
        if is_dataclass(value):
            lines += as_options(value, prefix)
        elif field.type in (bool, "bool"):  # one that may be None is given as a word
            lines.append(f"--{prefix}{'' if value else 'no-'}{name.removeprefix(prefix)}")
        else:
            words = [str(value)]
            if isinstance(value, dict):
                words = options_as_text(value)
            elif isinstance(value, tuple):
                words = [str(one) for one in value]
            lines.append(shlex.join([f"--{name}", *words]))
    return lines


def show_recipe(name: str, recipes: Mapping[str, Mapping[str, Any]]) -> str:
    """All of one recipe: its command, its description, its settings as options.

    Args:
        name: of the recipe.
        recipes: by command and name: settings, or functions that make them.

    Raises:
        UsageError: if there is none of that name, with the nearest names.
    """
    chosen(name, ChainMap(*map(dict, recipes.values())))
    parts = []
    for command, group in recipes.items():
        if name not in group:
            continue
        recipe = group[name]
        config = recipe() if callable(recipe) else recipe
        data = " --data folder:DIR" if getattr(config, "data", None) == "" else ""
        about = [inspect.cleandoc(recipe.__doc__ or "")] if callable(recipe) else []
        if not callable(recipe):  # no options but one
            lines = [f"{key}={value}" for key, value in vars(config).items()]
            about.append("settings, of which --lrs can be given:")
        else:
            tuning = "finetune" in command
            prefix, without = ("finetune.", ("data", "seed")) if tuning else ("", ())
            # Images that the user names are in the command above.
            lines = as_options(config, prefix, (*without, "data") if data else without)
            about.append("settings, as options:")
        parts.append("\n".join([f"{command} {name}{data}", *about, *(f"  {x}" for x in lines)]))
    return "\n\n".join(parts)


def list_recipes(recipes: Mapping[str, Mapping[str, object]]) -> str:
    """Recipes by command, a line each: the first of their description, or what they hold."""
    width = max(len(name) for group in recipes.values() for name in group)
    lines = []
    for command, group in recipes.items():
        lines.append(f"{command}:")
        for name, recipe in group.items():
            is_function = callable(recipe)
            about = (recipe.__doc__ or "").splitlines()[0] if is_function else str(recipe)
            lines.append(f"  {name:{width}}  {about}")
    return "\n".join(lines)
