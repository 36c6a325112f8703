"""Pictures of every kind keep their content as 8-bit RGB, or are rejected; nothing of a folder is dropped silently."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from harness.datasets.decode_image import decode
from harness.datasets.image_folder import ImageFolder
from harness.plan.errors import UserError

RAMP = np.linspace(0, 255, 16).round().astype(np.uint8)[None, :].repeat(16, 0)  # dark at the left, light at the right


def decoded(path: Path) -> np.ndarray:
    pixels, _ = decode(path, 16)
    assert pixels.dtype == np.uint8
    return pixels


def grey(path: Path) -> np.ndarray:
    pixels = decoded(path)
    assert (pixels == pixels[0]).all()
    return pixels[0]


def with_alpha(colour: int) -> Image.Image:
    pixels = np.full((16, 16, 4), colour, dtype=np.uint8)
    pixels[..., 3] = RAMP
    return Image.fromarray(pixels)


RGB = Image.fromarray(RAMP[..., None].repeat(3, 2))
SAME: dict[str, tuple[str, Callable[[], Image.Image]]] = {
    "8-bit grey": ("a.png", lambda: Image.fromarray(RAMP)),
    "16-bit PNG": ("a.png", lambda: Image.fromarray(RAMP.astype(np.uint16) * 257)),
    "16-bit TIFF": ("a.tif", lambda: Image.fromarray(RAMP.astype(np.uint16) * 257)),
    "RGB": ("a.png", lambda: RGB),
    "palette": ("a.png", lambda: Image.fromarray(RAMP).convert("P")),
    "opaque RGBA": ("a.png", lambda: RGB.convert("RGBA")),
    "opaque LA": ("a.png", lambda: Image.fromarray(RAMP).convert("LA")),
    "CMYK": ("a.tif", lambda: RGB.convert("CMYK")),
    "an unusual suffix": ("a.DIB", lambda: RGB),
}


@pytest.mark.parametrize("kind", SAME)
def test_every_kind_of_picture_keeps_its_greys(tmp_path, kind):
    """16-bit pictures were clipped: 99 % of their pixels were white."""
    name, make = SAME[kind]
    make().save(tmp_path / name)
    assert (grey(tmp_path / name) == RAMP).all()


def test_one_bit_pictures_are_black_and_white(tmp_path):
    Image.fromarray(RAMP > 127).save(tmp_path / "a.png")
    assert (grey(tmp_path / "a.png") == np.where(RAMP > 127, 255, 0)).all()


def test_a_shape_in_the_alpha_channel_is_drawn_on_white(tmp_path):
    """Cut-outs whose colour is all black came out black."""
    with_alpha(0).save(tmp_path / "a.png")
    assert np.abs(grey(tmp_path / "a.png").astype(int) - (255 - RAMP)).max() <= 1
    Image.merge("LA", (Image.new("L", (16, 16)), Image.fromarray(RAMP))).save(tmp_path / "b.png")
    assert np.abs(grey(tmp_path / "b.png").astype(int) - (255 - RAMP)).max() <= 1


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: with_alpha(255), "white on a transparent ground"),
        (lambda: Image.new("RGBA", (16, 16), (9, 9, 9, 0)), "fully transparent"),
        (lambda: Image.fromarray(RAMP.astype(np.float32)), "floating-point pixels"),
        (lambda: Image.fromarray(RAMP.astype(np.int32) * 100_000), "32-bit pixels"),
    ],
)
def test_pictures_whose_black_and_white_are_unknown_are_refused(tmp_path, make, said):
    path = tmp_path / "a.tif"
    make().save(path)
    with pytest.raises(UserError) as refused:
        decode(path, 16)
    assert str(refused.value).startswith(f"{path} (")
    assert said in str(refused.value)


@pytest.mark.parametrize("depth", [np.uint8, np.uint16])
def test_a_picture_is_turned_as_its_tag_says(tmp_path, depth):
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was held upright: the first row is the right side
    pixels = RAMP.astype(depth) * (257 if depth == np.uint16 else 1)
    Image.fromarray(pixels).save(tmp_path / "a.png", exif=exif)
    assert (grey(tmp_path / "a.png") == np.rot90(RAMP, -1)).all()


@pytest.fixture
def folder(tmp_path) -> Path:
    for part, count in (("train", 4), ("val", 2), ("test", 2)):
        for name in ("left", "top"):
            (tmp_path / "tree" / part / name).mkdir(parents=True)
            for i in range(count):
                RGB.save(tmp_path / "tree" / part / name / f"{i}.png")
    return tmp_path / "tree"


def images(folder: Path) -> int:
    return len(ImageFolder(str(folder), 8, root=str(folder.parent / "cache")).load().train)


def refusal(folder: Path) -> str:
    with pytest.raises(UserError) as refused:
        images(folder)
    assert "\n" not in str(refused.value)
    return str(refused.value)


def test_pictures_in_sub_folders_belong_to_their_class(folder):
    """Tiny ImageNet keeps them in train/<class>/images; 4 of 16 were kept where some were one folder below."""
    for path in list((folder / "train").glob("*/*.png"))[:6]:
        (path.parent / "images" / "deeper").mkdir(parents=True, exist_ok=True)
        path.rename(path.parent / "images" / "deeper" / path.name)
    (folder / "train" / "left" / "images").mkdir(exist_ok=True)
    (folder / "train" / "left" / "images" / "circle").symlink_to(folder / "train" / "left")
    assert images(folder) == 8


def test_what_is_left_out_is_reported_with_counts(folder, capfd):
    for name in ("a.heic", "b.heic", "labels.txt", ".DS_Store", "Thumbs.db", "._0.png"):
        (folder / "train" / "left" / name).write_bytes(b"x")
    (folder / "train" / "loose.png").write_bytes(b"x")
    (folder / "train" / "__MACOSX").mkdir()
    RGB.save(folder / "val" / "top" / "film.gif", save_all=True, append_images=[RGB.rotate(90)])
    assert images(folder) == 8
    said = capfd.readouterr().err
    assert "train/: files left out: 2 .heic" in said
    assert "1 .txt" in said
    assert "1 outside the classes (loose.png)" in said
    assert "images with several frames, of which the first was read: 1" in said
    assert "DS_Store" not in said


def test_every_unreadable_file_is_named_at_once(folder):
    bad = [folder / "train" / "left" / "0.png", folder / "val" / "top" / "1.png", folder / "test" / "top" / "0.png"]
    bad[0].write_bytes(b"")
    bad[1].write_text("<html>404</html>")
    bad[2].write_bytes(bad[2].read_bytes()[:-20])
    (folder / "val" / "left" / "gone.png").symlink_to("/nonexistent/x.png")
    said = refusal(folder)
    assert said.startswith("4 of 17 images cannot be read, repair or remove: ")
    assert all(f"{path} (" in said for path in [*bad, folder / "val" / "left" / "gone.png"])
    for i in range(30):
        (folder / "train" / "left" / f"bad{i}.png").write_bytes(b"")
    said = refusal(folder)
    listed = folder.parent / "cache" / "unreadable-tree.txt"
    assert f"and 14 more, all listed in {listed}" in said
    assert len(listed.read_text().splitlines()) == 34


def test_a_class_of_other_files_and_a_part_of_another_name_are_named(folder):
    for path in (folder / "train" / "left").glob("*.png"):
        path.rename(path.with_suffix(".heic"))
    assert "train/left has no images, only 4 .heic: add some or remove the class" in refusal(folder)
    (folder / "val").rename(folder / "valid")
    assert "rename valid/ to val/" in refusal(folder)
