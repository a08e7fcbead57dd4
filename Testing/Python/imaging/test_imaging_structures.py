"""Structures by name: one numbering for all maps, tables of many programs, layers, and label maps told from images."""

from __future__ import annotations

import itertools
import unicodedata
from pathlib import Path

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk
from fusion_bench import body, picture, volume
from imaging_examples import oblique_grid

from hyperreg.errors import FileError, InputError
from hyperreg.imaging.files import write_volume
from hyperreg.imaging.label_checks import check_is_label_map, check_on_image
from hyperreg.imaging.label_maps import read_structures
from hyperreg.imaging.label_tables import read_table
from hyperreg.imaging.segment_files import read_segments, write_segmentation
from hyperreg.imaging.structures import Code, LabelMap, Meaning, Structure, Terminology, compared, numbered_alike
from hyperreg.imaging.volume import Volume

GRID = oblique_grid((8, 7, 6), (1.5, 1.5, 2))


def drawn(name: str, *names: str, labels: tuple[int, ...] = ()) -> LabelMap:
    """A map with a voxel of each structure, numbered from 1 unless `labels` says how; "" for one without a name."""
    numbers = labels or tuple(range(1, len(names) + 1))
    array = np.zeros(10, np.uint8)
    array[: len(numbers)] = numbers
    table = {number: Meaning(word) for number, word in zip(numbers, names, strict=False) if word}
    return LabelMap((volume(array.reshape(-1, 1, 1), name=name),), table)


def named(maps: list[LabelMap], table: dict[int, Meaning], name: str) -> list[str]:
    one = next(one for one in maps if one.name == name)
    return [table[n].name if n in table else f"Label {n}" for n in one.flat.array.ravel() if n]


def test_one_number_per_name_whatever_the_order_of_the_maps() -> None:
    maps = [
        drawn("a", "Liver", "Spleen"), drawn("b", "Kidney", "Liver"), drawn("c", "kidney", "liver"),
        drawn("d", "Liver", "Spleen", "Tumor"), drawn("e", "Kid_ney", "Left-Liver"),
    ]  # fmt: skip
    found = []
    for order in itertools.permutations(maps):
        alike, table, texts = numbered_alike(order)
        found.append({meaning.key: number for number, meaning in table.items()})
        assert named(alike, table, "d") == ["Liver", "Spleen", "Tumor"] or table[1].name != "Liver"
        assert [text.key for text in (Meaning(word) for word in named(alike, table, "b"))] == ["kidney", "liver"]
        assert any("matched by name" in text for text in texts)
    assert all(one == found[0] for one in found)
    assert len(set(found[0].values())) == len(found[0]) == 6


def test_new_numbers_collide_with_nobody_s() -> None:
    source = drawn("own", "liver", "spleen")
    (alike,), table, texts = numbered_alike([source], {1: Meaning("kidney"), 5: Meaning("Spleen")})
    assert alike.flat.array.ravel()[:2].tolist() == [6, 5]
    assert "1 → 6 (liver)" in texts[0]
    assert table == {1: Meaning("kidney"), 5: Meaning("Spleen"), 6: Meaning("liver")}


def test_a_number_without_a_name_means_what_all_others_say_or_is_asked_for() -> None:
    nameless = drawn("plain", labels=(1, 9))
    (_, plain), table, texts = numbered_alike([drawn("a", "Liver"), nameless])
    assert named([plain], table, "plain") == ["Liver", "Label 9"]
    assert any("'plain' names none of its structures" in text and "1 = Liver" in text for text in texts)
    with pytest.raises(InputError, match=r"'plain' does not say what its label 1 means.*Kidney, Liver"):
        numbered_alike([drawn("a", "Liver"), drawn("b", "Kidney"), nameless])
    skipped: dict[str, str] = {}
    alike, _table, _texts = numbered_alike([drawn("a", "Liver"), drawn("b", "Kidney"), nameless], None, skipped)
    assert [one.name for one in alike] == ["a", "b"]
    assert list(skipped) == ["plain"]
    # A common table stands above all of them, and nothing needs to be said.
    alike, table, texts = numbered_alike([nameless], {1: Meaning("Kidney")})
    assert named(alike, table, "plain") == ["Kidney", "Label 9"]
    assert texts == []
    # Its own Liver is another number: 1 is something else, without a name.
    partly = drawn("partly", "", "Liver")
    alike, table, _texts = numbered_alike([drawn("a", "Liver"), partly])
    assert len(set(alike[1].labels)) == 2
    assert named(alike, table, "partly")[1] == "Liver"
    assert named(alike, table, "partly")[0] != "Liver"


