# SPDX-License-Identifier: Apache-2.0
"""The edge of every command: exit codes, messages without tracebacks, and one JSON document under --json."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable

import pytest
import typer
from typer.testing import CliRunner

from tests.support.cli import invoke
from tvm_tiny import errors
from tvm_tiny.cli.app import app
from tvm_tiny.cli.guard import EXIT_CODES, AsJson, Debug, guarded


def run_raising(error: BaseException, *arguments: str) -> tuple[int, str, str]:
    """Exit code, standard output and standard error of a command that raises `error`."""

    def command(as_json: AsJson = False, debug: Debug = False) -> None:
        raise error

    one = typer.Typer(pretty_exceptions_enable=False)
    one.command()(guarded(command))
    result = CliRunner().invoke(one, list(arguments))
    return result.exit_code, result.stdout, result.stderr


def test_users_mistake_is_code_message_and_remedy() -> None:
    code, out, err = run_raising(errors.TargetError("no such core [m99]", remedy="known: cortex-m7"))
    assert (code, out) == (2, "")
    assert err == "error TINY201: no such core [m99]\nremedy: known: cortex-m7\n"


def test_bug_says_so_and_has_its_own_code() -> None:
    code, _, err = run_raising(KeyError("x"))
    assert code == 70
    assert "error BUG: KeyError: 'x'" in err
    assert "--debug" in err
    assert "Traceback" not in err


def test_debug_shows_the_traceback() -> None:
    code, _, err = run_raising(errors.InputError("bad"), "--debug")
    assert code == 2
    assert "Traceback" in err


def test_interrupt_is_130() -> None:
    assert run_raising(KeyboardInterrupt())[0] == 130


def test_json_failure_is_one_document_with_every_problem() -> None:
    problems = [errors.Problem("CONV_3D 4", ("a", "b"), "no such operator", "replace it"), errors.Problem("LSTM 7", (), "no state")]
    code, out, err = run_raising(errors.UnsupportedModelError(problems), "--json")
    document = json.loads(out)["error"]
    assert (code, document["exit_code"], document["code"], err) == (3, 3, "TINY102", "")
    assert document["problems"][0] == {"node": "CONV_3D 4", "tensors": ["a", "b"], "reason": "no such operator", "remedy": "replace it"}
    assert len(document["problems"]) == 2


def test_typers_own_exits_pass_through() -> None:
    assert run_raising(typer.Exit(5))[0] == 5


@pytest.mark.parametrize("kind", [e for e in vars(errors).values() if inspect.isclass(e) and issubclass(e, errors.TinyError)])
def test_exit_codes_are_documented(kind: type[errors.TinyError]) -> None:
    assert kind.exit_code in EXIT_CODES


def test_error_codes_are_unique() -> None:
    kinds = [e for e in vars(errors).values() if inspect.isclass(e) and issubclass(e, errors.TinyError)]
    assert len({k.code for k in kinds}) == len(kinds)


@pytest.mark.parametrize("command", app.registered_commands, ids=lambda c: c.name)
def test_every_command_has_help_json_and_debug(command: typer.models.CommandInfo) -> None:
    callback: Callable[..., None] = command.callback
    assert {"as_json", "debug"} <= set(inspect.signature(callback).parameters)
    assert invoke(command.name, "--help").exit_code == 0


def test_unknown_command_is_wrong_use() -> None:
    result = invoke("fly")
    assert result.exit_code == 2
    assert "fly" in result.stderr


def test_version() -> None:
    assert invoke("--version").stdout.startswith("tvm-tiny ")
