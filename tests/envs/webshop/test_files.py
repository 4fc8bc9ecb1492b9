"""The original's files: both forms of them, and everything that can be wrong with them."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from agentkit.envs.webshop.files import load_catalogue
from agentkit.errors import ConfigError, MissingPartError

ENTRY: dict[str, Any] = {
    "asin": "B0AAAAAAA1",
    "name": "Oak Table",
    "query": " Tables ",
    "product_category": "Home › Tables",
    "full_description": "Oak.",
    "small_description": ["solid", "heavy"],
    "pricing": "$1,019.99$1,200.00",
    "customization_options": {"Color": [{"value": " Black/White ", "image": None}], "Size": None},
    "images": ["x.jpg"],
}
INSTRUCTIONS = {
    "B0AAAAAAA1": {
        "attributes": ["solid oak"],
        "instruction": "Find me tables",
        "instruction_attributes": ["solid oak"],
    }
}


def write(folder: Path, entries: Any = None, attributes: Any = INSTRUCTIONS, suffix: str = "_1000") -> Path:
    """A folder with the original's files."""
    (folder / f"items_shuffle{suffix}.json").write_text(json.dumps([ENTRY] if entries is None else entries))
    (folder / f"items_ins_v2{suffix}.json").write_text(json.dumps(attributes))
    return folder


def test_the_form_of_the_original(tmp_path: Path) -> None:
    (product,) = load_catalogue(write(tmp_path)).products
    assert product.query == "tables"
    assert product.pricing == (1019.99, 1200.0)
    assert product.price_tag == "$1019.99 to $1200.0"
    assert product.options == (("color", ("black | white",)),)
    assert product.attributes == product.wished == ("solid oak",)
    assert (product.description, product.features) == ("Oak.", ("solid", "heavy"))


def test_a_product_without_price_and_attributes_gets_the_originals(tmp_path: Path) -> None:
    bare = {**ENTRY, "asin": "B0AAAAAAA2", "pricing": "", "customization_options": "", "small_description": "one"}
    products = load_catalogue(write(tmp_path, [ENTRY, bare])).products
    assert products[1].price_tag == "$100.0"
    assert products[1].attributes == ("DUMMY_ATTR",)
    assert (products[1].options, products[1].features, products[1].wish) == ((), ("one",), "")


def test_ids_are_taken_once_and_foreign_ones_left_out_as_in_the_original(tmp_path: Path) -> None:
    entries = [ENTRY, ENTRY, {**ENTRY, "asin": "nan"}, {**ENTRY, "asin": "B0AAAAAAA1234"}]
    catalogue = load_catalogue(write(tmp_path, entries))
    assert [product.asin for product in catalogue.products] == ["B0AAAAAAA1"]
    assert catalogue.num_skipped == 0


def test_a_small_shop_prefers_the_small_files(tmp_path: Path) -> None:
    write(tmp_path)
    write(tmp_path, [{**ENTRY, "name": "From the large file"}], suffix="")
    assert load_catalogue(tmp_path, 1000).products[0].title == "Oak Table"
    assert load_catalogue(tmp_path).products[0].title == "From the large file"


def test_goals_that_people_wrote(tmp_path: Path) -> None:
    written = {
        "instruction": "i want an oak table.",
        "instruction_attributes": ["solid oak"],
        "instruction_options": ["black"],
    }
    idle = {**written, "instruction_attributes": []}
    (write(tmp_path) / "items_human_ins.json").write_text(json.dumps({"B0AAAAAAA1": [written, idle]}))
    catalogue = load_catalogue(tmp_path, human_goals=True)
    (goal,) = [goal for goals in catalogue.goals.values() for goal in goals]
    assert goal.instruction == "i want an oak table"  # too dear for a price bound
    assert goal.options == (("", "black"),)


def test_ragens_files_give_the_goals_of_ragen(real_data: Path) -> None:
    catalogue = load_catalogue(real_data / "webshop")
    assert (len(catalogue.products), catalogue.num_skipped) == (1000, 0)
    assert len(catalogue.goals["held_out"]) == 500
    assert len(catalogue.goals["train"]) == 6910 - 1500 - 1  # one repeats a test instruction
    assert catalogue.goals["held_out"][0].asin == "B0743JKHBV"
    human = load_catalogue(real_data / "webshop", human_goals=True)
    assert sum(map(len, human.goals.values())) == 13


def test_a_missing_folder_names_the_way_out(tmp_path: Path) -> None:
    with pytest.raises(MissingPartError, match=r"no folder .*princeton-nlp/WebShop, or leave `catalogue` out"):
        load_catalogue(tmp_path / "nowhere")


def test_a_folder_without_the_files_says_which(tmp_path: Path) -> None:
    with pytest.raises(MissingPartError, match=r"has no products\.json\[\.gz\] or items_shuffle\.json"):
        load_catalogue(tmp_path)
    (tmp_path / "products.json").write_text("[]")
    with pytest.raises(MissingPartError, match=r"has no items_ins\.json\[\.gz\] or items_ins_v2\.json"):
        load_catalogue(tmp_path)


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("products.json", b'[{"asin": '),
        ("products.json", b"\xff\xfe\x00"),
        ("products.json.gz", b"no gzip at all"),
        ("products.json.gz", gzip.compress(b"[]" * 5000)[:-9]),
        ("products.json.gz", gzip.compress(b"[1, 2")),
        ("products.json.gz", gzip.compress(b"[]", mtime=0)[:10] + b"\xff" * 40),
    ],
    ids=["cut short", "no text", "no gzip", "gzip cut short", "JSON cut short in gzip", "gzip with noise"],
)
def test_a_damaged_file_is_named(tmp_path: Path, name: str, data: bytes) -> None:
    (tmp_path / name).write_bytes(data)
    (tmp_path / "items_ins.json").write_text("{}")
    with pytest.raises(ConfigError, match=rf"{name} is damaged .*fetch it again"):
        load_catalogue(tmp_path)


def test_a_file_of_the_wrong_kind_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"items_shuffle_1000\.json holds a dict, needed a list"):
        load_catalogue(write(tmp_path, {}))


BROKEN = [
    {key: value for key, value in ENTRY.items() if key != "name"},
    {**ENTRY, "name": 3},
    {**ENTRY, "name": None},
    {**ENTRY, "pricing": "$1.2.3"},
    {**ENTRY, "customization_options": {"Color": [{}]}},
    "no product",
]


@pytest.mark.parametrize("broken", BROKEN)
def test_a_product_without_what_it_needs_is_left_out_and_counted(tmp_path: Path, broken: Any) -> None:
    with pytest.warns(UserWarning, match="1 of 2 products lack what they need"):
        catalogue = load_catalogue(write(tmp_path, [broken, ENTRY]))
    assert catalogue.num_skipped == 1
    assert [product.asin for product in catalogue.products] == ["B0AAAAAAA1"]


@pytest.mark.filterwarnings("ignore:2 of 2 products")
def test_a_file_without_any_usable_product_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="holds no usable product: 2 of 2 lack what they need"):
        load_catalogue(write(tmp_path, [{}, {}]))