def test_maps_without_any_name_keep_their_numbers() -> None:
    maps = [drawn("a", labels=(4, 7)), drawn("b", labels=(7, 200))]
    alike, table, texts = numbered_alike(maps)
    assert [one.labels for one in alike] == [[4, 7], [7, 200]]
    assert (table, texts) == ({}, [])


def test_a_sign_is_part_of_a_number_and_accents_are_written_in_two_ways() -> None:
    minus = volume(np.array([-3, -7], np.int16).reshape(-1, 1, 1), name="minus")
    maps = [LabelMap((minus,)), drawn("plus", labels=(3, 7))]
    alike, _table, texts = numbered_alike(maps)
    assert [one.labels for one in alike] == [[-7, -3], [3, 7]]
    assert texts == []
    with pytest.raises(InputError, match="no structure in common"):
        compared(*maps)
    composed, apart = (unicodedata.normalize(form, "Hüftgelenk") for form in ("NFC", "NFD"))
    _fixed, moving, table, _texts = compared(drawn("a", composed, labels=(5,)), drawn("b", apart, labels=(9,)))
    assert moving.labels == [5]
    assert [meaning.name for meaning in table.values()] == [composed]


TWO = {17: Meaning("Left-Hippocampus", (220, 216, 20)), 18: Meaning("Left Amygdala", (103, 255, 255))}
BIDS = """index\tname\tabbreviation\tcolor
17\tLeft-Hippocampus\tHL\t#dcd814
18\tLeft Amygdala\tAL\t#67ffff
"""
SLICER = """# comment
0 background 0 0 0 0
17 Left-Hippocampus 220 216 20 255
18 Left Amygdala 103 255 255 255
"""
FREESURFER = """#No. Label Name:                            R   G   B   A

0   Unknown                                 0   0   0   0
17  Left-Hippocampus                        220 216 20  0
18 Left Amygdala 103 255 255 0
"""
ITK_SNAP = """# ITK-SnAP Label Description File
    0     0    0    0        0  0  0    "Clear Label"
   17   220  216   20        1  1  1    "Left-Hippocampus"
   18   103  255  255      0.5  0  1    "Left Amygdala"
"""
SLICER_CSV = '\ufeff"LabelValue",Name,Color_R,Color_G,Color_B\n7,"Core, inner",10,20,30\n'
SIDES = "id,label,hemisphere,structure\n1,bankssts,L,cortex\n2,bankssts,R,cortex\n3,insula,R,cortex\n"
SPOTS = {1: Meaning("spot (1)"), 2: Meaning("spot (2)"), 3: Meaning("core")}
CORE_AND_RIM = {7: Meaning("Core"), 8: Meaning("Rim")}


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("l.csv", "Label Number,Label Name,Class\n4,3rd Ventricle,CSF\n", {4: Meaning("3rd Ventricle")}),
        ("l.csv", "label,name,red,green,blue\n7,Core,1,2,3\n0,background,0,0,0\n", {7: Meaning("Core", (1, 2, 3))}),
        ("l.csv", "name;ID\nCore;7\nRim;8\n", CORE_AND_RIM),
        ("l.csv", SLICER_CSV, {7: Meaning("Core, inner", (10, 20, 30))}),
        ("l.csv", "7,Core\n8,Rim\n", CORE_AND_RIM),
        ("l.csv", "Region,Value\nCore,7.0\nRim,8\n", CORE_AND_RIM),
        ("l.csv", "Bezeichnung,Nummer\nCore,7\nRim,8\n", CORE_AND_RIM),
        ("dseg.tsv", BIDS, TWO),
        ("l.csv", SIDES, {1: Meaning("bankssts L"), 2: Meaning("bankssts R"), 3: Meaning("insula R")}),
        ("l.csv", "label,name\n1,spot\n2,spot\n3,core\n", SPOTS),
        ("l.csv", 'label,name,rgb\n7,Core,"0.5,0,1.0"\n', {7: Meaning("Core", (128, 0, 255))}),
        ("l.ctbl", SLICER, TWO),
        ("lut.txt", FREESURFER, TWO),
        ("aal.txt", "1 Precentral_L 2001\n2 Insula_R 2002\n", {1: Meaning("Precentral_L"), 2: Meaning("Insula_R")}),
        ("snap.txt", ITK_SNAP, TWO),
    ],
)
def test_tables_of_many_programs(tmp_path: Path, name: str, text: str, expected: dict[int, Meaning]) -> None:
    (tmp_path / name).write_text(text, encoding="utf-8", newline="")
    assert read_table(tmp_path / name) == expected


