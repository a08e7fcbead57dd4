"""What the standard demands of a DICOM object and is missing, as dciodvfy tells, by the tables that highdicom has."""

from __future__ import annotations

from collections.abc import Iterator

from highdicom._standard_utils import get_iod_module_map, get_module_attribute_map, get_sop_class_iod_map
from pydicom import Dataset


def missing_attributes(one: Dataset) -> list[str]:
    """Attributes of the object's mandatory modules that are not there (types 1 and 2), or empty (type 1)."""
    iod = get_sop_class_iod_map()[one.SOPClassUID]
    attributes = get_module_attribute_map()
    missing = []
    for module in get_iod_module_map()[iod]:
        if module["usage"] != "M":
            continue
        for attribute in attributes[module["key"]]:
            # Functional groups stand in either of two places, which the tables do not know.
            if attribute["type"] not in ("1", "2") or any("FunctionalGroups" in part for part in attribute["path"]):
                continue
            keyword = attribute["keyword"]
            for item in _items(one, attribute["path"]):
                there = keyword in item
                if not there or (attribute["type"] == "1" and item[keyword].value in (None, "", [], b"")):
                    missing.append(f"{module['key']}: {'/'.join([*attribute['path'], keyword])}")
    return sorted(set(missing))


def _items(one: Dataset, path: list[str]) -> Iterator[Dataset]:
    """The items that a path of sequences leads to; none where a sequence is absent."""
    if not path:
        yield one
        return
    for item in one.get(path[0]) or ():
        yield from _items(item, path[1:])
