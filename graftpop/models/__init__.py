"""Networks by name: their CIFAR forms, torchvision's and timm's classifiers, and user-defined classes."""

from graftpop.models.catalog import MODELS, PYTHON, TIMM, TORCHVISION, build, find_model

__all__ = ["MODELS", "PYTHON", "TIMM", "TORCHVISION", "build", "find_model"]
