"""How fn is called: with which of its parameters, in which way, and with its row."""

from __future__ import annotations

import functools
from pathlib import Path

import pytest

from file_dataset import InvalidDatasetError
from file_dataset import _function as function


def forward(input_dir, output_dir):
    return {"input": input_dir, "output": output_dir}


def called(fn):
    """Return what fn is given, called the way that its signature asks for."""
    style = function.check_signature(fn)
    row = {"id": "7"} if style.takes_row else None
    return function.call(fn, Path("/in"), Path("/out"), by_keyword=style.by_keyword, row=row)


# --- the signature


def with_other_names(source, target):
    return {"input": source, "output": target}


def by_position_only(input_dir, output_dir, /):
    return {"input": input_dir, "output": output_dir}


def in_the_other_order(output_dir, input_dir):
    return {"input": input_dir, "output": output_dir}


def by_keyword_only(*, input_dir, output_dir):
    return {"input": input_dir, "output": output_dir}


def with_a_default(input_dir, output_dir, threshold=3):
    return {"input": input_dir, "output": output_dir}


def with_any_arguments(*args, **kwargs):
    return {"input": args[0], "output": args[1]}


def one_name_is_another(input_dir, target):
    return {"input": input_dir, "output": target}


def with_a_threshold(threshold, input_dir, output_dir):
    return {"input": input_dir, "output": output_dir}


def timed(fn):
    @functools.wraps(fn)
    def wrapper(*args, **kwargs):
        return fn(*args, **kwargs)

    return wrapper


def timed_without_wraps(fn):
    def wrapper(*args, **kwargs):
        return fn(*args, **kwargs)

    return wrapper


def timed_under_other_names(fn):
    @functools.wraps(fn)
    def wrapper(source, target):
        return fn(source, target)

    return wrapper


class Model:
    def __call__(self, input_dir, output_dir):
        return {"input": input_dir, "output": output_dir}

    def segment(self, input_dir, output_dir):
        return {"input": input_dir, "output": output_dir}

    @classmethod
    def of_class(cls, input_dir, output_dir):
        return {"input": input_dir, "output": output_dir}

    @staticmethod
    def of_none(input_dir, output_dir):
        return {"input": input_dir, "output": output_dir}


GOOD = {
    "plain": forward,
    "other names": with_other_names,
    "position only": by_position_only,
    "other order": in_the_other_order,
    "keyword only": by_keyword_only,
    "third with a default": with_a_default,
    "any arguments": with_any_arguments,
    "one name is another": one_name_is_another,
    "lambda": lambda input_dir, output_dir: {"input": input_dir, "output": output_dir},
    "lambda with other names": lambda i, o: {"input": i, "output": o},
    "partial by position": functools.partial(with_a_threshold, 5),
    "partial by keyword": functools.partial(with_a_default, threshold=5),
    "decorated": timed(forward),
    "decorated twice": timed(timed(with_other_names)),
    "decorated without wraps": timed_without_wraps(forward),
    "callable instance": Model(),
    "bound method": Model().segment,
    "class method": Model.of_class,
    "static method": Model.of_none,
}


@pytest.mark.parametrize("fn", GOOD.values(), ids=GOOD)
def test_fn_is_given_its_input_and_its_output_directory(fn):
    assert called(fn) == {"input": Path("/in"), "output": Path("/out")}


def test_a_class_is_called_through_its_instance():
    assert function.check_signature(Model).by_keyword
    assert called(function.ready(Model)) == {"input": Path("/in"), "output": Path("/out")}


def test_a_class_is_made_once_per_process():
    assert function.ready(Model) is function.ready(Model)


def test_a_function_is_its_own_callable():
    assert function.ready(forward) is forward


KEYWORD = {"plain": forward, "other order": in_the_other_order, "decorated": timed(forward), "method": Model().segment}


