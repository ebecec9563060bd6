"""What previews show, against computation of its own; and that every file gets a picture or a reason."""

import io
import time
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from PIL import Image
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence

from edge.preview import LARGE, SMALL, NoPicture, Picture, Reason
from edge.preview.found import NoPreview
from edge.preview.render import picture, render
from tests.pictures import BIG, DEFLATED, IMPLICIT, LITTLE, RLE, compressed, dataset, literal, of_array, part10, rle

DATA = Path(pydicom.__file__).parent / "data"
FILES = sorted(path for path in DATA.rglob("*") if path.is_file() and path.suffix not in {".py", ".pyc"})
Array = np.ndarray[Any, Any]


def shown(file: bytes, side: int = LARGE) -> Array:
    return np.asarray(picture(io.BytesIO(file), side))


def reason(file: bytes) -> Reason:
    answer = render(io.BytesIO(file), SMALL)
    assert isinstance(answer, NoPicture), answer
    return answer.reason


def refused(file: bytes) -> Reason:
    with pytest.raises(NoPreview) as caught:
        shown(file)
    return caught.value.reason


def ramp(kind: str = "<u2", rows: int = 8, columns: int = 64) -> Array:
    return np.arange(rows * columns, dtype=kind).reshape(rows, columns)


def linear(values: Array, centre: float, width: float) -> Array:
    """PS3.3 C.11.2.1.2.1, word for word, in doubles."""
    result = np.zeros(values.shape)
    for at, x in np.ndenumerate(values.astype(float)):
        if x <= centre - 0.5 - (width - 1) / 2:
            result[at] = 0
        elif x > centre - 0.5 + (width - 1) / 2:
            result[at] = 255
        else:
            result[at] = ((x - (centre - 0.5)) / (width - 1) + 0.5) * 255
    return result


def close(got: Array, expected: Array, most: float = 1.0) -> bool:
    return got.shape == expected.shape and float(np.abs(got.astype(float) - expected).max()) <= most


# every file that pydicom brings


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_every_file_gets_a_picture_or_a_reason_in_time(path: Path) -> None:
    began = time.process_time()
    with path.open("rb") as file:
        answer = render(file, SMALL)
    assert time.process_time() - began < 5
    if isinstance(answer, Picture):
        image = Image.open(io.BytesIO(answer.data))
        assert image.size == (answer.width, answer.height)
        assert max(image.size) <= SMALL
        assert not {"exif", "xmp", "icc_profile"} & set(image.info)
    else:
        assert answer.reason in Reason


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("test-SR.dcm", Reason.REPORT),
        ("rtplan.dcm", Reason.RADIOTHERAPY),
        ("waveform_ecg.dcm", Reason.WAVEFORM),
        ("JPEG-lossy.dcm", Reason.COMPRESSION),
        ("MR_truncated.dcm", Reason.DAMAGED),
        ("README.txt", Reason.DAMAGED),
    ],
)
def test_what_has_no_picture_says_why(name: str, expected: Reason) -> None:
    assert reason((DATA / "test_files" / name).read_bytes()) is expected