@pytest.mark.parametrize(
    ("name", "raw"),
    [
        ("l.csv", b"a,b\n1,2\n"),
        ("l.csv", b"label,name\nx,Core\n"),
        ("l.csv", b"label,name,red,green,blue\n7,Core,1,2,300\n"),
        ("l.csv", b"label,name\n"),
        ("l.csv", b"label,name\n7," + b"x" * 200_000),
        ("l.csv", b"label,name\n7\0,Core\n"),
        ("l.csv", b"label,name\n7,Core\n7,Rim\n"),
        ("l.csv", b""),
        ("l.ctbl", b"255 0 0 255\n1 2 3 4\n"),
        ("l.txt", b"Dear reader, this is a note.\n"),
        ("l.txt", bytes(range(256))),
        ("l.csv", b"\xff\xfe\x00"),
    ],
)
def test_what_is_no_table_is_refused_by_name(tmp_path: Path, name: str, raw: bytes) -> None:
    (tmp_path / name).write_bytes(raw)
    with pytest.raises(FileError, match="table of labels") as refused:
        read_table(tmp_path / name)
    assert name in str(refused.value)


def layered(path: Path, *, layers: bool = True, shift: int = 0) -> Path:
    """A file as 3D Slicer saves overlapping segments, an anisotropic, oblique grid; or as it did before 4.11."""
    array = np.zeros((2, 12, 10, 8), np.uint8)
    array[0, 2:8, 2:8, 2:6] = 1
    array[1, 6 + shift : 10 + shift, 3:7, 3:5] = 1
    affine = np.diag([-1.0, -1.0, 1.0, 1.0]) @ oblique_grid((12, 10, 8), (1.5, 1, 2)).ijk_to_ras
    directions = " ".join("(" + ",".join(f"{x:.9g}" for x in affine[:3, n]) + ")" for n in range(3))
    header = (
        "NRRD0005\ntype: unsigned char\ndimension: 4\nspace: left-posterior-superior\nsizes: 2 12 10 8\n"
        f"space directions: none {directions}\nkinds: list domain domain domain\nencoding: raw\n"
        f"space origin: ({','.join(f'{x:.9g}' for x in affine[:3, 3])})\n"
    )
    for n, name in enumerate(("organ", "tumour")):
        header += f"Segment{n}_ID:=S{n}\nSegment{n}_Name:={name}\nSegment{n}_Color:=1 0.5 0\n"
        header += f"Segment{n}_LabelValue:=1\nSegment{n}_Layer:={n}\n" if layers else ""
    path.write_bytes(header.encode() + b"\n" + np.ascontiguousarray(array.transpose(3, 2, 1, 0)).tobytes())
    return path


@pytest.mark.parametrize("layers", [True, False])
def test_layers_of_overlapping_segments_keep_their_names_and_place(tmp_path: Path, layers: bool) -> None:
    found = read_segments(layered(tmp_path / "both.seg.nrrd", layers=layers))
    assert [found.name_of(label) for label in found.labels] == ["organ", "tumour"]
    assert found.table[2].colour == (255, 128, 0)
    grid = oblique_grid((12, 10, 8), (1.5, 1, 2))
    assert found.grid.matches(grid)
    organ, tumour = found.layers
    assert np.count_nonzero(organ.array == 1) == 6 * 6 * 4
    np.testing.assert_allclose(
        grid.to_ras(np.argwhere(tumour.array == 2).mean(axis=0)), grid.to_ras((7.5, 4.5, 3.5)), atol=1e-4
    )
    with pytest.raises(InputError, match=r"overlap \('organ' and 'tumour', in 16 voxels\)"):
        _ = found.flat


