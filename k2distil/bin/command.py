"""Argparse, logging, signals and exit status, once for all commands."""

import argparse
import errno
import importlib
import inspect
import logging
import os
import re
import signal
import sys
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, fields
from pathlib import Path
from types import FrameType, NoneType, UnionType
from typing import Any, Literal, NoReturn, Union, get_args, get_origin

from k2distil.bin.launch import launch, tell_launcher
from k2distil.bin.show import show
from k2distil.config.load import is_section, load_config, option_types
from k2distil.config.options import (
    AudioOptions,
    DataOptions,
    DeviceOptions,
    ExtractOptions,
    FileOptions,
    LaunchOptions,
    ListOptions,
    OptimizerOptions,
    RunOptions,
    StudentOptions,
    TeacherOptions,
)
from k2distil.errors import EXIT_USER_ERROR, ConfigError, K2DistilError, nearest

EXIT_OK, EXIT_SOME_FAILED = 0, 1
EXIT_BUG = 70  # EX_SOFTWARE of sysexits.h
EXIT_SIGINT, EXIT_SIGTERM = 130, 143  # 128 + signal number, as shells report it

OWN_GROUP = "main"  # of --help: what is required, and the command's own options
OPTION_GROUPS: dict[type, str] = {  # of the others, as --help lists them
    DataOptions: "audio lists",
    ListOptions: "audio lists",
    TeacherOptions: "teacher",
    AudioOptions: "audio through the teacher",
    StudentOptions: "student",
    OptimizerOptions: "training",
    FileOptions: "files",
    DeviceOptions: "run",
    RunOptions: "run",
    ExtractOptions: "run",
    LaunchOptions: "several nodes",
}

# Of a path that the user gave, met where it was only looked at.
DISK_ERRORS = {
    *(errno.EACCES, errno.EPERM, errno.ENAMETOOLONG, errno.ENOTDIR, errno.ELOOP),
    *(errno.EIO, errno.ESTALE),
}


class Parser(argparse.ArgumentParser):
    """Errors as one line, like every other error of ours."""

    def error(self, message: str) -> NoReturn:
        """Print the message and leave with status 2."""
        message = message.removeprefix("argument ")
        show(f"error: {message}", sys.stderr)
        sys.exit(EXIT_USER_ERROR)

    def print_help(self, file: Any = None) -> None:
        """--help."""
        show(self.format_help().rstrip(), file)


def run(kind: Any, target: str, argv: Sequence[str]) -> int:
    """Parse flags and yaml into a `kind`, call `target`(config), return the exit status.

    Args:
        kind: a config dataclass; its docstring is "k2distil COMMAND: what it does". One of
            LaunchOptions is started once per device where --gpu names several.
        target: "module:COMMAND", a function that returns a `pipeline.run.summary.Summary`;
            imported only after the flags are known to be right.
        argv: the flags.
    """
    level = logging.INFO if os.environ.get("RANK", "0") == "0" else logging.ERROR
    logging.basicConfig(
        format="%(asctime)s %(levelname)s %(message)s", level=level, stream=sys.stderr
    )
    signal.signal(signal.SIGINT, _interrupt)
    try:
        config = parse(kind, argv)
        name, _, command = target.partition(":")
        if issubclass(kind, LaunchOptions):
            nodes = config.nnodes, config.rdzv_endpoint, config.max_restarts
            if ":" in (config.nnodes or "") and not config.may_lose_nodes:
                raise ConfigError(
                    f"--nnodes {config.nnodes}: the number of processes decides the batches of "
                    "this training, which cannot go on with fewer; give one number"
                )
            if (status := launch("k2distil", [command, *argv], config.gpu, *nodes)) is not None:
                return status
        module = importlib.import_module(name)
        # Not before: torch aborts where its import is left by an exception, and nothing is begun.
        signal.signal(signal.SIGTERM, _terminate)
        result = getattr(module, command)(config)
    except K2DistilError as error:
        show("\n".join(f"error: {line}" for line in str(error).splitlines()), sys.stderr)
        return EXIT_USER_ERROR
    except ModuleNotFoundError as error:
        what = f"has no {error.name}" if error.name else str(error)
        show(
            f"error: {sys.executable}: {what}; run `make venv` beside the scripts, or set PYTHON "
            "to a Python that has k2distil installed",
            sys.stderr,
        )
        return EXIT_USER_ERROR
    except OSError as error:
        if error.errno not in DISK_ERRORS or not error.filename:
            return _fault()
        show(f"error: {error.filename}: {error.strerror}; change that, or give another", sys.stderr)
        return EXIT_USER_ERROR
    except Exception:
        return _fault()
    except KeyboardInterrupt:
        show("interrupted; run the same command again to resume", sys.stderr)
        return EXIT_SIGINT
    if result.report:
        show(result.report)
    return tell_launcher(EXIT_SOME_FAILED) if result.num_failed else EXIT_OK


def _fault() -> int:
    """Tell of the exception that is being handled."""
    show(traceback.format_exc().rstrip(), sys.stderr)
    show("error: this is a fault of k2distil, please report it", sys.stderr)
    return EXIT_BUG


def _interrupt(signum: int, frame: FrameType | None) -> NoReturn:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a second Ctrl-C would break the cleaning up
    raise KeyboardInterrupt