@pytest.mark.parametrize(
    "name",
    [
        "ExplVR_BigEnd.dcm",
        "SC_rgb_small_odd.dcm",
        "SC_rgb_small_odd_big_endian.dcm",
        "SC_rgb_rle.dcm",
        "SC_rgb_gdcm_KY.dcm",
        "SC_ybr_full_422_uncompressed.dcm",
        "examples_ybr_color.dcm",
        "SC_rgb_dcmtk_+eb+cr.dcm",
        "examples_rgb_color.dcm",
    ],
)
def test_colours_are_what_pydicom_makes_of_them(name: str) -> None:
    path = DATA / "test_files" / name
    ds = pydicom.dcmread(path)
    pixels = ds.pixel_array
    pixels = pixels[len(pixels) // 2] if pixels.ndim == 4 else pixels
    image = Image.fromarray(pixels)
    image.thumbnail((LARGE, LARGE), Image.Resampling.LANCZOS, reducing_gap=None)
    assert close(shown(path.read_bytes()), np.asarray(image), most=2)


@pytest.mark.parametrize(
    "name",
    ["MR_small.dcm", "MR_small_RLE.dcm", "MR_small_bigendian.dcm", "MR_small_implicit.dcm", "MR_small_padded.dcm"],
)
def test_one_image_in_many_encodings_is_one_picture(name: str) -> None:
    ds = pydicom.dcmread(DATA / "test_files" / "MR_small.dcm")
    expected = linear(ds.pixel_array, float(ds.WindowCenter), float(ds.WindowWidth))
    assert close(shown((DATA / "test_files" / name).read_bytes()), expected)


# grey


def test_the_first_window_is_applied_as_the_standard_says() -> None:
    file = of_array(ramp(), WindowCenter=[300, 5], WindowWidth=[200, 5])
    assert close(shown(file), linear(ramp(), 300, 200))


def test_a_window_is_of_rescaled_values() -> None:
    file = of_array(ramp(), WindowCenter=40, WindowWidth=400, RescaleSlope="2", RescaleIntercept="-500")
    assert close(shown(file), linear(ramp() * 2.0 - 500, 40, 400))


def test_exact_and_sigmoid_windows_are_applied_as_the_standard_says() -> None:
    exact = of_array(ramp(), WindowCenter=256, WindowWidth=100, VOILUTFunction="LINEAR_EXACT")
    assert close(shown(exact), np.clip(((ramp() - 256.0) / 100 + 0.5) * 255, 0, 255))
    sigmoid = of_array(ramp(), WindowCenter=256, WindowWidth=100, VOILUTFunction="SIGMOID")
    assert close(shown(sigmoid), 255 / (1 + np.exp(-4 * (ramp() - 256.0) / 100)))


def test_a_window_of_width_one_is_a_threshold() -> None:
    assert close(shown(of_array(ramp(), WindowCenter=256, WindowWidth=1)), np.where(ramp() <= 255.5, 0, 255))


def test_without_a_window_most_pixels_spread_from_black_to_white() -> None:
    pixels = ramp("<u2", 32, 32)
    pixels[0, 0] = 60_000
    got = shown(of_array(pixels))
    assert got[0, 0] == 255
    assert 250 < got[31, 20] <= 255
    assert 120 < got[16, 0] < 135


@pytest.mark.parametrize("window", [(50_000, 10), (500, "nan"), (500, -1), (None, 100), ("", "")])
def test_a_window_that_shows_nothing_is_left_alone(window: tuple[Any, Any]) -> None:
    ds = dataset(8, 64)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pydicom.config.settings, "writing_validation_mode", pydicom.config.IGNORE)
        patch.setattr(pydicom.config.settings, "reading_validation_mode", pydicom.config.IGNORE)
        for name, value in zip(("WindowCenter", "WindowWidth"), window, strict=True):
            if value is not None:
                ds.add_new(name, "DS", str(value))
        file = part10(ds, ramp().tobytes())
    assert np.array_equal(shown(file), shown(of_array(ramp())))


def test_monochrome1_is_white_where_values_are_low() -> None:
    file = of_array(ramp(), WindowCenter=256, WindowWidth=512, PhotometricInterpretation="MONOCHROME1")
    assert close(shown(file), 255 - linear(ramp(), 256, 512))


def test_padding_is_black_in_either_kind_and_spreads_nothing() -> None:
    pixels = ramp("<i2") + np.int16(100)
    pixels[:, :8] = -2000
    for photometric in ("MONOCHROME1", "MONOCHROME2"):
        file = of_array(pixels, PixelPaddingValue=-2000, PhotometricInterpretation=photometric)
        got = shown(file)
        assert not got[:, :8].any()
        assert got[:, 8:].max() == 255
        middle = got[4, 8]
        assert 110 < middle < 150