def test_layers_without_overlap_are_one_label_map(tmp_path: Path) -> None:
    found = read_structures(layered(tmp_path / "apart.seg.nrrd", shift=2))
    assert len(found.layers) == 1
    assert [np.count_nonzero(found.flat.array == label) for label in (1, 2)] == [144, 32]


def test_segments_come_back_with_names_colours_and_terminology(tmp_path: Path) -> None:
    organ = Code("SCT", "123037004", "Anatomical Structure")
    terminology = Terminology(organ, Code("SCT", "10200004", "Liver"), None)
    structures = [Structure(7, 0, "Leber größer", (1, 2, 3), terminology), Structure(300, 1, "Rest", (9, 8, 7))]
    array = np.zeros(GRID.shape, np.int16)
    array[1], array[2] = 7, 300
    write_segmentation(Volume(array, GRID.ijk_to_ras, "l"), structures, tmp_path / "l.seg.nrrd")
    found = read_structures(tmp_path / "l.seg.nrrd")
    assert found.table == {
        7: Meaning("Leber größer", (1, 2, 3), terminology), 300: Meaning("Rest", (9, 8, 7)),
    }  # fmt: skip
    assert np.array_equal(found.flat.array, array)


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("Segment0_LabelValue", "one", "header says of its segments is damaged"),
        ("Segment0_Color", "red green", "header says of its segments is damaged"),
        ("Segment0_Layer", "3", "more layers of segments than it holds"),
        ("Segment0_Layer", "-1", "damaged"),
    ],
)
def test_damaged_headers_of_segments_are_refused(tmp_path: Path, key: str, value: str, said: str) -> None:
    image = sitk.GetImageFromArray(np.ones((4, 4, 4), np.uint8))
    for word, text in {"Segment0_ID": "S", "Segment0_Name": "n", "Segment0_LabelValue": "1", key: value}.items():
        image.SetMetaData(word, text)
    sitk.WriteImage(image, str(tmp_path / "x.seg.nrrd"))
    with pytest.raises(FileError, match=said):
        read_segments(tmp_path / "x.seg.nrrd")


def test_a_header_that_lost_its_segments_leaves_numbers(tmp_path: Path) -> None:
    image = sitk.GetImageFromArray(np.ones((4, 4, 4), np.uint8))
    image.SetMetaData("Segment0_Color", "1 0 0")
    sitk.WriteImage(image, str(tmp_path / "x.seg.nrrd"))
    found = read_structures(tmp_path / "x.seg.nrrd")
    assert (found.labels, found.table) == ([1], {})
    assert "belong to none of its segments (1)" in found.warnings[0]


def test_values_that_belong_to_no_segment_are_told(tmp_path: Path) -> None:
    image = sitk.GetImageFromArray(np.array([[[0, 1, 4]]], np.uint8))
    for word, text in {"Segment0_ID": "S", "Segment0_Name": "Liver", "Segment0_LabelValue": "1"}.items():
        image.SetMetaData(word, text)
    sitk.WriteImage(image, str(tmp_path / "x.seg.nrrd"))
    found = read_structures(tmp_path / "x.seg.nrrd")
    assert found.labels == [1, 4]
    assert "belong to none of its segments (4)" in found.warnings[0]


@pytest.mark.parametrize("numbers", [(1, 2), (0, 3), (5, 12)])
def test_segments_keep_their_names_wherever_their_numbering_begins(tmp_path: Path, numbers: tuple[int, int]) -> None:
    image = sitk.GetImageFromArray(np.array([[[0, 1, 4]]], np.uint8))
    for number, name, value in zip(numbers, ("Liver", "Spleen"), ("1", "4"), strict=True):
        image.SetMetaData(f"Segment{number}_Name", name)
        image.SetMetaData(f"Segment{number}_LabelValue", value)
    sitk.WriteImage(image, str(tmp_path / "x.seg.nrrd"))
    found = read_structures(tmp_path / "x.seg.nrrd")
    assert {value: meaning.name for value, meaning in found.table.items()} == {1: "Liver", 4: "Spleen"}
    assert found.warnings == ()


