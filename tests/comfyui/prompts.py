"""Small prompts in API format, built from what the server says about its nodes."""

from __future__ import annotations

from .client import Prompt


def node(object_info: dict, class_type: str, **inputs) -> dict:
    """A node with every input that has a default, since the server fills in none."""
    return {
        "class_type": class_type,
        "inputs": defaults(object_info[class_type]["input"]) | inputs,
    }


def defaults(declared: dict, prefix: str = "") -> dict:
    """Input name -> default; of a combo without one the first choice, as the page has it."""
    values = {}
    every = declared.get("required", {}) | declared.get("optional", {})
    for name, (kind, *options) in every.items():
        extra = options[0] if options else {}
        choices = kind if isinstance(kind, list) else extra.get("options")
        if kind == "COMFY_DYNAMICCOMBO_V3":
            values[prefix + name] = choices[0]["key"]
            values |= defaults(choices[0]["inputs"], f"{prefix}{name}.")
        elif "default" in extra:
            values[prefix + name] = extra["default"]
        elif choices:
            values[prefix + name] = choices[0]
    return values


def four_views(object_info: dict, **reconstruct) -> Prompt:
    """The shortest way to a splat, at node "splat". Without an output node it does not run."""
    return {
        "model": node(object_info, "LGM_LoadModel"),
        "views": node(object_info, "LGM_ExampleViews"),
        "splat": node(
            object_info,
            "LGM_Reconstruct",
            model=["model", 0],
            views=["views", 0],
            **reconstruct,
        ),
    }


def saved(object_info: dict, prefix: str = "3d/LGM", **save) -> Prompt:
    """Four views to a file."""
    inputs = {"splat": ["splat", 0], "filename_prefix": prefix, **save}
    return four_views(object_info) | {"save": node(object_info, "LGM_SaveSplat", **inputs)}


def rendered(object_info: dict, **render) -> Prompt:
    """Four views to pictures."""
    return four_views(object_info) | {
        "render": node(object_info, "LGM_RenderSplat", splat=["splat", 0], **render),
        "preview": node(object_info, "PreviewImage", images=["render", 0]),
    }
