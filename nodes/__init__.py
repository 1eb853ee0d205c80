"""ComfyUI nodes: thin adapters around `lgm`. ComfyUI imports them; nothing else does."""

from .cameras import CameraPath
from .clean import CropSplat, FilterSplat
from .generate import MultiViewDiffusion
from .mesh import BakeSplatTexture, SplatToMesh
from .model import LoadModel
from .multiview_conditioning import ImageConditioning, TextConditioning
from .multiview_load import LoadMultiViewModel
from .prepare import PrepareImage
from .reconstruct import Reconstruct
from .refine import RefineMesh
from .render import RenderSplat
from .sampling_preview import SamplingPreview
from .save import SaveSplat
from .viewer.preview import PreviewSplat
from .views import ArrangeViews, ExampleViews

NODES = [
    MultiViewDiffusion,
    LoadMultiViewModel,
    TextConditioning,
    ImageConditioning,
    SamplingPreview,
    LoadModel,
    ExampleViews,
    PrepareImage,
    ArrangeViews,
    Reconstruct,
    FilterSplat,
    CropSplat,
    CameraPath,
    RenderSplat,
    PreviewSplat,
    SaveSplat,
    SplatToMesh,
    BakeSplatTexture,
    RefineMesh,
]
