import itertools
import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest

from rac.report import style

# What light of linear sRGB looks like to who lacks a cone (Machado, Oliveira and Fernandes 2009).
SIGHTS = {
    "all cones": np.eye(3),
    "no red": [
        [0.152286, 1.052583, -0.204868],
        [0.114503, 0.786281, 0.099216],
        [-0.003882, -0.048116, 1.051998],
    ],
    "no green": [
        [0.367322, 0.860646, -0.227968],
        [0.280085, 0.672501, 0.047413],
        [-0.011820, 0.042940, 0.968881],
    ],
}
TO_XYZ = [[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]]
WHITE = [0.9505, 1.0, 1.0890]


def lab(colour: str, sight: str) -> np.ndarray:
    """CIELAB of a colour as one sees it."""
    shares = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)]) / 255
    linear = np.where(shares <= 0.04045, shares / 12.92, ((shares + 0.055) / 1.055) ** 2.4)
    xyz = TO_XYZ @ np.clip(SIGHTS[sight] @ linear, 0, 1) / np.array(WHITE)
    x, y, z = np.where(xyz > 0.008856, np.cbrt(xyz), 7.787 * xyz + 16 / 116)
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


def distance(one: str, other: str, sight: str) -> float:
    return float(np.linalg.norm(lab(one, sight) - lab(other, sight)))


def test_distances_are_cies():
    assert lab("#ffffff", "all cones") == pytest.approx([100, 0, 0], abs=0.1)
    assert lab("#ff0000", "all cones") == pytest.approx([53.2, 80.1, 67.2], abs=0.2)
    assert (
        distance("#008844", "#997744", "no green") < distance("#008844", "#997744", "all cones") / 2
    )


@pytest.mark.parametrize("sight", SIGHTS)
def test_colours_are_told_apart_and_none_is_the_dense_models(sight):
    """Two that one just tells apart beside each other lie 2.3 apart."""
    colours = [one.colour for one in style.FIXED.values()] + list(style.OTHERS)
    pairs = itertools.combinations(colours, 2)
    assert min(distance(*pair, sight) for pair in pairs) > 16
    assert min(distance(colour, style.INK, sight) for colour in colours) > 30
    assert min(distance(colour, "#ffffff", sight) for colour in colours) > 25


def test_a_calibration_looks_the_same_whatever_else_is_there():
    assert style.styles(["x", "rac"])["rac"] == style.styles(["rac", "c4"])["rac"]


def test_styles_that_come_again_are_said_once():
    texts = [
        '<svg><path style="fill:#fff"/><use style="x:1"/></svg>',
        '<svg><a style="fill:#fff"/></svg>',
    ]
    found, rules = style.classes(texts)
    assert found == [
        '<svg><path class="s0"/><use style="x:1"/></svg>',
        '<svg><a class="s0"/></svg>',
    ]
    assert rules == "svg .s0{fill:#fff}\n"


def test_paths_that_look_alike_are_one():
    bar = '<path d="M {} 1 L {} 2 " clip-path="url(#p)" style="fill: none; stroke: #000"/>'
    other = '<path d="M 9 9 L 8 8 " clip-path="url(#p)" style="fill: none; stroke: #fff"/>'
    clip = '<clipPath id="p"><rect/></clipPath>'
    text = '<svg viewBox="0"><g>' + "".join(bar.format(i, i) for i in range(3)) + other + clip
    root = ElementTree.fromstring(style.inline(f"{text}</g></svg>", "one", "", {}))
    paths = [found.get("d") for found in root.iter() if found.tag.endswith("path")]
    assert paths == ["M0 1L0 2M1 1L1 2M2 1L2 2", "M9 9L8 8"]


def test_calibrations_never_share_colour_and_marker():
    others = [f"other{i}" for i in range(40)]
    named = style.styles(others)
    assert len({named[name].colour for name in others[: len(style.OTHERS)]}) == len(style.OTHERS)
    assert len(set(named.values())) == len(others) + len(style.FIXED)
    assert named[others[len(style.OTHERS)]].colour == named[others[0]].colour


@pytest.mark.parametrize(
    "names",
    [
        ("web", "math-prompts", "math-rac"),
        ("web-60k", "gsm8k-prompts", "gsm8k-rac"),
        ("c4-long", "prompts-short", "rac-10k"),
    ],
)
def test_other_names_of_the_usual_three_look_like_them(names):
    named = style.styles(names)
    assert [named[name] for name in names] == [
        style.FIXED[name] for name in ("c4", "prompts", "rac")
    ]


def test_a_role_is_given_once_to_the_name_that_is_nearest():
    names = ("rac-10k", "code-rac", "rac", "web-60k", "web")
    named = style.styles(names)
    assert len({named[name] for name in names}) == 5
    assert named["rac"] == style.FIXED["rac"] and named["web"] == style.FIXED["c4"]
    assert style.styles(["rac-10k", "code-rac"])["code-rac"] == style.FIXED["rac"]
