"""Values of slicer.parameterNodeWrapper: how each type is written to and read from a vtkMRMLScriptedModuleNode.

The texts are those that Slicer writes: numbers and text as str(), booleans as "True" and "False", nodes as node
references, enums by name, lists as numbered entries.
"""

from __future__ import annotations

import enum
import pathlib
import types
import typing
from dataclasses import dataclass
from typing import Any

import slicer


@dataclass
class Default:
    """Value of a parameter that nobody set."""

    value: Any


@dataclass
class Decimals:
    """Decimals of the widget of a parameter."""

    value: int


@dataclass
class SingleStep:
    """Step of the widget of a parameter."""

    value: float


class Validator:
    """Base of the rules a value must obey."""

    def validate(self, value: Any) -> None:
        """Raise ValueError or TypeError when the value is not allowed."""


class NotNone(Validator):
    """No None."""

    def validate(self, value: Any) -> None:
        if value is None:
            raise ValueError("Value must not be None")


class IsInstance(Validator):
    """Of a type (or None)."""

    def __init__(self, classtype: Any) -> None:
        self.classtype = classtype

    def validate(self, value: Any) -> None:
        if value is not None and not isinstance(value, self.classtype):
            raise TypeError(f"Value must be of type '{self.classtype}', is type '{type(value)}' value '{value}'")


class WithinRange(Validator):
    """Between two bounds, both allowed."""

    def __init__(self, minimum: float, maximum: float) -> None:
        self.minimum, self.maximum = minimum, maximum

    def validate(self, value: Any) -> None:
        if not self.minimum <= value <= self.maximum:
            raise ValueError(f"Value must be within range [{self.minimum}, {self.maximum}], is {value}")


class Minimum(Validator):
    """Not below a bound."""

    def __init__(self, minimum: float) -> None:
        self.minimum = minimum

    def validate(self, value: Any) -> None:
        if value < self.minimum:
            raise ValueError(f"Value must be at least {self.minimum}, is {value}")


class Maximum(Validator):
    """Not above a bound."""

    def __init__(self, maximum: float) -> None:
        self.maximum = maximum

    def validate(self, value: Any) -> None:
        if value > self.maximum:
            raise ValueError(f"Value must be at most {self.maximum}, is {value}")


class Choice(Validator):
    """One of a list."""

    def __init__(self, choices: Any) -> None:
        self.choices = choices

    def validate(self, value: Any) -> None:
        if value not in self.choices:
            raise ValueError(f"Value is {value}, but must be in one of the following: {self.choices}")


class Exclude(Validator):
    """None of a list."""

    def __init__(self, excludedValues: Any) -> None:
        self.excludedValues = excludedValues

    def validate(self, value: Any) -> None:
        if value in self.excludedValues:
            raise ValueError(f"Value is {value}, but must not be one of {self.excludedValues}")


def split_annotations(annotated: Any) -> tuple[Any, list[Any]]:
    """Return the type and the annotations of ``Annotated[type, ...]`` or of a plain type."""
    if typing.get_origin(annotated) is typing.Annotated:
        kind, *annotations = typing.get_args(annotated)
        return kind, annotations
    return annotated, []


def first_annotation(annotations: list[Any], kind: type) -> Any:
    """Return the first annotation of a kind (a class given without calling it counts as well), or None."""
    return next((a for a in annotations if isinstance(a, kind)), None)


def is_node_type(kind: Any) -> bool:
    """Whether a type is a MRML node class or a union of such."""
    if isinstance(kind, types.UnionType) or typing.get_origin(kind) is typing.Union:
        return all(part is type(None) or is_node_type(part) for part in typing.get_args(kind))
    return isinstance(kind, type) and issubclass(kind, slicer.vtkMRMLNode)


def node_types(kind: Any) -> list[str]:
    """Return the class names of a node type or union of node types."""
    if isinstance(kind, types.UnionType) or typing.get_origin(kind) is typing.Union:
        return [part.__name__ for part in typing.get_args(kind) if part is not type(None)]
    return [kind.__name__]


