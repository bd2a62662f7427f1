import torch

from cassle_zoo.common.errors import unknown_name


def test_few_names_are_all_listed() -> None:
    text = str(unknown_name("fruit", "aple", ["kiwi", "apple"]))
    assert text == "Unknown fruit 'aple'. Did you mean 'apple'? Available: apple, kiwi."


def test_of_many_names_the_near_ones_are_listed() -> None:
    names = [f"network{number}" for number in range(100)]
    text = str(unknown_name("network", "network42x", names))
    assert "Did you mean 'network42'" in text
    assert "The nearest of 100 names: network42, " in text
    assert text.count("network") < 12


def test_what_is_no_name_is_named_too() -> None:
    text = str(unknown_name("precision", torch.bfloat16, ["bf16", "fp32"]))
    assert text.startswith("Unknown precision torch.bfloat16. ")
    assert "Available: bf16, fp32." in text


def test_the_command_that_lists_all_stands_for_the_names() -> None:
    text = str(unknown_name("fruit", "zzz", ["pear", "apple"], listed_by="fruit list"))
    assert text == "Unknown fruit 'zzz'. fruit list lists all names."