def test_a_segment_with_the_background_s_value_is_told(tmp_path: Path) -> None:
    image = sitk.GetImageFromArray(np.array([[[0, 1, 1]]], np.uint8))
    for word, text in {"0_Name": "Liver", "0_LabelValue": "0", "1_Name": "Spleen", "1_LabelValue": "1"}.items():
        image.SetMetaData(f"Segment{word}", text)
    sitk.WriteImage(image, str(tmp_path / "x.seg.nrrd"))
    found = read_structures(tmp_path / "x.seg.nrrd")
    assert {value: meaning.name for value, meaning in found.table.items()} == {1: "Spleen"}
    assert "the value 0, of the background: Liver" in found.warnings[0]


def test_a_table_beside_the_labels_is_found_under_its_many_names(tmp_path: Path) -> None:
    array = np.arange(GRID.shape[0], dtype=np.uint8).clip(max=3)[:, None, None] * np.ones(GRID.shape, np.uint8)
    write_volume(Volume(array, GRID.ijk_to_ras, "l"), tmp_path / "l.nii.gz")
    assert read_structures(tmp_path / "l.nii.gz").table == {}
    (tmp_path / "atlas-of-somebody.csv").write_text("id,structure\n1,One\n2,Two\n3,Three\n", encoding="utf-8")
    found = read_structures(tmp_path / "l.nii.gz")
    assert found.table[3] == Meaning("Three")
    assert "taken from 'atlas-of-somebody.csv'" in found.warnings[0]
    (tmp_path / "other.csv").write_text("id,structure\n1,A\n2,B\n3,C\n", encoding="utf-8")
    found = read_structures(tmp_path / "l.nii.gz")
    assert found.table == {}
    assert "Several tables" in found.warnings[0]
    (tmp_path / "labels.csv").write_text("label,name\n1,A\n2,B\n3,C\n", encoding="utf-8")
    assert read_structures(tmp_path / "l.nii.gz").table[3] == Meaning("C")
    assert read_structures(tmp_path / "l.nii.gz", folder_table=False).table == {}
    (tmp_path / "l.txt").write_text("notes about this case", encoding="utf-8")
    found = read_structures(tmp_path / "l.nii.gz")
    assert found.table == {}
    assert "not known" in found.warnings[0] and "l.txt" in found.warnings[0]


@pytest.mark.parametrize(
    ("background", "said"), [(-1024, "-1024 where 0 means the background"), (255, "no voxel of 0")]
)
def test_a_background_that_is_not_zero(tmp_path: Path, background: int, said: str) -> None:
    truth = body(oblique_grid())
    array = np.where(truth.array == 0, background, truth.array).astype(np.int16)
    write_volume(Volume(array, truth.ijk_to_ras, "l"), tmp_path / "l.nii.gz")
    found = read_structures(tmp_path / "l.nii.gz")
    assert said in found.warnings[0]
    assert np.array_equal(found.flat.array, truth.array if background < 0 else array)


def test_an_image_is_told_from_a_label_map(tmp_path: Path) -> None:
    image = picture(oblique_grid())
    noise = np.random.default_rng(0).normal(0, 5, image.shape)
    write_volume(Volume(np.rint(image.array + noise).astype(np.int16), image.ijk_to_ras, "ct"), tmp_path / "ct.nii.gz")
    with pytest.raises(InputError, match="not a label map but an image"):
        read_structures(tmp_path / "ct.nii.gz")
    check_is_label_map(body(oblique_grid()).array, "labels")
    # Numbers in no order are no image: neighbours are as different as any two voxels.
    check_is_label_map(np.random.default_rng(1).integers(1, 500, (24, 22, 20)), "scattered")
    # Many small structures are still structures: blocks of 3 voxels, 500 of them.
    blocks = np.arange(512).reshape(8, 8, 8).repeat(3, 0).repeat(3, 1).repeat(3, 2)
    check_is_label_map(blocks, "blocks")


def test_real_label_maps_are_no_images_and_real_images_are() -> None:
    data = Path(__file__).resolve().parents[4] / "shared" / "data"
    patterns = ("brain_oasis/*_labels", "mouse/*_labels", "brain_dk_ahba/*", "brain_heads_synthseg/*", "knee/*")
    labels = [path for pattern in patterns for path in sorted(data.glob(f"{pattern}.nii.gz"))[:1]]
    if not labels:
        pytest.skip("no real data")
    for path in labels:
        assert read_structures(path).labels
    for path in sorted(data.glob("brain_oasis/*_T1_brain.nii.gz"))[:1]:
        with pytest.raises(InputError, match=r"image|whole numbers"):
            read_structures(path)


