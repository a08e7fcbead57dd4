"""slicer.parameterNodeWrapper: typed parameters kept in a real vtkMRMLScriptedModuleNode, connected to widgets."""

from __future__ import annotations

import logging
import types
import typing
from typing import Any

import slicer
import vtk

from . import parameter_values as values
from .parameter_values import Default, Validator, first_annotation, split_annotations


class _Parameter:
    """One typed parameter: where its value is stored and what is allowed."""

    def __init__(self, owner: type, name: str, annotated: Any) -> None:
        kind, annotations = split_annotations(annotated)
        annotations = [a() if isinstance(a, type) and issubclass(a, Validator) else a for a in annotations]
        try:
            self.value = values.make_value(kind)
        except TypeError as error:
            raise Exception(f"Unable to create serializer for {owner} member {name}") from error
        self.name, self.annotated = name, annotated
        self.rules = [*self.value.rules, *(a for a in annotations if isinstance(a, Validator))]
        given = first_annotation(annotations, Default)
        self.default = getattr(owner, name) if hasattr(owner, name) else given.value if given else self.value.default()
        known = (Validator, Default, values.Decimals, values.SingleStep)
        unused = [a for a in annotations if not isinstance(a, known)]
        if unused:
            logging.getLogger(__name__).warning("Unused annotations: %s", unused)

    def write(self, node: Any, value: Any) -> None:
        """Check and store a value; observers are told once."""
        for rule in self.rules:
            rule.validate(value)
        with slicer.util.NodeModify(node):
            self.value.write(node, self.name, value)

    def read(self, node: Any) -> Any:
        """Return the stored value, the default where there is none (as after the scene was closed)."""
        if not self.value.is_in(node, self.name):
            self.write(node, self.default)
        return self.value.read(node, self.name)


class _Wrapper:
    """Methods that the decorator adds to a class."""

    allParameters: dict[str, _Parameter]
    parameterNode: Any

    def _init(self, parameterNode: Any, prefix: str | None = None) -> None:
        object.__setattr__(self, "parameterNode", parameterNode)
        self._guis: dict[int, tuple[dict[str, Any], int]] = {}
        self._next_tag, self._updating = 0, False
        for parameter in self.allParameters.values():
            if not parameter.value.is_in(parameterNode, parameter.name):
                parameter.write(parameterNode, parameter.default)

    def _parameter(self, name: str) -> _Parameter:
        if name not in self.allParameters:
            raise ValueError(f"Cannot find a param with the given name: {name}; there are {list(self.allParameters)}")
        return self.allParameters[name]

    def default(self, name: str) -> Default:
        """Return the default of a parameter."""
        return Default(self._parameter(name).default)

    def getValue(self, name: str) -> Any:
        """Return a value by name."""
        return self._parameter(name).read(self.parameterNode)

    def setValue(self, name: str, value: Any) -> None:
        """Set a value by name."""
        self._parameter(name).write(self.parameterNode, value)

    def isCached(self, name: str) -> bool:
        """Whether Slicer keeps the value in memory: the host never does."""
        self._parameter(name)
        return False

    def connectGui(self, gui: Any) -> int:
        """Connect all widgets with the property SlicerParameterName. Return the tag for disconnectGui."""
        import qt

        widgets = gui.findChildren(qt.QWidget) if _is_widget(gui) else tuple(gui.__dict__.values())
        mapping = {}
        for widget in widgets:
            name = widget.property("SlicerParameterName")
            if name:
                mapping[name] = widget
        return self.connectParametersToGui(mapping)

    def connectParametersToGui(self, mapping: dict[str, Any]) -> int:
        """Connect parameters (by name) to widgets: value to widget first, then both ways."""
        from .connectors import GuiConnector, createGuiConnector

        for name in mapping:
            self._parameter(name)
        connectors = {
            name: widget
            if isinstance(widget, GuiConnector)
            else createGuiConnector(widget, self._parameter(name).annotated)
            for name, widget in mapping.items()
        }
        tag, self._next_tag = self._next_tag, self._next_tag + 1
        for name, connector in connectors.items():
            connector.write(self.getValue(name))
            connector.onChanged(self._writer(name, connector))
        observer = self.AddObserver(vtk.vtkCommand.ModifiedEvent, lambda *_: self._update_guis())
        self._guis[tag] = (connectors, observer)
        return tag

    def _writer(self, name: str, connector: Any) -> Any:
        def write() -> None:
            if not self._updating:
                self.setValue(name, connector.read())

        return write

    def _update_guis(self) -> None:
        if self._updating:
            return
        self._updating = True
        try:
            with slicer.util.NodeModify(self.parameterNode):
                for connectors, _ in self._guis.values():
                    for name, connector in connectors.items():
                        connector.write(self.getValue(name))
        finally:
            self._updating = False

    def disconnectGui(self, tag: int) -> None:
        """Undo connectGui."""
        if tag in self._guis:
            connectors, observer = self._guis.pop(tag)
            for connector in connectors.values():
                connector.onChanged(None)
            self.RemoveObserver(observer)

    def StartModify(self) -> int:
        """Collect changes."""
        return self.parameterNode.StartModify()  # type: ignore[no-any-return]

    def EndModify(self, was: int) -> None:
        """Announce the collected changes."""
        self.parameterNode.EndModify(was)

    def AddObserver(self, event: Any, callback: Any, priority: float = 0.0) -> int:
        """Observe the parameter node."""
        return self.parameterNode.AddObserver(event, callback, priority)  # type: ignore[no-any-return]

    def RemoveObserver(self, tag: int) -> None:
        """Stop observing."""
        self.parameterNode.RemoveObserver(tag)

    def Modified(self) -> None:
        """Announce a change."""
        self.parameterNode.Modified()