def _terminate(signum: int, frame: FrameType | None) -> NoReturn:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    show("terminated; run the same command again to resume", sys.stderr)
    sys.exit(EXIT_SIGTERM)


def parse(kind: Any, argv: Sequence[str]) -> Any:
    """One --flag per field of `kind`; a flag that is not given leaves the yaml value alone."""
    parser = _parser(kind)
    hints = option_types(kind)
    known, unknown = parser.parse_known_args(argv)
    if unknown:
        sections = {name for name in hints if is_section(hints[name])}
        names = [*(hints.keys() - sections), "config", "override_config"]
        flags_known = [f"--{name}" for name in names]
        flag = next((text for text in unknown if text.startswith("-")), None)
        if flag is None:
            parser.error(f"{unknown[0]}: not a flag; each value follows its --flag")
        if (section := re.split(r"[.=]", flag.removeprefix("--"))[0]) in sections:
            parser.error(
                f"{flag}: {section} is a section of the yaml; "
                f'--override_config "{section}.KEY VALUE" sets a key of it'
            )
        parser.error(f"{flag}: unknown flag{nearest(flag.partition('=')[0], flags_known)}")
    flags = vars(known)
    return load_config(kind, flags.pop("config"), flags.pop("override_config"), flags)


def _parser(kind: Any) -> Parser:
    """The flags of a command, in the groups of --help."""
    name, _, what = inspect.cleandoc(kind.__doc__ or "").partition(": ")
    prog = os.environ.get("K2DISTIL_PROG", name)
    here = "./" if prog.endswith(".sh") else ""
    parser = Parser(
        prog=prog,
        usage="%(prog)s [--config YAML] [--FLAG VALUE ...]",
        description=what,
        epilog=f"example: {here}%(prog)s {kind.example}\nyaml keys have the names of the flags",
        allow_abbrev=False,
        formatter_class=_wide,
    )
    wenets = "; or WeNet's train.yaml" if issubclass(kind, TeacherOptions) else ""
    parser.add_argument(
        "--config", type=Path, metavar="PATH", help=f"yaml of these options{wenets}"
    )
    parser.add_argument(
        "--override_config",
        action="append",
        default=[],
        metavar='"KEY VALUE"',
        help="set one key of the yaml; may be repeated",
    )
    hints = option_types(kind)
    for title, options in _groups(kind, hints).items():
        group = parser.add_argument_group(title)
        for each in options:
            text = each.metadata["help"].replace("%", "%%") + _default_text(each, kind.required)
            group.add_argument(
                f"--{each.name}",
                default=argparse.SUPPRESS,
                help=text,
                **_argument(hints[each.name]),
            )
    return parser


def _groups(kind: Any, hints: Mapping[str, Any]) -> dict[str, list[Any]]:
    """title -> fields; no sections of the yaml, which have no flag."""
    options = {each.name: each for each in fields(kind) if each.name in hints}
    flags = {name for name in options if not is_section(hints[name])}
    groups: dict[str, list[Any]] = {title: [] for title in (OWN_GROUP, *OPTION_GROUPS.values())}
    taken = [name for name in kind.required if name in flags]
    groups[OWN_GROUP] += [options[name] for name in taken]
    for owner in (kind, *(each for each in OPTION_GROUPS if issubclass(kind, each))):
        title = OPTION_GROUPS.get(owner, OWN_GROUP)
        for name in inspect.get_annotations(owner):
            if name in flags and name not in taken:
                groups[title].append(options[name])
                taken.append(name)
    return {title: options for title, options in groups.items() if options}


def _wide(prog: str) -> argparse.HelpFormatter:
    return argparse.RawDescriptionHelpFormatter(prog, max_help_position=34, width=100)


def _kind_of(hint: Any) -> Any:
    """The type of a value that is given: `int` of `int | None`."""
    if get_origin(hint) not in (Union, UnionType):
        return hint
    return next(kind for kind in get_args(hint) if kind is not NoneType)


def _argument(hint: Any) -> dict[str, Any]:
    """How argparse reads a field of this type."""
    kind = _kind_of(hint)
    if get_origin(kind) is tuple:  # several after one flag, or after several
        return {**_argument(get_args(kind)[0]), "nargs": "+", "action": "extend"}
    if get_origin(kind) is Literal:
        return {"type": str, "metavar": "{" + ",".join(get_args(kind)) + "}"}  # load_config checks
    if kind is bool:
        return {"type": _yes_or_no, "nargs": "?", "const": True, "metavar": "true|false"}
    return {"type": _path if kind is Path else kind, "metavar": kind.__name__.upper()}


def _default_text(each: Any, required: tuple[str, ...]) -> str:
    if each.name in required:
        return " (required)"
    if each.default in (None, MISSING):
        return ""
    return f" (default: {str(each.default).lower() if each.default is False else each.default})"


def _path(text: str) -> Path:
    if not text:
        raise argparse.ArgumentTypeError("expected a path, got nothing")
    return Path(text)


def _yes_or_no(text: str) -> bool:
    if text.lower() not in {"true", "false"}:
        raise argparse.ArgumentTypeError(f"expected true or false, got {text!r}")
    return text.lower() == "true"
