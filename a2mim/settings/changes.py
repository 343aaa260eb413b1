"""Settings of recipes: chosen by name, changed by ``--set KEY=VALUE``, checked by their types."""

from __future__ import annotations

import ast
import inspect
from collections import ChainMap
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal, TypeVar, cast, get_args, get_origin, get_type_hints

from a2mim.messages import UsageError, did_you_mean

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


def changed(config: T, changes: Sequence[str]) -> T:
    """A configuration, a dataclass, with settings changed, each as KEY=VALUE.

    Raises:
        UsageError: for an unknown key, with the nearest one, or a value of another type.
    """
    hints = get_type_hints(type(config))
    for change in changes:
        key, equals, text = change.partition("=")
        if not equals or key not in hints:
            hint = did_you_mean(key, hints) or f"; settings: {', '.join(hints)}"
            raise UsageError(f"expected --set KEY=VALUE of a setting, got {change!r}{hint}")
        try:
            value: object = ast.literal_eval(text)
        except (SyntaxError, ValueError):
            value = text
        config = replace(cast(Any, config), **{key: _fitting(key, value, hints[key])})
    return config


def _fitting(key: str, value: object, hint: Any) -> Any:
    """The value, if it is of the type of the setting."""
    origin, parts = get_origin(hint), get_args(hint)
    if origin is Literal:
        fits, wanted = value in parts, " or ".join(map(str, parts))
    elif origin is tuple:
        wanted = "several values, as (1, 2)"
        if parts[0] is str:
            wanted = "names, as one,two"
            if isinstance(value, str):
                value = tuple(name for part in value.split(",") if (name := part.strip()))
        fits = isinstance(value, tuple | list)
        value = tuple(value) if isinstance(value, tuple | list) else value
    elif origin is dict:
        fits, wanted = isinstance(value, dict), "options, as {'depth': 2}"
    elif parts:  # a type or None
        fits = value is None or isinstance(value, parts) or (float in parts and _number(value))
        wanted = " or ".join(getattr(part, "__name__", str(part)) for part in parts)
    elif hint is float:
        fits, wanted = _number(value), "a number"
    else:
        fits = isinstance(value, hint) and not (hint is int and isinstance(value, bool))
        wanted = {int: "a whole number", str: "text"}.get(hint, hint.__name__)
    if not fits:
        raise UsageError(f"expected {key} as {wanted}, got {value!r}")
    return value


def _number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def show_recipe(name: str, recipes: Mapping[str, Mapping[str, Any]]) -> str:
    """All of one recipe: its command, its description, its settings as ``--set`` takes them.

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
        settings = vars(recipe() if callable(recipe) else recipe)
        data = " --data folder:DIR" if settings.get("data") == "" else ""
        about = [inspect.cleandoc(recipe.__doc__ or "")] if callable(recipe) else []
        lines = [f"  {key}={value}" for key, value in settings.items()]
        parts.append("\n".join([f"{command} {name}{data}", *about, "settings:", *lines]))
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
