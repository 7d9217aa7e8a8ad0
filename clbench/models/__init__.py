"""Networks: clbench's own, timm's, and those that spell their labels."""

from clbench.models.base import Classifier as Classifier, Head as Head, head_of as head_of
from clbench.models.making import make_model as make_model
from clbench.registry import register_model as register_model