def test_padding_may_be_a_range() -> None:
    pixels = ramp() + np.uint16(10)
    pixels[0] = np.arange(64) % 6
    assert not shown(of_array(pixels, PixelPaddingValue=0, PixelPaddingRangeLimit=5))[0].any()


@pytest.mark.parametrize("syntax", [LITTLE, BIG, IMPLICIT, DEFLATED])
def test_signed_values_of_twelve_bits_keep_their_sign_below_strange_high_bits(syntax: str) -> None:
    values = (ramp("i2") * 8 - 2048).astype("i2")
    raw = (values.astype("u2") & 0x0FFF) | 0xF000 * (ramp() % 2)
    ds = dataset(8, 64, BitsStored=12, HighBit=11, PixelRepresentation=1, WindowCenter=0, WindowWidth=4096)
    file = part10(ds, raw.astype(">u2" if syntax == BIG else "<u2").tobytes(), syntax)
    assert close(shown(file), linear(values, 0, 4096))


def test_stored_bits_may_lie_high() -> None:
    ds = dataset(8, 64, BitsStored=12, HighBit=15, WindowCenter=256, WindowWidth=512)
    assert close(shown(part10(ds, ((ramp() << 4) | 7).astype("<u2").tobytes())), linear(ramp(), 256, 512))