@pytest.mark.parametrize("fn", KEYWORD.values(), ids=KEYWORD)
def test_parameters_of_our_names_are_given_by_keyword(fn):
    assert function.check_signature(fn).by_keyword


class Text(str):
    __slots__ = ()

    def __call__(self, source, target):
        return {}


POSITION = {
    "other names": with_other_names, "position only": by_position_only, "one other name": one_name_is_another,
    "built-in": print, "built-in without a signature": max,
    "class without a signature": Text,
}  # fmt: skip


@pytest.mark.parametrize("fn", POSITION.values(), ids=POSITION)
def test_other_parameters_are_given_by_position(fn):
    assert not function.check_signature(fn).by_keyword


def without_parameters():
    return {}


async def asynchronous(input_dir, output_dir):
    return {}


class NeedsWeights:
    def __init__(self, weights):
        self.weights = weights

    def __call__(self, input_dir, output_dir):
        return {}


class TakesOne:
    def __call__(self, input_dir):
        return {}


BAD = {
    "no callable": ("fn", "fn is a str: give a function fn(input_dir, output_dir)"),
    "None": (None, "fn is a NoneType: give a function fn(input_dir, output_dir)"),
    "a called function": ({"a.txt": Path("a.txt")}, "fn is a dict: give a function"),
    "async": (asynchronous, "fn is async: give a plain function fn(input_dir, output_dir)"),
    "async partial": (functools.partial(asynchronous), "fn is async"),
    "no parameter": (without_parameters, "fn() cannot be called as fn(input_dir, output_dir)"),
    "one parameter": (lambda path: {}, "fn(path) cannot be called as fn(input_dir, output_dir)"),
    "third is required": (with_a_threshold, "missing a required argument: 'threshold'"),
    "third is required by keyword": (lambda i, o, *, k: {}, "missing a required"),
    "class with arguments": (NeedsWeights, "fn is a class that cannot be made without arguments"),
    "class that takes one": (TakesOne, "cannot be called as fn(input_dir, output_dir)"),
    "instance that takes one": (TakesOne(), "cannot be called as fn(input_dir, output_dir)"),
    "built-in that takes one": (len, "cannot be called as fn(input_dir, output_dir)"),
}


@pytest.mark.parametrize(("fn", "said"), BAD.values(), ids=BAD)
def test_what_cannot_be_called_with_two_directories_is_refused(fn, said):
    with pytest.raises(InvalidDatasetError) as refused:
        function.check_signature(fn)
    assert said in str(refused.value)


def logged(fn):
    @functools.wraps(fn)
    def wrapper(first, *rest):
        return fn(first, *rest)

    return wrapper


@pytest.mark.parametrize("decorate", [timed, timed_without_wraps, logged], ids=lambda fn: fn.__name__)
def test_a_decorated_function_is_still_called(decorate):
    assert called(decorate(with_other_names)) == {"input": Path("/in"), "output": Path("/out")}


@pytest.mark.parametrize("decorate", [timed, logged], ids=lambda fn: fn.__name__)
def test_a_decorated_function_with_a_required_third_parameter_is_refused(decorate):
    with pytest.raises(InvalidDatasetError, match="missing a required argument: '"):
        function.check_signature(decorate(with_a_threshold))


class Asynchronous:
    async def __call__(self, input_dir, output_dir):
        return {}


@pytest.mark.parametrize("fn", [Asynchronous(), Asynchronous], ids=["instance", "class"])
def test_an_async_call_method_is_refused(fn):
    with pytest.raises(InvalidDatasetError, match="async"):
        function.check_signature(fn)


class NotCallable:
    def run(self, input_dir, output_dir):
        return {}


def test_a_class_whose_instances_cannot_be_called_is_refused():
    with pytest.raises(InvalidDatasetError):
        function.check_signature(NotCallable)


def test_a_wrapper_with_names_of_its_own_is_called_by_position():
    assert called(timed_under_other_names(forward)) == {"input": Path("/in"), "output": Path("/out")}