def test_a_label_map_is_compared_with_its_image() -> None:
    grid = oblique_grid()
    image, labels = picture(grid), body(grid)
    assert check_on_image(labels, image) == []
    with pytest.raises(InputError, match="is the image itself"):
        check_on_image(Volume(image.array.astype(np.int32), grid.ijk_to_ras, "x"), Volume(
            image.array.astype(np.int32), grid.ijk_to_ras, "y"))  # fmt: skip
    for affine in (np.eye(4), np.diag([*grid.spacing, 1.0])):
        with pytest.raises(InputError, match="lost when it was saved"):
            check_on_image(Volume(labels.array, affine, "lost"), image)
        (text,) = check_on_image(Volume(labels.array, affine, "lost"), image, measured_only=True)
        assert "does not lie on it" in text and "overlap that is measured by it says nothing" in text
    far = grid.ijk_to_ras.copy()
    far[:3, 3] += 500
    with pytest.raises(InputError, match="outside of the image"):
        check_on_image(Volume(labels.array[:-1], far, "far"), image)
    near = grid.ijk_to_ras.copy()
    near[:3, 3] += (15, 0, 0)
    (text,) = check_on_image(Volume(labels.array[:-1], near, "near"), image)
    assert "% of the labelled voxels of 'near' lie outside" in text
    # Another grid in the right place is nothing to speak of, even of the same shape.
    finer = grid.ijk_to_ras.copy()
    finer[:3, :3] *= 0.95
    finer[:3, 3] += grid.centre - type(grid)(grid.shape, finer).centre
    assert check_on_image(body(type(grid)(grid.shape, finer)), image) == []


def caret(names: dict[int, str], more: str = "") -> nibabel.nifti1.Nifti1Extension:
    rows = "".join(
        f'<Label Key="{n}" Red="1.0" Green="0.5" Blue="0" Alpha="1"><![CDATA[{name}]]></Label>\n'
        for n, name in names.items()
    )
    text = f'<?xml version="1.0"?> <CaretExtension><VolumeInformation Index="0"><LabelTable>{rows}{more}</LabelTable>'
    return nibabel.nifti1.Nifti1Extension(0, f"{text}</VolumeInformation></CaretExtension>".encode())


@pytest.mark.parametrize("ending", [".nii", ".nii.gz"])
def test_names_in_the_header_of_a_nifti_label_map(tmp_path: Path, ending: str) -> None:
    """As TotalSegmentator and Connectome Workbench write them; whose first two versions number organs differently."""
    for name, numbers in (("one", {1: "spleen", 2: "kidney_right"}), ("two", {1: "kidney right", 7: "Spleen", 0: "-"})):
        array = np.repeat(list(numbers), 9).reshape(-1, 3, 3).astype(np.uint8)
        image = nibabel.Nifti1Image(array, np.diag([2, 2, 3, 1]))
        image.header.extensions.append(nibabel.nifti1.Nifti1Extension("comment", b"other things"))
        image.header.extensions.append(caret(numbers))
        nibabel.save(image, tmp_path / f"{name}{ending}")
    one, two = (read_structures(tmp_path / f"{name}{ending}") for name in ("one", "two"))
    assert one.table[1] == Meaning("spleen", (255, 128, 0))
    assert set(two.table) == {1, 7}
    alike, other, table, _texts = compared(one, two)
    assert sorted(table[n].key for n in alike.labels) == ["kidney right", "spleen"]
    assert other.labels == alike.labels
    (tmp_path / "one.csv").write_text("label,name\n1,Liver\n2,Lung\n")
    assert read_structures(tmp_path / f"one{ending}").name_of(1) == "Liver"  # a table of its own stands above it


def test_a_damaged_table_in_a_header_is_told(tmp_path: Path) -> None:
    image = nibabel.Nifti1Image(np.ones((3, 3, 3), np.uint8), np.eye(4))
    image.header.extensions.append(caret({1: "spleen"}, '<Label Key="one">x</Label>'))
    nibabel.save(image, tmp_path / "a.nii.gz")
    found = read_structures(tmp_path / "a.nii.gz")
    assert (found.labels, found.table) == ([1], {})
    assert "table of labels in its header is damaged" in found.warnings[-1]
