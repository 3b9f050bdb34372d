"""`make lint` refuses a class or a module that is too long, and names the line."""

import sizes


def test_a_long_class_and_a_long_module_are_named(tmp_path):
    path = tmp_path / "long.py"
    path.write_text("class Long:\n" + "    a = 1\n" * sizes.CLASS_LINES + "b = 2\n" * sizes.CLASS_LINES)
    module, of_class = sizes.too_long(path)
    assert module.startswith(f"{path}:1: the module has 601 lines, 600 are allowed")
    assert of_class == f"{path}:1: class Long has 301 lines, 300 are allowed"


def test_what_is_as_long_as_allowed_is_not(tmp_path):
    path = tmp_path / "long.py"
    path.write_text("class Long:\n" + "    a = 1\n" * (sizes.CLASS_LINES - 1) + "b = 2\n" * sizes.CLASS_LINES)
    assert not list(sizes.too_long(path))