def any_keywords(**directories):
    return directories


def first_and_any_keywords(input_dir, **others):
    return {"input_dir": input_dir, **others}


@pytest.mark.parametrize("fn", [any_keywords, first_and_any_keywords])
def test_a_function_of_any_keywords_is_called_by_keyword(fn):
    assert called(fn) == {"input_dir": Path("/in"), "output_dir": Path("/out")}


# --- the row


def given(input_dir, output_dir, row):
    return {"input": input_dir, "output": output_dir, "row": dict(row)}


def given_by_keyword(input_dir, output_dir, *, row):
    return given(input_dir, output_dir, row)


def given_or_not(input_dir, output_dir, row=None):
    return given(input_dir, output_dir, row)


def given_under_other_names(source, target, row):
    return given(source, target, row)


def given_by_keyword_under_other_names(source, target, *, row):
    return given(source, target, row)


def given_first(row, output_dir, input_dir):
    return given(input_dir, output_dir, row)


def given_among_others(input_dir, output_dir, row, **others):
    return given(input_dir, output_dir, row) | others


def given_with_a_scale(scale, input_dir, output_dir, row):
    return given(input_dir, output_dir, row)


class Given:
    def __call__(self, input_dir, output_dir, row):
        return given(input_dir, output_dir, row)

    def segment(self, input_dir, output_dir, row):
        return given(input_dir, output_dir, row)


TOLD = {
    "third": given,
    "by keyword": given_by_keyword,
    "with a default": given_or_not,
    "other names": given_under_other_names,
    "other names, by keyword": given_by_keyword_under_other_names,
    "first": given_first,
    "among other keywords": given_among_others,
    "partial": functools.partial(given_with_a_scale, 2),
    "decorated": timed(given),
    "decorated, other names": timed(given_under_other_names),
    "lambda": lambda i, o, row: {"input": i, "output": o, "row": row},
    "callable instance": Given(),
    "bound method": Given().segment,
}


@pytest.mark.parametrize("fn", TOLD.values(), ids=TOLD)
def test_a_function_that_names_a_row_is_given_its_row(fn):
    assert called(fn) == {"input": Path("/in"), "output": Path("/out"), "row": {"id": "7"}}


def test_a_class_that_names_a_row_is_given_it_through_its_instance():
    assert function.check_signature(Given) == function.Style(by_keyword=True, takes_row=True)


def any_named_row(input_dir, output_dir, **row):
    return {"input": input_dir, "output": output_dir, **row}


def rest_named_row(input_dir, output_dir, *row):
    return {"input": input_dir, "output": output_dir}


def not_given(output_dir, input_dir):
    return {"input": input_dir, "output": output_dir}


NOT_TOLD = {
    "no row": not_given,
    "any keywords": with_any_arguments,
    "keywords that are called row": any_named_row,
    "the rest that is called row": rest_named_row,
    "another name": with_a_default,
    "decorated without wraps": timed_without_wraps(given_or_not),
    "positional only, with a default": lambda input_dir, output_dir, row=5, /: {"input": input_dir},
}


@pytest.mark.parametrize("fn", NOT_TOLD.values(), ids=NOT_TOLD)
def test_a_function_that_names_no_row_is_not_given(fn):
    assert not function.check_signature(fn).takes_row


def test_a_row_that_a_partial_brings_is_the_users_own():
    assert called(functools.partial(given, row={"id": "mine"}))["row"] == {"id": "mine"}


def test_a_row_that_can_be_given_by_position_only_is_refused():
    with pytest.raises(InvalidDatasetError, match="nor with a keyword row"):
        function.check_signature(lambda input_dir, output_dir, row, /: {})


def test_the_row_cannot_be_changed():
    def change(input_dir, output_dir, row):
        row["id"] = "8"

    with pytest.raises(TypeError, match="does not support item assignment"):
        called(change)
