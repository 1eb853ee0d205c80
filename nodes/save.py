"""Splat files in ComfyUI's output folder."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path, PurePosixPath

import folder_paths
from comfy_api.latest import Types, io

from .border import host
from .border.splats import gaussians_from_splat

SUFFIXES = ("ply", "splat", "spz", "glb")


class SaveSplat(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LGM_SaveSplat",
            display_name="Save Splat (LGM)",
            category=host.CATEGORY,
            description="Writes every splat of a batch to a file in the output folder, with links "
            "to download them.",
            search_aliases=["export splat", "save ply", "save spz", "save gaussian", "download"],
            is_output_node=True,
            inputs=[
                io.Splat.Input("splat", tooltip="Any splat: LGM's, TripoSplat's, a file's."),
                io.String.Input(
                    "filename_prefix",
                    default="3d/LGM",
                    tooltip="Name within the output folder; a / makes a subfolder. A number is "
                    "added, so no file is ever overwritten.",
                ),
                io.Combo.Input(
                    "format",
                    options=list(SUFFIXES),
                    default="ply",
                    tooltip="Gaussians fainter than 0.005 are left out of all. ply: every "
                    "program reads it, largest, exact. splat: 32 bytes a "
                    "Gaussian, for web viewers. spz: smallest, for web and games. glb: glTF with "
                    "KHR_gaussian_splatting, which few programs read yet.",
                ),
            ],
            outputs=[
                io.File3DSplatAny.Output(
                    display_name="model_3d",
                    is_output_list=True,
                    tooltip="The files, for other nodes; Preview Splat shows all but glb.",
                ),
            ],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def execute(cls, splat, filename_prefix: str, format: str) -> io.NodeOutput:
        from ..lgm.io import FORMATS, write_atomically

        refuse_outside(filename_prefix)
        write = FORMATS[f".{format}"].write
        assert write is not None  # SUFFIXES are those that can be written
        contents = [
            write(None, gaussians_from_splat(splat, index).to("cpu"))
            for index in host.Progress(len(splat.positions)).over(range(len(splat.positions)))
        ]
        folder, name, counter, subfolder, _ = folder_paths.get_save_image_path(
            filename_prefix, folder_paths.get_output_directory()
        )
        saved = []
        for number, content in enumerate(contents, start=counter):
            file = f"{name}_{number:05}_.{format}"
            write_atomically(Path(folder) / file, content)
            saved.append({"filename": file, "subfolder": subfolder, "type": "output"})
        size = sum(map(len, contents)) / 1e6  # as the viewer counts
        host.say(cls, f"{len(saved)} file(s), {size:.1f} MB, in output/{subfolder}")
        files = [Types.File3D(BytesIO(content), file_format=format) for content in contents]
        return io.NodeOutput(files, ui={"3d": saved, "lgm_files": saved})


def refuse_outside(filename_prefix: str) -> None:
    """Raise on names that could lead out of the output folder.

    Raises:
        ValueError: empty, absolute, with a drive or a way up.
    """
    path = PurePosixPath(filename_prefix.replace("\\", "/"))
    parts = path.parts
    bad = not parts or path.is_absolute() or ".." in parts or any(":" in part for part in parts)
    if bad or "\0" in filename_prefix:
        raise ValueError(
            f"A name inside the output folder is needed, got {filename_prefix!r}: use letters, "
            "digits and / for subfolders."
        )
