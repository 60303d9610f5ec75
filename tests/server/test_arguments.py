"""Arguments of the server's own commands."""

import pytest

from server.__main__ import make_parser
from server.settings import Settings


def parse(*words):
    return make_parser(words[0]).parse_args(words)


def test_serve_has_a_flag_for_each_setting():
    args = parse("serve", "--port", "81", "--no-page")
    assert (args.port, args.page) == ("81", False)
    assert set(vars(args)) - {"command", "config", "refuse"} <= set(Settings.model_fields)
    with pytest.raises(SystemExit):
        parse("serve", "--prot", "81")


def test_bundles_are_changed_by_name_and_path():
    args = parse("bundles", "replace", "old", "/bundles/new", "--json")
    assert (args.action, args.name, args.path, args.json) == ("replace", "old", "/bundles/new", True)


def test_key_may_have_no_name():
    assert parse("key", "new").name is None
    assert parse("key", "new", "ann", "--admin").admin is True


def test_shell_without_a_script_is_refused():
    with pytest.raises(SystemExit):
        parse("completion", "cmd")
