from . import benchmark, checkpoints, data, evaluation, inference, losses, models, ops, recipes, structures, training
from . import visualization
from .checkpoints.api import create_model, load
from .checkpoints.convert import load_published
from .checkpoints.export import export
from .checkpoints.predict import predict
from .checkpoints.store import save
from .data.classes import Classes
from .evaluation.loop import evaluate_model
from .inference import sliding, tta
from .models.build import build
from .models.model import SegmentationModel
from .recipes import DataRecipe, LossRecipe, ModelRecipe, OptimRecipe, Recipe, TestRecipe, TrainRecipe
from .recipes import get_recipe, list_recipes
from .recipes.prediction import PredictOptions
from .structures import Batch, Decoder, Encoder, Features, LabelMap, Loss, LossTerms, MaskLogits, PixelLogits
from .structures import Predictor, Sample, Segmentation
from .training.api import fit

__version__: str