class Text:
    """int, float, str, bool, path, enum: one text parameter each."""

    def __init__(self, kind: type) -> None:
        self.kind = kind
        self.rules: list[Validator] = [NotNone(), IsInstance((int, float) if kind is float else kind)]

    def default(self) -> Any:
        """Value when no default is given."""
        return next(iter(self.kind)) if issubclass(self.kind, enum.Enum) else self.kind()

    def is_in(self, node: Any, name: str) -> bool:
        """Whether the node has the parameter."""
        return bool(node.HasParameter(name))

    def write(self, node: Any, name: str, value: Any) -> None:
        """Store the value."""
        if issubclass(self.kind, enum.Enum):
            value = value.name
        elif self.kind is bool:
            value = bool(value)
        node.SetParameter(name, str(value))

    def read(self, node: Any, name: str) -> Any:
        """Return the stored value."""
        text = node.GetParameter(name)
        if issubclass(self.kind, enum.Enum):
            return self.kind[text]
        return text == "True" if self.kind is bool else self.kind(text)


class Node:
    """A node: kept as node reference, with an empty parameter of the same name as its mark."""

    def __init__(self, kind: Any) -> None:
        parts = typing.get_args(kind) or (kind,)
        self.rules: list[Validator] = [IsInstance(tuple(part for part in parts if part is not type(None)))]

    def default(self) -> None:
        """No node."""

    def is_in(self, node: Any, name: str) -> bool:
        """Whether the node has the parameter."""
        return bool(node.HasParameter(name))

    def write(self, node: Any, name: str, value: Any) -> None:
        """Store the reference."""
        node.SetParameter(name, "")
        node.SetNodeReferenceID(name, value.GetID() if value is not None else None)

    def read(self, node: Any, name: str) -> Any:
        """Return the referenced node or None."""
        return node.GetNodeReference(name)


class List:
    """list[...] of the types above; returned as a plain list (Slicer returns one that writes itself back)."""

    def __init__(self, kind: Any) -> None:
        (item,) = typing.get_args(kind)
        item, annotations = split_annotations(item)
        self.item = make_value(item)
        self.rules: list[Validator] = [NotNone(), IsInstance((list, tuple))]
        self.item_rules = self.item.rules + [a for a in annotations if isinstance(a, Validator)]

    def default(self) -> list[Any]:
        """Empty."""
        return []

    def is_in(self, node: Any, name: str) -> bool:
        """Whether the node has the parameter."""
        return bool(node.HasParameter(f"{name}.length"))

    def write(self, node: Any, name: str, value: Any) -> None:
        """Store length and items."""
        for item in value:
            for rule in self.item_rules:
                rule.validate(item)
        node.SetParameter(f"{name}.length", str(len(value)))
        for index, item in enumerate(value):
            self.item.write(node, f"{name}.{index}", item)

    def read(self, node: Any, name: str) -> list[Any]:
        """Return the items."""
        length = int(node.GetParameter(f"{name}.length"))
        return [self.item.read(node, f"{name}.{index}") for index in range(length)]


class Optional:
    """A value or None: the name of the type that is there is kept beside it."""

    def __init__(self, kind: Any) -> None:
        (inner,) = [part for part in typing.get_args(kind) if part is not type(None)]
        self.inner = make_value(inner)
        self.rules: list[Validator] = []

    def default(self) -> None:
        """None."""

    def is_in(self, node: Any, name: str) -> bool:
        """Whether the node has the parameter."""
        return bool(node.HasParameter(f"{name}.type"))

    def write(self, node: Any, name: str, value: Any) -> None:
        """Store the value, or that there is none."""
        node.SetParameter(f"{name}.type", "None" if value is None else "value")
        if value is not None:
            for rule in self.inner.rules:
                rule.validate(value)
            self.inner.write(node, name, value)

    def read(self, node: Any, name: str) -> Any:
        """Return the value or None."""
        return None if node.GetParameter(f"{name}.type") == "None" else self.inner.read(node, name)


def make_value(kind: Any) -> Any:
    """Return how a type is stored.

    Raises:
        TypeError: a type that the host (or Slicer) can not store.
    """
    if is_node_type(kind):
        return Node(kind)
    if typing.get_origin(kind) is list:
        return List(kind)
    if isinstance(kind, types.UnionType) or typing.get_origin(kind) is typing.Union:
        return Optional(kind)
    if isinstance(kind, type) and (kind in (int, float, str, bool) or issubclass(kind, (enum.Enum, pathlib.PurePath))):
        return Text(kind)
    raise TypeError(f"Unable to create serializer for type: {kind}")
