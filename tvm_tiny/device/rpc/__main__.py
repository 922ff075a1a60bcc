# SPDX-License-Identifier: Apache-2.0
"""`python -m tvm_tiny.device.rpc --device exec:./rpc_server`: run a bridge in the foreground.

Prints one line of JSON, `{"host": ..., "port": ..., "key": ...}`, when clients can connect; messages go to standard error.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import shlex
import signal
import subprocess
import sys
import threading
from collections.abc import Callable

from tvm_tiny.device.rpc.bridge import Bridge, BridgeOptions
from tvm_tiny.device.rpc.hosted import HostedDevice
from tvm_tiny.device.rpc.line import LineSpec, parse_line
from tvm_tiny.device.rpc.tracker import parse_tracker
from tvm_tiny.errors import OptionError, TinyError


def _parser() -> argparse.ArgumentParser:
    description = "a TCP port for TVM's RPC client, and a device behind it"
    parser = argparse.ArgumentParser(prog="python -m tvm_tiny.device.rpc", description=description)
    parser.add_argument("--device", required=True, help="exec:, pipes:COMMAND, tcp:HOST:PORT, serial:PATH[@BAUD], emulator:BOARD")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on; beyond loopback a --key is needed")
    parser.add_argument("--port", type=int, default=0, help="port to listen on (0: the system's choice)")
    parser.add_argument("--key", default="", help="what clients must say; with --tracker the name to register under")
    parser.add_argument("--tracker", default="", help="HOST:PORT of `python -m tvm.exec.rpc_tracker`")
    parser.add_argument("--call-timeout", type=float, default=30.0, help="seconds a function may run on the device")
    parser.add_argument("--start-timeout", type=float, default=10.0, help="seconds from the opening of the line to the first answer")
    parser.add_argument("--health-interval", type=float, default=10.0, help="with --tracker: seconds between questions to an idle device")
    parser.add_argument("--reset-command", default="", help="command that resets the board when it hangs")
    parser.add_argument("--until-stdin-closes", action="store_true", help="end when standard input does: the parent is gone")
    parser.add_argument("--pipe", type=int, nargs=2, metavar=("READ", "WRITE"), help="serve two file descriptors: for PopenSession")
    parser.add_argument("--verbose", action="store_true", help="log sessions")
    return parser


def _device(text: str) -> LineSpec | HostedDevice:
    kind, _, board = text.partition(":")
    if kind != "emulator":
        return parse_line(text)
    from tvm_tiny.tuning.emulator import hosted_emulator

    return hosted_emulator(board)


def _reset(command: str) -> Callable[[], None] | None:
    if not command:
        return None

    def reset() -> None:
        subprocess.run(shlex.split(command), check=True, timeout=60, stdin=subprocess.DEVNULL, stdout=sys.stderr)

    return reset


def _watch_stdin(bridge: Bridge) -> None:
    """Parents that are killed can't stop us; the pipe they held closes all the same."""

    def wait() -> None:
        while os.read(0, 4096):
            pass
        bridge.stop()

    threading.Thread(target=wait, daemon=True).start()


def main(arguments: list[str] | None = None) -> int:
    """Run; returns the exit code."""
    given = _parser().parse_args(arguments)
    logging.basicConfig(level=logging.INFO if given.verbose else logging.WARNING, format="%(asctime)s %(message)s", stream=sys.stderr)
    try:
        timeouts = (given.call_timeout, given.start_timeout, given.health_interval)
        options = BridgeOptions(given.host, given.port, given.key, parse_tracker(given.tracker) if given.tracker else None, *timeouts)
        bridge = Bridge(_device(given.device), options, _reset(given.reset_command))
    except TinyError as error:
        print(f"{error.code}: {error}", file=sys.stderr)
        return error.exit_code
    except OSError as error:
        print(f"can't listen on {given.host}:{given.port}: {error}", file=sys.stderr)
        return OptionError.exit_code
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: bridge.stop())
    if given.pipe:
        bridge.serve_pipe(*given.pipe)
        return 0
    if given.until_stdin_closes:
        _watch_stdin(bridge)
    print(json.dumps({"host": given.host, "port": bridge.port, "key": given.key}), flush=True)
    bridge.serve()
    return 0


if __name__ == "__main__":
    sys.exit(main())
