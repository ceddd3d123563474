"""Everyday names: what ImageNet's and COCO's classes are called, and what kinds of things they are."""

from __future__ import annotations

import subprocess
import sys

import pytest

from epcli.observe import names
from epcli.observe.efficientnet_lite import load_class_names


@pytest.mark.parametrize(
    ("label", "name", "trusted"),
    [
        ("golden retriever", "golden retriever", True),
        ("ice bear", "polar bear", True),
        ("cock", "rooster", True),
        ("crane bird", "crane", True),
        ("crane", "construction crane", True),
        ("mouse", "computer mouse", True),
        ("Cardigan", "corgi", True),
        ("cardigan", "cardigan", False),  # people wear clothes in every film
        ("web site", "web page", False),
        ("nematode", "nematode", False),
    ],
)
def test_a_class_has_the_name_that_people_use(label: str, name: str, trusted: bool) -> None:
    fine = names.classes()[load_class_names().index(label)]
    assert (fine.name, fine.trusted) == (name, trusted)
    assert (name in names.fine_names()) == trusted


@pytest.mark.parametrize(
    ("name", "kinds"),
    [
        ("golden retriever", ("dog", "animal")),
        ("dog", ("animal",)),
        ("lion", ("big cat", "animal")),  # not a cat: "is there a cat?" is a question about pets
        ("bus", ("vehicle",)),
        ("fire engine", ("truck", "vehicle")),
        ("sports car", ("car", "vehicle")),
        ("car wheel", ()),  # it speaks for a car, and is none
        ("castle", ("building",)),
        ("cow", ("cattle", "animal")),
        ("violin", ("string instrument", "musical instrument")),
        ("strawberry", ("fruit", "food")),
        ("daisy", ("flower", "plant")),
        ("volcano", ("mountain", "landscape")),
        ("person", ()),
        ("no such thing", ()),
    ],
)
def test_a_thing_belongs_to_its_kinds(name: str, kinds: tuple[str, ...]) -> None:
    assert names.kinds(name) == kinds


@pytest.mark.parametrize(
    ("name", "article", "plural"),
    [
        ("golden retriever", "a", "golden retrievers"),
        ("airplane", "an", "airplanes"),
        ("hourglass", "an", "hourglasses"),
        ("unicycle", "a", "unicycles"),
        ("person", "a", "people"),
        ("bus", "a", "buses"),
        ("sheep", "a", "sheep"),
        ("library", "a", "libraries"),
        ("scissors", "", "scissors"),
        ("broccoli", "", "broccoli"),
    ],
)
def test_a_name_has_an_article_and_a_plural(name: str, article: str, plural: str) -> None:
    assert (names.article(name), names.plural(name)) == (article, plural)


def test_every_name_that_may_be_reported_is_in_the_table_with_its_kinds() -> None:
    known = set(names.all_names())
    assert len(names.classes()) == 1000
    assert {*names.fine_names(), *names.coarse_names()} <= known
    for fine in names.classes():
        assert set(fine.kinds) - {fine.name} <= set(names.kinds(fine.name)), fine
    for name in known:
        kinds = names.kinds(name)
        assert name not in kinds
        assert set(kinds) <= known, f"a kind of {name!r} is not a name itself"
        for kind in kinds:
            assert set(names.kinds(kind)) <= set(kinds), f"{name!r} is a {kind!r} but not all that one is"


def test_names_load_no_model_library() -> None:
    program = "import sys; from epcli.observe import names; names.kinds('dog'); print(*sys.modules)"
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert not {"torch", "cv2", "av"} & set(run.stdout.split())