def _is_widget(candidate: Any) -> bool:
    return bool(getattr(candidate, "isWidgetType", lambda: False)())


def parameterNodeWrapper(classtype: type | None = None) -> Any:
    """Class decorator: every annotated member becomes a parameter of the node given to the constructor."""
    if classtype is None:
        return parameterNodeWrapper
    parameters = {
        name: _Parameter(classtype, name, annotated)
        for name, annotated in typing.get_type_hints(classtype, include_extras=True).items()
    }
    added = {n: m for n, m in _Wrapper.__dict__.items() if isinstance(m, types.FunctionType) and n != "_init"}
    for name in (*added, "allParameters", "dataType"):
        if hasattr(classtype, name):
            raise ValueError(f"Cannot use reserved name '{name}' in a parameterNodeWrapper")
    for name, method in added.items():
        setattr(classtype, name, method)
    for name in parameters:
        setattr(classtype, name, _property(name))
    extra: dict[str, Any] = {
        "allParameters": parameters,
        "_is_parameter_node_wrapper": True,
        "__init__": _Wrapper._init,
    }
    extra["dataType"] = staticmethod(lambda name: parameters[name].annotated)
    for name, item in extra.items():
        setattr(classtype, name, item)
    return classtype


def _property(name: str) -> property:
    return property(lambda self: self.getValue(name), lambda self, value: self.setValue(name, value))


def isParameterNodeWrapper(candidate: Any) -> bool:
    """Whether a class or object was made by the decorator."""
    return bool(getattr(candidate, "_is_parameter_node_wrapper", False))


def findChildWidgetForParameter(widget: Any, parameter: str) -> Any:
    """Return the descendant that shows a parameter, or None."""
    import qt

    children = widget.findChildren(qt.QWidget)
    return next((w for w in children if w.property("SlicerParameterName") == parameter), None)


def make_module() -> types.ModuleType:
    """Return the module ``slicer.parameterNodeWrapper``."""
    from . import connectors

    module = types.ModuleType("slicer.parameterNodeWrapper")
    names = ("Default", "Decimals", "SingleStep", "Validator", "NotNone", "IsInstance", "WithinRange", "Minimum")
    for name in (*names, "Maximum", "Choice", "Exclude"):
        setattr(module, name, getattr(values, name))
    for item in (parameterNodeWrapper, isParameterNodeWrapper, findChildWidgetForParameter):
        setattr(module, item.__name__, item)
    module.__dict__.update(
        GuiConnector=connectors.GuiConnector,
        createGuiConnector=connectors.createGuiConnector,
        SlicerParameterNamePropertyName="SlicerParameterName",
        splitAnnotations=split_annotations,
    )
    return module
