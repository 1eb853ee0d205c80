"""Folders that a test points to a temporary place."""

from pathlib import Path

models_dir = "models"
output_directory = "output"
folders: dict[str, list[str]] = {"diffusion_models": [], "diffusers": []}


def add_model_folder_path(name, path, is_default=False):
    folders.setdefault(name, []).append(path)


def get_filename_list(name):
    found = (path for folder in folders[name] for path in Path(folder).glob("*"))
    return sorted(path.name for path in found)


def get_full_path_or_raise(name, file):
    for folder in folders[name]:
        if (Path(folder) / file).is_file():
            return str(Path(folder) / file)
    raise FileNotFoundError(f"{file} is in none of {folders[name]}")


def get_output_directory():
    return output_directory


def get_save_image_path(prefix, output):
    folder = Path(output) / Path(prefix).parent
    folder.mkdir(parents=True, exist_ok=True)
    taken = [int(p.stem.split("_")[-2]) for p in folder.glob(f"{Path(prefix).name}_*_.*")]
    subfolder = str(Path(prefix).parent) if Path(prefix).parent != Path() else ""
    return str(folder), Path(prefix).name, max(taken, default=0) + 1, subfolder, prefix


def get_folder_paths(name):
    return folders[name]