@pytest.mark.parametrize("kind", ["u1", "u4", "i4", "u2", "i2"])
def test_every_width_of_integers_is_read(kind: str) -> None:
    values = (ramp("i8") // 4).astype(kind)
    assert close(shown(of_array(values, WindowCenter=64, WindowWidth=128)), linear(values, 64, 128))


@pytest.mark.parametrize(
    ("kind", "keyword", "vr"), [("f4", "FloatPixelData", "OF"), ("f8", "DoubleFloatPixelData", "OD")]
)
@pytest.mark.parametrize("syntax", [LITTLE, BIG, IMPLICIT])
def test_floating_point_is_shown_and_what_is_no_number_is_black(kind: str, keyword: str, vr: str, syntax: str) -> None:
    values = ramp("f8") / 512
    values[0, 5] = np.nan
    ds = dataset(8, 64, bits=32 if kind == "f4" else 64)
    ds.add_new(keyword, vr, values.astype(f"{'>' if syntax == BIG else '<'}{kind}").tobytes())
    got = shown(part10(ds, syntax=syntax))
    assert got[0, 5] == 0
    assert close(got[4, :4], np.full(4, 127.5), most=3)


@pytest.mark.parametrize("syntax", [LITTLE, BIG])
def test_one_bit_pixels_are_black_and_white_frame_by_frame(syntax: str) -> None:
    frames = (np.arange(3 * 7 * 5) % 3 == 0).reshape(3, 7, 5)
    ds = dataset(7, 5, bits=1, NumberOfFrames=3)
    packed = np.packbits(frames.ravel(), bitorder="little").tobytes()
    assert np.array_equal(shown(part10(ds, packed, syntax, "OB")), frames[1] * 255)


def test_a_modality_table_comes_before_the_window() -> None:
    table = Dataset()
    table.add_new("LUTDescriptor", "US", [256, 10, 16])
    table.add_new("LUTData", "US", [4 * i for i in range(256)])
    file = of_array(ramp(), ModalityLUTSequence=Sequence([table]), WindowCenter=512, WindowWidth=1024)
    expected = linear(4 * np.clip(ramp().astype(int) - 10, 0, 255), 512, 1024)
    assert close(shown(file), expected)


def test_a_table_of_interest_serves_where_there_is_no_window() -> None:
    table = Dataset()
    table.add_new("LUTDescriptor", "US", [512, 0, 8])
    table.add_new("LUTData", "OW", np.arange(511, -1, -1, dtype="<u2").tobytes())
    file = of_array(ramp(), VOILUTSequence=Sequence([table]))
    assert close(shown(file), (511.0 - ramp()) * 255 / 511)


def test_an_enhanced_image_has_its_window_in_its_functional_groups() -> None:
    window, transform, frame = Dataset(), Dataset(), Dataset()
    window.WindowCenter, window.WindowWidth = 0, 512
    transform.RescaleSlope, transform.RescaleIntercept = "1", "-256"
    frame.FrameVOILUTSequence, shared = Sequence([window]), Dataset()
    shared.PixelValueTransformationSequence = Sequence([transform])
    file = of_array(
        ramp(),
        SharedFunctionalGroupsSequence=Sequence([shared]),
        PerFrameFunctionalGroupsSequence=Sequence([frame]),
    )
    assert close(shown(file), linear(ramp() - 256.0, 0, 512))


# frames


@pytest.mark.parametrize(("frames", "middle"), [(1, 0), (2, 1), (5, 2), (8, 4)])
def test_the_middle_frame_is_shown(frames: int, middle: int) -> None:
    pixels = np.stack([np.full((4, 6), 20 * (i + 1), "u1") for i in range(frames)])
    ds = dataset(4, 6, bits=8, NumberOfFrames=frames, WindowCenter=128, WindowWidth=256)
    assert close(shown(part10(ds, pixels.tobytes(), vr="OB")), linear(pixels[middle], 128, 256))
    encoded = compressed(ds, *(rle(literal(frame.tobytes())) for frame in pixels))
    assert close(shown(encoded), linear(pixels[middle], 128, 256))


def test_no_frame_but_the_middle_one_is_read() -> None:
    class Counting(io.BytesIO):
        count = 0

        def read(self, size: int | None = -1, /) -> bytes:
            data = super().read(size)
            Counting.count += len(data)
            return data

    ds = dataset(64, 64, bits=8, NumberOfFrames=200)
    frames = np.arange(200 * 64 * 64).astype("u1")
    for file in (part10(ds, frames.tobytes(), vr="OB"), compressed(ds, *[rle(literal(bytes(4096)))] * 200)):
        Counting.count = 0
        picture(Counting(file), SMALL)
        assert Counting.count < 64 * 64 + 64 * 1024


def test_rle_of_sixteen_bits_has_the_high_bytes_first() -> None:
    pixels = ramp()
    high, low = (pixels >> 8).astype("u1"), (pixels & 255).astype("u1")
    ds = dataset(8, 64, WindowCenter=256, WindowWidth=512)
    file = compressed(ds, rle(literal(high.tobytes()), literal(low.tobytes())))
    assert close(shown(file), linear(pixels, 256, 512))


# colour


@pytest.mark.parametrize("deep", [False, True])
@pytest.mark.parametrize("syntax", [LITTLE, BIG])
def test_a_palette_gives_the_colours(deep: bool, syntax: str) -> None:  # noqa: FBT001 - a parameter of the test
    table = np.random.default_rng(1).integers(0, 256, (3, 16))
    pixels = np.arange(24, dtype="u1").reshape(4, 6)
    ds = dataset(4, 6, bits=8, PhotometricInterpretation="PALETTE COLOR")
    for colour, entries in zip(("Red", "Green", "Blue"), table, strict=True):
        name = f"{colour}PaletteColorLookupTable"
        ds.add_new(f"{name}Descriptor", "US", [16, 4, 16 if deep else 8])
        wide = (entries * 256 + 7).astype(">u2" if syntax == BIG else "<u2") if deep else entries.astype("u1")
        ds.add_new(f"{name}Data", "OW", wide.tobytes())
    expected = table.T[np.clip(pixels.astype(int) - 4, 0, 15)]
    assert np.array_equal(shown(part10(ds, pixels.tobytes(), syntax, "OB")), expected)


def test_a_segmented_palette_is_expanded() -> None:
    ds = dataset(1, 8, bits=8, PhotometricInterpretation="PALETTE COLOR")
    for colour in ("Red", "Green", "Blue"):
        name = "PaletteColorLookupTable"
        ds.add_new(f"{colour}{name}Descriptor", "US", [8, 0, 16])
        # discrete: 2 entries; linear: 6 steps up to 60 * 256
        segments = [0, 2, 0, 0, 1, 6, 60 * 256]
        ds.add_new(f"Segmented{colour}{name}Data", "OW", np.array(segments, "<u2").tobytes())
    got = shown(part10(ds, bytes(range(8)), vr="OB"))
    assert got[0, :, 0].tolist() == [0, 0, 10, 20, 30, 40, 50, 60]


@pytest.mark.parametrize("planar", [0, 1])
@pytest.mark.parametrize("photometric", ["RGB", "YBR_FULL"])
def test_colours_come_pixel_by_pixel_or_plane_by_plane(planar: int, photometric: str) -> None:
    pixels = np.random.default_rng(2).integers(0, 256, (6, 7, 3)).astype("u1")
    ds = dataset(6, 7, bits=8, samples=3, PhotometricInterpretation=photometric, PlanarConfiguration=planar)
    laid = pixels.transpose(2, 0, 1) if planar else pixels
    expected = pixels.astype(float)
    if photometric == "YBR_FULL":  # PS3.3 C.7.6.3.1.2, turned round
        y, cb, cr = expected[..., 0], expected[..., 1] - 128, expected[..., 2] - 128
        channels = [y + 1.402 * cr, y - 0.344136 * cb - 0.714136 * cr, y + 1.772 * cb]
        expected = np.clip(np.stack(channels, axis=-1), 0, 255)
    assert close(shown(part10(ds, laid.tobytes(), vr="OB")), expected, most=1.5)


def test_two_pixels_share_a_colour_in_ybr_full_422() -> None:
    ds = dataset(2, 4, bits=8, samples=3, PhotometricInterpretation="YBR_FULL_422")
    packed = bytes([10, 20, 128, 128, 30, 40, 128, 128, 50, 60, 128, 128, 70, 80, 128, 128])
    got = shown(part10(ds, packed, vr="OB"))
    assert got[..., 0].tolist() == [[10, 20, 30, 40], [50, 60, 70, 80]]


def test_deep_colours_become_shallow() -> None:
    pixels = np.random.default_rng(3).integers(0, 1 << 16, (3, 4, 3)).astype("<u2")
    assert np.array_equal(shown(of_array(pixels)), pixels >> 8)


# size


@pytest.mark.parametrize(
    ("more", "size"),
    [
        ({}, (256, 128)),
        ({"PixelSpacing": ["2.0", "1.0"]}, (256, 256)),
        ({"PixelSpacing": ["1.0", "2.0"]}, (256, 64)),
        ({"PixelAspectRatio": ["4", "1"]}, (128, 256)),
        ({"PixelSpacing": ["0", "1"]}, (256, 128)),
        ({"PixelSpacing": ["1", "1000"]}, (256, 128)),
    ],
)
def test_pixels_become_square_and_the_longer_side_fits(more: dict[str, Any], size: tuple[int, int]) -> None:
    answer = render(io.BytesIO(of_array(np.zeros((300, 600), "u1"), **more)), SMALL)
    assert isinstance(answer, Picture)
    assert (answer.width, answer.height) == size


def test_a_small_image_is_not_enlarged() -> None:
    assert shown(of_array(ramp())).shape == (8, 64)


def test_a_very_large_image_is_thinned_and_keeps_its_look() -> None:
    y, x = np.mgrid[0:3000, 0:4000]
    pixels = ((x // 1000 + y // 1000) % 2 * 200).astype("u1")
    got = shown(of_array(pixels, WindowCenter=128, WindowWidth=256), SMALL)
    assert got.shape == (192, 256)
    assert got[32, 32] < 5
    assert 195 < got[32, 96] < 205


# what must not hurt


def test_sixty_five_thousand_rows_that_are_not_there_are_damage() -> None:
    assert refused(part10(dataset(65535, 65535), bytes(100))) is Reason.DAMAGED


def test_rle_that_declares_too_much_is_too_large() -> None:
    assert reason(compressed(dataset(65535, 65535), rle(literal(b"1")))) is Reason.TOO_LARGE


def test_a_deflated_dataset_is_inflated_within_a_bound() -> None:
    head = part10(dataset(8, 8, bits=8), syntax=DEFLATED)
    meta = head[: 144 + int.from_bytes(head[140:144], "little")]
    deflater = zlib.compressobj(wbits=-15)
    bomb = meta + b"".join(deflater.compress(bytes(1 << 20)) for _ in range(200)) + deflater.flush()
    assert refused(bomb) is Reason.TOO_LARGE


@pytest.mark.parametrize(
    "more",
    [
        {"Rows": 0},
        {"Columns": 0},
        {"NumberOfFrames": "999"},
        {"NumberOfFrames": "2147483647"},
        {"BitsAllocated": 64},
    ],
)
def test_a_header_that_promises_more_than_there_is_is_damage(more: dict[str, Any]) -> None:
    assert reason(of_array(ramp(), **more)) is Reason.DAMAGED


@pytest.mark.parametrize(
    "more",
    [{"BitsAllocated": 12}, {"SamplesPerPixel": 4}, {"PhotometricInterpretation": "HSV"}, {"SamplesPerPixel": 0}],
)
def test_pixels_that_nobody_here_knows_are_unusual(more: dict[str, Any]) -> None:
    assert reason(of_array(ramp(), **more)) is Reason.UNUSUAL


@pytest.mark.parametrize("syntax", ["1.2.840.10008.1.2.4.100", "1.2.840.10008.1.2.4.106", "1.2.840.10008.1.2.4.102.1"])
def test_video_is_called_so(syntax: str) -> None:
    assert reason(compressed(dataset(8, 8, bits=8), b"1234", syntax=syntax)) is Reason.VIDEO


@pytest.mark.parametrize("syntax", ["1.2.840.10008.1.2.4.70", "1.2.840.10008.1.2.4.201", "1.2.3.4"])
def test_a_compression_without_a_decoder_is_called_so(syntax: str) -> None:
    assert reason(compressed(dataset(8, 8, bits=8), b"1234", syntax=syntax)) is Reason.COMPRESSION


def test_a_file_cut_anywhere_is_a_reason_or_a_picture() -> None:
    whole = of_array(ramp(), WindowCenter=256, WindowWidth=512)
    for end in range(0, len(whole), 7):
        answer = render(io.BytesIO(whole[:end]), SMALL)
        assert isinstance(answer, NoPicture)


@pytest.mark.parametrize("syntax", [LITTLE, RLE, "1.2.840.10008.1.2.4.90", "1.2.840.10008.1.2.4.50"])
def test_bytes_changed_anywhere_are_a_reason_or_a_picture(syntax: str) -> None:
    names = {LITTLE: "CT_small.dcm", RLE: "MR_small_RLE.dcm"}
    names |= {
        "1.2.840.10008.1.2.4.90": "MR_small_jp2klossless.dcm",
        "1.2.840.10008.1.2.4.50": "SC_rgb_small_odd_jpeg.dcm",
    }
    whole = (DATA / "test_files" / names[syntax]).read_bytes()
    random = np.random.default_rng(4)
    for _ in range(60):
        changed = bytearray(whole)
        for at in random.integers(132, len(whole), 12):
            changed[at] = random.integers(0, 256)
        assert isinstance(render(io.BytesIO(bytes(changed)), SMALL), Picture | NoPicture)
